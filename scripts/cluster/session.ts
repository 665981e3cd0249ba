import type { Client } from 'pg'
import { Fail, messageOf } from '../core/fail.ts'
import { endingSignal } from '../core/interrupt.ts'
import type { Cluster } from './cluster.ts'

/** A database, and with what a session in it begins. */
export interface SessionPlace {
  readonly cluster: Cluster
  readonly database: string
  /** Statements, so that what a role or a database sets for itself ends or bends nothing. */
  readonly setup: string
}

/**
 * What a body does with a connection of its own. Ctrl-C cancels the statement under way.
 * @throws {Fail} `server-failed` for whatever the server refuses, besides what connecting throws
 */
export async function withSession<T>(
  { cluster, database, setup }: SessionPlace,
  body: (client: Client) => Promise<T>,
): Promise<T> {
  const client = await cluster.connect(database)
  const ending = endingSignal()
  let cancel = () => {}
  try {
    await client.query(setup)
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
    cancel = () => void cancelStatement(cluster, rows[0]!.pid)
    ending.addEventListener('abort', cancel)
    return await body(client)
  } catch (error) {
    throw asFail(error, database)
  } finally {
    ending.removeEventListener('abort', cancel)
    await client.end().catch(() => {}) // it is over either way
  }
}

async function cancelStatement(cluster: Cluster, pid: number): Promise<void> {
  try {
    const other = await cluster.connect('postgres')
    await other.query('select pg_cancel_backend($1)', [pid])
    await other.end()
  } catch {
    // Without a server there is nothing to cancel, and the client hears of it by itself.
  }
}

function asFail(error: unknown, database: string): unknown {
  if (error instanceof Fail || endingSignal().aborted) return error
  const { detail, hint, code } = error as { detail?: string; hint?: string; code?: unknown }
  // Of the server by its SQLSTATE, of the connection by its errno, or by the words of the client.
  const isOfServer = typeof code === 'string' || /connection/i.test(messageOf(error))
  if (!isOfServer) return error
  return new Fail(
    'server-failed',
    `the server refuses something in database "${database}": ${messageOf(error)}`,
    {
      hint: detail ?? hint,
      cause: error,
    },
  )
}
