import { Fail } from '../../core/fail.ts'
import { formatLsn, parseLsn, segmentStart } from '../wal/segment.ts'
import type { WalPosition } from '../wal/wal-store.ts'
import type { PhysicalFound } from './choose.ts'
import type { WalEnd } from './scan.ts'
import { showTarget, type Target } from './target.ts'
import { beginsBefore, missingWal, type WalRange } from './wal-range.ts'

/** What the server is told to reach. There always is something. */
export type Goal =
  | { readonly kind: 'immediate' }
  /** A record that begins there or after it is the last one. */
  | { readonly kind: 'lsn'; readonly lsn: bigint }
  | { readonly kind: 'time'; readonly time: string }
  | { readonly kind: 'xid' | 'name'; readonly value: string }

/** A goal, and the WAL on the way to it. */
export interface Route {
  readonly goal: Goal
  /** Segments that will be asked for, in order. */
  readonly segments: readonly string[]
  readonly warnings: readonly string[]
}

/** What is known of the WAL after a backup. */
export interface WalKnown {
  readonly found: PhysicalFound
  readonly range: WalRange
  /** What the archive service said last of this timeline. */
  readonly position: WalPosition | undefined
  /** Reads segments that follow each other. */
  readonly scan: (names: readonly string[]) => Promise<WalEnd | undefined>
  /** Bytes that are stored of a segment that was read, when that is a beginning only. */
  readonly begunSize: (name: string) => number | undefined
  readonly now: Date
}

/**
 * Turns a target into a goal that the stored WAL is proven to lead to, as far as that can be told
 * before it is replayed.
 * @throws {Fail} `wal-missing`, `plan-impossible`
 */
export async function routeTo(target: Target, known: WalKnown): Promise<Route> {
  if (target.kind === 'immediate') return { goal: { kind: 'immediate' }, segments: [], warnings: [] }
  assertPast(target, known.now)
  const { segments, missing } = known.range
  if (segments.length === 0 && target.kind !== 'latest') throw nothingStored(known, target)
  switch (target.kind) {
    case 'latest':
      return toNewest(known)
    case 'lsn':
      return toLsn(target.lsn, known)
    case 'time':
      return toTime(target, known)
    case 'xid':
    case 'name': {
      const hole = `segment ${missing} is missing: ${showTarget(target)} is found only if it is before that`
      return { goal: target, segments, warnings: missing === undefined ? [] : [hole] }
    }
  }
}

async function toNewest(known: WalKnown): Promise<Route> {
  const { segments, missing } = known.range
  if (missing !== undefined) throw missingWal(missing, known.position?.lsn)
  const end = segments.length === 0 ? undefined : await newestEnd(known)
  assertNothingLost(known, end)
  return toEnd(known, end)
}

/** To the last complete record, which a server reaches by its start and never by its end. */
function toEnd(known: WalKnown, end: WalEnd | undefined): Route {
  const { segments } = known.range
  const stop = parseLsn(known.found.manifest.physical.stopLsn)!
  // Nothing was stored after the backup, or not yet: it stands for itself.
  if (end === undefined || end.lastRecord < stop) {
    const warning = 'no WAL is stored after the end of the backup: it is restored as it is'
    return { goal: { kind: 'immediate' }, segments: [], warnings: [warning] }
  }
  return { goal: { kind: 'lsn', lsn: end.lastRecord }, segments, warnings: [] }
}

/**
 * A beginning of a segment that was put in place of a longer one leaves no hole in a list: only what the
 * archive service said shows that there was more once.
 */
function assertNothingLost(known: WalKnown, end: WalEnd | undefined): void {
  const { position, range, found, begunSize } = known
  const { stopLsn, walSegmentSize } = found.manifest.physical
  const wanted = position === undefined ? 0n : parseLsn(position.lsn)!
  const stop = parseLsn(stopLsn)!
  const there = end === undefined || end.end < stop ? stop : end.end
  if (wanted <= there) return
  const newest = range.segments.at(-1)
  if (newest !== undefined) {
    const size = begunSize(newest)
    // A whole one is proven by its hash, and a long record may end after what was flushed of it.
    if (size === undefined) return
    const isShort = segmentStart(newest, walSegmentSize) + BigInt(size) < wanted
    if (!isShort && end?.isFollowed !== false) return
  }
  const accept =
    end === undefined || end.lastRecord < stop ? '--immediate' : `--lsn ${formatLsn(end.lastRecord)}`
  throw new Fail(
    'wal-missing',
    `the newest WAL in the store ends at LSN ${formatLsn(there)}, although the archive was at LSN ${position!.lsn}: what it had after that is lost`,
    { hint: `To restore what is there all the same: ${accept}` },
  )
}

