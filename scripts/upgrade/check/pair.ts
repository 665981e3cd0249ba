import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../../cluster/cluster.ts'
import { closedFolder } from '../../cluster/closed-folder.ts'
import { Fail } from '../../core/fail.ts'
import { renderConf } from '../../host/conf.ts'
import type { Method } from '../state.ts'
import { checkPair } from '../transfer.ts'
import type { Finding } from './finding.ts'
import type { Scratch } from './scratch.ts'

/** What pg_upgrade says of the old cluster, which runs, and an empty one of the new major. */
export async function pgUpgradeFindings(
  old: Cluster,
  scratch: Scratch,
  { method, installUser, libraries }: PairOptions,
): Promise<Finding[]> {
  await using folder = await closedFolder(old.osUser)
  await preload(scratch.cluster, libraries)
  try {
    await checkPair({
      old,
      new: scratch.cluster,
      method: method === 'auto' ? 'copy' : method,
      installUser,
      jobs: 1,
      logs: join(folder.path, 'logs'),
    })
    return []
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'plan-impossible') throw error
    return [
      {
        severity: 'error',
        code: 'pg-upgrade',
        database: '',
        message: error.message,
        hint: 'See to what it names, and to what is found besides; then check again. What pg_upgrade refuses a dump may take: --method dump',
      },
    ]
  }
}

/** How {@link pgUpgradeFindings} goes about it. */
export interface PairOptions {
  readonly method: Method | 'auto'
  readonly installUser: string
  /** What the new cluster is to load from the start: some of them cannot be loaded later. */
  readonly libraries: readonly string[]
}

async function preload({ dataDir }: Cluster, libraries: readonly string[]): Promise<void> {
  if (libraries.length === 0) return
  const lines = [{ name: 'shared_preload_libraries', value: libraries.join(',') }]
  await mkdir(join(dataDir, 'conf.d'), { recursive: true })
  await writeFile(join(dataDir, 'conf.d/preload.conf'), renderConf('What the old cluster loads.', lines), {
    mode: 0o644,
  })
}
