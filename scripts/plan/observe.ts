import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { DEBIAN_SOCKET_DIR, debianConfigDir, debianDataDir } from '../cluster/debian.ts'
import { machineFacts } from '../cluster/machine.ts'
import { privateOsUser, privateSocketDir } from '../cluster/private.ts'
import { assertIdentityOf } from '../cluster/ready.ts'
import { Fail, messageOf } from '../core/fail.ts'
import type { Host } from '../host/schema.ts'
import type { Facts, Observe } from './kind.ts'

/**
 * Opens read-only eyes on a host. Disposed of, its sessions end.
 * @param cluster undefined while there is none
 * @throws {Fail} `cluster-mismatch`, `server-denied`
 */
export async function observeHost(
  host: Host,
  cluster: Cluster | undefined,
): Promise<Observe & AsyncDisposable> {
  const isRunning = cluster !== undefined && (await cluster.isRunning())
  const sessions = new Map<string, Promise<Client>>()
  const turns = new Map<string, Promise<unknown>>()
  if (isRunning) {
    const first = await openSession(cluster, 'postgres')
    sessions.set('postgres', Promise.resolve(first))
    await assertIdentityOf(first, cluster).catch(async (error: unknown) => {
      await first.end()
      throw error
    })
  }

  async function query<Row extends object>(
    database: string,
    text: string,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    if (!cluster || !isRunning) return []
    let session = sessions.get(database)
    if (!session) sessions.set(database, (session = openSession(cluster, database)))
    const client = await session
    // One after the other: a session does one thing at a time, whatever its users do.
    const answer = (turns.get(database) ?? Promise.resolve()).then(() => client.query<Row>(text, [...values]))
    turns.set(
      database,
      answer.catch(() => {}),
    )
    try {
      return (await answer).rows
    } catch (cause) {
      throw new Fail('server-failed', `cannot look into database "${database}": ${messageOf(cause)}`, {
        hint: (cause as { hint?: string }).hint ?? 'Look at the log of the server.',
        cause,
      })
    }
  }

  return {
    host,
    facts: await factsOf(host, cluster),
    cluster,
    isRunning,
    query,
    async databases() {
      const rows = await query<{ name: string }>(
        'postgres',
        'select datname::text as name from pg_database where datallowconn',
      )
      return rows.map(({ name }) => name).toSorted()
    },
    async [Symbol.asyncDispose]() {
      const opened = await Promise.allSettled(sessions.values())
      const clients = opened.flatMap((session) => (session.status === 'fulfilled' ? [session.value] : []))
      await Promise.allSettled(clients.map((client) => client.end()))
    },
  }
}

// A planner that tried to write would be refused by the server.
async function openSession(cluster: Cluster, database: string): Promise<Client> {
  const client = await cluster.connect(database, { applicationName: 'howdah plan' })
  await client.query(
    `set default_transaction_read_only = on; set search_path = pg_catalog; set statement_timeout = '60s';
     set lock_timeout = '5s'; set jit = off; set intervalstyle = postgres; set datestyle = 'ISO, YMD'`,
  )
  return client
}

async function factsOf(host: Host, cluster: Cluster | undefined): Promise<Facts> {
  const machine = await machineFacts()
  if (!cluster) return { ...machine, ...(await factsOfFuture(host)) }
  const { major, osUser, configDir, dataDir, socketDir } = cluster
  return { ...machine, major, osUser, configDir, dataDir, socketDir }
}

/** What the cluster will be when it is made. */
async function factsOfFuture({ postgres }: Host): Promise<Omit<Facts, 'memoryBytes' | 'cpus'>> {
  const major = postgres.major ?? 0
  if (postgres.kind === 'private') {
    const dataDir = postgres.data_dir!
    const osUser = await privateOsUser(postgres)
    return { major, osUser, configDir: dataDir, dataDir, socketDir: privateSocketDir(postgres) }
  }
  const dataDir = debianDataDir(postgres)
  return {
    major,
    osUser: 'postgres',
    configDir: debianConfigDir(postgres),
    dataDir,
    socketDir: DEBIAN_SOCKET_DIR,
  }
}
