import { fieldsOf, isDue, parseCron, range, type Times } from './cron.ts'
import { parseExpression } from './expression.ts'
import { assertZone, type ClockChange, clockChanges, clockOf, localMinute } from './zone.ts'

/** When a timer elapses. */
export interface Calendar {
  /** Values of `OnCalendar=`, each with its time zone; the timer elapses at each of them. */
  readonly lines: readonly string[]
  /** Warnings for people: what the clock changes of the zone do to it. */
  readonly findings: readonly string[]
}

/**
 * What systemd is told about a schedule. Cron keeps its meaning: where a day of the month or a weekday
 * is enough there are two lines, since one line of systemd needs both. Steps and ranges become lists of
 * what they mean: systemd counts steps in another way, and refuses weekdays across Sunday.
 * @param schedule five fields or a word as `@daily` of cron; anything else is systemd's own
 * @param timezone IANA name, for what does not name one itself
 * @param from from when on clock changes are looked for
 * @throws {Fail} `host-file`, with the part that is wrong and a right example
 */
export function calendarOf(schedule: string, timezone: string, from = new Date()): Calendar {
  assertZone(timezone)
  if (!isCron(schedule)) {
    const { text, zone = timezone, times } = parseExpression(schedule)
    return { lines: [`${text} ${zone}`], findings: findingsOf(times, zone, from) }
  }
  const times = parseCron(schedule)
  return {
    lines: linesOf(times).map((line) => `${line} ${timezone}`),
    findings: findingsOf(times, timezone, from),
  }
}

/** Whether that is cron, right or wrong: five fields, or a word that begins with `@`. Pure. */
export function isCron(schedule: string): boolean {
  return /^[ \t]*@/.test(schedule) || fieldsOf(schedule).length === 5
}

function linesOf(times: Times): string[] {
  if (!times.isEither) return [lineOf(times)]
  return [lineOf({ ...times, weekdays: range(0, 6) }), lineOf({ ...times, days: range(1, 31) })]
}

function lineOf({ minutes, hours, days, months, weekdays }: Times): string {
  const time = `${component(hours, 24)}:${component(minutes, 60)}:00`
  const date = `*-${component(months, 12)}-${component(days, 31)}`
  return weekdays.length === 7 ? `${date} ${time}` : `${week(weekdays)} ${date} ${time}`
}

function component(values: readonly number[], all: number): string {
  if (values.length === all) return '*'
  return spans(values, (value) => String(value).padStart(2, '0'))
}

// To systemd a week begins with Monday, and a range may not go across its end.
const WEEK = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun']

function week(weekdays: readonly number[]): string {
  const days = weekdays.map((day) => (day + 6) % 7).toSorted((a, b) => a - b)
  return spans(days, (day) => WEEK[day]!)
}

/** A list in which three or more in a row are a range. */
function spans(values: readonly number[], nameOf: (value: number) => string): string {
  const rows: number[][] = []
  for (const value of values) {
    if (rows.at(-1)?.at(-1) === value - 1) rows.at(-1)!.push(value)
    else rows.push([value])
  }
  return rows
    .map((row) => (row.length < 3 ? row.map(nameOf).join(',') : `${nameOf(row[0]!)}..${nameOf(row.at(-1)!)}`))
    .join(',')
}

/** How far ahead clock changes are looked for: a day of the month meets one of them every few years. */
const YEARS = 10

function findingsOf(times: Times | undefined, zone: string, from: Date): string[] {
  const changes = clockChanges(clockOf(zone), from.getTime(), YEARS)
  const findings = [
    firstFinding(
      changes.filter((change) => change.to > change.from),
      times,
      (hit) => skipped(hit, zone),
    ),
    firstFinding(
      changes.filter((change) => change.to < change.from),
      times,
      (hit) => repeated(hit, zone),
    ),
  ]
  return findings.filter((finding) => finding !== undefined)
}

interface Hit {
  readonly change: ClockChange
  /** The first local time that is due, in milliseconds. */
  readonly due: number
  readonly times: Times | undefined
}

function firstFinding(
  changes: readonly ClockChange[],
  times: Times | undefined,
  describe: (hit: Hit) => string | undefined,
): string | undefined {
  for (const change of changes) {
    const from = Math.min(change.from, change.to)
    const minutes = range(from, Math.max(change.from, change.to) - 1, MINUTE)
    const due = times === undefined ? from : minutes.find((local) => isDue(times, localMinute(local)))
    if (due !== undefined) return describe({ change, due, times })
  }
  return undefined
}

const MINUTE = 60_000

function skipped({ change, due, times }: Hit, zone: string): string | undefined {
  if (goesOnAlike(times, (change.to - change.from) / MINUTE)) return undefined
  const clock = `the clock of ${zone} goes from ${clockTime(change.from)} to ${clockTime(change.to)}`
  return `on ${dateOf(change.from)} ${clock}: what is due in between (${clockTime(due)}) is skipped that day; ${REMEDY}`
}

function repeated({ change, due, times }: Hit, zone: string): string {
  const clock = `the clock of ${zone} goes back from ${clockTime(change.from)} to ${clockTime(change.to)}`
  const what =
    times?.hours.length === 24
      ? 'nothing runs while these times come again'
      : `what is due in between (${clockTime(due)}) runs only when that time comes first`
  return `on ${dateOf(change.from)} ${clock}: ${what}; ${REMEDY}`
}

const REMEDY = 'use another time, or timezone = "UTC"'

/** What runs in each hour keeps its pace when the clock leaves out so many minutes. */
function goesOnAlike(times: Times | undefined, gap: number): boolean {
  if (times?.hours.length !== 24) return false
  return times.minutes.every((minute) => times.minutes.includes((minute + gap) % 60))
}

function clockTime(local: number): string {
  return new Date(local).toISOString().slice(11, 16)
}

function dateOf(local: number): string {
  return new Date(local).toISOString().slice(0, 10)
}
