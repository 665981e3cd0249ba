import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { stateAccess } from '../cluster/lock.ts'
import { closedFolder } from '../cluster/closed-folder.ts'
import { startClosed, stopServer } from '../cluster/restricted.ts'
import { withSession } from '../cluster/session.ts'
import { makeFolder, writeFileAtomic } from '../core/file.ts'
import { checkpointOf } from './doors.ts'
import type { Manifest } from './manifest.ts'
import type { UpgradeLog } from './state.ts'

/** Writes out what a running cluster has in memory, so that it stops at once afterwards. */
export async function writeOut(cluster: Cluster): Promise<void> {
  const setup = 'set statement_timeout to 0'
  await withSession({ cluster, database: 'postgres', setup }, (client) => client.query('checkpoint'))
}

/**
 * Ends what is under way in the old cluster and lets nobody in any more but us; it is stopped afterwards.
 * @param body what is done while it runs behind closed doors
 * @returns where its control file stands in the end
 */
export async function closeDoors(old: Cluster, body: (closed: Cluster) => Promise<void>): Promise<string> {
  await old.stop()
  await using folder = await closedFolder(old.osUser)
  const closed = await startClosed(old, { folder: folder.path })
  try {
    await body(closed)
  } finally {
    await stopServer(old)
  }
  return checkpointOf(old)
}

/** Keeps what the old cluster held; only its OS user reads it. */
export async function keepManifest(
  { osUser }: Cluster,
  written: UpgradeLog,
  manifest: Manifest,
): Promise<void> {
  const access = stateAccess(osUser)
  await makeFolder(written.folder, access)
  await writeFileAtomic(manifestPath(written), JSON.stringify(manifest), { ...access, mode: 0o600 })
}

/** What {@link keepManifest} has kept. */
export async function keptManifest(written: UpgradeLog): Promise<Manifest> {
  return JSON.parse(await readFile(manifestPath(written), 'utf8')) as Manifest
}

function manifestPath({ folder }: UpgradeLog): string {
  return join(folder, 'before.json')
}
