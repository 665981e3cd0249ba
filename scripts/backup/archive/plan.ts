import { requireCluster } from '../../cluster/open.ts'
import { exists } from '../../core/file.ts'
import { parseDuration, parseSize } from '../../core/quantity.ts'
import type { Host } from '../../host/schema.ts'
import type { WalPosition } from '../wal/wal-store.ts'
import { archiveOf, assertMajor, placesOf } from './context.ts'
import { openSession, readFacts, readState } from './server.ts'

/** What the service would make, and what it would use. */
export interface ArchivePlan {
  readonly cluster: string
  readonly systemIdentifier: string
  /** Bytes. */
  readonly segmentSize: number
  readonly slot: { readonly name: string; readonly exists: boolean }
  /** Its limit in bytes. */
  readonly spool: { readonly folder: string; readonly exists: boolean; readonly limit: number }
  readonly store: string
  readonly position: WalPosition | null
  /** Seconds. */
  readonly partialEvery: number
  readonly isEncrypted: boolean
}

/**
 * What the service would do; nothing is written.
 * @throws {Fail} `usage`, and what a connection and a store throw
 */
export async function planArchive(host: Host): Promise<ArchivePlan> {
  const { slot: name } = archiveOf(host)
  const cluster = await requireCluster(host)
  const client = await openSession(cluster)
  try {
    const facts = await readFacts(client)
    assertMajor(facts.major)
    const places = placesOf(host, cluster, facts.systemIdentifier)
    const { slot } = await readState(client, name)
    const { folder } = places.spool
    return {
      cluster: `${cluster.label}, PostgreSQL ${facts.version}`,
      systemIdentifier: facts.systemIdentifier,
      segmentSize: facts.segmentSize,
      slot: { name, exists: slot !== undefined },
      spool: { folder, exists: await exists(folder), limit: parseSize(places.spec.spool_limit)! },
      store: `${places.store.url}/${places.prefix}`,
      position: (await places.wal.readPosition()) ?? null,
      partialEvery: parseDuration(places.spec.partial_every)!,
      isEncrypted: host.encryption !== undefined,
    }
  } finally {
    await client.end()
  }
}
