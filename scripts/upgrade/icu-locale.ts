/**
 * One way to write a locale of ICU, whichever of its ways it is written in: `de_DE@collation=phonebook` and
 * `de-DE-u-co-phonebk` are the same to the library. Since 16 a collation or a database that is made gets the language
 * tag instead of what was asked for (src/backend/utils/adt/pg_locale.c, icu_language_tag), but in a binary upgrade.
 * @returns what is no locale stays as it is. Pure.
 */
export function icuLocale(text: string): string {
  const [name = '', keywords = ''] = text.split('@', 2)
  const language = name
    .replace(/\..*$/, '')
    .replaceAll('_', '-')
    .replace(/^(root)?(?=-|$)/i, 'und')
  const extension = keywords === '' ? '' : extensionOf(keywords)
  if (extension === undefined) return text
  try {
    return Intl.getCanonicalLocales(`${language}${extension}`)[0]!
  } catch {
    return text
  }
}

/** `colStrength=secondary;colNumeric=yes` as `-u-ks-level2-kn-true`; undefined with a keyword that is not known. */
function extensionOf(keywords: string): string | undefined {
  const parts: string[] = []
  for (const pair of keywords.split(';').filter((each) => each.trim() !== '')) {
    const [key = '', value = ''] = pair.split('=', 2).map((each) => each.trim().toLowerCase())
    const short = KEYS[key] ?? (/^[a-z\d][a-z]$/.test(key) ? key : undefined)
    if (short === undefined || value === '') return undefined
    parts.push(short, VALUES[short]?.[value] ?? VALUES['']![value] ?? value)
  }
  return `-u-${parts.join('-')}`
}

// Names of old and of language tags: common/bcp47/collation.xml and calendar.xml of CLDR.
const KEYS: Readonly<Record<string, string>> = {
  collation: 'co',
  colalternate: 'ka',
  colbackwards: 'kb',
  colcasefirst: 'kf',
  colcaselevel: 'kc',
  colhiraganaquaternary: 'kh',
  colnormalization: 'kk',
  colnumeric: 'kn',
  colreorder: 'kr',
  colstrength: 'ks',
  calendar: 'ca',
  currency: 'cu',
  numbers: 'nu',
}

const VALUES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  '': { yes: 'true', no: 'false' },
  co: { dictionary: 'dict', gb2312han: 'gb2312', phonebook: 'phonebk', traditional: 'trad' },
  ka: { 'non-ignorable': 'noignore' },
  ks: {
    primary: 'level1',
    secondary: 'level2',
    tertiary: 'level3',
    quaternary: 'level4',
    quarternary: 'level4',
    identical: 'identic',
  },
}
