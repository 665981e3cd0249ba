import { ident, literal, show } from '../../cluster/sql.ts'
import { formatSize } from '../../core/quantity.ts'
import type { DatabaseSpec } from '../../host/schema.ts'
import {
  exportedSettings,
  settingChanges,
  type StoredSettings,
  storedSettings,
  wantedSettings,
} from '../assignment.ts'
import type { Change, Finding, Step } from '../change.ts'
import type { Context, Kind, Observe } from '../kind.ts'
import { besides, databaseSpec, findMissingRoles, rolesNeverMade, superuserOf } from '../scope.ts'

/** A database as it is wanted or as it is. What is inside it belongs to other kinds. */
export interface Database {
  readonly name: string
  /** Wanted undefined, here and below: not looked at in one that exists. */
  readonly owner: string | undefined
  readonly tablespace: string | undefined
  readonly encoding: string | undefined
  /** Wanted: one. Actual: collation, character type, and where there is one the provider's own. */
  readonly locales: readonly string[]
  /** -1 is no limit; -2 is the server's mark for one whose drop was interrupted. */
  readonly connectionLimit: number
  readonly allowConnections: boolean
  readonly settings: StoredSettings
  readonly comment: string | undefined
  readonly template?: string | undefined
  /** Actual: false stands for one that is wanted and not there, to carry what is missing. */
  readonly isThere: boolean
  /** Actual: looked up when it is to be moved; to one digit, so that a plan does not age by it. */
  readonly roughBytes?: number
  /** Actual: named by the host file, made by nobody. */
  readonly missing?: { readonly roles: readonly string[]; readonly tablespaces: readonly string[] }
}

/** Databases. None is ever dropped, and none is made anew because of what cannot be changed in place. */
export const database: Kind<Database> = {
  name: 'database',
  wanted: (host) =>
    new Map(Object.entries(host.databases).map(([name, spec]) => [show(name), wantedDatabase(name, spec)])),
  actual,
  change: (_name, wanted, actual) =>
    actual?.isThere ? alterDatabase(wanted, actual) : createDatabase(wanted),
  findings,
  exported: (actual, { host }) => ({
    databases: Object.fromEntries(
      [...actual.values()].flatMap((found) => {
        const words = wordsFor(found, superuserOf(host))
        return isOfInitdb(found.name) && Object.keys(words).length === 0 ? [] : [[found.name, words]]
      }),
    ),
  }),
}

function wantedDatabase(name: string, spec: DatabaseSpec): Database {
  return {
    name,
    owner: spec.owner,
    tablespace: spec.tablespace,
    encoding: spec.encoding,
    locales: spec.locale === undefined ? [] : [spec.locale],
    connectionLimit: spec.connection_limit,
    allowConnections: spec.allow_connections,
    settings: wantedSettings(spec.settings),
    comment: spec.comment,
    template: spec.template,
    isThere: true,
  }
}

interface Row {
  readonly name: string
  readonly owner: string
  readonly tablespace: string
  readonly encoding: string
  readonly locales: string[]
  readonly connection_limit: number
  readonly allow_connections: boolean
  readonly settings: string[] | null
  readonly comment: string | null
}

// The provider's own locale is daticulocale in 15 and 16 and datlocale from 17: read by name from JSON.
const DATABASES = `
  select d.datname::text as name, pg_get_userbyid(d.datdba)::text as owner, t.spcname::text as tablespace,
         pg_encoding_to_char(d.encoding)::text as encoding,
         array_remove(array[d.datcollate::text, d.datctype::text, j ->> 'datlocale', j ->> 'daticulocale'],
           null) as locales,
         d.datconnlimit as connection_limit, d.datallowconn as allow_connections, s.setconfig as settings,
         shobj_description(d.oid, 'pg_database') as comment
    from pg_database d
    join pg_tablespace t on t.oid = d.dattablespace
    left join pg_db_role_setting s on s.setdatabase = d.oid and s.setrole = 0
    cross join to_jsonb(d) j
   where d.datname <> 'template0'`

