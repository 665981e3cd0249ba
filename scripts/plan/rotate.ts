import { lstat, readFile, realpath, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import process from 'node:process'
import type { Cluster } from '../cluster/cluster.ts'
import { userName } from '../cluster/connect.ts'
import { holdResource } from '../cluster/lock.ts'
import { matchesVerifier } from '../cluster/scram.ts'
import { ident, show } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import { type Access, isMissing, syncFolder } from '../core/file.ts'
import { readSecret } from '../core/secret.ts'
import { makeSecret, MIN_SECRET_LENGTH, writeSecretFile } from '../core/secret-file.ts'
import type { Host } from '../host/schema.ts'
import { execute } from './executor.ts'
import { passwordStep } from './kind/role.ts'

/** What a rotation came to. */
export interface Rotation {
  readonly role: string
  readonly file: string
  /** `finished`: an earlier run had died between the server and the file; only the file was left to do. */
  readonly did: 'rotated' | 'finished'
}

/** What a rotation would do. */
export interface RotationPlan {
  readonly role: string
  readonly file: string
  /** Whether an earlier run died half-way. */
  readonly isInterrupted: boolean
}

/** The path of the new secret while it is not certain that the server has it. */
export function pendingPath(file: string): string {
  return `${file}.new`
}

/**
 * Gives a role a new random secret, in the server and in its file.
 *
 * The new secret is first written to FILE.new, which is the journal; then the server gets its
 * verifier; then FILE.new is renamed to FILE. After a crash the server says which of the two it has:
 * the new one, and the rename is made up for, or the old one, and FILE.new goes.
 *
 * @throws {Fail} `usage` when the secret is not in a file of its own, `secret`, `not-permitted`,
 * `lock-held`, and what a connection and the executor throw; role and file then fit as before
 */
export async function rotatePassword(host: Host, cluster: Cluster, role: string): Promise<Rotation> {
  const file = await secretFileOf(host, role)
  const access = await accessTo(file)
  await using _lock = await holdResource(host, cluster, 'cluster')
  const pending = pendingPath(file)
  const giveServer = () => alterRole(host, cluster, role, pending)
  const left = await whichOne(cluster, role, pending)
  if (left === 'new' || left === 'unknown') {
    if (left === 'unknown') await giveServer()
    await takeOver(pending, file)
    return { role, file, did: 'finished' }
  }
  await discard(pending)
  await writeSecretFile(pending, makeSecret(), access)
  try {
    await giveServer() // commit point of the server; until the rename the file is behind
  } catch (error) {
    // Only a statement that was refused did nothing for certain: a connection may be lost while it commits.
    const isRefused = error instanceof Fail && error.code === 'server-failed'
    const has = isRefused ? 'old' : await whichOne(cluster, role, pending).catch(() => 'unknown')
    if (has === 'old') await discard(pending)
    if (has !== 'new') throw error
  }
  await takeOver(pending, file)
  return { role, file, did: 'rotated' }
}

/**
 * Says what {@link rotatePassword} would do; changes nothing.
 * @throws {Fail} the same before its first step
 */
export async function planRotation(host: Host, cluster: Cluster, role: string): Promise<RotationPlan> {
  const file = await secretFileOf(host, role)
  await accessTo(file)
  await verifierOf(cluster, role)
  return { role, file, isInterrupted: (await readPending(pendingPath(file))) !== undefined }
}

/** The file of a role's secret, which nothing else in the host file may use. */
async function secretFileOf(host: Host, role: string): Promise<string> {
  const spec = Object.hasOwn(host.roles, role) ? host.roles[role] : undefined
  if (spec?.state !== 'present') {
    throw new Fail('usage', `the host file names no role ${show(role)}`, {
      hint: `It names: ${Object.keys(host.roles).map(show).join(', ') || 'none'}.`,
    })
  }
  if (!spec.password || !('file' in spec.password)) {
    throw new Fail('usage', `the password of role ${show(role)} is not in a file`, {
      hint: 'Only { file = ... } can be rotated here; change others where they are kept, then run: howdah provision apply',
    })
  }
  const { file } = spec.password
  const { password } = host.postgres
  const others = Object.entries(host.roles)
    .filter(([name, { password: ref }]) => name !== role && ref && 'file' in ref && ref.file === file)
    .map(([name]) => `role ${show(name)}`)
  if (password && 'file' in password && password.file === file) others.push('postgres.password')
  if (others.length > 0) {
    throw new Fail('usage', `secret file "${file}" is also for ${others.join(', ')}`, {
      hint: 'Give each a file of its own.',
    })
  }
  await readSecret({ file }) // says which user is needed, or that it is not there
  return realpath(file)
}

/** Who may read the file now, which is who may read the next one. */
async function accessTo(file: string): Promise<Access> {
  const { mode, uid, gid } = await lstat(file)
  const me = process.geteuid?.()
  if (me !== 0 && me !== uid) {
    const owner = userName(uid)
    throw new Fail('not-permitted', `secret file "${file}" belongs to user "${owner}"`, {
      hint: owner === 'root' ? 'Run this as root.' : `Run this as root, or as ${owner}.`,
    })
  }
  return { mode: mode & 0o777, uid, gid }
}

/**
 * Which secret the server has: the one in FILE.new, or another (`old`, also where FILE.new is not there or
 * only begun). `unknown`: only a superuser could tell.
 */
async function whichOne(cluster: Cluster, role: string, pending: string): Promise<'new' | 'old' | 'unknown'> {
  const secret = await readPending(pending)
  const verifier = await verifierOf(cluster, role)
  if (secret === undefined) return 'old'
  if (verifier === undefined) return 'unknown'
  return verifier !== null && (await matchesVerifier(secret, verifier, role)) ? 'new' : 'old'
}

/** What the server has for a role: null is no password, undefined that it may not be read. */
async function verifierOf(cluster: Cluster, role: string): Promise<string | null | undefined> {
  const client = await cluster.connect('postgres')
  try {
    const { rows } = await client.query<{ sees: boolean }>(
      `select pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'select') as sees
         from pg_catalog.pg_roles where rolname = $1`,
      [role],
    )
    if (rows[0] === undefined) {
      throw new Fail('usage', `${cluster.label} has no role ${show(role)}`, {
        hint: 'Make it with: howdah provision apply',
      })
    }
    if (!rows[0].sees) return undefined
    const found = await client.query<{ verifier: string | null }>(
      'select rolpassword as verifier from pg_catalog.pg_authid where rolname = $1',
      [role],
    )
    return found.rows[0]?.verifier ?? null
  } finally {
    await client.end()
  }
}

/** What an earlier run left in FILE.new; undefined where it left nothing, or only the beginning of it. */
async function readPending(pending: string): Promise<string | undefined> {
  try {
    // A link was not made by us: who may write to the folder could have it point anywhere.
    if (!(await lstat(pending)).isFile()) return undefined
    const text = await readFile(pending, 'utf8')
    return /^[A-Za-z0-9]+\n$/.test(text) && text.length > MIN_SECRET_LENGTH ? text.trimEnd() : undefined
  } catch (cause) {
    if (isMissing(cause)) return undefined
    throw cause
  }
}

async function alterRole(host: Host, cluster: Cluster, role: string, file: string): Promise<void> {
  const step = passwordStep(role, `alter role ${ident(role)}`, { file })
  const change = {
    kind: 'role',
    name: show(role),
    action: 'alter',
    line: 'password changed',
    hazards: [],
  } as const
  await execute([{ ...change, steps: [step] }], {
    open: () => Promise.resolve(cluster),
    stateDir: host.host.state_dir,
  })
}

async function takeOver(pending: string, file: string): Promise<void> {
  await rename(pending, file) // commit point
  await syncFolder(dirname(file))
}

async function discard(pending: string): Promise<void> {
  await rm(pending, { force: true })
  await syncFolder(dirname(pending))
}
