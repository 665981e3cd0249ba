import { describe, expect, test } from 'vitest'
import { Fail } from '../../scripts/core/fail.ts'
import { calendarOf, isCron } from '../../scripts/schedule/calendar.ts'

const FROM = new Date('2026-06-01T00:00:00Z')

function lines(schedule: string, timezone = 'UTC'): readonly string[] {
  return calendarOf(schedule, timezone, FROM).lines
}

function findings(schedule: string, timezone: string): readonly string[] {
  return calendarOf(schedule, timezone, FROM).findings
}

function refusal(schedule: string, timezone = 'UTC'): Fail {
  try {
    calendarOf(schedule, timezone, FROM)
  } catch (error) {
    if (error instanceof Fail) return error
    throw error
  }
  throw new Error(`${JSON.stringify(schedule)} was not refused`)
}

describe('cron: lines of systemd', () => {
  test.each([
    ['0 2 * * *', '*-*-* 02:00:00 UTC'],
    ['  0\t2 *  * * ', '*-*-* 02:00:00 UTC'],
    ['* * * * *', '*-*-* *:*:00 UTC'],
    ['*/15 * * * *', '*-*-* *:00,15,30,45:00 UTC'],
    ['0 5 * * mon', 'Mon *-*-* 05:00:00 UTC'],
    ['0 5 * * MON', 'Mon *-*-* 05:00:00 UTC'],
    ['0 5 1 JAN *', '*-01-01 05:00:00 UTC'],
    ['0 5 * jan-mar,Dec *', '*-01..03,12-* 05:00:00 UTC'],
    ['0 5 1-3 * *', '*-*-01..03 05:00:00 UTC'],
    ['0 8-18/5 * * *', '*-*-* 08,13,18:00:00 UTC'],
    ['0-59/7 0 * * *', '*-*-* 00:00,07,14,21,28,35,42,49,56:00 UTC'],
    ['5,5,5-6 0 * * *', '*-*-* 00:05,06:00 UTC'],
    ['00 02 01 01 *', '*-01-01 02:00:00 UTC'],
  ])('%j: %s', (schedule, line) => {
    expect(lines(schedule)).toEqual([line])
  })

  test('a very long list: its line is short', () => {
    expect(lines(`${'0,'.repeat(50_000)}0 2 * * *`)).toEqual(['*-*-* 02:00:00 UTC'])
  })

  test.each([
    ['0 0 * * 0', 'Sun'],
    ['0 0 * * 7', 'Sun'],
    ['0 0 * * sun', 'Sun'],
    ['0 0 * * 0,7', 'Sun'],
    ['0 0 * * 5-7', 'Fri..Sun'],
    ['0 0 * * fri-sun', 'Fri..Sun'],
    ['0 0 * * fri-mon', 'Mon,Fri..Sun'],
    ['0 0 * * sat-sun', 'Sat,Sun'],
    ['0 0 * * 7-1', 'Mon,Sun'],
    ['0 0 * * sun-tue', 'Mon,Tue,Sun'],
    ['0 0 * * 1-5', 'Mon..Fri'],
    ['0 0 * * fri-tue/2', 'Tue,Fri,Sun'],
    ['0 0 * * */2', 'Tue,Thu,Sat,Sun'],
    ['0 0 * * 1-7/2', 'Mon,Wed,Fri,Sun'],
  ])('weekdays: %s: no range goes across Sunday, where the week of systemd ends', (schedule, days) => {
    expect(lines(schedule)).toEqual([`${days} *-*-* 00:00:00 UTC`])
  })

  test.each(['0 0 * * 0-7', '0 0 * * 0-6', '0 0 * * mon-sun', '0 0 */1 * *', '0 0 1-31 * *'])(
    'days: %s: all of them need no name',
    (schedule) => {
      expect(lines(schedule)).toEqual(['*-*-* 00:00:00 UTC'])
    },
  )

  test('days: of the month and of the week: one of them is enough, and one line would need both', () => {
    expect(lines('30 4 1,15 * fri')).toEqual(['*-*-01,15 04:30:00 UTC', 'Fri *-*-* 04:30:00 UTC'])
    expect(lines('0 0 1 6 1-5', 'Asia/Tokyo')).toEqual([
      '*-06-01 00:00:00 Asia/Tokyo',
      'Mon..Fri *-06-* 00:00:00 Asia/Tokyo',
    ])
  })

  test.each([
    ['0 0 */10 * mon', ['Mon *-*-01,11,21,31 00:00:00 UTC']],
    ['0 0 *,5 * mon', ['Mon *-*-* 00:00:00 UTC']],
    ['0 0 13 * */5', ['Fri,Sun *-*-13 00:00:00 UTC']],
    ['0 0 1-31/10 * mon', ['*-*-01,11,21,31 00:00:00 UTC', 'Mon *-*-* 00:00:00 UTC']],
    ['0 0 5,* * mon', ['*-*-* 00:00:00 UTC']],
  ])('days: %s: a field that begins with a star makes both necessary, whatever follows', (schedule, all) => {
    expect(lines(schedule)).toEqual(all)
  })

  test.each([
    ['@hourly', '*-*-* *:00:00 UTC'],
    ['@daily', '*-*-* 00:00:00 UTC'],
    ['@midnight', '*-*-* 00:00:00 UTC'],
    ['@weekly', 'Sun *-*-* 00:00:00 UTC'], // systemd's own weekly is on Mondays
    ['@monthly', '*-*-01 00:00:00 UTC'],
    ['@yearly', '*-01-01 00:00:00 UTC'],
    ['@annually', '*-01-01 00:00:00 UTC'],
    [' @Daily ', '*-*-* 00:00:00 UTC'],
  ])('word: %s', (schedule, line) => {
    expect(lines(schedule)).toEqual([line])
  })
})

