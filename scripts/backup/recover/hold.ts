import { createHash } from 'node:crypto'
import { join, resolve } from 'node:path'
import { holdResource, stateAccess } from '../../cluster/lock.ts'
import { openCluster } from '../../cluster/open.ts'
import { Fail } from '../../core/fail.ts'
import { takeLock } from '../../core/lock.ts'
import type { Host } from '../../host/schema.ts'

/**
 * Holds the folder of a copy: nobody else restores into it, or clears it up.
 * @throws {Fail} `lock-held`, `not-permitted`
 */
export async function holdCopy(host: Host, to: string): Promise<AsyncDisposable> {
  const key = createHash('sha256').update(resolve(to)).digest('hex').slice(0, 16)
  const folder = stateAccess(host.postgres.kind === 'remote' ? undefined : 'postgres')
  return takeLock(join(host.host.state_dir, 'lock', `restore-${key}.lock`), { folder })
}

/**
 * Holds the host file's cluster: nobody else restores it, provisions it, or ships its WAL meanwhile.
 * @param parts `archive` is needed by whoever takes its place
 * @throws {Fail} `lock-held`, `not-permitted`
 */
export async function holdOwn(
  host: Host,
  parts: readonly ('cluster' | 'archive')[] = ['cluster', 'archive'],
): Promise<AsyncDisposable> {
  await using held = new AsyncDisposableStack()
  // What is there may be damaged: that is why it is restored.
  const cluster = await openCluster(host).catch((error: unknown) => {
    if (error instanceof Fail && error.code === 'cluster-mismatch') return undefined
    throw error
  })
  for (const part of parts) {
    held.use(
      await holdResource(host, cluster, part).catch((error: unknown) => {
        if (part !== 'archive' || !(error instanceof Fail) || error.code !== 'lock-held') throw error
        throw new Fail('lock-held', 'the archive service of this cluster runs', {
          hint: 'Stop it first: systemctl stop howdah-archive',
          cause: error,
        })
      }),
    )
  }
  return held.move()
}
