import { parse, TomlError } from 'smol-toml'
import type { z } from 'zod'
import { Fail, messageOf } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import { applyOverride, FORBIDDEN } from './override.ts'
import { type Host, hostSchema, NOT_YET } from './schema.ts'
import { lineOf, type Lines, linesOf } from './toml.ts'

/** One thing that is wrong with a host file. */
export interface Problem {
  /** From 1; undefined when it comes from an override or stands nowhere. */
  readonly line: number | undefined
  /** `roles.xtelem.connection_limit` */
  readonly path: string
  readonly message: string
}

/** Where a text came from, and what the command line puts over it. */
export interface ParseOptions {
  readonly path?: string
  /** `a.b=value`; the value is TOML where it parses as such, else a text. */
  readonly overrides?: readonly string[]
}

/**
 * Turns the text of a host file into a host whose every field is present and checked. Pure.
 * @throws {Fail} `host-file` with all problems at once, each with its line and the nearest key
 */
export function parseHost(text: string, options: ParseOptions = {}): Host {
  const name = options.path ?? 'host file'
  const toml = text.replace(/^\uFEFF/, '')
  const document = parseToml(toml, name)
  const overridden = (options.overrides ?? []).map((override) => applyOverride(document, override))
  const parsed = hostSchema.safeParse(document)
  let lines: Lines | undefined // looked for when something is wrong: it takes as long as parsing
  const problems = (parsed.success ? [] : parsed.error.issues.flatMap((issue) => problemsOf(issue, document)))
    .concat(forbiddenKeys(document), parsed.success ? crossReferences(parsed.data) : [])
    .map(({ path, message }) => {
      const isOverridden = overridden.some((keys) => keys.every((key, index) => String(path[index]) === key))
      return {
        line: isOverridden ? undefined : lineOf((lines ??= linesOf(toml)), path),
        path: showKeys(path),
        message,
      }
    })
  if (parsed.success && problems.length === 0) return parsed.data
  throw new Fail('host-file', describeProblems(name, problems), {
    hint: 'conf/reference.toml shows every key with its default.',
  })
}

function parseToml(text: string, name: string): Record<string, unknown> {
  try {
    return parse(text)
  } catch (cause) {
    const at = cause instanceof TomlError ? `${name}:${cause.line}:${cause.column}` : name
    const message = messageOf(cause)
      .split('\n')[0]!
      .replace(/^Invalid TOML document: /, '')
    throw new Fail('host-file', `${at}: this is not TOML: ${message}`, {
      hint: 'Names with other characters than letters, digits, "-" and "_" need quotes; conf/reference.toml shows the shape.',
      cause,
    })
  }
}

function describeProblems(name: string, problems: readonly Problem[]): string {
  const rows = problems
    .toSorted((a, b) => (a.line ?? Infinity) - (b.line ?? Infinity) || (a.path < b.path ? -1 : 1))
    .map(({ line, path, message }) => `${line === undefined ? name : `${name}:${line}`}: ${path}: ${message}`)
  const unique = [...new Set(rows)]
  if (unique.length === 1) return unique[0]!
  return `${unique.length} problems\n  ${unique.join('\n  ')}`
}

interface Found {
  readonly path: readonly PropertyKey[]
  readonly message: string
}

type Issue = z.core.$ZodIssue

function problemsOf(issue: Issue, document: unknown): Found[] {
  const { path } = issue
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys
        .filter((key) => key !== FORBIDDEN)
        .map((key) => ({ path: [...path, key], message: unknownKey(path, key) }))
    case 'invalid_union':
      return unionProblems(issue, document)
    case 'invalid_key':
      return [{ path, message: issue.issues[0]?.message ?? issue.message }]
    case 'invalid_type': {
      const value = at(document, path)
      if (value === undefined)
        return [{ path, message: `this key is missing: it is ${article(issue.expected)}` }]
      return [{ path, message: `must be ${article(issue.expected)}, is ${article(typeName(value))}` }]
    }
    case 'invalid_value':
      return [{ path, message: wrongChoice(at(document, path), issue.values) }]
    case 'too_small':
    case 'too_big': {
      const bound = issue.code === 'too_small' ? `at least ${issue.minimum}` : `at most ${issue.maximum}`
      if (issue.origin === 'array') return [{ path, message: `must have ${bound} element` }]
      return [{ path, message: isOwnText(issue.message) ? issue.message : `must be ${bound}` }]
    }
    default:
      return [{ path, message: issue.message }]
  }
}

function wrongChoice(value: unknown, choices: readonly unknown[]): string {
  const list = choices.map((choice) => JSON.stringify(choice)).join(', ')
  if (value === undefined) return `this key is missing: it is ${choices.length === 1 ? '' : 'one of '}${list}`
  if (typeof value === 'object') return `must be ${list}, is ${article(typeName(value))}`
  const isOneOfMany = choices.length > 1 && typeof value === 'string'
  if (!isOneOfMany) return `must be ${list}, is ${JSON.stringify(value)}`
  return `${JSON.stringify(value)} is not one of ${list}${didYouMean(value, choices.map(String))}`
}

function isOwnText(message: string): boolean {
  return !/^Too (small|big)/.test(message)
}

/** The branch that fits best tells the story, unless the schema has words of its own for the whole. */
function unionProblems(issue: Extract<Issue, { code: 'invalid_union' }>, document: unknown): Found[] {
  const value = at(document, issue.path)
  if (issue.message !== 'Invalid input') return [{ path: issue.path, message: issue.message }]
  const branches = issue.errors.filter(
    (issues) => !issues.some(({ code, path }) => code === 'invalid_type' && path.length === 0),
  )
  const best = branches.toSorted((a, b) => unknownKeys(a) - unknownKeys(b))[0]
  if (best === undefined) return [{ path: issue.path, message: `cannot be ${article(typeName(value))}` }]
  return best.flatMap((inner) => problemsOf({ ...inner, path: [...issue.path, ...inner.path] }, document))
}

