import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decideKeep,
  isoWeek,
  isSegmentNeeded,
  type KeepBackup,
  type KeepJob,
} from '../../scripts/backup/keep.ts'

const NOW = new Date('2026-11-22T12:00:00Z')

function at(time: string, change: Partial<KeepBackup> = {}): KeepBackup {
  const begun = new Date(time)
  return { label: time, job: 'nightly', begun, ended: begun, ...change }
}

function base(time: string, parent: string | null = null, change: Partial<KeepBackup> = {}): KeepBackup {
  const segment = BigInt(Math.floor(Date.parse(time) / 3_600_000))
  return at(time, { physical: { systemIdentifier: '7', timeline: 1, segment, parent }, ...change })
}

function decide(backups: readonly KeepBackup[], job: KeepJob | undefined, running: readonly string[] = []) {
  const jobs = new Map<string, KeepJob>(job === undefined ? [] : [['nightly', job]])
  return decideKeep({ backups, jobs, running: new Set(running), now: NOW })
}

const keptOf = (...args: Parameters<typeof decide>) =>
  decide(...args)
    .filter(({ kept }) => kept)
    .map(({ label }) => label)

const reasonsOf = (...args: Parameters<typeof decide>) =>
  Object.fromEntries(decide(...args).map(({ label, reasons }) => [label, reasons.join(', ')]))

describe('rules of keep', () => {
  const days = [
    '2026-11-19T02:00:00Z',
    '2026-11-20T02:00:00Z',
    '2026-11-20T14:00:00Z',
    '2026-11-21T02:00:00Z',
  ]
  test.each<[string, KeepJob, string[]]>([
    ['nothing said: all', {}, days],
    ['an empty table: all', { keep: {} }, days],
    ['last 2', { keep: { last: 2 } }, days.slice(2)],
    ['last of more than there are', { keep: { last: 9 } }, days],
    ['daily 2: the newest of each day', { keep: { daily: 2 } }, days.slice(2)],
    ['hourly 1', { keep: { hourly: 1 } }, days.slice(3)],
    ['yearly 1: the newest of the year', { keep: { yearly: 1 } }, days.slice(3)],
    ['yearly 2, one year there: the oldest of all too', { keep: { yearly: 2 } }, [days[0]!, days[3]!]],
    ['within a day of the newest, not of now', { keep: { within: '1d' } }, days.slice(2)],
    ['two rules: what either of them keeps', { keep: { last: 1, daily: 2 } }, days.slice(2)],
  ])('%s', (_name, job, kept) => {
    expect(
      keptOf(
        days.map((day) => at(day)),
        job,
      ),
    ).toEqual(kept)
  })

  test('days are those of UTC: one minute before and after midnight are two', () => {
    const backups = [at('2026-11-20T23:59:00Z'), at('2026-11-21T00:01:00Z')]
    expect(reasonsOf(backups, { keep: { daily: 2 } })).toEqual({
      '2026-11-20T23:59:00Z': 'daily 2026-11-20',
      '2026-11-21T00:01:00Z': 'last good, daily 2026-11-21',
    })
  })

  test.each([
    ['2026-11-22T23:00:00Z', '2026-W47'],
    ['2026-11-23T00:00:00Z', '2026-W48'],
    ['2027-01-01T00:00:00Z', '2026-W53'],
    ['2024-12-30T00:00:00Z', '2025-W01'],
    ['2021-01-03T00:00:00Z', '2020-W53'],
  ])('ISO week of %s: %s', (time, week) => {
    expect(isoWeek(new Date(time))).toBe(week)
  })

  test('weeks over the turn of the year: its first days are of the week of the old year', () => {
    const backups = [at('2025-12-28T02:00:00Z'), at('2025-12-29T02:00:00Z'), at('2026-01-04T02:00:00Z')]
    expect(reasonsOf(backups, { keep: { weekly: 1 } })).toEqual({
      '2025-12-28T02:00:00Z': 'no rule keeps it',
      '2025-12-29T02:00:00Z': 'no rule keeps it',
      '2026-01-04T02:00:00Z': 'last good, weekly 2026-W01',
    })
  })

  test('grandfather, father, son: each reason is told', () => {
    const backups = ['2025-06-01', '2026-10-31', '2026-11-15', '2026-11-22'].map((day) =>
      at(`${day}T02:00:00Z`),
    )
    expect(reasonsOf(backups, { keep: { daily: 1, weekly: 2, monthly: 2, yearly: 2 } })).toEqual({
      '2025-06-01T02:00:00Z': 'yearly 2025',
      '2026-10-31T02:00:00Z': 'monthly 2026-10',
      '2026-11-15T02:00:00Z': 'weekly 2026-W46',
      '2026-11-22T02:00:00Z': 'last good, daily 2026-11-22, weekly 2026-W47, monthly 2026-11, yearly 2026',
    })
  })
})

