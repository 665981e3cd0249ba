import { isMd5, matchesVerifier } from '../../cluster/scram.ts'
import { show } from '../../cluster/sql.ts'
import { Fail } from '../../core/fail.ts'
import {
  describeSecret,
  placeholderReason,
  readSecret,
  type Secret,
  type SecretRef,
} from '../../core/secret.ts'
import type { Host } from '../../host/schema.ts'

/**
 * How the password that a role has compares with the wanted one. `md5`: it is the wanted one, in a
 * form that a rule with method scram-sha-256 refuses. `unreadable`: pg_authid is for superusers.
 */
export type StoredPassword = 'matches' | 'differs' | 'md5' | 'absent' | 'unreadable'

/** The secrets of roles, as far as they are any. */
export interface RoleSecrets {
  readonly secrets: ReadonlyMap<string, Secret>
  /** Those that can be read but are no secrets, by role: empty ones, placeholders, well-known defaults. */
  readonly refused: ReadonlyMap<string, Fail>
}

/** A role's secret, or why there is none. */
export type RoleSecret = { readonly role: string; readonly ref: SecretRef } & (
  | { readonly secret: Secret }
  | {
      readonly problem: Fail
      readonly isRead: boolean
      /** For who knows where it is from: `it is empty`. */ readonly reason: string
    }
)

/**
 * The secrets of all roles of a host file.
 * @throws {Fail} `secret` once for all that cannot be read; names references, never values
 */
export async function readPasswords(host: Host): Promise<RoleSecrets> {
  const found = await roleSecrets(host)
  const problems = found.flatMap((entry) => ('problem' in entry ? [entry] : []))
  const unread = problems.filter(({ isRead }) => !isRead)
  if (unread.length === 0) {
    return {
      secrets: new Map(found.flatMap((entry) => ('secret' in entry ? [[entry.role, entry.secret]] : []))),
      refused: new Map(problems.map(({ role, problem }) => [role, problem])),
    }
  }
  const lines = unread.map(({ role, problem }) => `role ${show(role)}: ${problem.message}`)
  if (lines.length === 1) throw new Fail('secret', lines[0]!, { hint: unread[0]!.problem.hint })
  const isMissing = ({ problem }: { problem: Fail }) => problem.hint?.includes('howdah secret generate')
  throw new Fail('secret', `${lines.length} secrets cannot be read\n  ${lines.join('\n  ')}`, {
    hint: unread.some(isMissing)
      ? 'Make the files that are missing with: howdah secret generate'
      : unread[0]!.problem.hint,
  })
}

/** The secrets of all roles of a host file, the bad ones with what is wrong with them. */
export async function roleSecrets(host: Host): Promise<RoleSecret[]> {
  const wanted = Object.entries(host.roles).flatMap(([role, spec]) =>
    spec.state === 'present' && spec.password ? [{ role, ref: spec.password }] : [],
  )
  // Files are read at once; commands one after the other, since each is a process.
  let previous: Promise<unknown> = Promise.resolve()
  return Promise.all(
    wanted.map(({ role, ref }) => {
      if (!('command' in ref)) return roleSecret(role, ref)
      const mine = previous.then(() => roleSecret(role, ref))
      previous = mine
      return mine
    }),
  )
}

/** Compares what the server has with what is wanted; `undefined` stands for no password. */
export async function comparePassword(
  wanted: Secret | undefined,
  stored: string | null,
  role: string,
): Promise<StoredPassword> {
  if (stored === null) return 'absent'
  if (wanted === undefined || !(await matchesVerifier(wanted.reveal(), stored, role))) return 'differs'
  return isMd5(stored) ? 'md5' : 'matches'
}

async function roleSecret(role: string, ref: SecretRef): Promise<RoleSecret> {
  try {
    const secret = await readSecret(ref)
    const reason = refusal(secret, role)
    if (reason === undefined) return { role, ref, secret }
    const hint =
      'file' in ref ? `Remove it and make a random one with: howdah secret generate ${ref.file}` : undefined
    return {
      role,
      ref,
      isRead: true,
      reason: `it ${reason}`,
      problem: new Fail('secret', `its password, ${describeSecret(ref)}, ${reason}`, { hint }),
    }
  } catch (error) {
    if (error instanceof Fail) return { role, ref, isRead: false, reason: error.message, problem: error }
    throw error
  }
}

function refusal(secret: Secret, role: string): string | undefined {
  const text = secret.reveal()
  if (text.toLowerCase() === role.toLowerCase()) return 'is the name of the role'
  // What stands for bytes that are none in UTF-8: the password set would not be the one in the file.
  if (text.includes('\uFFFD')) return 'is no UTF-8 text'
  return placeholderReason(text)
}