function unknownKeys(issues: readonly Issue[]): number {
  return issues.filter(({ code }) => code === 'unrecognized_keys').length
}

function unknownKey(path: readonly PropertyKey[], key: string): string {
  const script = path.length === 0 && Object.hasOwn(NOT_YET, key) ? NOT_YET[key] : undefined
  if (script !== undefined) return `unknown key: it waits for ${script}, which does not exist in this version`
  return `unknown key${didYouMean(key, knownKeys(path))}`
}

/** The keys that the schema knows at a path, found by walking it. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let schemas: z.core.$ZodType[] = [hostSchema]
  for (const key of path) schemas = schemas.flatMap((schema) => inside(schema, key))
  return schemas.flatMap((schema) => unwrap(schema)).flatMap((schema) => Object.keys(shapeOf(schema) ?? {}))
}

interface Definition {
  readonly type: string
  readonly innerType?: z.core.$ZodType
  readonly in?: z.core.$ZodType
  readonly options?: readonly z.core.$ZodType[]
  readonly element?: z.core.$ZodType
  readonly valueType?: z.core.$ZodType
  readonly shape?: Readonly<Record<string, z.core.$ZodType>>
}

function definition(schema: z.core.$ZodType): Definition {
  return schema._zod.def
}

function unwrap(schema: z.core.$ZodType): z.core.$ZodType[] {
  const def = definition(schema)
  if (def.innerType) return unwrap(def.innerType)
  if (def.type === 'pipe' && def.in) return unwrap(def.in)
  if (def.options) return def.options.flatMap(unwrap)
  return [schema]
}

function inside(schema: z.core.$ZodType, key: PropertyKey): z.core.$ZodType[] {
  return unwrap(schema).flatMap((candidate) => {
    const def = definition(candidate)
    return [shapeOf(candidate)?.[String(key)], def.element, def.valueType].filter(
      (found) => found !== undefined,
    )
  })
}

function shapeOf(schema: z.core.$ZodType): Readonly<Record<string, z.core.$ZodType>> | undefined {
  return definition(schema).shape
}

// The schema passes over this key without a word.
function forbiddenKeys(value: unknown, path: readonly PropertyKey[] = []): Found[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.keys(value).flatMap((key) =>
    key === FORBIDDEN
      ? [{ path: [...path, key], message: 'this name is not supported' }]
      : forbiddenKeys((value as Record<string, unknown>)[key], [...path, key]),
  )
}

function databaseReferences({ databases, reingest }: Host): Found[] {
  return Object.entries(reingest).flatMap(([name, { database }]) => {
    if (Object.hasOwn(databases, database)) return []
    const message = `there is no [databases.${database}]${didYouMean(database, Object.keys(databases))}`
    return [{ path: ['reingest', name, 'database'], message }]
  })
}

/** Names in the file that must be in the file: stores. Roles and tablespaces may be on the server only. */
function crossReferences(host: Host): Found[] {
  const found = databaseReferences(host)
  const jobs = Object.entries(host.backup)
  const users = [
    ...jobs.map(([name, { store }]) => ({ path: ['backup', name], store })),
    ...(host.archive ? [{ path: ['archive'], store: host.archive.store }] : []),
  ]
  for (const { path, store } of users) {
    if (Object.hasOwn(host.store, store)) continue
    const message = `there is no [store.${store}]${didYouMean(store, Object.keys(host.store))}`
    found.push({ path: [...path, 'store'], message })
  }
  for (const [name, { pitr }] of jobs) {
    if (pitr === undefined || host.archive) continue
    found.push({ path: ['backup', name, 'pitr'], message: 'this needs the WAL: add [archive] store = "..."' })
  }
  const told = [
    { path: ['schedule'], names: host.schedule.on_failure },
    ...jobs.map(([name, { on_failure: names }]) => ({ path: ['backup', name], names })),
    { path: ['archive'], names: host.archive?.on_failure },
    ...Object.entries(host.reingest).map(([name, { on_failure: names }]) => ({
      path: ['reingest', name],
      names,
    })),
  ]
  for (const { path, names } of told) {
    for (const name of names ?? []) {
      if (Object.hasOwn(host.notify, name)) continue
      const message = `there is no [notify.${name}]${didYouMean(name, Object.keys(host.notify))}`
      found.push({ path: [...path, 'on_failure'], message })
    }
  }
  for (const [name, role] of Object.entries(host.roles)) {
    if (role.state === 'absent' && name === host.postgres.superuser) {
      found.push({
        path: ['roles', name, 'state'],
        message: 'this is the superuser that everything is done as',
      })
    }
  }
  return found
}

function at(document: unknown, path: readonly PropertyKey[]): unknown {
  let value = document
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key]
  return value
}

function typeName(value: unknown): string {
  if (Array.isArray(value)) return 'array'
  if (value instanceof Date) return 'date'
  return typeof value === 'object' ? 'table' : typeof value
}

function article(type: string): string {
  const name =
    { object: 'table', record: 'table', int: 'whole number', string: 'text', bigint: 'number' }[type] ?? type
  return /^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`
}

function showKeys(path: readonly PropertyKey[]): string {
  return path
    .map((key) =>
      typeof key === 'number' ? `[${key}]` : /^[\w-]+$/.test(String(key)) ? String(key) : JSON.stringify(key),
    )
    .join('.')
    .replaceAll('.[', '[')
}