describe('what no rule removes', () => {
  const keep = { last: 1 }
  test('backup whose job the host file no longer has: kept, and said so', () => {
    expect(reasonsOf([at('2026-11-20T02:00:00Z'), at('2026-11-21T02:00:00Z')], undefined)).toEqual({
      '2026-11-20T02:00:00Z': 'job "nightly" is not in the host file',
      '2026-11-21T02:00:00Z': 'job "nightly" is not in the host file, last good',
    })
  })

  test('newest backup damaged: it stays, and the last good one is the one before', () => {
    const backups = [
      at('2026-11-19T02:00:00Z'),
      at('2026-11-20T02:00:00Z'),
      at('2026-11-21T02:00:00Z', { problem: 'a file is missing' }),
    ]
    expect(reasonsOf(backups, { keep })).toEqual({
      '2026-11-19T02:00:00Z': 'no rule keeps it',
      '2026-11-20T02:00:00Z': 'last good, last 1',
      '2026-11-21T02:00:00Z': 'damaged: a file is missing',
    })
  })

  test('clock that was in the future for a while: its backups stay and take the place of no other one', () => {
    const backups = [at('2026-11-20T02:00:00Z'), at('2026-11-21T02:00:00Z'), at('2031-01-01T02:00:00Z')]
    expect(reasonsOf(backups, { keep: { last: 1, within: '1h' } })).toEqual({
      '2026-11-20T02:00:00Z': 'no rule keeps it',
      '2026-11-21T02:00:00Z': 'last good, last 1, within 1h',
      '2031-01-01T02:00:00Z': 'its time is in the future',
    })
  })

  test('take in progress, such as one on another host: nothing of its job goes', () => {
    const backups = [at('2026-11-20T02:00:00Z'), at('2026-11-21T02:00:00Z')]
    expect(keptOf(backups, { keep }, ['nightly'])).toHaveLength(2)
    expect(keptOf(backups, { keep }, ['other'])).toEqual(['2026-11-21T02:00:00Z'])
  })

  test('parents of an incremental one: kept through the whole chain, those of a removed one not', () => {
    const backups = [
      base('2026-11-10T02:00:00Z'),
      base('2026-11-11T02:00:00Z', '2026-11-10T02:00:00Z'),
      base('2026-11-18T02:00:00Z'),
      base('2026-11-19T02:00:00Z', '2026-11-18T02:00:00Z'),
      base('2026-11-20T02:00:00Z', '2026-11-19T02:00:00Z'),
    ]
    expect(reasonsOf(backups, { keep })).toEqual({
      '2026-11-10T02:00:00Z': 'no rule keeps it',
      '2026-11-11T02:00:00Z': 'no rule keeps it',
      '2026-11-18T02:00:00Z': 'parent of 2026-11-19T02:00:00Z',
      '2026-11-19T02:00:00Z': 'parent of 2026-11-20T02:00:00Z',
      '2026-11-20T02:00:00Z': 'last good, last 1',
    })
  })

  test('pages with wrong checksums in the newest ones: the last backup without stays, whatever the rules say', () => {
    const bad = (time: string, parent: string | null = null) => {
      const backup = base(time, parent)
      return { ...backup, physical: { ...backup.physical!, hasBadChecksums: true } }
    }
    const backups = [
      base('2026-11-17T02:00:00Z'),
      base('2026-11-18T02:00:00Z'),
      bad('2026-11-19T02:00:00Z'),
      base('2026-11-20T02:00:00Z', '2026-11-19T02:00:00Z'), // what it is on top of is not right
      bad('2026-11-21T02:00:00Z'),
    ]
    expect(reasonsOf(backups, { keep: { last: 1 } })).toMatchObject({
      '2026-11-17T02:00:00Z': 'no rule keeps it',
      '2026-11-18T02:00:00Z': 'last with right checksums',
      '2026-11-20T02:00:00Z': 'no rule keeps it',
      '2026-11-21T02:00:00Z': 'last good, last 1',
    })
  })

  test('incremental one whose parent is missing: no good backup, so the one before is the last good', () => {
    const backups = [base('2026-11-19T02:00:00Z'), base('2026-11-20T02:00:00Z', 'gone')]
    expect(reasonsOf(backups, { keep })).toEqual({
      '2026-11-19T02:00:00Z': 'last good, last 1',
      '2026-11-20T02:00:00Z': 'damaged: its parent gone is missing',
    })
  })
})

