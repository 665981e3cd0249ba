import { stat } from 'node:fs/promises'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { Fail } from '../core/fail.ts'
import { readTextIfAny } from '../core/file.ts'
import { endingSignal } from '../core/interrupt.ts'
import type { Cluster } from './cluster.ts'

/** Whether somebody listens on a cluster's Unix socket. */
export function isListening(socketDir: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectSocket(join(socketDir, `.s.PGSQL.${port}`))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    // Not being allowed to connect still means that there is one.
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'EACCES'))
  })
}

/**
 * Where the server of a data directory listens, which a changed file does not change: postmaster.pid
 * says it, line by line (src/include/utils/pidfile.h). Undefined while it does not run, or who asks may not look.
 */
export async function runningAt(dataDir: string): Promise<{ port: number; socketDir: string } | undefined> {
  const text = await readTextIfAny(join(dataDir, 'postmaster.pid')).catch(() => undefined)
  const [, , , port, socketDir] = text?.split('\n') ?? []
  return port && socketDir ? { port: Number(port), socketDir } : undefined
}

/** The process of the server that runs in a data directory. */
export async function livePid(dataDir: string): Promise<number | undefined> {
  const text = (await readTextIfAny(join(dataDir, 'postmaster.pid'))) ?? ''
  const pid = Number.parseInt(text, 10)
  if (!(pid > 0)) return undefined
  // A number may have been given to somebody else since: then its folder is another one.
  const cwd = await stat(`/proc/${pid}/cwd/.`).catch(() => undefined)
  const own = await stat(dataDir)
  return cwd !== undefined && cwd.ino === own.ino && cwd.dev === own.dev ? pid : undefined
}

/**
 * Waits until a cluster answers a query: that a start program came back proves nothing.
 * @throws {Fail} `server-unreachable` after `seconds`
 */
export async function waitUntilReady(cluster: Cluster, seconds = 60): Promise<void> {
  const deadline = Date.now() + seconds * 1000
  for (;;) {
    try {
      const client = await cluster.connect('postgres')
      await client.query('select 1')
      await client.end()
      return
    } catch (error) {
      const isWaiting = error instanceof Fail && error.code === 'server-unreachable'
      if (!isWaiting || Date.now() > deadline) throw error
    }
    await sleep(50, undefined, { signal: endingSignal() })
  }
}

/**
 * Proves that the server that answers is the cluster that is meant, not another one on its port.
 * @throws {Fail} `cluster-mismatch`
 */
export async function assertIdentity(cluster: Cluster): Promise<void> {
  const client = await cluster.connect('postgres')
  try {
    await assertIdentityOf(client, cluster)
  } finally {
    await client.end()
  }
}

/**
 * The same by a session that is open already.
 * @throws {Fail} `cluster-mismatch`
 */
export async function assertIdentityOf(client: Client, cluster: Cluster): Promise<void> {
  const { rows } = await client.query<{ major: number; dir: string | null }>(
    `select current_setting('server_version_num')::int / 10000 as major,
            case when pg_has_role('pg_read_all_settings', 'member') then current_setting('data_directory') end as dir`,
  )
  const { major, dir } = rows[0]!
  if (major !== cluster.major) {
    throw new Fail('cluster-mismatch', `${cluster.label} answers with major ${major}`, {
      hint: `Another cluster may use port ${cluster.port}: see pg_lsclusters, or set postgres.major = ${major}.`,
    })
  }
  if (cluster.dataDir === '' || dir === null || dir === cluster.dataDir) return
  throw new Fail(
    'cluster-mismatch',
    `the server on port ${cluster.port} has its data in "${dir}", not in "${cluster.dataDir}"`,
    { hint: 'Another cluster uses this port: set postgres.port, or stop that one.' },
  )
}
