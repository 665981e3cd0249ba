import { Fail } from '../../core/fail.ts'
import { formatLsn, type HistoryLine, segmentAt, segmentPlace, segmentStart } from '../wal/segment.ts'
import type { WalListing } from '../wal/wal-store.ts'
import type { Way } from './choose.ts'
import { micros } from './goal.ts'
import type { WalEnd } from './scan.ts'
import { showTarget, type Target } from './target.ts'

/** The WAL in which a moment may be twice. */
export interface Fork {
  readonly way: Way
  readonly listing: WalListing
  /** Bytes. */
  readonly segmentSize: number
  /** Timeline of the backup: the ones before it do not matter. */
  readonly since: number
  /** Reads one segment, from a position on. */
  readonly scan: (names: readonly string[], from: bigint) => Promise<WalEnd | undefined>
}

/**
 * Refuses a moment at which another timeline was in use than the one that is followed: after a restore to
 * 10:00 at 11:00, what was there at 10:30 is on the timeline that was left, and the new one would silently
 * give what was there at 10:00.
 * @throws {Fail} `plan-impossible`
 */
export async function assertOneMoment(target: Target, fork: Fork): Promise<void> {
  if (target.kind !== 'time') return
  const { way, since } = fork
  const isBy = (time: string | undefined) => time !== undefined && micros(time) <= micros(target.time)
  for (const [index, line] of way.history.entries()) {
    if (line.timeline < since || !isBy(await firstCommit(line.timeline, line, fork))) continue
    const next = way.history[index + 1]?.timeline ?? way.timeline
    if (isBy(await firstCommit(next, line, fork))) continue
    throw new Fail(
      'plan-impossible',
      `at ${showTarget(target)} the cluster was on timeline ${line.timeline}, which timeline ${next} left at LSN ${formatLsn(line.switchLsn)}, before that`,
      {
        hint: `For what was there then: --timeline ${line.timeline}. For what timeline ${next} began with: --timeline ${way.timeline}`,
      },
    )
  }
}

/** When the first transaction of a timeline after a switch ended; undefined when none is stored. */
async function firstCommit(
  timeline: number,
  { switchLsn }: HistoryLine,
  { listing, segmentSize, scan }: Fork,
): Promise<string | undefined> {
  const first = segmentAt(timeline, switchLsn, segmentSize)
  const names = [...listing.segments, ...listing.partials]
    .filter((name) => segmentPlace(name, segmentSize).timeline === timeline && name >= first)
    .toSorted((a, b) => Number(segmentStart(a, segmentSize) - segmentStart(b, segmentSize)))
  for (const name of names) {
    const end = await scan([name], switchLsn)
    if (end?.firstCommit !== undefined) return end.firstCommit
  }
  return undefined
}
