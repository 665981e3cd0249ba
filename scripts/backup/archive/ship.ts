import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { Fail } from '../../core/fail.ts'
import { isMissing } from '../../core/file.ts'
import { checkSegmentFile, isWritten, type SegmentExpected } from '../wal/header.ts'
import { formatLsn, parseLsn, segmentPlace, segmentStart } from '../wal/segment.ts'
import type { WalGap, WalPosition, WalStore } from '../wal/wal-store.ts'
import type { Samples } from './samples.ts'
import type { Spool, SpoolContent } from './spool.ts'

/** What the store has before the first shipment. */
export interface Beginning {
  readonly position: WalPosition | undefined
  /** Number of the newest segment on the way to the server's timeline; undefined when there is none. */
  readonly newest: bigint | undefined
}

/** What a {@link Shipper} works with. */
export interface ShipperOptions {
  readonly spool: Spool
  readonly wal: WalStore
  readonly expected: SegmentExpected
  readonly samples: Samples
  /** Milliseconds between two shipments of the segment that is being written. */
  readonly partialEvery: number
  /** Looks at the store once it can be reached. */
  readonly begin: () => Promise<Beginning>
  readonly onGap: (gap: WalGap) => void
}

/** What a round is told. */
export interface Round {
  /** How far the receiver has flushed; undefined when it is not known. */
  readonly received: bigint | undefined
  /**
   * The server is gone: what it sent last is in the spool, although it never heard of it. All of the
   * beginning is shipped then; the position stays where it is.
   */
  readonly isLost?: boolean
  /** Ships the beginning whether it is due or not. */
  readonly isLast?: boolean
  /** Asked between two segments: whether the rest can wait for another run. */
  readonly isOver?: () => boolean
}

interface Reached {
  readonly timeline: number
  readonly lsn: bigint
}

/**
 * Segments that are sent at the same time: one for each core keeps them busy, and each costs its own
 * memory, about 25 MB. With two, one is compressed while the other is flushed to the disk.
 */
const AT_ONCE = Math.min(3, Math.max(2, availableParallelism()))

/** Between two writings of the position: many segments a second share one, an idle server needs few. */
const POSITION_MILLISECONDS = 1000
const IDLE_MILLISECONDS = 20_000

/** Brings what is in a spool into a store, in order, and says how far it came. */
export class Shipper {
  readonly #options: ShipperOptions
  #beginning: Beginning | undefined
  /** Whole files that are in the store and still in the spool. */
  readonly #shipped = new Set<string>()
  /** Number of the segment that must come next. */
  #next: bigint | undefined
  #reached: Reached | undefined
  #written: WalPosition | undefined
  #writtenAt = -Infinity
  #partialAt = -Infinity
  #isFirst = true

  constructor(options: ShipperOptions) {
    this.#options = options
  }

  /** The last position that is in the store. */
  get position(): WalPosition | undefined {
    return this.#written
  }

