import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { ident } from '../cluster/sql.ts'
import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { RestorePlan } from './restore-plan.ts'
import { maintenanceDatabase } from './scratch.ts'
import { withClient } from './session.ts'

/** SQLSTATE object_in_use: somebody is connected. */
const IN_USE = '55006'
const ATTEMPTS = 3
const TERMINATE_EVERY_MS = 50

/**
 * Gives the scratch database the name that it is for, and the database that has it the name under
 * which it is kept, in one transaction.
 *
 * ALTER DATABASE RENAME first locks the database, so that nobody can connect any more, and then
 * waits up to 5 seconds for those who are connected (CountOtherDBBackends, procarray.c). They are
 * ended from a second connection meanwhile. Ending them before would lose against a client that
 * connects again at once.
 */
export async function swapDatabases(cluster: Cluster, plan: RestorePlan): Promise<void> {
  const { scratch, target, before } = plan
  const names = before === null ? [scratch] : [target, scratch]
  const rename = async (client: Client) => {
    await client.query('begin')
    try {
      if (before !== null) await client.query(`alter database ${ident(target)} rename to ${ident(before)}`)
      await client.query(`alter database ${ident(scratch)} rename to ${ident(target)}`)
      await client.query('commit')
    } catch (error) {
      await client.query('rollback')
      throw error
    }
  }
  const maintenance = maintenanceDatabase(target)
  await withClient(cluster, maintenance, (client) =>
    withClient(cluster, maintenance, async (terminator) => {
      for (let attempt = 1; ; attempt++) {
        try {
          await whileEnding(terminator, names, () => rename(client))
          return
        } catch (error) {
          if ((error as { code?: string }).code !== IN_USE || attempt === ATTEMPTS) throw error
          log('notice', `restore: ${messageOf(error)}: trying again`)
        }
      }
    }),
  )
}

/** Ends the sessions of databases, those that arrive too, until an action is over. */
async function whileEnding(
  client: Client,
  databases: readonly string[],
  action: () => Promise<void>,
): Promise<void> {
  const over = new AbortController()
  const ending = (async () => {
    while (!over.signal.aborted) {
      await client.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = any($1)', [
        databases,
      ])
      await sleep(TERMINATE_EVERY_MS, undefined, { signal: over.signal }).catch(() => {})
    }
  })()
  try {
    await action()
  } finally {
    over.abort()
    await ending
  }
}