describe('point-in-time recovery', () => {
  const keep = { last: 1 }
  const backups = ['01', '08', '15', '22'].map((day) => base(`2026-11-${day}T02:00:00Z`))
  const pitrOf = (...args: Parameters<typeof decide>) =>
    decide(...args)
      .filter(({ isForPitr }) => isForPitr)
      .map(({ label }) => label)

  test('window: all in it, and the newest that had ended when it begins', () => {
    expect(pitrOf(backups, { keep, pitr: '8d' })).toEqual([
      '2026-11-08T02:00:00Z',
      '2026-11-15T02:00:00Z',
      '2026-11-22T02:00:00Z',
    ])
    expect(keptOf(backups, { keep, pitr: '8d' })).toHaveLength(3)
  })

  test('backup that had begun but not ended when the window begins: the one before it is needed', () => {
    const long = backups.map((backup, index) =>
      index === 2 ? { ...backup, ended: new Date('2026-11-15T05:00:00Z') } : backup,
    )
    expect(pitrOf(long, { keep, pitr: '167h' })[0]).toBe('2026-11-08T02:00:00Z')
    expect(pitrOf(backups, { keep, pitr: '167h' })[0]).toBe('2026-11-15T02:00:00Z')
  })

  test('window that is longer than the backups reach: all of them', () => {
    expect(pitrOf(backups, { keep, pitr: '90d' })).toHaveLength(4)
  })

  test('WAL that the oldest backup of the window needs: kept, by its own start and not by a count of backups', () => {
    const starts = [{ systemIdentifier: '7', timeline: 1, segment: 100n, parent: null }]
    expect([99n, 100n, 101n].map((number) => isSegmentNeeded(starts, { timeline: 1, number }))).toEqual([
      false,
      true,
      true,
    ])
  })

  test('WAL of a later timeline that began below the newest base: kept for a recovery from the older base', () => {
    const starts = [
      { systemIdentifier: '7', timeline: 1, segment: 100n, parent: null },
      { systemIdentifier: '7', timeline: 2, segment: 170n, parent: null },
    ]
    expect(isSegmentNeeded(starts, { timeline: 2, number: 150n })).toBe(true)
    expect(isSegmentNeeded(starts.slice(1), { timeline: 2, number: 150n })).toBe(false)
    expect(isSegmentNeeded(starts.slice(1), { timeline: 1, number: 200n })).toBe(false)
  })

  test('new system after an upgrade, with smaller LSNs and timelines: the old backups go, never the new ones', () => {
    const old = ['01', '08'].map((day) =>
      base(`2026-11-${day}T02:00:00Z`, null, {
        physical: { systemIdentifier: '6', timeline: 9, segment: 90_000n, parent: null },
      }),
    )
    const young = ['15', '22'].map((day) =>
      base(`2026-11-${day}T02:00:00Z`, null, {
        physical: { systemIdentifier: '7', timeline: 1, segment: 1n, parent: null },
      }),
    )
    expect(keptOf([...young, ...old], { keep })).toEqual(['2026-11-22T02:00:00Z'])
    expect(keptOf([...young, ...old], { keep, pitr: '10d' })).toEqual([
      '2026-11-08T02:00:00Z',
      '2026-11-15T02:00:00Z',
      '2026-11-22T02:00:00Z',
    ])
  })
})

