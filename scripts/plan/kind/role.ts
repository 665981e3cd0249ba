import { ident, literal, show } from '../../cluster/sql.ts'
import { type SecretRef } from '../../core/secret.ts'
import { type Host, type RoleSpec } from '../../host/schema.ts'
import {
  exportedSettings,
  settingChanges,
  type StoredSettings,
  storedSettings,
  wantedSettings,
} from '../assignment.ts'
import { type Change, type Finding, type Step } from '../change.ts'
import { type Kind, type Observe } from '../kind.ts'
import { comparePassword, readPasswords, type StoredPassword } from './password.ts'
import { type Droppable, dropFindings, dropRole, observeTies } from './role-drop.ts'

/** What a role may do; the names are those of the host file and of SQL. */
const ATTRIBUTES = [
  'login',
  'superuser',
  'createdb',
  'createrole',
  'inherit',
  'replication',
  'bypassrls',
] as const

type Attributes = Readonly<Record<(typeof ATTRIBUTES)[number], boolean>>

/** What `create role "x"` makes. */
const DEFAULTS: Attributes = {
  login: false,
  superuser: false,
  createdb: false,
  createrole: false,
  inherit: true,
  replication: false,
  bypassrls: false,
}

/** A role as it is wanted or as it is. */
export interface Role extends Droppable {
  readonly name: string
  readonly attributes: Attributes
  /** -1 is no limit. */
  readonly connectionLimit: number
  /** In UTC, `2027-01-01T00:00:00Z`, or `infinity`; undefined: never set. */
  readonly validUntil: string | undefined
  readonly settings: StoredSettings
  /** Wanted undefined: not looked at. */
  readonly comment: string | undefined
  /** Wanted: where the password comes from; false is none, undefined is not looked at. */
  readonly password?: SecretRef | false | undefined
  /** Wanted: whether settings that are not named go. */
  readonly isExact?: boolean
  /** Actual: there where a password is looked at. */
  readonly stored?: StoredPassword | undefined
}

/** Roles: attributes, limits, passwords, settings, comments. Memberships are a kind of their own. */
export const role: Kind<Role> = {
  name: 'role',
  wanted: (host) =>
    new Map(
      Object.entries(host.roles)
        .filter(([, spec]) => spec.state === 'present')
        .map(([name, spec]) => [show(name), wantedRole(name, spec)]),
    ),
  actual,
  change: (name, wanted, actual) => (actual ? alterRole(name, wanted, actual) : createRole(name, wanted)),
  drop: (name, actual, context) =>
    isDropped(context.host, actual.name) ? dropRole(name, actual, context) : undefined,
  dropFindings: (name, actual, context) =>
    isDropped(context.host, actual.name) ? dropFindings(name, actual, context) : [],
  findings,
  exported: (actual) => ({
    roles: Object.fromEntries(
      [...actual.values()]
        .filter(({ isBootstrap }) => !isBootstrap)
        .map((found) => [found.name, words(found)]),
    ),
  }),
}

function isDropped(host: Host, name: string): boolean {
  return Object.hasOwn(host.roles, name) && host.roles[name]!.state === 'absent'
}

function wantedRole(name: string, spec: RoleSpec): Role {
  return {
    name,
    attributes: Object.fromEntries(ATTRIBUTES.map((key) => [key, spec[key]])) as Attributes,
    connectionLimit: spec.connection_limit,
    validUntil: spec.valid_until === undefined ? undefined : inUtc(spec.valid_until),
    settings: wantedSettings(spec.settings),
    comment: spec.comment,
    password: spec.password,
    isExact: spec.manage === 'exact',
  }
}

interface Row {
  readonly name: string
  readonly attributes: Attributes
  readonly connection_limit: number
  readonly valid_until: string | null
  readonly settings: string[] | null
  readonly comment: string | null
  readonly is_bootstrap: boolean
  readonly is_ours: boolean
  readonly sees_verifiers: boolean
}

// Times outside of what four digits of a year can say are as good as the first and the last of them.
const FIRST_TIME = '0001-01-01T00:00:00Z'
const LAST_TIME = '9999-12-31T23:59:59.999999Z'

const ROLES = `
  select rolname::text as name,
         json_build_object('login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb,
           'createrole', rolcreaterole, 'inherit', rolinherit, 'replication', rolreplication,
           'bypassrls', rolbypassrls) as attributes,
         rolconnlimit as connection_limit,
         case when rolvaliduntil is null then null when rolvaliduntil = 'infinity' then 'infinity'
              else to_char(greatest(least(rolvaliduntil, '${LAST_TIME}'), '${FIRST_TIME}')
                   at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') end as valid_until,
         rolconfig as settings,
         shobj_description(oid, 'pg_authid') as comment,
         oid = 10 as is_bootstrap,
         rolname = session_user as is_ours,
         has_table_privilege('pg_authid', 'select') as sees_verifiers
    from pg_roles where rolname !~ '^pg_'`

