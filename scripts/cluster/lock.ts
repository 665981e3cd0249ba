import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { Fail } from '../core/fail.ts'
import { isMissing, reasonOf } from '../core/file.ts'
import { takeLock } from '../core/lock.ts'
import type { Host } from '../host/schema.ts'
import type { Cluster } from './cluster.ts'
import { userId } from './connect.ts'

/** What a lock is about. Taken in this order when several are needed. */
export type Resource = 'cluster' | 'archive' | `store:${string}` | `database:${string}`

/**
 * Holds a resource of a cluster until it is disposed of or this process ends. Private clusters have
 * their locks in the state folder, the others where every administrator of the host finds them.
 * @param waitSeconds until `lock-held`; default 0
 * @throws {Fail} `lock-held`, `not-permitted`
 */
export async function holdResource(
  host: Host,
  cluster: Cluster | undefined,
  resource: Resource,
  waitSeconds = 0,
): Promise<AsyncDisposable> {
  const folder = host.postgres.kind === 'debian' ? '/run/lock/howdah' : join(host.host.state_dir, 'lock')
  const take = (key: string) =>
    takeLock(join(folder, `${key}.${encodeURIComponent(resource)}.lock`), {
      waitSeconds,
      // What a cluster is made with is its owner's, too, although there is none yet.
      folder: stateAccess(host.postgres.kind === 'remote' ? undefined : (cluster?.osUser ?? 'postgres')),
    })
  const identifier = cluster ? await systemIdentifier(cluster) : ''
  await using held = new AsyncDisposableStack()
  // By its name too: a cluster that is being made, or whose data directory is lost, has no identifier that
  // both of two runs could know.
  if (resource === 'cluster' || resource === 'archive' || identifier === '')
    held.use(await take(nameOf(host)))
  if (identifier !== '') held.use(await take(identifier))
  return held.move()
}

function nameOf({ postgres }: Host): string {
  const place = postgres.data_dir ?? postgres.url ?? `${postgres.major}/${postgres.cluster}`
  return `name-${createHash('sha256').update(place).digest('hex').slice(0, 16)}`
}

/** Who may look into folders of state: the OS user of the cluster, when root makes them. */
export function stateAccess(osUser: string | undefined): { mode: number; uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return { mode: 0o750 }
  return { mode: 0o750, ...(osUser ? userId(osUser) : {}) }
}

/**
 * The number that initdb gave this cluster, as text; empty while it is not made to its end.
 * @throws {Fail} `not-permitted`, or what a connection throws
 */
export async function systemIdentifier(cluster: Cluster): Promise<string> {
  if (cluster.kind === 'remote') return askIdentifier(cluster)
  try {
    // The first field of pg_control, in the byte order of the machine (src/include/catalog/pg_control.h).
    // It never changes, so it can be read beside a running server too, without a session.
    const control = await readFile(join(cluster.dataDir, 'global/pg_control'))
    return control.length < 8 ? '' : control.readBigUInt64LE(0).toString()
  } catch (cause) {
    if (await cluster.isRunning()) return askIdentifier(cluster)
    if (isMissing(cause)) return ''
    throw new Fail('not-permitted', `cannot read the control file of ${cluster.label}: ${reasonOf(cause)}`, {
      hint: `Run this as root, or as ${cluster.osUser}.`,
      cause,
    })
  }
}

async function askIdentifier(cluster: Cluster): Promise<string> {
  const client = await cluster.connect('postgres')
  try {
    const { rows } = await client.query<{ id: string }>(
      'select system_identifier::text as id from pg_control_system()',
    )
    return rows[0]!.id
  } finally {
    await client.end()
  }
}