describe('whatever there is', () => {
  const count = fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined })
  const keepSpec = fc.record({
    last: fc.integer({ min: 1, max: 6 }),
    hourly: count,
    daily: count,
    weekly: count,
    monthly: count,
    yearly: count,
    within: fc.option(
      fc.integer({ min: 1, max: 90 }).map((days) => `${days}d`),
      { nil: undefined },
    ),
  })
  const catalog = fc
    .array(
      fc.record({
        hours: fc.integer({ min: -3000, max: 30 }),
        parent: fc.option(fc.nat({ max: 5 }), { nil: null }),
        isDamaged: fc.boolean(),
        job: fc.constantFrom('nightly', 'other'),
      }),
      { maxLength: 25 },
    )
    .map((rows) => {
      const sorted = rows.toSorted((a, b) => a.hours - b.hours)
      return sorted.map(({ hours, parent, isDamaged, job }, index): KeepBackup => {
        const back = parent === null ? -1 : index - 1 - parent
        return base(
          new Date(NOW.getTime() + hours * 3_600_000).toISOString(),
          back < 0 ? null : String(back),
          {
            label: String(index),
            job,
            ...(isDamaged && { problem: 'x' }),
          },
        )
      })
    })
  const sum = (a: number | undefined, b: number | undefined) => (a ?? 0) + (b ?? 0) || undefined
  const decideAll = (backups: readonly KeepBackup[], job: KeepJob) =>
    decideKeep({
      backups,
      jobs: new Map([
        ['nightly', job],
        ['other', { keep: { last: 1 } }],
      ]),
      running: new Set(),
      now: NOW,
    })

  test('last good backup of a job: never removed', () => {
    fc.assert(
      fc.property(catalog, keepSpec, (backups, keep) => {
        const decisions = decideAll(backups, { keep })
        const byLabel = new Map(backups.map((backup) => [backup.label, backup]))
        const isGood = (label: string | null): boolean => {
          if (label === null) return true
          const backup = byLabel.get(label)!
          return backup.problem === undefined && isGood(backup.physical!.parent)
        }
        for (const job of ['nightly', 'other']) {
          const last = decisions.findLast(
            ({ label, job: own }) => own === job && isGood(label) && byLabel.get(label)!.begun <= NOW,
          )
          expect(last?.kept ?? true).toBe(true)
        }
      }),
    )
  })

  test('parent of a kept backup: never removed', () => {
    fc.assert(
      fc.property(catalog, keepSpec, (backups, keep) => {
        const kept = new Set(
          decideAll(backups, { keep, pitr: '3d' })
            .filter(({ kept }) => kept)
            .map(({ label }) => label),
        )
        for (const { label, physical } of backups) {
          const isHeld = !kept.has(label) || physical!.parent === null || kept.has(physical!.parent)
          expect(isHeld).toBe(true)
        }
      }),
    )
  })

  test('keeping more: never removes more', () => {
    fc.assert(
      fc.property(catalog, keepSpec, keepSpec, fc.nat({ max: 40 }), (backups, keep, more, pitr) => {
        const larger = {
          last: keep.last + more.last,
          hourly: sum(keep.hourly, more.hourly),
          daily: sum(keep.daily, more.daily),
          weekly: sum(keep.weekly, more.weekly),
          monthly: sum(keep.monthly, more.monthly),
          yearly: sum(keep.yearly, more.yearly),
          within: keep.within ?? more.within,
        }
        const few = decideAll(backups, { keep })
        const many = decideAll(backups, { keep: larger, pitr: `${pitr}d` })
        const lost = few.filter(({ kept }, index) => kept && !many[index]!.kept)
        expect(lost).toEqual([])
      }),
    )
  })

  test('each decision: has a reason, and is the same in whatever order the backups come', () => {
    fc.assert(
      fc.property(catalog, keepSpec, (backups, keep) => {
        const decisions = decideAll(backups, { keep })
        expect(decisions.every(({ reasons }) => reasons.length > 0)).toBe(true)
        expect(decideAll(backups.toReversed(), { keep })).toEqual(decisions)
      }),
    )
  })
})