async function actual(observe: Observe): Promise<Map<string, Role>> {
  // First, and without a server too: a secret that is none stops everything before anything is changed.
  const passwords = await readPasswords(observe.host)
  if (!observe.isRunning) return new Map()
  const rows = await observe.query<Row>('postgres', ROLES)
  const stored = await comparePasswords(observe, passwords, rows[0]?.sees_verifiers ?? false)
  const ties = await observeTies(
    observe,
    rows.map(({ name }) => name).filter((name) => isDropped(observe.host, name)),
  )
  return new Map(
    rows.map((row) => [
      show(row.name),
      {
        name: row.name,
        attributes: row.attributes,
        connectionLimit: row.connection_limit,
        validUntil: row.valid_until === null ? undefined : withoutZeros(row.valid_until),
        settings: storedSettings(row.settings),
        comment: row.comment ?? undefined,
        stored: stored.get(row.name),
        isBootstrap: row.is_bootstrap,
        isOurs: row.is_ours,
        ties: ties.get(row.name),
      },
    ]),
  )
}

/** Of the roles whose password the host file says something about. */
async function comparePasswords(
  observe: Observe,
  passwords: Awaited<ReturnType<typeof readPasswords>>,
  seesVerifiers: boolean,
): Promise<Map<string, StoredPassword>> {
  const names = Object.entries(observe.host.roles)
    .filter(([, spec]) => spec.state === 'present' && spec.password !== undefined)
    .map(([name]) => name)
  if (!seesVerifiers || names.length === 0) return new Map(names.map((name) => [name, 'unreadable']))
  const rows = await observe.query<{ name: string; verifier: string | null }>(
    'postgres',
    'select rolname::text as name, rolpassword as verifier from pg_authid where rolname = any($1)',
    [names],
  )
  return new Map(
    await Promise.all(
      rows.map(
        async ({ name, verifier }) =>
          [name, await comparePassword(passwords.get(name), verifier, name)] as const,
      ),
    ),
  )
}

function createRole(name: string, wanted: Role): Change {
  const options = [
    ...ATTRIBUTES.filter((key) => wanted.attributes[key] !== DEFAULTS[key]).map((key) =>
      option(key, wanted.attributes[key]),
    ),
    ...(wanted.connectionLimit === -1 ? [] : [`connection limit ${wanted.connectionLimit}`]),
    ...(wanted.validUntil === undefined ? [] : [`valid until ${literal(wanted.validUntil)}`]),
  ]
  const settings = settingChanges(wanted.settings, new Map(), false)
  const line = [
    wanted.attributes.login ? '' : 'no login',
    ...options.map((text) => spoken(text)),
    wanted.password ? 'password set' : '',
    ...settings.map((change) => change.line),
  ]
  const create = ['create role', ident(wanted.name), ...options].join(' ')
  return {
    kind: 'role',
    name,
    action: 'create',
    line: line.filter(Boolean).join(', '),
    hazards: [],
    steps: [
      wanted.password ? passwordStep(wanted.name, create, wanted.password) : sql(create),
      ...settings.map(({ clause }) => sql(`alter role ${ident(wanted.name)} ${clause}`)),
      ...(wanted.comment ? [commentStep(wanted.name, wanted.comment)] : []),
    ],
  }
}

function alterRole(name: string, wanted: Role, actual: Role): Change | undefined {
  const options = optionChanges(wanted, actual)
  const settings = settingChanges(wanted.settings, actual.settings, wanted.isExact ?? false)
  const password = passwordChange(wanted, actual)
  const comment = wanted.comment === (actual.comment ?? '') ? undefined : wanted.comment
  const alter = `alter role ${ident(wanted.name)}`
  const steps = [
    ...(options.length === 0 ? [] : [sql([alter, ...options.map(({ text }) => text)].join(' '))]),
    ...(password ? [password.step] : []),
    ...settings.map(({ clause }) => sql(`${alter} ${clause}`)),
    ...(comment === undefined ? [] : [commentStep(wanted.name, comment)]),
  ]
  if (steps.length === 0) return undefined
  const line = [
    ...options.map((change) => change.line),
    ...(password ? [password.line] : []),
    ...settings.map((change) => change.line),
    ...(comment === undefined ? [] : ['comment changed']),
  ].join(', ')
  return { kind: 'role', name, action: 'alter', line, hazards: [], steps }
}