  /**
   * Ships all that is whole, then the beginning of the next segment when it is due.
   * @throws {Fail} `wal-differs`, `cluster-mismatch`, and what a store throws; the next round goes on
   */
  async round(round: Round): Promise<void> {
    await this.#begin()
    const content = await this.#options.spool.read()
    for (const name of content.histories) await this.#shipHistory(name)
    const names = content.segments.filter((name) => !this.#shipped.has(name))
    const isWhole = await this.#shipSegments(names, round.isOver)
    await this.#clear(content)
    if (!isWhole) return
    await this.#shipLeftovers(content)
    await this.#shipPartial(content, round)
    await this.#writePosition(round.isLast === true)
    this.#isFirst = false
  }

  /** Whether all whole segments of the spool are in the store. */
  async isDone(): Promise<boolean> {
    const { segments } = await this.#options.spool.read()
    return segments.every((name) => this.#shipped.has(name))
  }

  /** Forgets what was in the spool: it was set aside. */
  forget(): void {
    this.#shipped.clear()
  }

  async #begin(): Promise<void> {
    if (this.#beginning !== undefined) return
    const beginning = await this.#options.begin()
    this.#beginning = beginning
    const { position, newest } = beginning
    this.#next = newest === undefined ? undefined : newest + 1n
    if (position === undefined) return
    this.#written = position
    this.#reached = { timeline: position.timeline, lsn: parseLsn(position.lsn)! }
  }

  async #shipHistory(name: string): Promise<void> {
    if (this.#shipped.has(name)) return
    await this.#options.wal.put(name, this.#options.spool.path(name))
    this.#shipped.add(name)
  }

  /** Several at once, but counted as stored in order only: the position has no hole behind it. */
  async #shipSegments(names: readonly string[], isOver = () => false): Promise<boolean> {
    const sent: { name: string; done: Promise<void> }[] = []
    const settle = async () => {
      const { name, done } = sent.shift()!
      await done
      await this.#segmentStored(name)
    }
    try {
      for (const name of names) {
        if (isOver()) break
        await this.#lookForGap(name)
        const done = this.#send(name)
        done.catch(() => {}) // it is reported when its turn comes
        sent.push({ name, done })
        if (sent.length >= AT_ONCE) await settle()
      }
      while (sent.length > 0) await settle()
      return !isOver()
    } finally {
      await Promise.allSettled(sent.map(({ done }) => done))
    }
  }

  async #send(name: string): Promise<void> {
    const path = this.#options.spool.path(name)
    await checkSegmentFile(name, path, this.#options.expected)
    await this.#options.wal.put(name, path)
  }

  async #segmentStored(name: string): Promise<void> {
    const { segmentSize } = this.#options.expected
    const { timeline, number } = segmentPlace(name, segmentSize)
    this.#reach({ timeline, lsn: (number + 1n) * BigInt(segmentSize) })
    await this.#writePosition(false)
    // A run that was cut short may have left a beginning.
    if (this.#isFirst || this.#partials.delete(name)) await this.#options.wal.deletePartial(name)
    this.#shipped.add(name)
  }

  /** Beginnings that this run has stored. */
  readonly #partials = new Set<string>()

  async #lookForGap(name: string): Promise<void> {
    const { segmentSize } = this.#options.expected
    const { timeline, number } = segmentPlace(name, segmentSize)
    const next = this.#next
    if (next !== undefined && number > next) {
      const position = (of: bigint) => formatLsn(of * BigInt(segmentSize))
      const gap: WalGap = {
        format: 1,
        timeline,
        from: position(next),
        to: position(number),
        found: new Date().toISOString(),
      }
      await this.#options.wal.writeGap(gap)
      this.#options.onGap(gap)
    }
    // A new timeline begins with a number that its parent has had already.
    if (next === undefined || number >= next) this.#next = number + 1n
  }

  /** The newest segment stays: pg_receivewal finds by it where to go on. */
  async #clear({ segments }: SpoolContent): Promise<void> {
    for (const name of segments.slice(0, -1)) {
      if (!this.#shipped.has(name)) continue
      await this.#options.spool.remove(this.#options.spool.path(name))
      this.#shipped.delete(name)
    }
  }

  /** The last segment of a timeline that was left is never finished. */
  async #shipLeftovers({ segments, partials }: SpoolContent): Promise<void> {
    const { spool, wal } = this.#options
    const newest = [...segments, ...partials].sort().at(-1)
    for (const name of partials.filter((partial) => partial !== newest)) {
      try {
        if (!segments.includes(name) && (await this.#mayReplace(name)))
          await wal.putPartial(name, spool.partialPath(name))
      } catch (error) {
        if (isMissing(error)) continue // it became whole while the names were read
        throw error
      }
      await spool.remove(spool.partialPath(name))
    }
  }

  /** What another server has shipped of a timeline that was left may go on further than what is here. */
  async #mayReplace(name: string): Promise<boolean> {
    const stored = await this.#options.wal.has(name)
    if (stored !== 'partial') return stored === undefined
    return this.#partials.has(name) || (await this.#goesOn(name))
  }

