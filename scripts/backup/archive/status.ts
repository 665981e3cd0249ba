import type { Cluster } from '../../cluster/cluster.ts'
import { systemIdentifier } from '../../cluster/lock.ts'
import { requireCluster } from '../../cluster/open.ts'
import { Fail } from '../../core/fail.ts'
import { parseDuration } from '../../core/quantity.ts'
import type { Host } from '../../host/schema.ts'
import { catalogLabels } from '../catalog.ts'
import { parseManifest } from '../manifest.ts'
import { formatLsn, parseLsn, segmentBefore } from '../wal/segment.ts'
import type { WalGap, WalPosition } from '../wal/wal-store.ts'
import { type ArchivePlaces, placesOf } from './context.ts'
import { openSession, readState, type ServerState } from './server.ts'
import { text } from 'node:stream/consumers'

/** What a disaster now would cost, and what could make it worse. */
export interface ArchiveStatus {
  readonly systemIdentifier: string
  readonly store: string
  /** How far the store is; null when nothing is stored. */
  readonly position: WalPosition | null
  /** Whether the segment before the position, or its beginning, is there. */
  readonly isStored: boolean
  /** What would be lost; null when nobody can say. Seconds by the server's clock, or by ours while it is down. */
  readonly loss: { readonly seconds: number; readonly bytes: number | null } | null
  /** Seconds: `archive.max_loss`. */
  readonly maxLoss: number
  /** Null while the server does not answer. */
  readonly server: { readonly timeline: number; readonly lsn: string; readonly time: string } | null
  /** Null when there is none, or the server does not answer. */
  readonly slot: {
    readonly name: string
    readonly walStatus: string | null
    readonly isActive: boolean
    /** Bytes that the slot holds back. */
    readonly heldBytes: number | null
    /** Bytes until it may be given up; null without max_slot_wal_keep_size. */
    readonly safeBytes: number | null
  } | null
  readonly spool: { readonly segments: number; readonly size: number }
  /** WAL that was never stored, and that no later base backup has made up for. */
  readonly gap: WalGap | null
  /** Why this is not well, a line each. */
  readonly problems: readonly string[]
}

/**
 * Looks at an archive from the store's side: what the service says of itself proves nothing.
 * @throws {Fail} `usage`, and what a store throws
 */
export async function archiveStatus(host: Host): Promise<ArchiveStatus> {
  const cluster = await requireCluster(host)
  const identifier = await systemIdentifier(cluster)
  const places = placesOf(host, cluster, identifier)
  const state = await askServer(cluster, places.spec.slot)
  const position = (await places.wal.readPosition()) ?? null
  const facts = {
    systemIdentifier: identifier,
    store: `${places.store.url}/${places.prefix}`,
    position,
    isStored: position !== null && (await isStored(places, position)),
    loss: position && lossOf(position, state, new Date()),
    maxLoss: parseDuration(places.spec.max_loss)!,
    server: state ? { timeline: state.timeline, lsn: formatLsn(state.lsn), time: state.time } : null,
    slot: slotOf(places.spec.slot, state),
    spool: await spoolOf(places),
    gap: await openGap(places),
  }
  return { ...facts, problems: problemsOf(facts, state !== undefined) }
}

/**
 * What would be lost. An idle server loses nothing, however long ago it last wrote; while it does not
 * answer, all since the position may be lost. Pure.
 */
export function lossOf(
  position: WalPosition,
  server: (Pick<ServerState, 'lsn' | 'time'> & { readonly timeline?: number }) | undefined,
  now: Date,
): { seconds: number; bytes: number | null } {
  const since = (time: number) => Math.max(0, (time - Date.parse(position.time)) / 1000)
  if (server === undefined) return { seconds: since(now.getTime()), bytes: null }
  // Nothing of a new timeline is stored: positions of two timelines cannot be compared.
  if (server.timeline !== undefined && server.timeline > position.timeline)
    return { seconds: since(Date.parse(server.time)), bytes: null }
  const bytes = Number(server.lsn - parseLsn(position.lsn)!)
  return bytes <= 0 ? { seconds: 0, bytes: 0 } : { seconds: since(Date.parse(server.time)), bytes }
}

/**
 * The gap in a store's WAL that no backup has made up for yet: until then a backup must be a `base`.
 * @throws {Fail} what a store throws
 */
export async function openGap({
  wal,
  store,
  layout,
  prefix,
}: Pick<ArchivePlaces, 'wal' | 'store' | 'layout' | 'prefix'>): Promise<WalGap | null> {
  const gap = await wal.readGap()
  if (gap === undefined) return null
  // Newest first: one that begins after the gap is among them.
  for (const label of (await catalogLabels(store, layout)).toReversed()) {
    const content = await text(await store.get(layout.manifest(label)))
    const manifest = readable(content, label, layout.cluster)
    if (manifest?.physical === undefined || layout.wal(manifest.systemIdentifier) !== prefix) continue
    const isAfter = parseLsn(manifest.physical.startLsn)! >= parseLsn(gap.to)!
    if (isAfter && manifest.timeline >= gap.timeline) return null
  }
  return gap
}

function readable(
  content: string,
  label: string,
  cluster: string,
): ReturnType<typeof parseManifest> | undefined {
  try {
    return parseManifest(content, { label, cluster })
  } catch {
    return undefined // a damaged backup makes up for nothing
  }
}

async function askServer(cluster: Cluster, slot: string): Promise<ServerState | undefined> {
  try {
    const client = await openSession(cluster)
    try {
      return await readState(client, slot)
    } finally {
      await client.end()
    }
  } catch (error) {
    if (error instanceof Fail && error.code === 'server-unreachable') return undefined
    throw error
  }
}

async function isStored(
  { wal }: ArchivePlaces,
  { timeline, lsn, segmentSize }: WalPosition,
): Promise<boolean> {
  return (await wal.has(segmentBefore(timeline, parseLsn(lsn)!, segmentSize))) !== undefined
}

function slotOf(name: string, state: ServerState | undefined): ArchiveStatus['slot'] {
  const slot = state?.slot
  if (!slot) return null
  return {
    name,
    walStatus: slot.walStatus,
    isActive: slot.activePid !== null,
    heldBytes: slot.restartLsn === null ? null : Number(state.lsn - slot.restartLsn),
    safeBytes: slot.safeBytes,
  }
}

async function spoolOf({ spool }: ArchivePlaces): Promise<ArchiveStatus['spool']> {
  const { segments, size } = await spool.read()
  return { segments: segments.length, size }
}

function problemsOf(facts: Omit<ArchiveStatus, 'problems'>, isRunning: boolean): string[] {
  const { position, loss, maxLoss, slot, gap } = facts
  const found: string[] = []
  if (position === null) found.push('nothing is stored yet: is the service running? howdah archive run')
  else if (!facts.isStored) found.push(`the store says that it has all up to ${position.lsn}, and it has not`)
  if (loss && loss.seconds > maxLoss)
    found.push(`${loss.seconds.toFixed(1)} s would be lost, above archive.max_loss of ${maxLoss} s`)
  if (isRunning && slot === null) found.push('there is no slot: the server may delete WAL that is not stored')
  if (slot?.walStatus === 'lost' || slot?.walStatus === 'unreserved')
    found.push(`the slot is ${slot.walStatus}: the server deletes WAL that is not stored`)
  if (gap) {
    found.push(
      `the WAL from ${gap.from} to ${gap.to} was never stored: take a backup of kind "base", which ends this: howdah backup take JOB`,
    )
  }
  return found
}
