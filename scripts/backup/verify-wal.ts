import type { Manifest } from './manifest.ts'
import {
  formatLsn,
  type HistoryLine,
  historyName,
  parseLsn,
  segmentAt,
  segmentBefore,
  segmentName,
  segmentPlace,
  timelineAt,
} from './wal/segment.ts'
import type { WalListing, WalPosition } from './wal/wal-store.ts'

/** The WAL of one system in a store, as far as it is known without its content. */
export interface WalFacts {
  readonly listing: Pick<WalListing, 'segments' | 'partials' | 'histories'>
  /** What the histories say, by their timelines. */
  readonly histories: ReadonlyMap<number, readonly HistoryLine[]>
  /** Timelines whose histories are there and cannot be read: they are encrypted, or damaged. */
  readonly unread: ReadonlySet<number>
  readonly position: WalPosition | undefined
}

/** The WAL that goes on from one backup. */
export interface WalPath {
  /** Names of the whole segments that are there, in the order in which they are replayed. */
  readonly segments: readonly string[]
  /** What is not there, for people. */
  readonly problems: readonly string[]
}

/**
 * Follows the WAL from the start of a physical backup to the newest there is, on its timeline and on
 * each one that leaves it later. Pure.
 */
export function walPath(manifest: Manifest, facts: WalFacts): WalPath {
  const size = manifest.physical!.walSegmentSize
  const path = new Set<string>()
  const missing = new Set<string>()
  const problems: string[] = []
  for (const timeline of timelinesOf(facts, size)) {
    const history = facts.histories.get(timeline)
    if (timeline < manifest.timeline) continue
    if (timeline > manifest.timeline && history === undefined) {
      // One that is there and cannot be read proves nothing: the backups of its own timeline do.
      if (facts.unread.has(timeline)) continue
      problems.push(`"${historyName(timeline)}" is missing: nobody knows where timeline ${timeline} begins`)
      continue
    }
    if (leadsTo(manifest, timeline, history ?? [])) follow(manifest, facts, timeline, { path, missing })
  }
  for (const range of rangesOf([...missing].sort(), size)) problems.push(`WAL is missing: ${range}`)
  const behind = facts.position && behindOf(facts.position, facts)
  if (behind !== undefined) problems.push(behind)
  return { segments: [...path], problems }
}

/** Every segment on the way to the newest of one timeline. */
function follow(
  manifest: Manifest,
  facts: WalFacts,
  timeline: number,
  { path, missing }: { path: Set<string>; missing: Set<string> },
): void {
  const { listing, histories } = facts
  const size = manifest.physical!.walSegmentSize
  const whole = new Set(listing.segments)
  const { first, last } = rangeOf(manifest, facts, timeline)
  for (let number = first; number <= last; number++) {
    // Where a timeline was left in the middle of a segment, the new one has all of it.
    const end = (number + 1n) * BigInt(size) - 1n
    const name = segmentName(
      { timeline: timelineAt(timeline, histories.get(timeline) ?? [], end), number },
      size,
    )
    if (whole.has(name)) path.add(name)
    // The newest one may still be written: what is there of it counts.
    else if (number !== last || !listing.partials.includes(name)) missing.add(name)
  }
}

/** Timelines of which there is anything at all, oldest first. */
function timelinesOf({ listing, histories, position }: WalFacts, size: number): number[] {
  const named = [...listing.segments, ...listing.partials].map((name) => segmentPlace(name, size).timeline)
  const all = new Set([...named, ...histories.keys()])
  if (position) all.add(position.timeline)
  return [...all].toSorted((a, b) => a - b)
}

/** Whether a timeline goes on from a backup: it left that of the backup after its start. */
function leadsTo(manifest: Manifest, timeline: number, history: readonly HistoryLine[]): boolean {
  if (timeline === manifest.timeline) return true
  const stop = parseLsn(manifest.physical!.stopLsn)!
  const line = history.find(({ timeline }) => timeline === manifest.timeline)
  return line !== undefined && line.switchLsn >= stop
}

/** Numbers of the first and last segment on the way to the newest of a timeline. */
function rangeOf(
  manifest: Manifest,
  { listing }: WalFacts,
  timeline: number,
): { first: bigint; last: bigint } {
  const { startLsn, stopLsn, walSegmentSize: size } = manifest.physical!
  const numberOf = (name: string) => segmentPlace(name, size).number
  const first = numberOf(segmentAt(1, parseLsn(startLsn)!, size))
  // It is consistent from its stop on, so that far there must be WAL on its own timeline.
  const stop =
    timeline === manifest.timeline ? numberOf(segmentBefore(1, parseLsn(stopLsn)!, size)) : first - 1n
  const own = listing.segments.filter((name) => segmentPlace(name, size).timeline === timeline).map(numberOf)
  const last = own.reduce((highest, number) => (number > highest ? number : highest), stop)
  return { first, last }
}

/** What a store says it has and has not, for people. */
function behindOf({ timeline, lsn, segmentSize }: WalPosition, { listing }: WalFacts): string | undefined {
  const end = parseLsn(lsn)!
  if (end === 0n) return undefined
  const name = segmentBefore(timeline, end, segmentSize)
  if (listing.segments.includes(name) || listing.partials.includes(name)) return undefined
  return `WAL is missing: ${name}, although the store was at ${formatLsn(end)} of timeline ${timeline}`
}

/** Names of segments as `A` or `A to B (3 segments)`, where they follow one another. */
function rangesOf(names: readonly string[], size: number): string[] {
  const runs: string[][] = []
  for (const name of names) {
    const run = runs.at(-1)
    const { timeline, number } = segmentPlace(name, size)
    if (run && segmentName({ timeline, number: number - 1n }, size) === run.at(-1)) run.push(name)
    else runs.push([name])
  }
  return runs.map((run) =>
    run.length === 1 ? run[0]! : `${run[0]} to ${run.at(-1)} (${run.length} segments)`,
  )
}
