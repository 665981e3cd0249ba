import { describe, expect, test } from 'vitest'
import {
  formatLsn,
  historyName,
  isHistoryName,
  isSegmentName,
  nextSegment,
  parseHistory,
  parseLsn,
  segmentAt,
  segmentBefore,
  segmentPlace,
  segmentsBetween,
  segmentName,
  segmentStart,
  timelineAt,
  timelineName,
} from '../../../scripts/backup/wal/segment.ts'

const MB = 1024 * 1024
const lsn = (text: string) => parseLsn(text)!

describe('LSN', () => {
  test.each([
    ['0/0', 0n],
    ['0/3000028', 0x3000028n],
    ['1/0', 0x1_0000_0000n],
    ['a/ff', 0xa_0000_00ffn],
    ['FFFFFFFF/FFFFFFFF', 0xffff_ffff_ffff_ffffn],
    [' 0/1 ', 1n],
  ])('%s: its position', (text, position) => {
    expect(parseLsn(text)).toBe(position)
  })

  test.each(['', '0', '0/', '/0', '0/0/0', '0/G', '0/123456789', '-1/0', '0x0/0', "0/0'; drop table x"])(
    '%j: no position',
    (text) => {
      expect(parseLsn(text)).toBeUndefined()
    },
  )

  test.each(['0/0', '0/3000028', 'A/FF', 'FFFFFFFF/FFFFFFFF'])('%s: written as the server does', (text) => {
    expect(formatLsn(lsn(text))).toBe(text)
  })
})

describe('segment names', () => {
  // As pg_walfile_name() and pg_waldump of servers with these sizes give them.
  test.each([
    [1, '0/300000', '000000010000000000000003'],
    [1, '0/FFFFFFFF', '000000010000000000000FFF'],
    [1, '1/0', '000000010000000100000000'],
    [16, '0/3000028', '000000010000000000000003'],
    [16, '0/FFFFFFFF', '0000000100000000000000FF'],
    [16, '1/0', '000000010000000100000000'],
    [16, 'FFFFFFFF/FFFFFFFF', '00000001FFFFFFFF000000FF'],
    [64, '2/4000000', '000000010000000200000001'],
    [1024, '0/3FFFFFFF', '000000010000000000000000'],
    [1024, '0/40000000', '000000010000000000000001'],
    [1024, '0/FFFFFFFF', '000000010000000000000003'],
    [1024, '1/0', '000000010000000100000000'],
  ])('%i MB segments: the byte at %s: %s', (size, position, name) => {
    expect(segmentAt(1, lsn(position), size * MB)).toBe(name)
    const place = segmentPlace(name, size * MB)
    expect(segmentName(place, size * MB)).toBe(name)
    expect(segmentStart(name, size * MB) <= lsn(position)).toBe(true)
    expect(segmentStart(name, size * MB) + BigInt(size * MB) > lsn(position)).toBe(true)
  })

  test.each([
    [16, '0/4000000', '000000010000000000000004', '000000010000000000000003'],
    [16, '0/4000001', '000000010000000000000004', '000000010000000000000004'],
    [16, '1/0', '000000010000000100000000', '0000000100000000000000FF'],
    [1, '1/0', '000000010000000100000000', '000000010000000000000FFF'],
    [1024, '1/0', '000000010000000100000000', '000000010000000000000003'],
  ])(
    '%i MB segments: at the exact boundary %s: %s holds the next byte, %s the last one',
    (size, position, at, before) => {
      expect(segmentAt(1, lsn(position), size * MB)).toBe(at)
      expect(segmentBefore(1, lsn(position), size * MB)).toBe(before)
    },
  )

  test.each([
    [1, '000000010000000000000FFF', '000000010000000100000000'],
    [16, '0000000100000000000000FF', '000000010000000100000000'],
    [16, '00000010000000000000000F', '000000100000000000000010'],
    [1024, '000000010000000000000003', '000000010000000100000000'],
  ])('%i MB segments: after %s comes %s', (size, name, next) => {
    expect(nextSegment(name, size * MB)).toBe(next)
  })

  test.each([
    ['0/3000000', '0/3000000', []],
    ['0/3000000', '0/3000001', ['000000010000000000000003']],
    ['0/3000000', '0/4000000', ['000000010000000000000003']],
    ['0/3FFFFFF', '0/4000001', ['000000010000000000000003', '000000010000000000000004']],
    ['0/5000000', '0/3000000', []],
  ])('from %s up to %s: these segments', (start, end, names) => {
    expect([...segmentsBetween(1, lsn(start), lsn(end), 16 * MB)]).toEqual(names)
  })

  test.each([
    ['000000010000000000000003', true, false],
    ['00000002.history', false, true],
    ['000000010000000000000003.partial', false, false],
    ['000000010000000000000003.00000028.backup', false, false],
    ['00000001000000000000000g', false, false],
    ['00000001000000000000000a', false, false],
    ['000000010000000000000003\n', false, false],
    ['../00000002.history', false, false],
    ['', false, false],
  ])('%j: segment %s, history %s', (name, isSegment, isHistory) => {
    expect([isSegmentName(name), isHistoryName(name)]).toEqual([isSegment, isHistory])
  })
})

describe('history', () => {
  const TEXT = [
    '1\t0/3000158\tno recovery target specified',
    '',
    '# a comment',
    "2\t0/50000A0\tbefore 2026-11-22 10:00:00+00, \ttabs 'and' quotes",
    '  4  1/0 with spaces',
  ].join('\n')

  test('a file: its lines, oldest first', () => {
    expect(parseHistory(TEXT)).toEqual([
      { timeline: 1, switchLsn: 0x3000158n },
      { timeline: 2, switchLsn: 0x50000a0n },
      { timeline: 4, switchLsn: 0x1_0000_0000n },
    ])
    expect(parseHistory('')).toEqual([])
  })

  test.each([
    ['0/0', 1],
    ['0/3000157', 1],
    ['0/3000158', 2],
    ['0/500009F', 2],
    ['0/50000A0', 4],
    ['1/0', 7],
  ])('the byte at %s: is of timeline %i', (position, timeline) => {
    expect(timelineAt(7, parseHistory(TEXT), lsn(position))).toBe(timeline)
  })

  test('names of a timeline: 8 digits of hex', () => {
    expect([historyName(2), historyName(26), timelineName(0xffffffff)]).toEqual([
      '00000002.history',
      '0000001A.history',
      'FFFFFFFF',
    ])
  })
})
