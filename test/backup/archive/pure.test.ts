import { describe, expect, test } from 'vitest'
import { Samples } from '../../../scripts/backup/archive/samples.ts'
import { type SpoolContent, staleReason } from '../../../scripts/backup/archive/spool.ts'
import { lossOf } from '../../../scripts/backup/archive/status.ts'
import { parseLsn } from '../../../scripts/backup/wal/segment.ts'

const SIZE = 1024 * 1024
const lsn = (text: string) => parseLsn(text)!

describe('time of a position', () => {
  test('what was seen: the latest time at which no more than that was written', () => {
    const samples = new Samples()
    expect(samples.timeOf(100n)).toBeUndefined()
    samples.add(100n, '1')
    samples.add(200n, '2')
    expect([99n, 100n, 199n, 200n, 900n].map((at) => samples.timeOf(at))).toEqual([
      undefined,
      '1',
      '1',
      '2',
      '2',
    ])
  })

  test('an idle server: the same position has a later time', () => {
    const samples = new Samples()
    samples.add(100n, '1')
    samples.add(100n, '2')
    expect(samples.timeOf(100n)).toBe('2')
  })

  test('a server that was set back: what was seen before is forgotten', () => {
    const samples = new Samples()
    samples.add(100n, '1')
    samples.add(50n, '2')
    expect([samples.timeOf(50n), samples.timeOf(49n)]).toEqual(['2', undefined])
  })

  test('days of a lagging store: memory has a bound, the newest stay', () => {
    const samples = new Samples()
    for (let index = 0; index < 50_000; index++) samples.add(BigInt(index), String(index))
    expect(samples.timeOf(49_999n)).toBe('49999')
    expect(samples.timeOf(0n)).toBeUndefined()
  })
})

describe('loss', () => {
  const position = {
    format: 1,
    systemIdentifier: '7',
    timeline: 1,
    lsn: '0/3000028',
    time: '2026-11-22T10:00:00.000Z',
    segmentSize: SIZE,
  } as const
  const later = new Date('2026-11-22T11:00:00Z')

  test.each<[string, { lsn: bigint; time: string } | undefined, { seconds: number; bytes: number | null }]>([
    ['an idle server', { lsn: lsn('0/3000028'), time: '2026-11-22T11:00:00.000Z' }, { seconds: 0, bytes: 0 }],
    [
      'a server behind',
      { lsn: lsn('0/2000000'), time: '2026-11-22T11:00:00.000Z' },
      { seconds: 0, bytes: 0 },
    ],
    [
      'a server ahead',
      { lsn: lsn('0/3000128'), time: '2026-11-22T10:00:02.500Z' },
      { seconds: 2.5, bytes: 256 },
    ],
    [
      'a clock that jumped back',
      { lsn: lsn('0/3000128'), time: '2026-11-22T09:00:00.000Z' },
      { seconds: 0, bytes: 256 },
    ],
    ['a server that does not answer', undefined, { seconds: 3600, bytes: null }],
  ])('%s: what a disaster would cost', (_, server, loss) => {
    expect(lossOf(position, server, later)).toEqual(loss)
  })
})

describe('stale spool', () => {
  const content = (segments: string[], partials: string[] = []): SpoolContent => ({
    segments,
    partials,
    histories: [],
    size: 0,
  })
  const name = (timeline: number, number: number) =>
    `${timeline.toString(16).padStart(8, '0')}00000000${number.toString(16).padStart(8, '0')}`.toUpperCase()
  // Timeline 1 was left at 0/4080000, in segment 0x40; the server is on 3, at 0/5080000.
  const server = {
    timeline: 3,
    lsn: lsn('0/5080000'),
    history: [{ timeline: 1, switchLsn: lsn('0/4080000') }],
    segmentSize: SIZE,
  }

  test.each<[string, SpoolContent, boolean]>([
    ['nothing', content([]), false],
    ['all of it is before the server', content([name(3, 0x4f)], [name(3, 0x50)]), false],
    ['a whole segment ahead of the server', content([name(3, 0x50)]), true],
    ['a beginning ahead of the server', content([], [name(3, 0x51)]), true],
    ['of the parent, before it was left', content([name(1, 0x3f)], [name(1, 0x40)]), false],
    ['of the parent, whole where it was left', content([name(1, 0x40)]), true],
    ['of the parent, begun after it was left', content([], [name(1, 0x41)]), true],
    ['of a timeline that is no ancestor', content([name(2, 0x10)]), true],
    ['of a timeline that is to come', content([name(4, 0x10)]), true],
  ])('%s: set aside or not', (_, spool, isStale) => {
    expect(staleReason(spool, server) !== undefined).toBe(isStale)
  })
})
