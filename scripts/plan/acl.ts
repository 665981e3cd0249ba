import { ident, show } from '../cluster/sql.ts'
import type { GrantSpec } from '../host/schema.ts'

/** What privileges are granted on: the words of the host file. */
export type ObjectClass = GrantSpec['on']

/** Classes that default privileges exist for here: those of which new objects are made all the time. */
export type FutureClass = Exclude<ObjectClass, 'database' | 'schema'>

/** A set of privileges: a bit for each place in {@link PRIVILEGES}. */
export type Privileges = number

/** Every privilege, as aclexplode() spells it; the place is its bit. */
export const PRIVILEGES = [
  'SELECT',
  'INSERT',
  'UPDATE',
  'DELETE',
  'TRUNCATE',
  'REFERENCES',
  'TRIGGER',
  'MAINTAIN',
  'USAGE',
  'CREATE',
  'CONNECT',
  'TEMPORARY',
  'EXECUTE',
] as const

/** The grantee that is everybody. No role can have this name. */
export const PUBLIC = 'public'

type Privilege = (typeof PRIVILEGES)[number]

interface ClassFacts {
  /** The keyword of GRANT. */
  readonly keyword: string
  /** The argument of acldefault(): sequences are `s` there, though `S` everywhere else. */
  readonly letter: string
  /** pg_default_acl.defaclobjtype. */
  readonly defaultLetter: string
  readonly privileges: readonly Privilege[]
  /** What PUBLIC has on a new one (src/backend/utils/adt/acl.c, acldefault). */
  readonly ofPublic: readonly Privilege[]
}

const CLASSES: Readonly<Record<ObjectClass, ClassFacts>> = {
  database: {
    keyword: 'database',
    letter: 'd',
    defaultLetter: '',
    privileges: ['CREATE', 'CONNECT', 'TEMPORARY'],
    ofPublic: ['CONNECT', 'TEMPORARY'],
  },
  schema: {
    keyword: 'schema',
    letter: 'n',
    defaultLetter: 'n',
    privileges: ['USAGE', 'CREATE'],
    ofPublic: [],
  },
  tables: {
    keyword: 'table',
    letter: 'r',
    defaultLetter: 'r',
    privileges: ['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'],
    ofPublic: [],
  },
  sequences: {
    keyword: 'sequence',
    letter: 's',
    defaultLetter: 'S',
    privileges: ['SELECT', 'UPDATE', 'USAGE'],
    ofPublic: [],
  },
  // `routine` is functions, procedures and aggregates in one.
  functions: {
    keyword: 'routine',
    letter: 'f',
    defaultLetter: 'f',
    privileges: ['EXECUTE'],
    ofPublic: ['EXECUTE'],
  },
  types: { keyword: 'type', letter: 'T', defaultLetter: 'T', privileges: ['USAGE'], ofPublic: ['USAGE'] },
}

/** The first major that has a privilege, where not all supported ones have it. */
const SINCE: Partial<Record<Privilege, number>> = { MAINTAIN: 17 }

/** The keyword behind ON, and the letters of the catalogs, for a class. */
export function classFacts(on: ObjectClass): Omit<ClassFacts, 'privileges' | 'ofPublic'> {
  return CLASSES[on]
}

/** What ALL means for a class in a major. */
export function allPrivileges(on: ObjectClass, major: number): Privileges {
  return maskOf(CLASSES[on].privileges.filter((name) => (SINCE[name] ?? 0) <= major))
}

/** What PUBLIC has on a new object of a class, without anybody granting it. */
export function publicPrivileges(on: ObjectClass): Privileges {
  return maskOf(CLASSES[on].ofPublic)
}

/** Words of the host file as a set; `invalid` are those that the class or the major does not have. */
export function parsePrivileges(
  words: readonly string[],
  on: ObjectClass,
  major: number,
): { readonly privileges: Privileges; readonly invalid: readonly string[] } {
  const all = allPrivileges(on, major)
  const invalid: string[] = []
  let privileges = 0
  for (const word of words) {
    const name = word.trim().replace(/ +/g, ' ').toUpperCase()
    const mask =
      name === 'ALL' || name === 'ALL PRIVILEGES' ? all : bitOf(name === 'TEMP' ? 'TEMPORARY' : name)
    if ((mask & all) === 0) invalid.push(word)
    privileges |= mask & all
  }
  return { privileges, invalid }
}

/** The first major in which a class has a privilege, when it is not in every supported one. */
export function privilegeSince(word: string, on: ObjectClass): number | undefined {
  const name = word.trim().toUpperCase() as Privilege
  return CLASSES[on].privileges.includes(name) ? SINCE[name] : undefined
}

/** Names of a set, in the order of the manual. */
export function privilegeNames(privileges: Privileges): Privilege[] {
  return PRIVILEGES.filter((_name, index) => privileges & (1 << index))
}

