/** One line of a postgresql.conf: a setting's name in lower case, and its text without quotes. */
export interface ConfLine {
  readonly name: string
  readonly value: string
}

/** What a file in the format of postgresql.conf says. */
export interface ConfFile {
  readonly lines: readonly ConfLine[]
  /** Whether every line was understood and no setting stands there twice. */
  readonly isClean: boolean
}

/** Text of a file with these settings, each value quoted, whatever is in it. Pure. */
export function renderConf(header: string, lines: readonly ConfLine[]): string {
  const settings = lines.map(({ name, value }) => `${name} = ${quoteConf(value)}\n`)
  return `# ${header}\n${settings.join('')}`
}

/**
 * What a file says, line by line as guc-file.l reads it. Includes, which look like settings, are
 * not followed. Pure.
 */
export function parseConf(text: string): ConfFile {
  const lines: ConfLine[] = []
  let isClean = true
  for (const line of text.split('\n')) {
    if (/^\s*(#.*)?$/.test(line)) continue
    const match = LINE.exec(line)
    if (match) lines.push({ name: match[1]!.toLowerCase(), value: unquoteConf(match[2]) ?? match[3]! })
    else isClean = false
  }
  const names = new Set(lines.map(({ name }) => name))
  return { lines, isClean: isClean && names.size === lines.length }
}

const LINE =
  /^\s*([A-Za-z_\u0080-\uffff][\w$.\u0080-\uffff]*)(?:\s*=\s*|\s+)(?:'((?:[^'\\]|\\.|'')*)'|([^\s'#=]+))\s*(?:#.*)?$/

// A line break cannot stand inside quotes there, but its escape can (guc-file.l, GUC_scanstr).
const ESCAPES: Readonly<Record<string, string>> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }

/** A value in quotes as postgresql.conf wants them: quotes doubled, backslashes and line breaks escaped. Pure. */
export function quoteConf(value: string): string {
  const escaped = value
    .replaceAll('\\', '\\\\')
    .replaceAll('\n', String.raw`\n`)
    .replaceAll('\r', String.raw`\r`)
  return `'${escaped.replaceAll("'", "''")}'`
}

function unquoteConf(quoted: string | undefined): string | undefined {
  return quoted?.replace(/''|\\([0-7]{1,3}|.)/g, (_match, escape: string | undefined) => {
    if (escape === undefined) return "'"
    if (/^[0-7]/.test(escape)) return String.fromCodePoint(Number.parseInt(escape, 8))
    return ESCAPES[escape] ?? escape
  })
}

/**
 * The number of the line (from 1) by which a postgresql.conf reads the folder `conf.d` beside it,
 * or undefined when it does not. Pure.
 */
export function includeLine(text: string, configDir: string): number | undefined {
  const found = text.split('\n').findIndex((line) => {
    const match = LINE.exec(line)
    if (match?.[1]?.toLowerCase() !== 'include_dir') return false
    const folder = (unquoteConf(match[2]) ?? match[3]!).replace(/\/+$/, '')
    return folder === 'conf.d' || folder === './conf.d' || folder === `${configDir}/conf.d`
  })
  return found === -1 ? undefined : found + 1
}
