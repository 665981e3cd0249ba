import { describe, expect, test } from 'vitest'
import type { CatalogEntry } from '../../../scripts/backup/catalog.ts'
import type { Manifest } from '../../../scripts/backup/manifest.ts'
import {
  chainOf,
  chooseBase,
  isOnWay,
  olderThan,
  type PhysicalFound,
  type Way,
} from '../../../scripts/backup/recover/choose.ts'
import { parseTarget, type Target } from '../../../scripts/backup/recover/target.ts'
import { segmentOn, walAfter } from '../../../scripts/backup/recover/wal-range.ts'
import { parseLsn } from '../../../scripts/backup/wal/segment.ts'
import { Fail } from '../../../scripts/core/fail.ts'
import { dirStore } from '../../../scripts/store/dir.ts'

const MB = 1024 * 1024
const store = dirStore('/nowhere')

interface Facts {
  readonly ended?: string
  readonly stop?: string
  readonly timeline?: number
  readonly parent?: string | null
  readonly job?: string
}

/** A backup of whose manifest only what is looked at is there. */
function backup(label: string, facts: Facts = {}): CatalogEntry & PhysicalFound {
  const {
    ended = '2026-11-22T10:00:00.000Z',
    stop = '0/500000',
    timeline = 1,
    parent = null,
    job = 'whole',
  } = facts
  const physical = { startLsn: '0/400028', stopLsn: stop, walSegmentSize: MB, parent, tablespaces: [] }
  const manifest = {
    label,
    job,
    kind: 'base',
    ended,
    timeline,
    systemIdentifier: '7',
    physical,
  } as unknown as Manifest
  return { label, store, manifest } as CatalogEntry & PhysicalFound
}

const codeOf = (action: () => unknown) => {
  try {
    action()
    return 'none'
  } catch (error) {
    return error instanceof Fail ? `${error.code}: ${error.message}` : String(error)
  }
}

describe('a target of the command line', () => {
  test.each([
    ['2026-11-22 10:00:00+01', '2026-11-22T09:00:00Z'],
    ['2026-11-22T10:00Z', '2026-11-22T10:00:00Z'],
    ['2026-11-22 10:00:00.123456 utc', '2026-11-22T10:00:00.123456Z'],
    ['2026-11-22 10:00:00,5-0330', '2026-11-22T13:30:00.5Z'],
    ['2024-02-29 23:59:59.999999+14:00', '2024-02-29T09:59:59.999999Z'],
  ])('time %s: it is %s', (at, time) => {
    expect(parseTarget({ at })).toEqual({ kind: 'time', time })
  })

  test.each([
    [{ at: '2026-11-22 10:00:00' }, 'usage: --at "2026-11-22 10:00:00" has no offset'],
    [{ at: '2026-02-30 10:00:00Z' }, 'usage: --at "2026-02-30 10:00:00Z" is no time that there is'],
    [{ at: 'yesterday' }, 'usage: --at "yesterday" is no time'],
    [{ at: "2026-11-22 10:00Z'; drop" }, 'is no time'],
    [{ lsn: '0-1' }, 'usage: --lsn "0-1" is no LSN'],
    [{ xid: '0' }, 'is no transaction'],
    [{ xid: '1; drop' }, 'is no transaction'],
    [{ name: 'a\nrestore_command' }, 'is no name of a restore point'],
    [{ name: 'x'.repeat(64) }, 'is no name of a restore point'],
    [{ xid: '7', immediate: true }, 'usage: --xid and --immediate exclude each other'],
  ])('%j: refused', (options, message) => {
    expect(codeOf(() => parseTarget(options))).toContain(message)
  })

  test('a transaction with its epoch: the lower half, by which the server compares', () => {
    expect(parseTarget({ xid: '8589935315' })).toEqual({ kind: 'xid', value: '723' })
  })
})

