import { Fail } from '../../core/fail.ts'
import { parseLsn, segmentAt, segmentPlace, segmentStart, timelineAt } from '../wal/segment.ts'
import type { WalListing, WalPosition } from '../wal/wal-store.ts'
import type { PhysicalFound, Way } from './choose.ts'

/** What a backup has itself of the WAL, and what follows it. */
export interface WalRange {
  /** Segments that are stored, from the one after the backup's own on, without a gap; in order. */
  readonly segments: readonly string[]
  /** The first one that is missing although the store was further; undefined when there is no gap. */
  readonly missing: string | undefined
}

/**
 * The segments that follow a backup on the way to a timeline. Its own, from its start to its stop, are in
 * it. The segment in which a timeline was left is taken of the newer timeline, which begins with a copy. Pure.
 * @param position how far the store was on that timeline, read before the listing: what was there and is
 *   lost at the end leaves no hole that a listing alone would show
 */
export function walAfter(
  found: PhysicalFound,
  way: Way,
  listing: WalListing,
  position?: WalPosition,
): WalRange {
  const { walSegmentSize, stopLsn } = found.manifest.physical
  const stored = new Set([...listing.segments, ...listing.partials])
  const first = segmentPlace(segmentAt(way.timeline, parseLsn(stopLsn)! - 1n, walSegmentSize), walSegmentSize)
  const newest = newestNumber(stored, way, walSegmentSize, position)
  const segments: string[] = []
  for (let number = first.number; number <= newest; number++) {
    const name = segmentOn(way, number, walSegmentSize)
    if (stored.has(name)) segments.push(name)
    else if (number > first.number) return { segments, missing: name } // the first one is in the backup, too
  }
  return { segments, missing: undefined }
}

/** The file that a recovery on this way reads a segment's number from. Pure. */
export function segmentOn(way: Way, number: bigint, segmentSize: number): string {
  const last = (number + 1n) * BigInt(segmentSize) - 1n
  return segmentAt(timelineAt(way.timeline, way.history, last), last, segmentSize)
}

/** Refuses to go on to a segment that is missing. Pure. */
export function missingWal(name: string, newest: string | undefined): Fail {
  const after = newest === undefined ? '' : `, although the archive was at LSN ${newest}`
  return new Fail('wal-missing', `the store has no WAL segment ${name}${after}`, {
    hint: 'Ask for a moment before it with --at or --lsn, or take a backup that was made after it.',
  })
}

function newestNumber(
  stored: ReadonlySet<string>,
  way: Way,
  segmentSize: number,
  position: WalPosition | undefined,
): bigint {
  const end = position === undefined ? 0n : parseLsn(position.lsn)!
  let newest = end === 0n ? -1n : (end - 1n) / BigInt(segmentSize)
  for (const name of stored) {
    const { number } = segmentPlace(name, segmentSize)
    if (number > newest && name === segmentOn(way, number, segmentSize)) newest = number
  }
  return newest
}

/** Whether a segment begins before a position. Pure. */
export function beginsBefore(name: string, lsn: bigint, segmentSize: number): boolean {
  return segmentStart(name, segmentSize) < lsn
}