describe('cron: refusals', () => {
  test.each([
    ['60 * * * *', 'the minute 60 is not within 0-59'],
    ['0 24 * * *', 'the hour 24 is not within 0-23'],
    ['0 0 0 * *', 'the day of the month 0 is not within 1-31'],
    ['0 0 32 * *', 'the day of the month 32 is not within 1-31'],
    ['0 0 1 0 *', 'the month 0 is not within 1-12'],
    ['0 0 1 13 *', 'the month 13 is not within 1-12'],
    ['0 0 * * 8', 'the day of the week 8 is not within 0-7'],
    ['0 0 * * moon', 'the day of the week "moon" is no number and no name (did you mean "mon"?)'],
    ['0 0 * januar *', 'the month "januar" is no number and no name'],
    ['0 0 mon * *', 'the day of the month "mon" is no number'],
    ['-5 0 * * *', 'the minute "-5" is no value'],
    ['0, 2 * * *', 'the minute "" is no value'],
    ['1.5 2 * * *', 'the minute "1.5" is no value'],
    ['*-5 2 * * *', 'the minute "*-5" is no value'],
    ['** 2 * * *', 'the minute "**" is no value'],
    ['1-2-3 2 * * *', 'the minute "1-2-3" is no value'],
    ['99999999999999999999 2 * * *', 'the minute "99999999999999999999" is no number'],
    ['*/0 * * * *', 'the minute "*/0" has the step "0", which should be a number from 1 to 59'],
    ['*/90 * * * *', 'the minute "*/90" has the step "90", which should be a number from 1 to 59'],
    ['*/ * * * *', 'the minute "*/" has the step ""'],
    ['*/1/2 * * * *', 'the minute "*/1/2" is no value'],
    ['5/10 * * * *', 'the minute "5/10" has a step, but no range'],
    ['0 22-3 * * *', 'the hour "22-3" is a range that ends before it begins'],
    ['0 0 30 2 *', 'the day of the month 30 never comes in month 2'],
    ['0 0 31 4,jun,9,11 *', 'the day of the month 31 never comes in month 4, 6, 9, 11'],
    ['0 0 30 2 mon', 'the day of the month 30 never comes in month 2'],
    ['0 0 L * *', '"L" has "L" (the last one)'],
    ['0 0 L-3 * *', '"L-3" has "L" (the last one)'],
    ['0 0 * * 5L', '"5L" has "L" (the last one)'],
    ['0 0 15W * *', '"15W" has "W" (the nearest working day)'],
    ['0 0 LW * *', '"LW" has "L" (the last one)'],
    ['0 0 * * fri#2', '"fri#2" has "#" (the n-th weekday of a month)'],
    ['0 0 13 * +fri', '"+fri" has "+" (both days have to fit)'],
    ['0 0 ? * mon', '"?" has "?"'],
    ['H 2 * * *', '"H" has a random time'],
    ['0~30 2 * * *', '"0~30" has a random time'],
    ['0 0 2 * * *', 'it has 6 fields, cron has five'],
    ['0 0 2 * * * 2027', 'it has 7 fields, cron has five'],
    ['0 2 * *', 'it has 4 fields, cron has five'],
    ['@reboot', '"@reboot" is no time'],
    ['@dayly', 'cron knows no word "@dayly" (did you mean "@daily"?)'],
    ['@daily Europe/Vienna', 'cron knows no word "@daily europe/vienna"'],
    ['@', 'cron knows no word "@"'],
  ])('%s: %s', (schedule, what) => {
    const { code, message, hint } = refusal(schedule)
    expect(code).toBe('host-file')
    expect(message).toContain(`the schedule ${JSON.stringify(schedule)} cannot be used: `)
    expect(message).toContain(what)
    expect(hint).toMatch(/"/)
  })

  test('a leap day: it comes, though not each year', () => {
    expect(lines('0 0 29 2 *')).toEqual(['*-02-29 00:00:00 UTC'])
    expect(lines('0 0 31 2,3 *')).toEqual(['*-02,03-31 00:00:00 UTC'])
  })

  test('"@reboot": it is said what to do instead', () => {
    expect(refusal('@reboot').hint).toContain('persistent = true')
  })
})

describe('systemd expression: as it is', () => {
  test.each([
    ['daily', 'daily UTC'],
    ['DAILY', 'DAILY UTC'],
    ['Mon..Fri 02:00', 'Mon..Fri 02:00 UTC'],
    ['Monday,Sun *-*-* 02:00:00', 'Monday,Sun *-*-* 02:00:00 UTC'],
    ['*:0/5', '*:0/5 UTC'],
    ['*-*~01 02:00', '*-*~01 02:00 UTC'],
    ['2027-12-24', '2027-12-24 UTC'],
    ['  Mon   1-5\t12:00 ', 'Mon 1-5 12:00 UTC'],
    ['02:00 Europe/Vienna', '02:00 Europe/Vienna'],
    ['weekly America/Argentina/Buenos_Aires', 'weekly America/Argentina/Buenos_Aires'],
    ['02:00 UTC', '02:00 UTC'],
  ])('%j: %s', (schedule, line) => {
    expect(lines(schedule)).toEqual([line])
  })

  test.each([
    ['', 'it is empty'],
    [' \t ', 'it is empty'],
    ['dayly', '"dayly" is no weekday, no date and no time (did you mean "daily"?)'],
    ['every day 02:00', '"every" is no weekday'],
    ['Mon daily', 'there is no time zone "daily"'],
    ['02:00 Europe/Viena', 'there is no time zone "Europe/Viena" (did you mean "Europe/Vienna"?)'],
    ['02:00 utc', 'there is no time zone "utc" (did you mean "UTC"?)'],
    ['Mon *-*-* 02:00 03:00', '"03:00" is too much'],
    ['--version', '"--version" is no part of a date or a time'],
    ['daily\n[Service]', '"\\n" has no place in it'],
    ['daily\r', '"\\r" has no place in it'],
    ['*-*-* 02:00:00\nOnCalendar=minutely', '"\\n" has no place in it'],
    ['%H 02:00', '"%" has no place in it'],
    ['"02:00"', '"\\"" has no place in it'],
    ["'02:00'", '"\'" has no place in it'],
    ['02:00\\', '"\\\\" has no place in it'],
    ['02:00 #', '"#" has no place in it'],
    ['02:00;', '";" has no place in it'],
    ['$(id)', '"$" has no place in it'],
    ['daily\0', '"\\u0000" has no place in it'],
    ['daily\u001B[31m', '"\\u001b" has no place in it'],
    ['02:00\u00A0', '"\u00A0" has no place in it'],
    ['täglich', '"ä" has no place in it'],
  ])('%j: %s', (schedule, what) => {
    const { code, message, hint } = refusal(schedule)
    expect(code).toBe('host-file')
    expect(message).toContain(what)
    expect(message.length).toBeLessThan(400)
    expect(hint).toBeDefined()
  })

  test('a very long one: refused, and only its beginning is repeated', () => {
    const { message } = refusal('1'.repeat(100_000))
    expect(message).toContain('it has 100000 characters')
    expect(message.length).toBeLessThan(400)
  })

  test.each([
    ['0 2 * * *\n', '"*\\n" is no value'],
    ['0 2 * * %H', '"%H" is no value'],
    ['0 2 * * "mon"', '"\\"mon\\"" is no value'],
    ['0 2 * * \0', '"\\u0000" is no value'],
    ['@daily\n', 'cron knows no word "@daily\\n"'],
    [`0 2 * * ${'x'.repeat(50_000)}`, 'is no number and no name'],
  ])('hostile cron: %#: nothing of it reaches a unit, and the message is one line', (schedule, what) => {
    const { message } = refusal(schedule)
    expect(message).toContain(what)
    // oxlint-disable-next-line no-control-regex -- they are what must not be there
    expect(message).not.toMatch(/[\0-\u001F]/)
    expect(message.length).toBeLessThan(600)
  })
})

describe('which of the two', () => {
  test.each([
    ['0 2 * * *', true],
    ['@daily', true],
    ['a b c d e', true],
    ['daily', false],
    ['Mon *-*-* 02:00:00 UTC', false],
    ['0 0 2 * * *', false],
  ])('%s: cron %s', (schedule, expected) => {
    expect(isCron(schedule)).toBe(expected)
  })
})

describe('time zone', () => {
  test.each([
    'UTC',
    'Etc/UTC',
    'Europe/Vienna',
    'Asia/Kolkata',
    'America/Argentina/Buenos_Aires',
    'Etc/GMT+5',
  ])('%s: every line has it', (zone) => {
    expect(lines('0 12 1 * mon', zone)).toEqual([`*-*-01 12:00:00 ${zone}`, `Mon *-*-* 12:00:00 ${zone}`])
  })

  test.each([
    ['Europe/Viena', 'Europe/Vienna'],
    ['europe/vienna', 'Europe/Vienna'],
    ['utc', 'UTC'],
    ['EUROPE/VIENNA', 'Europe/Vienna'],
    ['Amerika/New_York', 'America/New_York'],
  ])('%s: refused, for systemd minds the case: %s is meant', (zone, meant) => {
    expect(refusal('0 2 * * *', zone).message).toBe(
      `there is no time zone ${JSON.stringify(zone)} (did you mean "${meant}"?)`,
    )
  })

  test.each(['', '+01:00', 'Vienna/..', '../../etc/passwd', 'UTC\nx', 'Xyzzy', 'Europe/'])(
    '%j: refused',
    (zone) => {
      expect(refusal('0 2 * * *', zone).message).toContain(`there is no time zone ${JSON.stringify(zone)}`)
      expect(refusal('daily', zone).code).toBe('host-file')
    },
  )
})

describe('clock changes: what they do is said beforehand', () => {
  const REMEDY = 'use another time, or timezone = "UTC"'

  test('a time that is left out, and comes twice: the day is named for both', () => {
    expect(findings('30 2 * * *', 'Europe/Vienna')).toEqual([
      `on 2027-03-28 the clock of Europe/Vienna goes from 02:00 to 03:00: what is due in between (02:30) is skipped that day; ${REMEDY}`,
      `on 2026-10-25 the clock of Europe/Vienna goes back from 03:00 to 02:00: what is due in between (02:30) runs only when that time comes first; ${REMEDY}`,
    ])
  })

  test('each hour: none is missing in spring, a repeated one runs nothing', () => {
    expect(findings('*/15 * * * *', 'America/New_York')).toEqual([
      `on 2026-11-01 the clock of America/New_York goes back from 02:00 to 01:00: nothing runs while these times come again; ${REMEDY}`,
    ])
  })

  test('half an hour: only what is due within it', () => {
    expect(findings('20 2 * * *', 'Australia/Lord_Howe')).toEqual([
      `on 2026-10-04 the clock of Australia/Lord_Howe goes from 02:00 to 02:30: what is due in between (02:20) is skipped that day; ${REMEDY}`,
    ])
    expect(findings('15 * * * *', 'Australia/Lord_Howe')[0]).toContain('(02:15) is skipped')
    expect(findings('40 2 * * *', 'Australia/Lord_Howe')).toEqual([])
  })

  test('one weekday or day: only where the clock changes on such a day within years', () => {
    expect(findings('30 2 * * 1-6', 'Europe/Vienna')).toEqual([])
    expect(findings('30 2 1 * *', 'Europe/Vienna')).toEqual([])
    expect(findings('30 2 31 * *', 'Europe/Vienna')).toEqual([
      expect.stringContaining('on 2030-03-31'),
      expect.stringContaining('on 2027-10-31'),
    ])
    expect(findings('30 2 * 1,2,4-9 *', 'Europe/Vienna')).toEqual([])
  })

  test.each([
    ['0 2 * * *', 'UTC'],
    ['30 2 * * *', 'Asia/Kolkata'],
    ['30 4 * * *', 'Europe/Vienna'],
    ['0 3 * * *', 'Europe/Vienna'],
    ['59 1 * * *', 'Europe/Vienna'],
    ['02:30 UTC', 'Europe/Vienna'],
    ['daily', 'Europe/Vienna'],
    ['Mon..Sat 02:30', 'Europe/Vienna'],
    ['*-*~01 12:00', 'Europe/Vienna'],
    ['*-06-* 02:30', 'Europe/Vienna'],
  ])('%s in %s: nothing to say', (schedule, zone) => {
    expect(findings(schedule, zone)).toEqual([])
  })

  test.each([
    ['02:30', 'Europe/Vienna', 2],
    ['02:00/10', 'Europe/Vienna', 2],
    ['0/2:30', 'Europe/Vienna', 2],
    ['1..4:30', 'Europe/Vienna', 2],
    ['Sat,Sun 02:30', 'Europe/Vienna', 2],
    ['Fri..Sun *-*-25..31 02:30', 'Europe/Vienna', 2],
    ['02:30 Europe/Vienna', 'UTC', 2],
    ['hourly', 'Europe/Vienna', 1],
    ['daily', 'America/Santiago', 1], // it goes from 00:00 to 01:00, and back from 24:00
    ['*-*~01 02:30', 'Europe/Vienna', 2], // some months end with such a day
  ])('%s in %s: %i findings', (schedule, zone, count) => {
    expect(findings(schedule, zone)).toHaveLength(count)
  })
})