async function toLsn(lsn: bigint, known: WalKnown): Promise<Route> {
  const { walSegmentSize } = known.found.manifest.physical
  const { segments, missing } = known.range
  const end = await newestEnd(known)
  if (end !== undefined && lsn <= end.lastRecord) {
    // The record that begins there may go on into the next one.
    const reach = lsn + 2n * BigInt(walSegmentSize)
    const needed = segments.filter((name) => beginsBefore(name, reach, walSegmentSize))
    return { goal: { kind: 'lsn', lsn }, segments: needed, warnings: [] }
  }
  if (missing !== undefined) throw missingWal(missing, undefined)
  if (end !== undefined && lsn <= end.end) return toEnd(known, end)
  throw new Fail(
    'wal-missing',
    `LSN ${formatLsn(lsn)} is beyond the newest WAL in the store, which ends at ${end ? formatLsn(end.end) : known.found.manifest.physical.stopLsn}`,
    { hint: 'Leave --lsn out to restore all that is there.' },
  )
}

async function toTime(target: Target & { kind: 'time' }, known: WalKnown): Promise<Route> {
  const { segments, missing } = known.range
  const newest = await newestCommit(known)
  if (newest !== undefined && micros(newest) > micros(target.time))
    return { goal: target, segments, warnings: [] }
  if (missing !== undefined) throw missingWal(missing, undefined)
  // No transaction ended after it. A server calls that an error, so it is told the last record instead.
  const { position } = known
  if (position !== undefined && micros(utc(position.time)) >= micros(target.time)) return toNewest(known)
  const until = position === undefined ? newest : utc(position.time)
  throw new Fail(
    'wal-missing',
    `${showTarget(target)} is beyond the newest WAL in the store${until === undefined ? '' : `, which is of ${until}`}`,
    { hint: 'Leave --at out to restore all that is there.' },
  )
}

async function newestEnd({ range, scan }: WalKnown): Promise<WalEnd | undefined> {
  const { segments } = range
  // A long record may fill a segment: then its beginning is in one before.
  for (let count = 1; count <= segments.length; count *= 2) {
    const end = await scan(segments.slice(-count))
    if (end !== undefined) return end
  }
  return undefined
}

async function newestCommit({ range, scan }: WalKnown): Promise<string | undefined> {
  for (const name of range.segments.toReversed()) {
    const end = await scan([name])
    if (end?.lastCommit !== undefined) return end.lastCommit
  }
  return undefined
}

function assertPast(target: Target, now: Date): void {
  if (target.kind !== 'time' || Date.parse(target.time) <= now.getTime()) return
  throw new Fail('plan-impossible', `${showTarget(target)} is in the future: it is ${now.toISOString()}`, {
    hint: 'Is the offset right? All times here are in UTC.',
  })
}

function nothingStored({ found }: WalKnown, target: Target): Fail {
  return new Fail(
    'wal-missing',
    `no WAL is stored after backup ${found.manifest.label}, so ${showTarget(target)} cannot be reached`,
    { hint: 'With --immediate the backup is restored as it is. See: howdah archive status' },
  )
}

function utc(time: string): string {
  return new Date(time).toISOString()
}

/** A moment as text that sorts: with all six digits of its microseconds. Pure. */
export function micros(iso: string): string {
  const [, second, fraction = ''] = /^(.*?:\d\d:\d\d)(?:\.(\d+))?Z$/.exec(iso) ?? []
  if (second === undefined) throw new Fail('bug', `${JSON.stringify(iso)} is no moment in UTC`)
  return `${second}.${fraction.padEnd(6, '0')}`
}
