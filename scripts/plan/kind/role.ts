import { ident, literal, show } from '../../cluster/sql.ts'
import type { SecretRef } from '../../core/secret.ts'
import { exportedSettings, settingChanges } from '../assignment.ts'
import type { Change, Finding, Step } from '../change.ts'
import type { Kind } from '../kind.ts'
import { observeRoles } from './role-actual.ts'
import { dropFindings, dropRole, isDropped } from './role-drop.ts'
import { ATTRIBUTES, DEFAULTS, type Role, wantedRole } from './role-spec.ts'

/** Roles: attributes, limits, passwords, settings, comments. Memberships are a kind of their own. */
export const role: Kind<Role> = {
  name: 'role',
  wanted: (host) =>
    new Map(
      Object.entries(host.roles)
        .filter(([, spec]) => spec.state === 'present')
        .map(([name, spec]) => [show(name), wantedRole(name, spec)]),
    ),
  actual: observeRoles,
  change: (name, wanted, actual) =>
    actual && !actual.isMissing ? alterRole(name, wanted, actual) : createRole(name, wanted),
  drop: (name, actual, context) =>
    isDropped(context.host, actual.name) ? dropRole(name, actual, context) : undefined,
  dropFindings: (name, actual, context) =>
    isDropped(context.host, actual.name) ? dropFindings(name, actual, context) : [],
  findings,
  exported: (actual) => ({
    // A host file cannot say "__proto__".
    roles: Object.fromEntries(
      [...actual.values()]
        .filter(({ name, isBootstrap, isMissing }) => !isBootstrap && !isMissing && name !== '__proto__')
        .map((found) => [found.name, words(found)]),
    ),
  }),
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
  if (actual?.refused !== undefined) {
    const { message: text, hint } = actual.refused
    return [{ kind: 'role', name, level: 'impossible', text, ...(hint === undefined ? {} : { hint }) }]
  }
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

/** Ends a statement with a password. The placeholder stands at the end, where no name can be taken for it. */
export function passwordStep(role: string, text: string, ref: SecretRef): Step {
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
