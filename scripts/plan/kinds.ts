import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import { clusterKind } from './kind/cluster.ts'
import { database } from './kind/database.ts'
import { defaultPrivilege } from './kind/default-privilege.ts'
import { extension } from './kind/extension.ts'
import { grant } from './kind/grant.ts'
import { hba } from './kind/hba.ts'
import { membership } from './kind/membership.ts'
import { packageKind } from './kind/package.ts'
import { role } from './kind/role.ts'
import { schema } from './kind/schema.ts'
import { setting } from './kind/setting.ts'
import { tablespace } from './kind/tablespace.ts'
import type { AnyKind } from './planner.ts'

/** Every kind, in the order in which they are applied; drops go the other way. */
export const KINDS: readonly AnyKind[] = [
  packageKind,
  clusterKind,
  setting,
  hba,
  role,
  membership,
  tablespace, // after the roles, which may own one
  database,
  extension,
  schema,
  defaultPrivilege,
  grant,
] as readonly unknown[] as readonly AnyKind[]

/** Kinds that bring a cluster to life; the others can be looked at only when it runs. */
export const FOUNDATION: ReadonlySet<string> = new Set(['package', 'cluster'])

// What people say for several kinds at once.
const GROUPS: Readonly<Record<string, readonly string[]>> = {
  role: ['role', 'membership'],
  grant: ['default-privilege', 'grant'],
}

/** What `--only` calls schema migrations, which are no kind. */
export const MIGRATION = 'migration'

/** Whether a word of `--only` means them. */
export function isMigration(word: string): boolean {
  return word.replace(/s$/, '') === MIGRATION
}

/**
 * The kinds that `--only` names, in their order: `role` and `roles` are the same.
 * @throws {Fail} `usage` with the nearest name
 */
export function selectKinds(only: readonly string[] | undefined): readonly AnyKind[] {
  if (only === undefined) return KINDS
  const known = [...KINDS.map(({ name }) => name), MIGRATION]
  const wanted = new Set(
    only.flatMap((word) => {
      const name = known.includes(word) ? word : word.replace(/s$/, '')
      if (known.includes(name)) return GROUPS[name] ?? [name]
      throw new Fail('usage', `there is no kind "${word}"${didYouMean(word, known)}`, {
        hint: `The kinds are: ${known.join(', ')}.`,
      })
    }),
  )
  return KINDS.filter(({ name }) => wanted.has(name))
}
