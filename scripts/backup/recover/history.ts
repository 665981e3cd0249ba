import { Fail } from '../../core/fail.ts'
import { historyName, parseHistory } from '../wal/segment.ts'
import type { WalListing, WalPosition, WalStore } from '../wal/wal-store.ts'
import type { Way } from './choose.ts'

/**
 * The timeline that is to be followed: the one that is asked for, else the one that the archive service
 * shipped last. The highest number is not always it: a test of a restore may have made that.
 * @param shipped how far that service was
 * @throws {Fail} `wal-missing` when its history is not there
 */
export async function wayOf(
  wal: WalStore,
  listing: WalListing,
  shipped: WalPosition | undefined,
  asked: number | undefined,
): Promise<Way | undefined> {
  const timeline = asked ?? shipped?.timeline ?? newestTimeline(listing)
  if (timeline === undefined) return undefined
  if (timeline === 1) return { timeline, history: [] }
  if (!listing.histories.includes(historyName(timeline))) {
    throw new Fail('wal-missing', `the store has no history of timeline ${timeline}`, {
      hint: `It would be "${historyName(timeline)}". Is the number right?`,
    })
  }
  const chunks: Buffer[] = []
  for await (const chunk of wal.get(historyName(timeline))) chunks.push(chunk)
  return { timeline, history: parseHistory(Buffer.concat(chunks).toString('utf8')) }
}

/** Without a word of the archive service: the newest one with WAL of its own. */
function newestTimeline({ segments, partials }: WalListing): number | undefined {
  const names = [...segments, ...partials].map((name) => Number.parseInt(name.slice(0, 8), 16))
  return names.length === 0 ? undefined : Math.max(...names)
}

/** A way for people: `1 > 3`. Pure. */
export function showWay({ timeline, history }: Way): string {
  return [...history.map((line) => line.timeline), timeline].join(' > ')
}
