import { describe, expect, test } from 'vitest'
import { checkHeader, HEADER_SIZE, parseHeader } from '../../../scripts/backup/wal/header.ts'

const NAME = '000000020000000000000003'
const SIZE = 1024 * 1024
const EXPECTED = { systemIdentifier: '7123456789012345678', segmentSize: SIZE, major: 15 }

interface Fields {
  magic: number
  info: number
  timeline: number
  address: bigint
  systemIdentifier: bigint
  segmentSize: number
}

function page(fields: Partial<Fields> = {}): Buffer {
  const bytes = Buffer.alloc(8192)
  bytes.writeUInt16LE(fields.magic ?? 0xd110, 0)
  bytes.writeUInt16LE(fields.info ?? 2, 2)
  bytes.writeUInt32LE(fields.timeline ?? 2, 4)
  bytes.writeBigUInt64LE(fields.address ?? 0x300000n, 8)
  bytes.writeBigUInt64LE(fields.systemIdentifier ?? 7123456789012345678n, 24)
  bytes.writeUInt32LE(fields.segmentSize ?? SIZE, 32)
  bytes.writeUInt32LE(8192, 36)
  return bytes
}

describe('header of a segment', () => {
  test('a whole one: its fields', () => {
    expect(parseHeader(page())).toEqual({
      magic: 0xd110,
      timeline: 2,
      address: 0x300000n,
      systemIdentifier: '7123456789012345678',
      segmentSize: SIZE,
      blockSize: 8192,
    })
    expect(() => checkHeader(NAME, page(), EXPECTED)).not.toThrow()
  })

  test('the first segment of a timeline, copied from its parent: taken', () => {
    expect(() => checkHeader(NAME, page({ timeline: 1 }), EXPECTED)).not.toThrow()
  })

  test('a major that is not known yet: its magic is taken as it is', () => {
    expect(() => checkHeader(NAME, page({ magic: 0xd1ff }), { ...EXPECTED, major: 99 })).not.toThrow()
  })

  test.each<[string, Partial<Fields>, string]>([
    ['a clone with another system identifier', { systemIdentifier: 1n }, 'cluster-mismatch'],
    ['segments of another size', { segmentSize: 16 * SIZE }, 'wal-differs'],
    ['another major', { magic: 0xd116 }, 'wal-differs'],
    ['the place of another segment', { address: 0x400000n }, 'wal-differs'],
    ['a later timeline than its name', { timeline: 3 }, 'wal-differs'],
    ['no timeline', { timeline: 0 }, 'wal-differs'],
    ['a short page header', { info: 0 }, 'wal-differs'],
  ])('%s: refused', (_, fields, code) => {
    expect(() => checkHeader(NAME, page(fields), EXPECTED)).toThrow(expect.objectContaining({ code }))
  })

  test('fewer bytes than a header, or only zeros: no header', () => {
    expect(parseHeader(page().subarray(0, HEADER_SIZE - 1))).toBeUndefined()
    expect(parseHeader(Buffer.alloc(8192))).toBeUndefined()
  })
})
