import type { GrantSpec, Host } from '../host/schema.ts'
import {
  type FutureClass,
  type ObjectClass,
  parsePrivileges,
  type Privileges,
  PUBLIC,
  type WantedHeld,
} from './acl.ts'
import { databaseSpec, defaultCreators } from './scope.ts'

/** One `[[databases.x.grants]]` entry, its words read. */
export interface GrantEntry {
  readonly on: ObjectClass
  readonly to: readonly string[]
  /** `*`: every schema that is not the system's or an extension's. */
  readonly schemas: ReadonlySet<string> | '*'
  readonly objects: ReadonlySet<string> | undefined
  readonly privileges: Privileges
  /** Words that the class or the major does not have. */
  readonly invalid: readonly string[]
  readonly isGrantable: boolean
  /** Whose future objects; empty: none. */
  readonly creators: readonly string[]
}

const READ = new WeakMap<readonly GrantSpec[], { major: number; entries: readonly GrantEntry[] }>()

/** The entries of a database, read for a major. A host file is read once: many ask for the same. */
export function readEntries(host: Host, database: string, major: number): readonly GrantEntry[] {
  const specs = databaseSpec(host, database)?.grants
  if (specs === undefined) return []
  const known = READ.get(specs)
  if (known?.major === major) return known.entries
  const creators = defaultCreators(host, database)
  const entries = specs.map((spec) => readEntry(spec, major, creators))
  READ.set(specs, { major, entries })
  return entries
}

/** One entry, read; `defaults` are the creators where it names none. */
export function readEntry(spec: GrantSpec, major: number, defaults: readonly string[]): GrantEntry {
  const { on, to, objects } = spec
  const isFuture = spec.future && isFutureClass(on) && objects === undefined
  return {
    on,
    to: [...new Set(to)],
    schemas: spec.schema.includes('*') ? '*' : new Set(spec.schema),
    objects: objects && new Set(objects),
    ...parsePrivileges(spec.privileges, on, major),
    isGrantable: spec.grantable,
    creators: isFuture ? (spec.creators ?? defaults) : [],
  }
}

/** Whether new objects of a class get default privileges here. */
export function isFutureClass(on: ObjectClass): on is FutureClass {
  return on !== 'database' && on !== 'schema'
}

/** Whether the grants of a database are all that the roles they name may have. */
export function isExact(host: Host, database: string): boolean {
  return databaseSpec(host, database)?.manage === 'exact'
}

/** Every grantee that some entries name. */
export function granteesOf(entries: readonly Pick<GrantEntry, 'to'>[]): Set<string> {
  return new Set(entries.flatMap(({ to }) => to))
}

/** What entries together want for each of their grantees. */
export function wantedByGrantee(entries: Iterable<GrantEntry>): Map<string, WantedHeld> {
  const wanted = new Map<string, WantedHeld>()
  for (const { to, privileges, isGrantable } of entries) {
    for (const grantee of to) {
      const before = wanted.get(grantee) ?? { privileges: 0, grantable: 0 }
      wanted.set(grantee, {
        privileges: before.privileges | privileges,
        // Nobody can pass on what is everybody's: the server refuses to say so.
        grantable: before.grantable | (isGrantable && grantee !== PUBLIC ? privileges : 0),
      })
    }
  }
  return wanted
}