async function actual(observe: Observe): Promise<Map<string, Database>> {
  if (!observe.isRunning) return new Map()
  const rows = await observe.query<Row>('postgres', DATABASES)
  const all = new Map(rows.map((row) => [show(row.name), foundDatabase(row)]))
  const { host } = observe
  const specs = Object.entries(host.databases)
  const missingRoles = await findMissingRoles(
    observe,
    specs.flatMap(([, { owner }]) => owner ?? []),
  )
  const missingTablespaces = await findMissingTablespaces(observe)
  for (const [name, spec] of specs) {
    const one = all.get(show(name)) ?? { ...wantedDatabase(name, spec), isThere: false }
    const missing = {
      roles: [spec.owner].filter((owner) => owner !== undefined && missingRoles.has(owner)) as string[],
      tablespaces: [spec.tablespace].filter(
        (tablespace) => tablespace !== undefined && missingTablespaces.has(tablespace),
      ) as string[],
    }
    const moves = one.isThere && spec.tablespace !== undefined && spec.tablespace !== one.tablespace
    const size = moves ? { roughBytes: await roughSize(observe, name) } : {}
    all.set(show(name), { ...one, missing, ...size })
  }
  return all
}

function foundDatabase(row: Row): Database {
  const { name, owner, tablespace, encoding, locales } = row
  return {
    name,
    owner,
    tablespace,
    encoding,
    locales,
    connectionLimit: row.connection_limit,
    allowConnections: row.allow_connections,
    settings: storedSettings(row.settings),
    comment: row.comment ?? undefined,
    isThere: true,
  }
}

async function findMissingTablespaces(observe: Observe): Promise<Set<string>> {
  const rows = await observe.query<{ name: string }>(
    'postgres',
    'select spcname::text as name from pg_tablespace',
  )
  const existing = new Set([...rows.map(({ name }) => name), ...Object.keys(observe.host.tablespaces)])
  const wanted = Object.values(observe.host.databases).flatMap(({ tablespace }) => tablespace ?? [])
  return new Set(wanted.filter((name) => !existing.has(name)))
}

async function roughSize(observe: Observe, name: string): Promise<number> {
  const [row] = await observe.query<{ bytes: string }>(
    'postgres',
    'select pg_database_size($1::name)::text as bytes',
    [name],
  )
  return Number(Number(row?.bytes ?? 0).toPrecision(1))
}

function createDatabase(wanted: Database): Change {
  const { name, owner, tablespace, encoding, connectionLimit, allowConnections, comment } = wanted
  const [locale] = wanted.locales
  // template1 may have another encoding or locale than is wanted; template0 lends itself to all.
  const template = wanted.template ?? ((encoding ?? locale) ? 'template0' : undefined)
  const options: [text: string, line: string][] = []
  if (owner !== undefined) options.push([`owner ${ident(owner)}`, `owner ${show(owner)}`])
  if (template !== undefined) options.push([`template ${ident(template)}`, ''])
  if (encoding !== undefined) options.push([`encoding ${literal(encoding)}`, `encoding ${encoding}`])
  if (locale !== undefined) options.push([`locale ${literal(locale)}`, `locale ${locale}`])
  if (tablespace !== undefined)
    options.push([`tablespace ${ident(tablespace)}`, `tablespace ${show(tablespace)}`])
  if (connectionLimit !== -1)
    options.push([`connection limit ${connectionLimit}`, `connection limit ${connectionLimit}`])
  if (!allowConnections) options.push(['allow_connections false', 'no connections'])
  const settings = settingChanges(wanted.settings, new Map(), false)
  const text = ['create database', ident(name), ...options.map(([option]) => option)].join(' ')
  const lines = [...options.map(([, line]) => line), ...settings.map(({ line }) => line)].filter(Boolean)
  return {
    kind: 'database',
    name: show(name),
    action: 'create',
    line: lines.join(', ') || 'with defaults',
    hazards: [],
    steps: [
      outside(name, text),
      ...settings.map(({ clause }) => inside(name, `alter database ${ident(name)} ${clause}`)),
      ...(comment ? [commentStep(name, comment)] : []),
    ],
  }
}

