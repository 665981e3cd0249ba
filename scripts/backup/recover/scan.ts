import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { output } from '../../core/exec.ts'
import { Fail } from '../../core/fail.ts'
import { isMissing } from '../../core/file.ts'
import { parseLsn, segmentAt, segmentPlace } from '../wal/segment.ts'

/** What the WAL of one file, or of a few that follow each other, ends with. */
export interface WalEnd {
  /** Where the last complete record begins: a recovery target that is reached, unlike its end. */
  readonly lastRecord: bigint
  /** Where it ends: the first position after it. */
  readonly end: bigint
  /** When the first transaction in it ended, of those that are read. */
  readonly firstCommit: string | undefined
  /** When the last transaction in it ended, ISO, UTC, to the microsecond; undefined when none does. */
  readonly lastCommit: string | undefined
  /**
   * Whether something follows it: a record of which only the beginning was flushed, or what a switch of
   * segments has left empty. Where nothing does, nothing was written.
   */
  readonly isFollowed: boolean
}

/** Segments in a folder. */
export interface WalPieces {
  readonly first: string
  readonly last: string
  /** Records before it are left out. */
  readonly from?: bigint | undefined
  /** Bytes. */
  readonly segmentSize: number
}

// `rmgr: Transaction len (rec/tot): 34/34, tx: 725, lsn: 0/0153E8A8, prev 0/0153E878, desc: COMMIT 2026-11-22 10:00:00.123456 UTC`
const RECORD = /^rmgr: (\S+)\s+len \(rec\/tot\):\s*\d+\/\s*(\d+), .*?\blsn: ([0-9A-F]{1,8}\/[0-9A-F]{8}), /
const SWITCH = /^rmgr: XLOG\s.*\bdesc: SWITCH\b/
const COMMIT =
  /\bdesc: (?:COMMIT|ABORT)(?:_PREPARED)? (?:\d+: )?.*?(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?) UTC/

/**
 * Reads the records of segments that are in a folder, with pg_waldump.
 * @returns undefined when no record is complete in them
 * @throws {Fail} `not-permitted` without pg_waldump
 */
export async function scanWal(
  bindir: string,
  folder: string,
  segments: WalPieces,
): Promise<WalEnd | undefined> {
  let lastRecord: bigint | undefined
  let length = 0
  let firstCommit: string | undefined
  let lastCommit: string | undefined
  let isSwitch = false
  const { first, last, from = 0n, segmentSize } = segments
  const program = join(bindir, 'pg_waldump')
  const text = output([program, '--path', folder, first, last], {
    env: { TZ: 'UTC', LC_ALL: 'C' },
  })
  try {
    for await (const line of createInterface({ input: Readable.from(text), crlfDelay: Infinity })) {
      const [, manager, total, lsn] = RECORD.exec(line) ?? []
      const position = lsn === undefined ? undefined : parseLsn(lsn)
      if (position === undefined || position < from) continue
      lastRecord = position
      length = Number(total)
      isSwitch = SWITCH.test(line)
      if (manager !== 'Transaction') continue
      const [, day, time] = COMMIT.exec(line) ?? []
      if (day === undefined) continue
      lastCommit = `${day}T${time}Z`
      firstCommit ??= lastCommit
    }
  } catch (error) {
    if (!isEndOfWal(error)) throw error
  }
  if (lastRecord === undefined) return undefined
  const end = endOf(lastRecord, length, segmentSize)
  const isFollowed = isSwitch || (await isBegun(folder, end, segments))
  return { lastRecord, end, firstCommit, lastCommit, isFollowed }
}

/**
 * The end of the WAL is where no record is: pg_waldump calls that an error. Any other end of it, as when
 * it is killed, would make what it had not read yet look like WAL that is not there
 * (src/bin/pg_waldump/pg_waldump.c, main).
 */
function isEndOfWal(error: unknown): boolean {
  return (
    error instanceof Fail &&
    error.code === 'command-failed' &&
    /error in WAL record at|could not find a valid record after/.test(error.hint ?? '')
  )
}

const PAGE = 8192

/**
 * SizeOfXLogShortPHD, on each page that a record goes on to; SizeOfXLogLongPHD on the first one of a
 * segment (src/include/access/xlog_internal.h). Pure.
 */
function pageHeader(page: bigint, segmentSize: number): number {
  return page % BigInt(segmentSize) === 0n ? 40 : 24
}

/** Where a record ends: its bytes, the headers of the pages that it crosses, aligned to 8 bytes. Pure. */
function endOf(start: bigint, length: number, segmentSize: number): bigint {
  let page = start - (start % BigInt(PAGE))
  let room = PAGE - Number(start - page)
  let size = length
  for (let rest = length - room; rest > 0; rest -= room) {
    page += BigInt(PAGE)
    const header = pageHeader(page, segmentSize)
    size += header
    room = PAGE - header
  }
  return ((start + BigInt(size) + 7n) / 8n) * 8n
}

/** Whether a record begins at a position, as far as can be told: its length, which it begins with, is not zero. */
async function isBegun(
  folder: string,
  end: bigint,
  { last, segmentSize }: Pick<WalPieces, 'last' | 'segmentSize'>,
): Promise<boolean> {
  const start = end % BigInt(PAGE) === 0n ? end + BigInt(pageHeader(end, segmentSize)) : end
  const { timeline } = segmentPlace(last, segmentSize)
  const file = await open(join(folder, segmentAt(timeline, start, segmentSize))).catch((error: unknown) => {
    if (isMissing(error)) return undefined // it is of another timeline, or nobody asked for it
    throw error
  })
  if (file === undefined) return true
  try {
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, Number(start % BigInt(segmentSize)))
    return buffer.readUInt32LE() !== 0
  } finally {
    await file.close()
  }
}
