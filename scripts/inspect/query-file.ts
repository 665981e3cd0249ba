import { Fail } from '../core/fail.ts'

/** A question to a database that has a name: one file, one statement. */
export interface NamedQuery {
  readonly name: string
  /** What it answers, or does. */
  readonly summary: string
  /** In the order of `$1`, `$2` and so on. */
  readonly parameters: readonly Parameter[]
  readonly effect: Effect
  /** A backup is taken before it. */
  readonly needsBackup: boolean
  readonly sql: string
}

/** One value that a query is given. */
export interface Parameter {
  readonly name: string
  /** As PostgreSQL calls it. */
  readonly type: string
  readonly isOptional: boolean
  /** What stands for a value that is not given; without one it is null. */
  readonly default: string | undefined
}

/** What a query does to rows, and to how many at a time. */
export type Effect = 'reads' | { readonly verb: Verb; readonly rows: 'one' | 'any' }

/** `empties` is TRUNCATE, by which no trigger of a row fires. */
type Verb = 'changes' | 'deletes' | 'empties'

const LINE = /^--\s*(?<key>\w+):\s*(?<value>.*?)\s*$/
const PARAMETER =
  /^(?<name>[a-z_][a-z0-9_]*)\s+(?<type>[a-z][a-z0-9_ ]*?(\[\])?)(?<optional>\?)?(\s*=\s*(?<value>.+))?$/
const EFFECT = /^(one|any)$/
// Each query has a transaction of its own, which these would end or bend.
const NO_QUESTION =
  /^(begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction|set\s+transaction)\b/i

/**
 * Reads the file of a named query: comments that say what it is, then the statement. Pure.
 *
 *     -- summary: machines of one person
 *     -- parameter: email text
 *     select hostname from vms where email = $1
 *
 * @param name of the file, without `.sql`
 * @throws {Fail} `file-unreadable`, with the line
 */
export function parseQuery(name: string, text: string): NamedQuery {
  const lines = text.replace(/^\uFEFF/, '').split('\n')
  const end = lines.findIndex((line) => line.trim() !== '' && !line.startsWith('--'))
  let query: NamedQuery = { name, summary: '', parameters: [], effect: 'reads', needsBackup: false, sql: '' }
  for (const [index, line] of lines.slice(0, end === -1 ? undefined : end).entries()) {
    const found = LINE.exec(line)?.groups as { key: string; value: string } | undefined
    if (found) query = withLine(query, found, invalid(name, index + 1))
  }
  const sql = end === -1 ? '' : lines.slice(end).join('\n').trim().replace(/;$/, '')
  if (sql === '') throw invalid(name, lines.length)('there is no statement')
  if (NO_QUESTION.test(sql)) {
    throw invalid(name, end + 1)(`a query has a transaction of its own already: "${sql.split(/\s/)[0]}"`)
  }
  if (query.summary === '') throw invalid(name, 1)('"-- summary:" is missing')
  return { ...query, sql }
}

type Invalid = (problem: string) => Fail

function invalid(name: string, line: number): Invalid {
  return (problem) =>
    new Fail('file-unreadable', `query "${name}.sql", line ${line}: ${problem}`, {
      hint: 'sql/README.md shows how such a file is written.',
    })
}

function withLine(
  query: NamedQuery,
  { key, value }: { key: string; value: string },
  fail: Invalid,
): NamedQuery {
  switch (key) {
    case 'summary':
      return { ...query, summary: value }
    case 'parameter':
      return { ...query, parameters: [...query.parameters, parameterOf(query, value, fail)] }
    case 'backup':
      if (value !== 'first') throw fail(`"backup: ${value}" means nothing; it is "backup: first"`)
      return { ...query, needsBackup: true }
    case 'changes':
    case 'deletes':
    case 'empties':
      if (query.effect !== 'reads') throw fail('it says twice what it does')
      if (!EFFECT.test(value)) throw fail(`"${key}: ${value}" means nothing; it is "one" or "any"`)
      return { ...query, effect: { verb: key, rows: value as 'one' | 'any' } }
    default:
      throw fail(`"${key}" is none of summary, parameter, changes, deletes, empties, backup`)
  }
}

function parameterOf({ parameters }: NamedQuery, text: string, fail: Invalid): Parameter {
  const groups = PARAMETER.exec(text)?.groups
  if (groups === undefined) throw fail(`"${text}" is no parameter, such as "since timestamptz = yesterday"`)
  const { name, type, optional, value } = groups as Record<string, string | undefined>
  if (parameters.some((other) => other.name === name)) throw fail(`the parameter "${name}" is there twice`)
  const isOptional = optional !== undefined || value !== undefined
  if (!isOptional && parameters.at(-1)?.isOptional)
    throw fail(`"${name}" must be given, after one that may be left out`)
  return { name: name!, type: type!, isOptional, default: value }
}

/**
 * The values of a query's parameters, null for what was not given. Pure.
 * @param args in order, or as `name=value`
 * @throws {Fail} `usage`
 */
export function valuesOf({ name, parameters }: NamedQuery, args: readonly string[]): (string | null)[] {
  const given = new Map<string, string>()
  const usage = usageOf({ name, parameters })
  for (const arg of args) {
    const [, key, value] = /^([a-z_][a-z0-9_]*)=([^]*)$/.exec(arg) ?? []
    const named = parameters.find((parameter) => parameter.name === key)
    const target = named ?? parameters.find((parameter) => !given.has(parameter.name))
    if (target === undefined)
      throw new Fail('usage', `${name}: "${arg}" is one argument too many`, { hint: usage })
    if (given.has(target.name))
      throw new Fail('usage', `${name}: "${target.name}" is given twice`, { hint: usage })
    given.set(target.name, named ? value! : arg)
  }
  const missing = parameters.find((parameter) => !parameter.isOptional && !given.has(parameter.name))
  if (missing)
    throw new Fail('usage', `${name}: ${missing.name} (${missing.type}) is missing`, { hint: usage })
  return parameters.map((parameter) => given.get(parameter.name) ?? parameter.default ?? null)
}

/** `by_email EMAIL [LIMIT]`. Pure. */
export function usageOf({ name, parameters }: Pick<NamedQuery, 'name' | 'parameters'>): string {
  const words = parameters.map(({ name, isOptional }) =>
    isOptional ? `[${name.toUpperCase()}]` : name.toUpperCase(),
  )
  return [name, ...words].join(' ')
}
