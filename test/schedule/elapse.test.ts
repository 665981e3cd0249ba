import { afterEach, describe, expect, test, vi } from 'vitest'
import { calendarOf } from '../../scripts/schedule/calendar.ts'
import { assertCalendar, nextElapses } from '../../scripts/schedule/elapse.ts'

async function next(schedule: string, from: string, { timezone = 'UTC', count = 3 } = {}): Promise<string[]> {
  const times = await nextElapses({ schedule, timezone }, new Date(from), count)
  return times.map((time) => time.toISOString().replace(':00.000Z', ''))
}

afterEach(() => {
  vi.unstubAllEnvs()
})

describe.each([
  ['cron', '0 2 * * *', '0 2 29 2 *', '30 2 * * *'],
  ['systemd', '02:00', '*-02-29 02:00', '02:30'],
])('%s: next elapses', (_name, daily, leapDay, atNight) => {
  test('from: that very moment does not count, what is later does', async () => {
    expect(await next(daily, '2027-01-01T02:00:00Z', { count: 1 })).toEqual(['2027-01-02T02:00'])
    expect(await next(daily, '2027-01-01T01:59:59.999Z', { count: 1 })).toEqual(['2027-01-01T02:00'])
    expect(await next(daily, '2027-01-01T02:00:00.001Z', { count: 1 })).toEqual(['2027-01-02T02:00'])
  })

  test('leap day: 2100 has none', async () => {
    expect(await next(leapDay, '2096-01-01T00:00:00Z', { count: 2 })).toEqual([
      '2096-02-29T02:00',
      '2104-02-29T02:00',
    ])
  })

  test('zone: the time of day stays, the time in UTC does not', async () => {
    expect(await next(daily, '2027-03-27T00:00:00Z', { timezone: 'America/New_York', count: 1 })).toEqual([
      '2027-03-27T06:00',
    ])
    expect(await next(daily, '2027-01-27T00:00:00Z', { timezone: 'America/New_York', count: 1 })).toEqual([
      '2027-01-27T07:00',
    ])
  })

  test('clock set forward: the run of that day is skipped, not moved', async () => {
    expect(await next(atNight, '2027-03-27T00:00:00Z', { timezone: 'Europe/Vienna', count: 2 })).toEqual([
      '2027-03-27T01:30',
      '2027-03-29T00:30',
    ])
  })

  test('clock set back: it runs once, the first time', async () => {
    expect(await next(atNight, '2027-10-30T12:00:00Z', { timezone: 'Europe/Vienna', count: 2 })).toEqual([
      '2027-10-31T00:30',
      '2027-11-01T01:30',
    ])
  })

  test('none: nothing is asked for', async () => {
    expect(await next(daily, '2027-01-01T00:00:00Z', { count: 0 })).toEqual([])
  })
})

describe('cron: next elapses', () => {
  test('day of the month or weekday: both lines count', async () => {
    expect(await next('30 4 1,15 * fri', '2026-04-29T00:00:00Z', { count: 5 })).toEqual([
      '2026-05-01T04:30',
      '2026-05-08T04:30',
      '2026-05-15T04:30',
      '2026-05-22T04:30',
      '2026-05-29T04:30',
    ])
  })

  test('day of the month with a star at its beginning: both have to fit', async () => {
    expect(await next('0 0 */10 * mon', '2027-01-01T00:00:00Z')).toEqual([
      '2027-01-11T00:00',
      '2027-02-01T00:00',
      '2027-03-01T00:00',
    ])
  })

  test('each hour: the repeated one is left out', async () => {
    expect(await next('0 * * * *', '2027-10-30T23:30:00Z', { timezone: 'Europe/Vienna' })).toEqual([
      '2027-10-31T00:00',
      '2027-10-31T02:00',
      '2027-10-31T03:00',
    ])
  })

  test('environment: its zone does not count', async () => {
    vi.stubEnv('TZ', 'Asia/Tokyo')
    expect(await next('0 2 * * *', '2027-01-01T00:00:00Z', { count: 1 })).toEqual(['2027-01-01T02:00'])
    expect(await next('02:00', '2027-01-01T00:00:00Z', { count: 1 })).toEqual(['2027-01-01T02:00'])
  })

  test('without systemd: it is known all the same', async () => {
    vi.stubEnv('PATH', '/nonexistent')
    expect(await next('@weekly', '2027-01-01T00:00:00Z', { count: 1 })).toEqual(['2027-01-03T00:00'])
  })

  test.each([
    ['61 * * * *', 'UTC', 'the minute 61'],
    ['0 2 * * *', 'Europe/Viena', 'did you mean "Europe/Vienna"?'],
  ])('%s in %s: refused', async (schedule, timezone, what) => {
    await expect(next(schedule, '2027-01-01T00:00:00Z', { timezone })).rejects.toMatchObject({
      code: 'host-file',
      message: expect.stringContaining(what) as string,
    })
  })
})

