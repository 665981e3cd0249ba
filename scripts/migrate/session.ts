import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { ident } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'

/** How migrations of a database are run. */
export interface RunOptions {
  /** Who owns what they make; default: the superuser. */
  readonly role: string | undefined
  /** PostgreSQL's `lock_timeout`: what waits for a lock keeps everybody behind it waiting. */
  readonly lockTimeout: string
  /** How often a migration is tried when it does not get a lock in that time. */
  readonly tries: number
  /** How long another run is waited for. */
  readonly waitSeconds: number
  /** A table with a column `version` in which an application looks for them. */
  readonly mirrorTable: string | undefined
}

/** The sessions of one run: one works, and one holds the lock that keeps other runs away. */
export interface MigrateSession extends AsyncDisposable {
  readonly client: Client
}

// Any number will do, as long as nobody else uses it: `howdah` in ASCII. Such a lock is one of its database.
const LOCK = '114784820031848'

/**
 * Connects, and waits until no other run works on the database. The lock is polled for: a session that waits for
 * it would hold a snapshot, which CREATE INDEX CONCURRENTLY of the other run waits for in turn.
 * @throws {Fail} `lock-held`, what a connection throws
 */
export async function openSession(
  cluster: Cluster,
  database: string,
  options: Pick<RunOptions, 'waitSeconds'>,
): Promise<MigrateSession> {
  await using opened = new AsyncDisposableStack()
  const holder = await cluster.connect(database, { applicationName: 'howdah migrate: lock' })
  opened.defer(() => holder.end())
  await takeLock(holder, database, options.waitSeconds)
  const client = await cluster.connect(database, { applicationName: 'howdah migrate' })
  opened.defer(() => client.end())
  const kept = opened.move()
  return { client, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

async function takeLock(holder: Client, database: string, waitSeconds: number): Promise<void> {
  const deadline = Date.now() + waitSeconds * 1000
  for (let isTold = false; ; isTold = true) {
    const { rows } = await holder.query<{ got: boolean }>(`select pg_try_advisory_lock(${LOCK}) as got`)
    if (rows[0]!.got) return
    if (Date.now() >= deadline) {
      throw new Fail('lock-held', `another run migrates database ${database}`, {
        hint: 'Wait until it is done: howdah migrate status',
      })
    }
    if (!isTold) log('notice', `migrate: waits for another run on database ${database}`)
    await sleep(100, undefined, { signal: interrupted })
  }
}

/**
 * Statements that a transaction of a migration begins with. Its commit is not waited for until it is on the disk:
 * what a crash of the server takes is lost from the end, rows of the ledger together with what they are about, and
 * nobody is told of success before {@link flushCommits}. Pure.
 */
export function beginText({ role, lockTimeout }: Pick<RunOptions, 'role' | 'lockTimeout'>): string {
  const settings = `set local lock_timeout = '${lockTimeout}'; set local synchronous_commit = off`
  return `begin; ${settings}; ${role === undefined ? '' : `set local role ${ident(role)}; `}`
}

/**
 * Waits until all commits of the session are on the disk. Only a transaction that has written WAL of its own waits
 * for that, and all before it (src/backend/access/transam/xact.c, RecordTransactionCommit); this writes a message
 * that nobody reads.
 */
export async function flushCommits(client: Client): Promise<void> {
  await client.query(`select pg_logical_emit_message(true, 'howdah', '')`)
}

/** Leaves nothing of one migration in the session for the next one. */
export async function cleanSession(client: Client): Promise<void> {
  await client.query('discard all')
}
