import type { HbaRule } from './schema.ts'

// The words of the host file are those of pg_hba.conf: `all`, `sameuser`, `+role`, `@file`, `/regex`
// mean what they mean there, a word in quotes is a name whatever it looks like (`"all"`), and any
// other word is a name that is quoted here where that is needed.

/** A column of names in pg_hba.conf. */
export type Column = 'database' | 'user'

/** What the lines of Howdah in a pg_hba.conf are made of. */
export interface HbaSpec {
  /** `block`: our lines between markers, before the administrator's own. `file`: nothing but ours. */
  readonly mode: 'block' | 'file'
  readonly rules: readonly HbaRule[]
  readonly superuser: string
  readonly major: number
}

const BEGIN = '# howdah begin: written from the host file, changes in here are lost'
const END = '# howdah end'

const KEYWORDS: Readonly<Record<Column, ReadonlySet<string>>> = {
  database: new Set(['all', 'sameuser', 'samerole', 'samegroup', 'replication']),
  user: new Set(['all']),
}

/**
 * The two rules that stand first, so that no other can lock out those who mend the rest. `all` does
 * not match physical replication, so without the second one no backup could be taken.
 */
export function pinnedRules(superuser: string): HbaRule[] {
  const user = [asName(superuser, 'user')]
  const pin = { type: 'local', user, method: 'peer', options: {} } as const
  return [
    { ...pin, database: ['all'] },
    { ...pin, database: ['replication'] },
  ]
}

/** The whole new text of a pg_hba.conf. Every byte that is not ours stays as it is in mode `block`. Pure. */
export function composeHba(current: string, spec: HbaSpec): string {
  const rules = [...pinnedRules(spec.superuser), ...spec.rules]
  const block = [BEGIN, ...rules.flatMap((rule) => renderWithComment(rule, spec.major)), END, ''].join('\n')
  return spec.mode === 'file' ? block : block + splitHba(current).rest
}

/** A pg_hba.conf cut into our lines and all others. */
export interface HbaParts {
  /** Between the markers; undefined when there are none. */
  readonly block: string | undefined
  readonly rest: string
  /** The line (from 1) of a marker that has lost its other half. */
  readonly loneMarker: number | undefined
}

/** Cuts a pg_hba.conf at our markers. Pure. */
export function splitHba(text: string): HbaParts {
  const rest: string[] = []
  const block: string[] = []
  let begin: number | undefined
  let hasBlock = false
  let loneMarker: number | undefined
  for (const [index, line] of text.split(/(?<=\n)/).entries()) {
    if (/^# howdah begin\b/.test(line)) {
      loneMarker ??= begin
      begin = index + 1
      hasBlock = true
    } else if (/^# howdah end\b/.test(line)) {
      if (begin === undefined) loneMarker ??= index + 1
      begin = undefined
    } else (begin === undefined ? rest : block).push(line)
  }
  return {
    block: hasBlock ? block.join('') : undefined,
    rest: rest.join(''),
    loneMarker: loneMarker ?? begin,
  }
}

/** One rule as a line of pg_hba.conf, without its comment. Pure. */
export function renderHbaRule(rule: HbaRule, major: number): string {
  const words = (column: Column) => rule[column].map((word) => renderWord(word, column, major)).join(',')
  const options = Object.entries(rule.options).map(([name, value]) => `${name}=${bareOrQuoted(value)}`)
  const columns = [
    rule.type.padEnd(7),
    words('database').padEnd(15),
    words('user').padEnd(15),
    (rule.address ?? '').padEnd(23),
    [rule.method, ...options].join(' '),
  ]
  return columns.join(' ')
}

/** The same rule for people: with single spaces, and without the passwords that options may hold. Pure. */
export function showHbaRule(rule: HbaRule, major: number): string {
  const shown = Object.entries(rule.options).map(([name, value]) => {
    return [name, /passw|secret/i.test(name) ? '***' : value] as const
  })
  return renderHbaRule({ ...rule, options: Object.fromEntries(shown) }, major).replace(/ +/g, ' ')
}

// A backslash at the end of a line joins the next one to it, in comments too: the rule would be gone.
function renderWithComment(rule: HbaRule, major: number): string[] {
  const comment = rule.comment === undefined ? [] : rule.comment.split(/[\n\r]/)
  const lines = comment.map((line) => `# ${line}`.trimEnd())
  return [...lines.map((line) => (line.endsWith('\\') ? `${line} ` : line)), renderHbaRule(rule, major)]
}

/** A word of the host file as a token of pg_hba.conf. Pure. */
export function renderWord(word: string, column: Column, major: number): string {
  const name = literalName(word)
  if (name === undefined && KEYWORDS[column].has(word)) return word
  if (name === undefined && /^[+@/]./.test(word)) return word[0]! + bareOrQuoted(word.slice(1))
  return renderName(name ?? word, column, major)
}

/** The word of the host file for a name: itself, or in quotes where it would mean something else. Pure. */
export function asName(name: string, column: Column): string {
  const isSpecial = KEYWORDS[column].has(name) || /^[+@/"]/.test(name)
  return isSpecial ? `"${name.replaceAll('"', '""')}"` : name
}

/** The name that a word in quotes stands for, or undefined when it has none. Pure. */
export function literalName(word: string): string | undefined {
  const quoted = /^"((?:[^"]|"")+)"$/s.exec(word)
  return quoted?.[1]!.replaceAll('""', '"')
}

