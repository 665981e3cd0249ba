import { open } from 'node:fs/promises'
import { Fail } from '../../core/fail.ts'
import { isMissing } from '../../core/file.ts'
import { formatLsn, segmentPlace, segmentStart } from './segment.ts'

/** What the first page of a segment says of it. */
export interface SegmentHeader {
  /** xlp_magic: changes with each major. */
  readonly magic: number
  /** xlp_tli: of the page; in a timeline's first segment it may be that of its parent. */
  readonly timeline: number
  /** xlp_pageaddr */
  readonly address: bigint
  readonly systemIdentifier: string
  /** Bytes. */
  readonly segmentSize: number
  readonly blockSize: number
}

/** What a segment must be. */
export interface SegmentExpected {
  readonly systemIdentifier: string
  /** Bytes. */
  readonly segmentSize: number
  /** Major version of the server. */
  readonly major: number
}

/** XLOG_PAGE_MAGIC by major (src/include/access/xlog_internal.h of each). */
const MAGICS: Readonly<Record<number, number>> = {
  13: 0xd106,
  14: 0xd10d,
  15: 0xd110,
  16: 0xd113,
  17: 0xd116,
  18: 0xd118,
}

/** XLP_LONG_HEADER */
const LONG = 0x0002

/** Bytes of XLogLongPageHeaderData. */
export const HEADER_SIZE = 40

/** The long header of a segment's first page, or undefined when it has none. Pure. */
export function parseHeader(bytes: Buffer): SegmentHeader | undefined {
  if (bytes.length < HEADER_SIZE || (bytes.readUInt16LE(2) & LONG) === 0) return undefined
  return {
    magic: bytes.readUInt16LE(0),
    timeline: bytes.readUInt32LE(4),
    address: bytes.readBigUInt64LE(8),
    systemIdentifier: bytes.readBigUInt64LE(24).toString(),
    segmentSize: bytes.readUInt32LE(32),
    blockSize: bytes.readUInt32LE(36),
  }
}

/**
 * Proves by its first page that a segment is of this system, and what its name says. Pure.
 * @throws {Fail} `cluster-mismatch` for WAL of another system, `wal-differs` for anything else
 */
export function checkHeader(name: string, bytes: Buffer, expected: SegmentExpected): void {
  const header = parseHeader(bytes)
  if (header === undefined) throw differs(name, 'does not begin as a segment of WAL does')
  if (header.systemIdentifier !== expected.systemIdentifier) {
    throw new Fail(
      'cluster-mismatch',
      `segment "${name}" is of the system ${header.systemIdentifier}, not of ${expected.systemIdentifier}`,
      { hint: 'Another cluster wrote it. It is not stored.' },
    )
  }
  if (header.segmentSize !== expected.segmentSize)
    throw differs(name, `is of segments of ${header.segmentSize} bytes, not of ${expected.segmentSize}`)
  const magic = MAGICS[expected.major]
  if (magic !== undefined && header.magic !== magic)
    throw differs(name, `has the magic ${hex(header.magic)}, PostgreSQL ${expected.major} has ${hex(magic)}`)
  const start = segmentStart(name, expected.segmentSize)
  if (header.address !== start)
    throw differs(name, `begins at ${formatLsn(header.address)}, its name says ${formatLsn(start)}`)
  // A new timeline's first segment is a copy of its parent's up to the switch.
  const { timeline } = segmentPlace(name, expected.segmentSize)
  if (header.timeline === 0 || header.timeline > timeline)
    throw differs(name, `is of timeline ${header.timeline}, its name says ${timeline}`)
}

/**
 * The same for a file, and its size.
 * @throws {Fail} `cluster-mismatch`, `wal-differs`
 */
export async function checkSegmentFile(name: string, path: string, expected: SegmentExpected): Promise<void> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    if (size !== expected.segmentSize)
      throw differs(name, `has ${size} bytes, a segment has ${expected.segmentSize}`)
    const bytes = Buffer.alloc(HEADER_SIZE)
    await file.read(bytes, 0, HEADER_SIZE, 0)
    checkHeader(name, bytes, expected)
  } finally {
    await file.close()
  }
}

const PAGE = 8192

/**
 * Whether a file that has room for a whole segment was written up to a position: the page before it is
 * there, and its records go on to it. What is not written yet is zero, or of another segment.
 * @param start of the segment
 * @param end inside of it
 * @returns false too when there is no such file
 */
export async function isWritten(path: string, start: bigint, end: bigint): Promise<boolean> {
  const offset = Number(end - 1n - start)
  const first = offset - (offset % PAGE)
  const page = Buffer.alloc(PAGE)
  const file = await open(path, 'r').catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  if (file === undefined) return false
  try {
    await file.read(page, 0, PAGE, first)
  } finally {
    await file.close()
  }
  return isPageWritten(page, start + BigInt(first), Number(end - start) - first)
}

/** The same of one page. Pure. */
function isPageWritten(page: Buffer, address: bigint, end: number): boolean {
  if (page.readBigUInt64LE(8) !== address) return false // xlp_pageaddr
  const header = (page.readUInt16LE(2) & LONG) === 0 ? 24 : HEADER_SIZE
  // xlp_rem_len, of a record that began on a page before; then each begins with xl_tot_len.
  for (let at = header + aligned(page.readUInt32LE(16)); at < end && at + 4 <= PAGE;) {
    const length = page.readUInt32LE(at)
    if (length === 0) return false
    at += aligned(length)
  }
  return true
}

function aligned(length: number): number {
  return Math.ceil(length / 8) * 8
}

function differs(name: string, how: string): Fail {
  return new Fail('wal-differs', `segment "${name}" ${how}`, { hint: 'It is damaged, and not stored.' })
}

function hex(value: number): string {
  return `0x${value.toString(16).toUpperCase()}`
}
