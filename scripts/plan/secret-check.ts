import { stat } from 'node:fs/promises'
import type { Cluster } from '../cluster/cluster.ts'
import { userName } from '../cluster/connect.ts'
import { show } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { describeSecret, placeholderReason, readSecret, type Secret, type SecretRef } from '../core/secret.ts'
import type { Host } from '../host/schema.ts'
import { comparePassword, type RoleSecret, roleSecrets, type StoredPassword } from './kind/password.ts'
import { pendingPath } from './rotate.ts'

/** One secret that a host file refers to. Holds no secret. */
export interface CheckedSecret {
  /** `role xtelem`, or the key of the host file. */
  readonly of: string
  /** `file "/etc/howdah/secrets/xtelem"` */
  readonly from: string
  /** Of a file: `0400 root`. */
  readonly access: string | undefined
  /** How the server's verifier compares; undefined where it was not asked. */
  readonly stored: StoredPassword | 'no role' | undefined
  readonly problems: readonly SecretProblem[]
}

/** What is wrong with one, and the next command. */
export interface SecretProblem {
  readonly text: string
  readonly hint?: string | undefined
}

/** A file that more users may read than its owner and one group, or that others may write, is no secret. */
const WIDEST_MODE = 0o640

/**
 * Looks at every secret that a host file refers to: readable, no placeholder, kept from others, and the
 * one that the server has. Changes nothing.
 * @param cluster undefined: no server is asked
 */
export async function checkSecrets(host: Host, cluster: Cluster | undefined): Promise<CheckedSecret[]> {
  const roles = await roleSecrets(host)
  const names = roles.map(({ role }) => role)
  const verifiers = cluster ? await verifiersOf(cluster, names) : undefined
  const checked = await Promise.all(roles.map((found) => checkRole(found, verifiers)))
  return [...(await checkConnection(host)), ...checked]
}

/** A line a secret, with what is wrong with it and the next commands below. */
export function showSecrets(secrets: readonly CheckedSecret[]): string[] {
  const width = (of: (secret: CheckedSecret) => string) =>
    Math.max(0, ...secrets.map((one) => of(one).length))
  const widths = [
    width(({ of }) => of),
    width(({ from }) => from),
    width(({ access }) => access ?? ''),
  ] as const
  return secrets.flatMap(({ of, from, access, stored, problems }) => {
    const state = problems.length > 0 ? problems[0]!.text : stored === undefined ? '' : STORED[stored]
    const columns = [of.padEnd(widths[0]), from.padEnd(widths[1]), (access ?? '').padEnd(widths[2]), state]
    const more = problems.flatMap(({ text, hint }, index) => [
      ...(index === 0 ? [] : [`    ${text}`]),
      ...(hint === undefined ? [] : [`    ${hint}`]),
    ])
    return [`${problems.length > 0 ? '!' : ' '} ${columns.join('  ')}`.trimEnd(), ...more]
  })
}

const STORED = {
  matches: 'the server has it',
  differs: '',
  md5: '',
  absent: '',
  unreadable: 'only a superuser can compare it with what the server has',
  'no role': 'the server has no such role yet',
} as const

async function checkRole(found: RoleSecret, verifiers: Verifiers | undefined): Promise<CheckedSecret> {
  const { role, ref } = found
  const file = await lookAtFile(ref, role)
  const checked = { of: `role ${show(role)}`, from: describeSecret(ref), access: file.access }
  if ('problem' in found) {
    const own = { text: found.reason, hint: found.problem.hint }
    return { ...checked, stored: undefined, problems: [own, ...file.problems] }
  }
  const stored = verifiers && (await compare(found.secret, role, verifiers))
  // While a rotation is half-way it is no wonder that they differ, and ending it mends that.
  const differences = file.isInterrupted ? [] : storedProblems(stored)
  return { ...checked, stored, problems: [...file.problems, ...differences] }
}

/** The password that we connect with ourselves. */
async function checkConnection({ postgres }: Host): Promise<CheckedSecret[]> {
  const ref = postgres.password
  if (!ref) return []
  const file = await lookAtFile(ref)
  const own = await readSecret(ref).then(
    (secret) => {
      const reason = placeholderReason(secret.reveal())
      return reason === undefined ? [] : [{ text: `it ${reason}` }]
    },
    (error: unknown) => {
      if (error instanceof Fail) return [{ text: error.message, hint: error.hint }]
      throw error
    },
  )
  const problems = [...own, ...file.problems]
  return [
    { of: 'postgres.password', from: describeSecret(ref), access: file.access, stored: undefined, problems },
  ]
}

type Verifiers = ReadonlyMap<string, string | null> | 'unreadable'

async function verifiersOf(cluster: Cluster, roles: readonly string[]): Promise<Verifiers> {
  const client = await cluster.connect('postgres')
  try {
    const [may] = (
      await client.query<{ sees: boolean }>(
        `select pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'select') as sees`,
      )
    ).rows
    if (!may?.sees) return 'unreadable'
    const { rows } = await client.query<{ name: string; verifier: string | null }>(
      `select rolname::text as name, rolpassword as verifier
         from pg_catalog.pg_authid where rolname = any ($1)`,
      [roles],
    )
    return new Map(rows.map(({ name, verifier }) => [name, verifier]))
  } finally {
    await client.end()
  }
}

async function compare(
  secret: Secret,
  role: string,
  verifiers: Verifiers,
): Promise<StoredPassword | 'no role'> {
  if (verifiers === 'unreadable') return 'unreadable'
  const verifier = verifiers.get(role)
  return verifier === undefined ? 'no role' : comparePassword(secret, verifier, role)
}

const APPLY = 'Give it this one with: howdah provision apply --only role'

function storedProblems(stored: StoredPassword | 'no role' | undefined): SecretProblem[] {
  if (stored === 'differs') return [{ text: 'the server has another password', hint: APPLY }]
  if (stored === 'absent') return [{ text: 'the server has no password for this role', hint: APPLY }]
  if (stored === 'md5') return [{ text: 'the server has it as MD5', hint: APPLY }]
  return []
}

/** What the file system says on a secret in a file: nothing on others, and on a file that is not there. */
async function lookAtFile(
  ref: SecretRef,
  role?: string,
): Promise<{ access: string | undefined; isInterrupted: boolean; problems: SecretProblem[] }> {
  const found = 'file' in ref ? await stat(ref.file).catch(() => undefined) : undefined
  if (!('file' in ref) || !found) return { access: undefined, isInterrupted: false, problems: [] }
  const owner = userName(found.uid)
  const problems: SecretProblem[] = []
  if ((found.mode & 0o777 & ~WIDEST_MODE) !== 0) {
    const text = `its mode ${octal(found.mode)} is wider than ${octal(WIDEST_MODE)}`
    problems.push({ text, hint: `Keep it from others: chmod 0400 ${shellWord(ref.file)}` })
  }
  if (owner === String(found.uid)) problems.push({ text: `its owner ${owner} is no user of this host` })
  const isInterrupted = role !== undefined && (await exists(pendingPath(ref.file)).catch(() => false))
  if (isInterrupted) {
    const hint = `End it with: howdah secret rotate ${shellWord(role)}`
    problems.push({ text: 'a rotation was interrupted', hint })
  }
  return { access: `${octal(found.mode)} ${owner}`, isInterrupted, problems }
}

function octal(mode: number): string {
  return `0${(mode & 0o777).toString(8).padStart(3, '0')}`
}

function shellWord(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`
}