function renderName(name: string, column: Column, major: number): string {
  // From 16 on a slash begins a regular expression even inside quotes (hba.c, regcomp_auth_token).
  if (name.startsWith('/') && major >= 16) {
    return `/"^${name.replace(/[\\^$.*+?()[\]{}|]/g, String.raw`\$&`).replaceAll('"', '""')}$"`
  }
  const isSpecial = KEYWORDS[column].has(name) || /^[+@/]/.test(name)
  return isSpecial ? quoted(name) : bareOrQuoted(name)
}

function bareOrQuoted(text: string): string {
  return /^[A-Za-z0-9_$.:/-]+$/.test(text) ? text : quoted(text)
}

function quoted(text: string): string {
  return `"${text.replaceAll('"', '""')}"`
}

/** A rule that was read, where it stands and the comment right above it. */
export interface HbaLine {
  readonly line: number
  /** Undefined for what is no rule: an include, or something that cannot be understood. */
  readonly rule: HbaRule | undefined
  /** Equal for equal rules, however they were written. May hold a password: not for people. */
  readonly text: string
}

/** Rules of a pg_hba.conf, in their order; included files are not followed. Pure. */
export function parseHba(text: string, major: number): HbaLine[] {
  const found: HbaLine[] = []
  let comment: string[] = []
  for (const { line, content } of logicalLines(text)) {
    const fields = fieldsOf(content)
    if (fields.length === 0) {
      const remark = /^\s*# ?(.*)$/.exec(content)?.[1]
      comment = remark === undefined ? [] : [...comment, remark.trimEnd()]
      continue
    }
    const words = fields.map((field) => field.map((token) => wordOf(token, major)))
    const rule = ruleOf(words, comment)
    const plain = rule ? renderHbaRule(rule, major) : words.map((field) => field.join(',')).join(' ')
    found.push({ line, rule, text: plain })
    comment = []
  }
  return found
}

/** Lines, those with a backslash at their end joined to the next one, with the number of the first. */
function logicalLines(text: string): { line: number; content: string }[] {
  const lines: { line: number; content: string }[] = []
  let isContinued = false
  for (const [index, physical] of text.split('\n').entries()) {
    const content = physical.replace(/\r+$/, '')
    const isOpen = content.endsWith('\\')
    const part = isOpen ? content.slice(0, -1) : content
    if (isContinued) lines.at(-1)!.content += part
    else lines.push({ line: index + 1, content: part })
    isContinued = isOpen
  }
  return lines
}

interface Token {
  readonly text: string
  /** Whether it begins with a quote, which takes the meaning from keywords and prefixes. */
  readonly isQuoted: boolean
}

const TOKEN = /[\s,]*((?:"(?:[^"]|"")*"?|[^\s,"#])+)/y

/** Columns of a line, each a list of tokens (hba.c, next_token and next_field_expand). */
function fieldsOf(line: string): Token[][] {
  const fields: Token[][] = []
  let isList = false
  for (TOKEN.lastIndex = 0; ;) {
    const match = TOKEN.exec(line)
    if (match === null) return fields
    const raw = match[1]!
    const text = raw.replace(/"((?:[^"]|"")*)"?/g, (_all, inner: string) => inner.replaceAll('""', '"'))
    const token = { text, isQuoted: raw.startsWith('"') }
    if (isList) fields.at(-1)!.push(token)
    else fields.push([token])
    isList = line[TOKEN.lastIndex] === ','
  }
}

const TYPES = new Set(['local', 'host', 'hostssl', 'hostnossl', 'hostgssenc', 'hostnogssenc'])

function ruleOf(fields: readonly string[][], comment: readonly string[]): HbaRule | undefined {
  const [[type], database, user, ...others] = fields as [[string], ...string[][]]
  if (!database || !user || !TYPES.has(type)) return undefined
  const rest = others.map(([word]) => literalName(word!) ?? word!)
  const address = type === 'local' ? undefined : rest.shift()
  // An address without a length is followed by its mask, in a column of its own.
  const mask = address !== undefined && /^[\d.]+$|^[^/]*:[^/]*$/.test(address) ? rest.shift() : undefined
  const [method, ...options] = rest
  if (method === undefined) return undefined
  return {
    type: type as HbaRule['type'],
    database,
    user,
    ...(address !== undefined && { address: mask === undefined ? address : `${address} ${mask}` }),
    method: method as HbaRule['method'],
    options: Object.fromEntries(options.map(optionOf)),
    ...(comment.length > 0 && { comment: comment.join('\n') }),
  }
}

function optionOf(text: string): [string, string] {
  const cut = text.indexOf('=')
  return cut === -1 ? [text, ''] : [text.slice(0, cut), text.slice(cut + 1)]
}

// The column does not matter here: in quotes a word is a name in either.
function wordOf({ text, isQuoted }: Token, major: number): string {
  if (!isQuoted || asName(text, 'database') === text) return text
  return text.startsWith('/') && major >= 16 ? text : `"${text.replaceAll('"', '""')}"`
}