describe('the choice of a backup', () => {
  const old = backup('20261122T090000Z-base-aaaaaa', { ended: '2026-11-22T09:30:00.000Z', stop: '0/300000' })
  const young = backup('20261122T100000Z-base-bbbbbb')
  const noWay = () => undefined
  const choose = (target: Target, way: () => Way | undefined = noWay, label = 'latest') =>
    chooseBase([old, young], { label, target }, way).manifest.label

  test.each<[string, Target, string]>([
    ['latest', { kind: 'latest' }, young.label],
    ['immediate', { kind: 'immediate' }, young.label],
    ['time 09:45', { kind: 'time', time: '2026-11-22T09:45:00Z' }, old.label],
    ['time 10:00', { kind: 'time', time: '2026-11-22T10:00:00Z' }, young.label],
    ['LSN 0/4FFFFF', { kind: 'lsn', lsn: 0x4fffffn }, old.label],
    ['LSN 0/500000', { kind: 'lsn', lsn: 0x500000n }, young.label],
  ])('%s: the newest that ended before it', (_, target, label) => {
    expect(choose(target)).toBe(label)
  })

  test('a target before the end of each of them: refused, with the ends', () => {
    expect(codeOf(() => choose({ kind: 'time', time: '2026-11-22T09:00:00Z' }))).toContain(
      'ended at 2026-11-22T09:30',
    )
  })

  test('the timeline was left before the end of the newest one: the older one leads to the new timeline', () => {
    const way = { timeline: 2, history: [{ timeline: 1, switchLsn: 0x400000n }] }
    expect(choose({ kind: 'latest' }, () => way)).toBe(old.label)
    expect(codeOf(() => choose({ kind: 'latest' }, () => way, young.label))).toContain(
      'does not lead to timeline 2',
    )
    expect(isOnWay(way, 1, 0x400000n)).toBe(true)
    expect(isOnWay(way, 3, 1n)).toBe(false)
  })

  test('the newest manifest cannot be read: an older one does not stand in for it', () => {
    const broken = {
      label: '20261122T110000Z-base-cccccc',
      store,
      problem: new Fail('backup-damaged', 'broken'),
    }
    const catalog: CatalogEntry[] = [old, young, broken]
    expect(codeOf(() => chooseBase(catalog, { label: 'latest', target: { kind: 'latest' } }, noWay))).toBe(
      'backup-damaged: broken',
    )
  })

  test('those before the one that was chosen: the newest first, and only those that lead there', () => {
    const other = backup('20261122T080000Z-base-oooooo')
    const catalog = [other, old, young]
    const labels = (target: Target, way?: Way) => olderThan(catalog, young, target, way)
    expect(labels({ kind: 'xid', value: '7' })).toEqual([old.label, other.label])
    expect(labels({ kind: 'time', time: '2026-11-22T09:45:00Z' })).toEqual([old.label])
    expect(labels({ kind: 'latest' }, { timeline: 2, history: [] })).toEqual([])
    expect(olderThan(catalog, other, { kind: 'latest' }, undefined)).toEqual([])
  })

  test('a chain: the full one first; a parent that is gone or stands on itself: refused', () => {
    const incr = backup('20261122T120000Z-incr-dddddd', { parent: young.label })
    const top = backup('20261122T130000Z-incr-eeeeee', { parent: incr.label })
    expect(chainOf([old, young, incr, top], top).map(({ manifest }) => manifest.label)).toEqual([
      young.label,
      incr.label,
      top.label,
    ])
    expect(codeOf(() => chainOf([old, incr, top], top))).toContain(
      `stands on ${young.label}, which is not there`,
    )
    const loop = backup('20261122T140000Z-incr-ffffff', { parent: '20261122T140000Z-incr-ffffff' })
    expect(codeOf(() => chainOf([loop], loop))).toContain('stands on itself')
  })
})

describe('the WAL after a backup', () => {
  const found = backup('20261122T100000Z-base-bbbbbb')
  const names = (timeline: number, ...numbers: readonly number[]) =>
    numbers.map((number) => `0000000${timeline}00000000${number.toString(16).toUpperCase().padStart(8, '0')}`)
  const range = (way: Way, segments: readonly string[], partials: readonly string[] = []) =>
    walAfter(found, way, { segments, partials, histories: [], size: 0 })
  const one: Way = { timeline: 1, history: [] }

  test('to the newest beginning of a segment, without a gap', () => {
    expect(range(one, names(1, 2, 3, 4, 5, 6), names(1, 7))).toEqual({
      segments: names(1, 4, 5, 6, 7),
      missing: undefined,
    })
  })

  test('the segment of the end of the backup is missing: it is in the backup', () => {
    expect(range(one, names(1, 5, 6))).toEqual({ segments: names(1, 5, 6), missing: undefined })
  })

  test('a gap: the first segment that is missing, and those before it', () => {
    expect(range(one, names(1, 4, 5, 8, 9))).toEqual({ segments: names(1, 4, 5), missing: names(1, 6)[0] })
  })

  test('nothing after the backup', () => {
    expect(range(one, names(1, 1, 2, 3))).toEqual({ segments: [], missing: undefined })
  })

  test('over a fork: its segment is that of the new timeline, and what the old one wrote later is passed over', () => {
    const two: Way = { timeline: 2, history: [{ timeline: 1, switchLsn: parseLsn('0/680000')! }] }
    expect(range(two, [...names(1, 4, 5, 6, 7, 8), ...names(2, 6, 7)])).toEqual({
      segments: [...names(1, 4, 5), ...names(2, 6, 7)],
      missing: undefined,
    })
    expect(segmentOn(two, 6n, MB)).toBe(names(2, 6)[0])
    expect(range(two, [...names(1, 4, 5, 6, 7), ...names(2, 7)])).toMatchObject({ missing: names(2, 6)[0] })
  })
})