function alterDatabase(wanted: Database, actual: Database): Change | undefined {
  const { name, tablespace, comment } = wanted
  const alter = `alter database ${ident(name)}`
  const changes = [
    ...optionChanges(wanted, actual),
    ...settingChanges(wanted.settings, actual.settings, false),
  ].map(({ clause, line }) => ({ line, step: inside(name, `${alter} ${clause}`) }))
  if (comment !== undefined && comment !== (actual.comment ?? ''))
    changes.push({ line: 'comment changed', step: commentStep(name, comment) })
  const moves = tablespace !== undefined && tablespace !== actual.tablespace
  if (moves) {
    const cost = `copies about ${formatSize(actual.roughBytes ?? 0)}; nobody may be connected`
    changes.push({
      line: `tablespace ${show(actual.tablespace!)} -> ${show(tablespace)} (${cost})`,
      step: outside(name, `${alter} set tablespace ${ident(tablespace)}`),
    })
  }
  if (changes.length === 0) return undefined
  return {
    kind: 'database',
    name: show(name),
    action: 'alter',
    line: changes.map(({ line }) => line).join(', '),
    hazards: moves ? ['moves-data'] : [],
    steps: changes.map(({ step }) => step),
  }
}

function optionChanges(wanted: Database, actual: Database): { clause: string; line: string }[] {
  const { owner, connectionLimit, allowConnections } = wanted
  const changes: { clause: string; line: string }[] = []
  if (owner !== undefined && owner !== actual.owner) {
    const line = `owner ${show(actual.owner!)} -> ${show(owner)}`
    changes.push({ clause: `owner to ${ident(owner)}`, line })
  }
  if (connectionLimit !== actual.connectionLimit) {
    const line = `connection limit ${actual.connectionLimit} -> ${connectionLimit}`
    changes.push({ clause: `connection limit ${connectionLimit}`, line })
  }
  if (allowConnections !== actual.allowConnections) {
    const line = allowConnections ? 'allow connections' : 'no connections'
    changes.push({ clause: `allow_connections ${allowConnections}`, line })
  }
  return changes
}

/** A statement on a database that may share a transaction with others. */
function inside(name: string, text: string): Step {
  return { run: 'sql', database: besides(name), text, transaction: true }
}

/** One that PostgreSQL refuses in a transaction, and while anybody is connected to that database. */
function outside(name: string, text: string): Step {
  return { run: 'sql', database: besides(name), text, transaction: false }
}

function commentStep(name: string, comment: string): Step {
  return inside(name, `comment on database ${ident(name)} is ${comment === '' ? 'null' : literal(comment)}`)
}

function findings(
  name: string,
  wanted: Database,
  actual: Database | undefined,
  { host }: Context,
): Finding[] {
  const finding = (level: Finding['level'], text: string, hint?: string): Finding => ({
    kind: 'database',
    name,
    level,
    text,
    ...(hint && { hint }),
  })
  const found: Finding[] = []
  const roles =
    actual?.missing?.roles ?? rolesNeverMade(host, wanted.owner === undefined ? [] : [wanted.owner])
  for (const role of roles) {
    found.push(
      finding(
        'impossible',
        `there is no role ${show(role)} to own it`,
        `Add [roles.${show(role)}] to the host file.`,
      ),
    )
  }
  for (const tablespace of actual?.missing?.tablespaces ?? []) {
    found.push(
      finding(
        'impossible',
        `there is no tablespace ${show(tablespace)}`,
        `Add [tablespaces.${show(tablespace)}] to the host file.`,
      ),
    )
  }
  const spec = databaseSpec(host, wanted.name)
  if (spec && wantsInside(spec) && !wanted.allowConnections) {
    found.push(
      finding(
        'impossible',
        'it is to take no connections, so nothing can be made in it',
        'Set allow_connections = true, or leave out what is in it.',
      ),
    )
  }
  return actual?.isThere ? [...found, ...findingsOfExisting(wanted, actual, spec, finding)] : found
}

