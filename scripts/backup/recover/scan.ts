import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { output } from '../../core/exec.ts'
import { Fail } from '../../core/fail.ts'
import { parseLsn } from '../wal/segment.ts'

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
}

// `rmgr: Transaction len (rec/tot): 34/34, tx: 725, lsn: 0/0153E8A8, prev 0/0153E878, desc: COMMIT 2026-11-22 10:00:00.123456 UTC`
const RECORD = /^rmgr: (\S+)\s+len \(rec\/tot\):\s*\d+\/\s*(\d+), .*?\blsn: ([0-9A-F]{1,8}\/[0-9A-F]{8}), /
const COMMIT =
  /\bdesc: (?:COMMIT|ABORT)(?:_PREPARED)? (?:\d+: )?.*?(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?) UTC/

/**
 * Reads the records of segments that are in a folder, with pg_waldump.
 * @param segments the oldest one first; records before `from` are left out
 * @returns undefined when no record is complete in them
 * @throws {Fail} `not-permitted` without pg_waldump
 */
export async function scanWal(
  bindir: string,
  folder: string,
  segments: { readonly first: string; readonly last: string; readonly from?: bigint | undefined },
): Promise<WalEnd | undefined> {
  let lastRecord: bigint | undefined
  let length = 0
  let firstCommit: string | undefined
  let lastCommit: string | undefined
  const { first, last, from = 0n } = segments
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
  return { lastRecord, end: endOf(lastRecord, length), firstCommit, lastCommit }
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
/** SizeOfXLogShortPHD, on each page that the record goes on to. */
const PAGE_HEADER = 24

/** Where a record ends: its bytes, the headers of the pages that it crosses, aligned to 8 bytes. Pure. */
function endOf(start: bigint, length: number): bigint {
  let room = PAGE - Number(start % BigInt(PAGE))
  let size = length
  for (let rest = length - room; rest > 0; rest -= room) {
    size += PAGE_HEADER
    room = PAGE - PAGE_HEADER
  }
  return ((start + BigInt(size) + 7n) / 8n) * 8n
}