  async #shipPartial({ segments, partials }: SpoolContent, round: Round): Promise<void> {
    const name = partials.at(-1)
    if (name === undefined || name < (segments.at(-1) ?? '')) return
    if (round.isLost) return this.#shipTail(name)
    const { expected, partialEvery } = this.#options
    const { received } = round
    const { timeline } = segmentPlace(name, expected.segmentSize)
    const start = segmentStart(name, expected.segmentSize)
    if (received === undefined || received <= start || received >= start + BigInt(expected.segmentSize))
      return
    if (!this.#isNew({ timeline, lsn: received })) return
    if (!round.isLast && performance.now() - this.#partialAt < partialEvery) return
    // What came with the end of a server is not taken back.
    const bytes = this.#tail?.name === name ? undefined : Number(received - start)
    if (!(await this.#putPartial(name, bytes))) return
    this.#partialAt = performance.now()
    this.#reach({ timeline, lsn: received })
    await this.#writePosition(true)
  }

  /** The beginning that was shipped to its end when the server was gone, and the position then. */
  #tail: { readonly name: string; readonly lsn: bigint | undefined } | undefined

  async #shipTail(name: string): Promise<void> {
    const lsn = this.#reached?.lsn
    if (this.#tail?.name === name && this.#tail.lsn === lsn) return
    // A new spool may have less of it than an older one had brought into the store.
    if (!(await this.#goesOn(name))) return
    if (await this.#putPartial(name)) this.#tail = { name, lsn }
  }

  /** Whether the spool has of a segment what the store was said to have. */
  async #goesOn(name: string): Promise<boolean> {
    const { spool, expected } = this.#options
    const { timeline, number } = segmentPlace(name, expected.segmentSize)
    const reached = this.#reached
    if (reached === undefined || reached.timeline < timeline) return true
    if (reached.timeline > timeline) return false
    const start = number * BigInt(expected.segmentSize)
    if (reached.lsn >= start + BigInt(expected.segmentSize)) return false
    return reached.lsn <= start || (await isWritten(spool.partialPath(name), start, reached.lsn))
  }

  /** @returns whether it was still there: it may have become whole meanwhile */
  async #putPartial(name: string, bytes?: number): Promise<boolean> {
    const { spool, wal, expected } = this.#options
    const path = spool.partialPath(name)
    try {
      await checkSegmentFile(name, path, expected)
      await this.#lookForGap(name)
      await wal.putPartial(name, path, bytes)
    } catch (error) {
      if (isMissing(error)) return false
      throw error
    }
    this.#next = segmentPlace(name, expected.segmentSize).number // it is to come as a whole
    this.#partials.add(name)
    return true
  }

  #isNew({ timeline, lsn }: Reached): boolean {
    const reached = this.#reached
    if (reached === undefined || timeline > reached.timeline) return true
    return timeline === reached.timeline && lsn > reached.lsn
  }

  #reach(reached: Reached): void {
    if (this.#isNew(reached)) this.#reached = reached
  }

  /** Says how far the store is. The position is put after the bytes that it speaks of. */
  async #writePosition(isForced: boolean): Promise<void> {
    const reached = this.#reached
    if (reached === undefined) return
    const lsn = formatLsn(reached.lsn)
    const isMoved = lsn !== this.#written?.lsn || reached.timeline !== this.#written.timeline
    const pause = isMoved ? POSITION_MILLISECONDS : IDLE_MILLISECONDS
    if (!(isForced && isMoved) && performance.now() - this.#writtenAt < pause) return
    // Behind every moment that was seen, what was known before is still true.
    const time =
      this.#options.samples.timeOf(reached.lsn) ?? this.#written?.time ?? (await this.#timeOfFile())
    const { systemIdentifier, segmentSize } = this.#options.expected
    const position: WalPosition = {
      format: 1,
      systemIdentifier,
      timeline: reached.timeline,
      lsn,
      time,
      segmentSize,
    }
    await this.#options.wal.writePosition(position)
    this.#written = position
    this.#writtenAt = performance.now()
  }

  /** Of what an earlier run received nobody knows more than when the oldest of it was written. */
  async #timeOfFile(): Promise<string> {
    const { spool } = this.#options
    const { segments, partials } = await spool.read()
    const oldest = segments[0] === undefined ? spool.partialPath(partials[0] ?? '') : spool.path(segments[0])
    return (await stat(oldest)).mtime.toISOString()
  }
}

/** Whether an error says that the WAL itself is wrong: it will not go away by waiting. */
export function isWrongWal(error: unknown): boolean {
  return error instanceof Fail && ['wal-differs', 'cluster-mismatch', 'backup-damaged'].includes(error.code)
}
