import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { assertIdentity, assertIdentityOf } from '../cluster/ready.ts'
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
  /** Ends what the client runs: its query fails. */
  cancel(): Promise<void>
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
  const clients: Client[] = []
  opened.defer(async () => void (await Promise.all(clients.map((client) => client.end()))))
  const connect = async (applicationName: string) => {
    const client = await connectTo(cluster, database, applicationName)
    clients.push(client)
    return client
  }
  const both = await Promise.allSettled([connect('howdah migrate: lock'), connect('howdah migrate')])
  const [holder, client] = both.map((one) => valueOf(one)) as [Client, Client]
  const [{ rows }] = await Promise.all([
    client.query<{ pid: number }>('select pg_backend_pid() as pid'),
    takeLock(holder, database, options.waitSeconds),
  ])
  const kept = opened.move()
  return {
    client,
    async cancel() {
      await holder.query('select pg_cancel_backend($1)', [rows[0]!.pid])
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

/**
 * A session of a database of the cluster that is meant, not of another one on its port.
 * @throws {Fail} `cluster-mismatch`, what a connection throws
 */
export async function connectTo(
  cluster: Cluster,
  database: string,
  applicationName = 'howdah migrate',
): Promise<Client> {
  const client = await cluster.connect(database, { applicationName }).catch(async (error: unknown) => {
    await assertIdentity(cluster).catch((other: unknown) => {
      throw other instanceof Fail && other.code === 'cluster-mismatch' ? other : error
    })
    throw error
  })
  try {
    await assertIdentityOf(client, cluster)
    return client
  } catch (error) {
    await client.end()
    throw error
  }
}

// All have ended before one is thrown, so that none is left open.
function valueOf<T>(settled: PromiseSettledResult<T>): T {
  if (settled.status === 'fulfilled') return settled.value
  throw settled.reason
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
 * Sends a text of migrations. Files are read as if a backslash were a letter in a string, as by default; a server that
 * is set otherwise would see other statements in them, such as a COMMIT that nobody has found. It is set by itself,
 * since a text is parsed before anything of it runs.
 */
export async function sendText(client: Client, text: string): Promise<void> {
  await client.query('set standard_conforming_strings = on')
  await client.query(text)
}

/**
 * Statements that a transaction of a migration begins with. Its commit is not waited for until it is on the disk:
 * what a crash of the server takes is lost from the end, rows of the ledger together with what they are about, and
 * nobody is told of success before {@link flushCommits}. Pure.
 * @param guard runs with all rights, before anything of the migration
 */
export function beginText(
  { role, lockTimeout }: Pick<RunOptions, 'role' | 'lockTimeout'>,
  guard: string,
): string {
  const settings = `set local lock_timeout = '${lockTimeout}'; set local synchronous_commit = off`
  return `begin; ${settings}; ${guard}${role === undefined ? '' : `set local role ${ident(role)}; `}`
}

/**
 * Waits until all commits of the session are on the disk. Only a transaction that has written WAL of its own waits
 * for that, and all before it (src/backend/access/transam/xact.c, RecordTransactionCommit); this writes a message
 * that nobody reads.
 */
export async function flushCommits(client: Client): Promise<void> {
  await client.query(`select pg_logical_emit_message(true, 'howdah', '')`)
}

/** What DISCARD ALL does, in words that may stand in a message with others (its page of the manual lists them). */
export const CLEAN_TEXT =
  'begin; close all; set session authorization default; reset all; deallocate all; unlisten *; ' +
  'select pg_advisory_unlock_all(); discard plans; discard temp; discard sequences; commit; '

/** Leaves nothing of one migration in the session for the next one. */
export async function cleanSession(client: Client): Promise<void> {
  await client.query('discard all')
}

/** Ends the transaction that an error has left, if it has left one: text that cannot be parsed has begun none. */
export async function endTransaction(client: Client): Promise<void> {
  if (!(await isInTransaction(client))) return
  await client.query('rollback').catch(() => {}) // of a session that is lost, too
}

/** Whether an error has left a transaction. The server says so after the error, with what it answers next. */
export async function isInTransaction(client: Client): Promise<boolean> {
  await client.query('').catch(() => {}) // a session that is lost
  return client.getTransactionStatus() !== 'I'
}

/** Ends a statement that is under way when this process is asked to end: there may be hours of work in it. */
export async function cancelling<T>(
  session: Pick<MigrateSession, 'cancel'>,
  body: () => Promise<T>,
): Promise<T> {
  const cancel = () => void session.cancel().catch(() => {}) // then it goes on, and ends when it is done
  interrupted.addEventListener('abort', cancel)
  try {
    return await body()
  } finally {
    interrupted.removeEventListener('abort', cancel)
  }
}
