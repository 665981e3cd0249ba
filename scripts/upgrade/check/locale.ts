import type { Client } from 'pg'
import { run } from '../../core/exec.ts'
import { type Finding, listed, spring } from './finding.ts'

/** Locales of the C library as this OS has them, as {@link normal} writes them. */
export async function systemLocales(): Promise<ReadonlySet<string>> {
  const { stdout } = await run(['locale', '-a'])
  return new Set(['c', 'posix', 'c.utf8', ...stdout.split('\n').map(normal)])
}

/** The C library writes `en_US.utf8` for what people call `en_US.UTF-8`. Pure. */
function normal(locale: string): string {
  const [name = '', codeset] = locale.trim().split('.')
  return codeset === undefined
    ? name.toLowerCase()
    : `${name}.${codeset.replaceAll(/[^A-Za-z0-9@]/g, '')}`.toLowerCase()
}

/** Databases whose locale this OS does not have, or has in another version. */
export async function databaseLocaleFindings(
  client: Client,
  major: number,
  there: ReadonlySet<string>,
): Promise<Finding[]> {
  const { rows } = await client.query<{ name: string; locales: string[] }>(
    `select format('%I', datname) as name, array[datcollate, datctype] as locales from pg_database order by 1`,
  )
  const missing = rows.flatMap(({ name, locales }) =>
    [...new Set(locales)]
      .filter((locale) => !there.has(normal(locale)))
      .map((locale) => `${locale} of ${name}`),
  )
  return [...noLocale('', missing), ...(major >= 15 ? await spring(client, '', [DATABASE_VERSION]) : [])]
}

/** Collations of a database that this OS does not have, or has in another version. */
export async function collationFindings(
  client: Client,
  database: string,
  there: ReadonlySet<string>,
): Promise<Finding[]> {
  const { rows } = await client.query<{ name: string; locales: string[] }>(OWN_COLLATIONS)
  const missing = rows.flatMap(({ name, locales }) =>
    locales.filter((locale) => !there.has(normal(locale))).map((locale) => `${locale} of collation ${name}`),
  )
  return [...noLocale(database, missing), ...(await spring(client, database, [COLLATION_VERSION]))]
}

function noLocale(database: string, missing: readonly string[]): Finding[] {
  if (missing.length === 0) return []
  return [
    {
      severity: 'error',
      code: 'locale',
      database,
      message: `locales that this host does not have: ${listed(missing)}`,
      hint: 'Make each: add its line to /etc/locale.gen, then run locale-gen.',
    },
  ]
}

// Those that initdb found are made of the locales of the OS, and the new cluster has its own of them.
const OWN_COLLATIONS = `
  select format('%I.%I', n.nspname, c.collname) as name, array_remove(array[c.collcollate, c.collctype], null) as locales
  from pg_collation c join pg_namespace n on n.oid = c.collnamespace
  where c.collprovider = 'c' and c.oid >= 16384 order by 1`

const HINT =
  'The upgrade verifies each index that sorts by it, and builds anew what is not sorted any more. Until then nobody should rely on its order.'

const DATABASE_VERSION = {
  severity: 'warning',
  code: 'collation-version',
  text: `select format('%I (was %s, is %s)', datname, datcollversion, pg_database_collation_actual_version(oid))
    from pg_database where datcollversion is distinct from pg_database_collation_actual_version(oid)
      and datcollversion is not null order by 1`,
  message: (names: string) => `databases whose texts sort by another version of the library by now: ${names}`,
  hint: HINT,
} as const

const COLLATION_VERSION = {
  severity: 'warning',
  code: 'collation-version',
  text: `select format('%I.%I (was %s, is %s)', n.nspname, c.collname, c.collversion, pg_collation_actual_version(c.oid))
    from pg_collation c join pg_namespace n on n.oid = c.collnamespace
    where c.collversion <> pg_collation_actual_version(c.oid) and (c.oid >= 16384 or exists (
      select from pg_attribute a where a.attcollation = c.oid and a.attrelid >= 16384)) order by 1`,
  message: (names: string) => `collations whose library is of another version by now: ${names}`,
  hint: HINT,
} as const