function optionChanges(wanted: Role, actual: Role): { text: string; line: string }[] {
  // Attributes have defaults in the host file; for these roles the defaults would be a lock-out.
  const isPinned = actual.isBootstrap === true || actual.isOurs === true
  const changes = ATTRIBUTES.filter(
    (key) => !isPinned && wanted.attributes[key] !== actual.attributes[key],
  ).map((key) => {
    const text = option(key, wanted.attributes[key])
    return { text, line: spoken(text) }
  })
  if (wanted.connectionLimit !== actual.connectionLimit) {
    const text = `connection limit ${wanted.connectionLimit}`
    changes.push({ text, line: `connection limit ${actual.connectionLimit} -> ${wanted.connectionLimit}` })
  }
  // There is no statement that makes it NULL again, and infinity means the same to whoever logs in.
  const until = wanted.validUntil ?? (actual.validUntil === undefined ? undefined : 'infinity')
  if (until !== actual.validUntil && until !== undefined) {
    const line = `valid until ${actual.validUntil ?? 'never set'} -> ${until}`
    changes.push({ text: `valid until ${literal(until)}`, line })
  }
  return changes
}

const PASSWORD_LINES = {
  absent: 'password set',
  differs: 'password changed',
  md5: 'password stored as SCRAM instead of MD5',
} as const

function passwordChange(wanted: Role, actual: Role): { step: Step; line: string } | undefined {
  const { stored } = actual
  const text = `alter role ${ident(wanted.name)}`
  if (wanted.password === false) {
    if (stored === 'absent' || stored === 'unreadable') return undefined
    return { step: sql(`${text} password null`), line: 'password removed' }
  }
  if (wanted.password === undefined || stored === undefined) return undefined
  if (stored === 'matches' || stored === 'unreadable') return undefined
  return { step: passwordStep(wanted.name, text, wanted.password), line: PASSWORD_LINES[stored] }
}

function findings(name: string, wanted: Role, actual: Role | undefined): Finding[] {
  if (wanted.password === undefined || actual?.stored !== 'unreadable') return []
  return [
    {
      kind: 'role',
      name,
      level: 'warning',
      text: 'its password cannot be compared: only a superuser may read pg_authid',
    },
  ]
}

/** The host file's words for what is not a default. */
function words(found: Role): Record<string, unknown> {
  const settings = Object.entries(exportedSettings(found.settings))
  return {
    ...Object.fromEntries(
      ATTRIBUTES.filter((key) => found.attributes[key] !== DEFAULTS[key]).map((key) => [
        key,
        found.attributes[key],
      ]),
    ),
    ...(found.connectionLimit === -1 ? {} : { connection_limit: found.connectionLimit }),
    ...(found.validUntil === undefined ? {} : { valid_until: found.validUntil }),
    ...(settings.length === 0 ? {} : { settings: Object.fromEntries(settings) }),
    ...(found.comment === undefined ? {} : { comment: found.comment }),
  }
}

function option(key: (typeof ATTRIBUTES)[number], isOn: boolean): string {
  return isOn ? key : `no${key}`
}

/** `nologin` and `valid until '..'` for people. */
function spoken(text: string): string {
  return text.replace(/^no/, 'no ').replaceAll(`'`, '')
}

function sql(text: string): Step {
  return { run: 'sql', database: 'postgres', text, transaction: true }
}

// The placeholder stands at the end, where no name can be taken for it.
function passwordStep(role: string, text: string, ref: SecretRef): Step {
  return {
    run: 'sql',
    database: 'postgres',
    text: `${text} password :verifier`,
    transaction: true,
    secret: { role, ref },
  }
}

function commentStep(name: string, comment: string): Step {
  return sql(`comment on role ${ident(name)} is ${comment === '' ? 'null' : literal(comment)}`)
}

/** A time with an offset as the server's own are shown here: UTC, at most microseconds, four digits of a year. */
function inUtc(text: string): string {
  if (text === 'infinity') return text
  const fraction = /\.(\d{1,6})\d*(?=\s*(?:Z|[+-]))/.exec(text)
  const whole = new Date(fraction ? text.replace(fraction[0], '') : text).toISOString()
  if (whole.startsWith('-')) return FIRST_TIME
  if (whole.startsWith('+')) return LAST_TIME
  const seconds = whole.slice(0, 'YYYY-MM-DDTHH:MM:SS'.length)
  return withoutZeros(`${seconds}.${(fraction?.[1] ?? '').padEnd(6, '0')}Z`)
}

function withoutZeros(time: string): string {
  return time.replace(/\.(\d*?)0*Z$/, (_, digits: string) => (digits === '' ? 'Z' : `.${digits}Z`))
}
