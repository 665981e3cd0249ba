// Names and positions of WAL: src/include/access/xlog_internal.h.

/** A file of WAL as the server names it: 8 digits each of timeline, and of its number in two halves. */
const SEGMENT = /^[0-9A-F]{24}$/
const HISTORY = /^[0-9A-F]{8}\.history$/
const LSN = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i

/** A segment's place: which timeline, and the how-manieth. */
export interface SegmentPlace {
  readonly timeline: number
  readonly number: bigint
}

/** One line of a timeline's history: that timeline was left at that position. */
export interface HistoryLine {
  readonly timeline: number
  /** The first position that is no longer of it. */
  readonly switchLsn: bigint
}

/** The position of a text such as `0/3000028`, or undefined. Pure. */
export function parseLsn(text: string): bigint | undefined {
  const [, high, low] = LSN.exec(text.trim()) ?? []
  return high === undefined ? undefined : (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)
}

/** `0/3000028`, as the server writes it. Pure. */
export function formatLsn(lsn: bigint): string {
  const half = (value: bigint) => value.toString(16).toUpperCase()
  return `${half(lsn >> 32n)}/${half(lsn & 0xffffffffn)}`
}

/** Whether a file name is that of a whole segment. Pure. */
export function isSegmentName(name: string): boolean {
  return SEGMENT.test(name)
}

/** Whether a file name is that of a timeline's history. Pure. */
export function isHistoryName(name: string): boolean {
  return HISTORY.test(name)
}

/** `00000002.history` Pure. */
export function historyName(timeline: number): string {
  return `${hex8(BigInt(timeline))}.history`
}

/** `00000002`: the timeline as it begins names. Pure. */
export function timelineName(timeline: number): string {
  return hex8(BigInt(timeline))
}

/** The file that holds the byte at a position. Pure. */
export function segmentAt(timeline: number, lsn: bigint, segmentSize: number): string {
  return segmentName({ timeline, number: lsn / BigInt(segmentSize) }, segmentSize)
}

/**
 * The file that holds the last byte before a position: at the very end of a segment that segment, not
 * the next one, which may never be written. Pure.
 */
export function segmentBefore(timeline: number, lsn: bigint, segmentSize: number): string {
  return segmentAt(timeline, lsn - 1n, segmentSize)
}

/** The name of a segment. Pure. */
export function segmentName({ timeline, number }: SegmentPlace, segmentSize: number): string {
  const inOne = 0x1_0000_0000n / BigInt(segmentSize) // XLogSegmentsPerXLogId
  return `${hex8(BigInt(timeline))}${hex8(number / inOne)}${hex8(number % inOne)}`
}

/** The place of a segment's name. Pure. */
export function segmentPlace(name: string, segmentSize: number): SegmentPlace {
  const inOne = 0x1_0000_0000n / BigInt(segmentSize)
  const part = (index: number) => BigInt(`0x${name.slice(index * 8, index * 8 + 8)}`)
  return { timeline: Number(part(0)), number: part(1) * inOne + part(2) }
}

/** The position of a segment's first byte. Pure. */
export function segmentStart(name: string, segmentSize: number): bigint {
  return segmentPlace(name, segmentSize).number * BigInt(segmentSize)
}

/** The segment after this one, on the same timeline. Pure. */
export function nextSegment(name: string, segmentSize: number): string {
  const { timeline, number } = segmentPlace(name, segmentSize)
  return segmentName({ timeline, number: number + 1n }, segmentSize)
}

/** Every segment with a byte from `start` up to, not including, `end`. Pure. */
export function* segmentsBetween(
  timeline: number,
  start: bigint,
  end: bigint,
  segmentSize: number,
): Generator<string, void> {
  const size = BigInt(segmentSize)
  for (let number = start / size; number * size < end; number++)
    yield segmentName({ timeline, number }, segmentSize)
}

/**
 * The lines of a history file, oldest first: `1<tab>0/3000158<tab>reason`. Pure.
 * Source: src/backend/access/transam/timeline.c, readTimeLineHistory.
 */
export function parseHistory(text: string): HistoryLine[] {
  return text.split('\n').flatMap((line) => {
    const [, timeline, position] = /^\s*(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(line) ?? []
    const switchLsn = position === undefined ? undefined : parseLsn(position)
    return switchLsn === undefined ? [] : [{ timeline: Number(timeline), switchLsn }]
  })
}

/**
 * The timeline that a position is of, on the way to `timeline`. Pure.
 * @param history of that timeline; empty for the first one
 */
export function timelineAt(timeline: number, history: readonly HistoryLine[], lsn: bigint): number {
  return history.find(({ switchLsn }) => lsn < switchLsn)?.timeline ?? timeline
}

function hex8(value: bigint): string {
  return value.toString(16).toUpperCase().padStart(8, '0')
}