/** A set as GRANT and REVOKE take it: `select, insert`. */
export function sqlPrivileges(privileges: Privileges): string {
  return privilegeNames(privileges).join(', ').toLowerCase()
}

/** A set for people: `all` where it is all. */
export function showPrivileges(privileges: Privileges, on: ObjectClass, major: number): string {
  const all = allPrivileges(on, major)
  return privileges === all && all !== (all & -all) ? 'all' : sqlPrivileges(privileges)
}

/** Grantees as GRANT takes them. */
export function sqlGrantees(grantees: readonly string[]): string {
  return grantees.map((name) => (name === PUBLIC ? PUBLIC : ident(name))).join(', ')
}

/** The first few of many names for people: `a, b and 498 more`. */
export function showSome(names: readonly string[], shown = 4): string {
  if (names.length <= shown + 1) return names.join(', ')
  return `${names.slice(0, shown).join(', ')} and ${names.length - shown} more`
}

/** Grantees for people. */
export function showGrantees(grantees: readonly string[]): string {
  return showSome(grantees.map(show))
}

/** What one grantee holds on one object. */
export interface Held {
  readonly privileges: Privileges
  /** Of those, the ones that it may grant to others. */
  readonly grantable: Privileges
  /** Of those, the ones that the object's owner granted: only these can be revoked in the owner's name. */
  readonly byOwner: Privileges
  readonly grantableByOwner: Privileges
}

/** Who holds what on one object. An owner's own grant options are implied and not noted. */
export type Acl = ReadonlyMap<string, Held>

/** Holds nothing. */
export const NOTHING: Held = { privileges: 0, grantable: 0, byOwner: 0, grantableByOwner: 0 }

/** The ACL of an object whose catalog column is NULL, which means this and not "nobody". */
export function defaultAcl(on: ObjectClass, owner: string, major: number): Acl {
  const acl = new Map([[owner, heldByOwnerGrant(allPrivileges(on, major))]])
  const ofPublic = publicPrivileges(on)
  if (ofPublic) acl.set(PUBLIC, heldByOwnerGrant(ofPublic))
  return acl
}

/** What somebody holds to whom the owner granted it. */
export function heldByOwnerGrant(privileges: Privileges, grantable: Privileges = 0): Held {
  return { privileges, grantable, byOwner: privileges, grantableByOwner: grantable }
}

/** An ACL after ALTER .. OWNER TO: the old owner's entries become the new owner's, merged with its own. */
export function aclWithOwner(acl: Acl, before: string, after: string): Acl {
  if (before === after) return acl
  const changed = new Map(acl)
  changed.delete(before)
  changed.set(after, mergeHeld(acl.get(before) ?? NOTHING, acl.get(after) ?? NOTHING))
  return changed
}

/** Two grantees' privileges together. */
export function mergeHeld(one: Held, other: Held): Held {
  return {
    privileges: one.privileges | other.privileges,
    grantable: one.grantable | other.grantable,
    byOwner: one.byOwner | other.byOwner,
    grantableByOwner: one.grantableByOwner | other.grantableByOwner,
  }
}

/** What an object's grantee should hold. */
export interface WantedHeld {
  readonly privileges: Privileges
  readonly grantable: Privileges
}

/** What one grantee lacks and, where asked for, has too much of. Each set is sent in a statement of its own. */
export interface Difference {
  readonly grant: Privileges
  readonly grantWithOption: Privileges
  readonly revoke: Privileges
  readonly revokeOption: Privileges
}

/** What brings a grantee from what it holds to what it should hold; undefined: nothing. Never takes from an owner. */
export function difference(
  wanted: WantedHeld,
  held: Held,
  { isOwner, isExact }: { readonly isOwner: boolean; readonly isExact: boolean },
): Difference | undefined {
  // An owner can grant anyway, and PUBLIC is masked out before: nobody to pass it on.
  const grantWithOption = isOwner ? 0 : wanted.grantable & ~held.grantable
  const grant = wanted.privileges & ~held.privileges & ~grantWithOption
  const isCut = isExact && !isOwner
  const revoke = isCut ? held.byOwner & ~wanted.privileges : 0
  const revokeOption = isCut ? held.grantableByOwner & ~wanted.grantable & ~revoke : 0
  if (!(grant | grantWithOption | revoke | revokeOption)) return undefined
  return { grant, grantWithOption, revoke, revokeOption }
}

function maskOf(names: readonly Privilege[]): Privileges {
  return names.reduce((mask, name) => mask | bitOf(name), 0)
}

function bitOf(name: string): Privileges {
  const index = (PRIVILEGES as readonly string[]).indexOf(name)
  return index === -1 ? 0 : 1 << index
}
