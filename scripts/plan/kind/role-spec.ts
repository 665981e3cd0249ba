import type { Fail } from '../../core/fail.ts'
import type { SecretRef } from '../../core/secret.ts'
import type { RoleSpec } from '../../host/schema.ts'
import { type StoredSettings, wantedSettings } from '../assignment.ts'
import type { StoredPassword } from './password.ts'
import type { Droppable } from './role-drop.ts'

/** What a role may do; the names are those of the host file and of SQL. */
export const ATTRIBUTES = [
  'login',
  'superuser',
  'createdb',
  'createrole',
  'inherit',
  'replication',
  'bypassrls',
] as const

/** All of them, on or off. */
export type Attributes = Readonly<Record<(typeof ATTRIBUTES)[number], boolean>>

/** What `create role "x"` makes. */
export const DEFAULTS: Attributes = {
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
  /** Actual: why the wanted password is none. */
  readonly refused?: Fail | undefined
  /** Actual: there is no such role, and this is here to say what is wrong with its password. */
  readonly isMissing?: boolean
  /** Actual: there where a password is looked at. */
  readonly stored?: StoredPassword | undefined
}

/** What the host file says on one role. */
export function wantedRole(name: string, spec: RoleSpec): Role {
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

// Times outside of what four digits of a year can say are as good as the first and the last of them.
/** Midnight of the first day that is told from others. */
export const FIRST_TIME = '0001-01-01T00:00:00Z'
/** The last moment that is told from others. */
export const LAST_TIME = '9999-12-31T23:59:59.999999Z'

/** A time with an offset as the server's own are shown here: UTC, at most microseconds, four digits of a year. */
function inUtc(text: string): string {
  if (text === 'infinity') return text
  const fraction = /\.(\d{1,6})\d*(?=\s*(?:Z|[+-]))/.exec(text)
  const whole = new Date(fraction ? text.replace(fraction[0], '') : text).toISOString()
  if (/^(-|0000)/.test(whole)) return FIRST_TIME
  if (whole.startsWith('+')) return LAST_TIME
  const seconds = whole.slice(0, 'YYYY-MM-DDTHH:MM:SS'.length)
  return withoutZeros(`${seconds}.${(fraction?.[1] ?? '').padEnd(6, '0')}Z`)
}

/** A time without zeros at the end of its fraction of a second. */
export function withoutZeros(time: string): string {
  return time.replace(/\.(\d*?)0*Z$/, (_, digits: string) => (digits === '' ? 'Z' : `.${digits}Z`))
}
