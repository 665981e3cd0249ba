import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { stateAccess } from '../../cluster/lock.ts'
import { takeLock } from '../../core/lock.ts'
import type { Host } from '../../host/schema.ts'
import { killServer, recoverWorks, removeTree } from './work.ts'

/** Folder of everything that the restore of a database out of a backup of the whole cluster makes, or a rehearsal. */
export function scratchFolder(host: Host): string {
  return join(host.host.state_dir, 'scratch')
}

/** Data directory of the scratch cluster. */
export function scratchCluster(host: Host): string {
  return join(scratchFolder(host), 'cluster')
}

/**
 * Holds the scratch folder.
 * @throws {Fail} `lock-held`
 */
export async function holdScratch(host: Host): Promise<AsyncDisposable> {
  const folder = stateAccess('postgres')
  return takeLock(join(host.host.state_dir, 'lock', 'scratch.lock'), { folder })
}

/** Removes what is in the scratch folder, and its servers. The caller holds it. */
export async function clearScratch(host: Host): Promise<void> {
  // A recovery that was killed may have left its server running, whose files are about to go.
  await recoverWorks(host.host.state_dir, scratchCluster(host))
  // Beside it may be the cluster that it was upgraded to.
  const names = await readdir(scratchFolder(host)).catch(() => [])
  for (const name of names) await killServer(join(scratchFolder(host), name))
  await removeTree(scratchFolder(host))
}