describe('systemd expression: next elapses', () => {
  test('zone of its own: the configured one does not count', async () => {
    expect(await next('02:00 UTC', '2027-01-01T00:00:00Z', { timezone: 'Asia/Tokyo', count: 1 })).toEqual([
      '2027-01-01T02:00',
    ])
  })

  test('one time only: there are no more', async () => {
    expect(await next('2027-05-01 02:00', '2027-01-01T00:00:00Z')).toEqual(['2027-05-01T02:00'])
    expect(await next('2027-05-01 02:00', '2028-01-01T00:00:00Z')).toEqual([])
  })

  test('what systemd does not know: its own words are told', async () => {
    await expect(next('Sun..Mon 02:00', '2027-01-01T00:00:00Z')).rejects.toMatchObject({
      code: 'host-file',
      message: 'systemd refuses the calendar expression "Sun..Mon 02:00 UTC"',
      hint: expect.stringContaining('Failed to parse calendar specification') as string,
    })
  })

  test('without systemd: it is said what to write instead', async () => {
    vi.stubEnv('PATH', '/nonexistent')
    await expect(next('Mon 02:00', '2027-01-01T00:00:00Z')).rejects.toMatchObject({
      code: 'not-permitted',
      hint: 'Write the schedule in cron: "0 2 * * *"',
    })
  })
})

describe('systemd has the last word', () => {
  test.each([
    '0 2 * * *',
    '30 4 1,15 * fri',
    '*/7 8-18/3 */2 jan-mar fri-mon',
    '0 0 29 2 *',
    'quarterly',
    '*:0/5',
  ])('%s: it is accepted', async (schedule) => {
    await expect(assertCalendar(calendarOf(schedule, 'Europe/Vienna'))).resolves.toBeUndefined()
  })

  test('a date that never comes: refused, although the exit code of systemd-analyze is 0', async () => {
    await expect(assertCalendar(calendarOf('*-02-30', 'UTC'))).rejects.toMatchObject({
      code: 'host-file',
      message: 'the calendar expression "*-02-30 UTC" never elapses',
    })
  })

  test('a year that is over: refused', async () => {
    await expect(assertCalendar(calendarOf('2020-01-01', 'UTC'))).rejects.toThrow('never elapses')
  })

  test('one bad line of two: a timer would leave it out without a word', async () => {
    const lines = ['*-*-* 02:00:00 UTC', '*-*-* 25:00:00 UTC']
    await expect(assertCalendar({ lines, findings: [] })).rejects.toMatchObject({
      code: 'host-file',
      message: 'systemd refuses the calendar expression "*-*-* 25:00:00 UTC"',
    })
    await expect(
      assertCalendar({ lines: ['*-02-30 UTC', '*-*-* 02:00:00 UTC'], findings: [] }),
    ).rejects.toThrow('"*-02-30 UTC" never elapses')
  })

  test('a zone that this host does not have: refused', async () => {
    await expect(
      assertCalendar({ lines: ['*-*-* 02:00:00 Europe/Nowhere'], findings: [] }),
    ).rejects.toMatchObject({ code: 'host-file' })
  })

  test('without systemd: nothing is refused', async () => {
    vi.stubEnv('PATH', '/nonexistent')
    await expect(assertCalendar({ lines: ['nonsense'], findings: [] })).resolves.toBeUndefined()
  })
})