function findingsOfExisting(
  wanted: Database,
  actual: Database,
  spec: DatabaseSpec | undefined,
  finding: (level: Finding['level'], text: string, hint?: string) => Finding,
): Finding[] {
  const found: Finding[] = []
  if (actual.connectionLimit === -2) {
    const drop = `drop database ${ident(wanted.name)}`
    found.push(
      finding('impossible', 'its drop was interrupted, it cannot be used any more', `Finish it: ${drop};`),
    )
  }
  if (!actual.allowConnections && wanted.allowConnections && spec && wantsInside(spec)) {
    found.push(
      finding(
        'warning',
        'it takes no connections yet, so what is in it was not looked at',
        'Plan again when it does: howdah provision apply --only database',
      ),
    )
  }
  const hint = 'Make a new database as it should be, then dump this one and restore it there.'
  if (wanted.encoding !== undefined && cleanEncoding(wanted.encoding) !== cleanEncoding(actual.encoding!)) {
    const text = `encoding is ${actual.encoding}, not ${wanted.encoding}: cannot be changed in place`
    found.push(finding('warning', text, hint))
  }
  const [locale] = wanted.locales
  if (locale !== undefined && !actual.locales.map(cleanLocale).includes(cleanLocale(locale))) {
    const text = `locale is ${[...new Set(actual.locales)].join(', ')}, not ${locale}: cannot be changed in place`
    found.push(finding('warning', text, hint))
  }
  return found
}

function wantsInside(spec: DatabaseSpec): boolean {
  return (
    spec.extensions.length > 0 ||
    Object.keys(spec.schemas).length > 0 ||
    spec.public !== 'default' ||
    spec.grants.some(({ on }) => on !== 'database')
  )
}

// The server takes any case and punctuation, and some second names (src/common/encnames.c).
function cleanEncoding(name: string): string {
  const clean = name.toLowerCase().replace(/[^a-z0-9]/g, '')
  if (clean === 'unicode') return 'utf8'
  const latin = { iso88591: 'latin1', iso88592: 'latin2', iso88593: 'latin3', iso88594: 'latin4' }
  const more = { iso88599: 'latin5', iso885910: 'latin6', iso885913: 'latin7', iso885915: 'latin9' }
  const names: Readonly<Record<string, string>> = { ...latin, ...more }
  return Object.hasOwn(names, clean) ? names[clean]! : clean
}

// glibc takes en_US.UTF-8 and en_US.utf8 for the same.
function cleanLocale(name: string): string {
  return name.replace(/\.([^@]*)/, (_all, codeset: string) => `.${codeset.toLowerCase().replaceAll('-', '')}`)
}

function isOfInitdb(name: string): boolean {
  return name === 'postgres' || name === 'template1'
}

/** The host file's words for what is not a default. */
function wordsFor(found: Database, superuser: string): Record<string, unknown> {
  const settings = exportedSettings(found.settings)
  const isMade = !isOfInitdb(found.name)
  const initdbComment = /^(default administrative connection database|default template for new databases)$/
  return {
    ...(found.owner !== superuser && { owner: found.owner }),
    ...(isMade && { encoding: found.encoding }),
    ...(isMade && isUniform(found.locales) && { locale: found.locales[0] }),
    ...(found.tablespace !== 'pg_default' && { tablespace: found.tablespace }),
    ...(found.connectionLimit >= 0 && { connection_limit: found.connectionLimit }),
    ...(!found.allowConnections && { allow_connections: false }),
    ...(Object.keys(settings).length > 0 && { settings }),
    ...(found.comment !== undefined &&
      (isMade || !initdbComment.test(found.comment)) && { comment: found.comment }),
  }
}

function isUniform(locales: readonly string[]): boolean {
  return new Set(locales).size === 1
}
