import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'

/** The minutes at which something is due, as cron keeps them. Every list is sorted and has no value twice. */
export interface Times {
  /** 0 to 59. */
  readonly minutes: readonly number[]
  /** 0 to 23. */
  readonly hours: readonly number[]
  /** Of the month: 1 to 31. */
  readonly days: readonly number[]
  /** 1 to 12. */
  readonly months: readonly number[]
  /** 0 is Sunday, 6 is Saturday. */
  readonly weekdays: readonly number[]
  /** One of `days` and `weekdays` is enough; otherwise both have to fit. */
  readonly isEither: boolean
}

/** A time of day without a zone. */
export interface LocalMinute {
  readonly year: number
  readonly month: number
  readonly day: number
  readonly hour: number
  readonly minute: number
}

/**
 * Reads five fields, or a word as `@daily`, as the cron of Debian does (entry.c of Vixie cron): when
 * both days are restricted one of them is enough, but a field whose first character is `*` does not
 * count as restricted, whatever follows. Ranges of weekdays may cross Sunday, which that cron refuses.
 * Pure.
 * @throws {Fail} `host-file`, with the part that is wrong
 */
export function parseCron(text: string): Times {
  const words = fieldsOf(wordOf(text))
  if (words.length !== 5) throw wrongCount(text, words)
  const [minutes, hours, days, months, weekdays] = words.map((word, index) =>
    valuesOf(word, FIELDS[index]!, text),
  ) as [number[], number[], number[], number[], number[]]
  const isRestricted = (word: string) => !word.startsWith('*')
  const isEither = isRestricted(words[2]!) && isRestricted(words[4]!)
  assertSomeDate(days, months, text)
  if (isEither && (days.length === 31 || weekdays.length === 7)) {
    return { minutes, hours, days: range(1, 31), months, weekdays: range(0, 6), isEither: false }
  }
  return { minutes, hours, days, months, weekdays, isEither }
}

/** The parts of a line of cron. Pure. */
export function fieldsOf(text: string): string[] {
  return text.split(/[ \t]+/).filter((word) => word !== '')
}

/** Whether something is due in that minute. Pure. */
export function isDue(times: Times, at: LocalMinute): boolean {
  if (!times.minutes.includes(at.minute) || !times.hours.includes(at.hour)) return false
  if (!times.months.includes(at.month)) return false
  const isDay = times.days.includes(at.day)
  const isWeekday = times.weekdays.includes(new Date(Date.UTC(at.year, at.month - 1, at.day)).getUTCDay())
  return times.isEither ? isDay || isWeekday : isDay && isWeekday
}

/** All whole numbers from one to another, both included. Pure. */
export function range(from: number, to: number, step = 1): number[] {
  return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => from + index * step)
}

interface Field {
  readonly name: string
  readonly low: number
  readonly high: number
  /** Of the values from `low` on. */
  readonly names: readonly string[]
  /** A right one, for hints. */
  readonly example: string
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']

const FIELDS: readonly Field[] = [
  { name: 'minute', low: 0, high: 59, names: [], example: '"0", "*/15" or "0,30"' },
  { name: 'hour', low: 0, high: 23, names: [], example: '"2", "8-18" or "*/6"' },
  { name: 'day of the month', low: 1, high: 31, names: [], example: '"*", "1" or "1,15"' },
  { name: 'month', low: 1, high: 12, names: MONTHS, example: '"*", "jan" or "1-6"' },
  { name: 'day of the week', low: 0, high: 7, names: WEEKDAYS, example: '"*", "mon-fri" or "0,6"' },
]

/** What the words mean to cron: a week begins with Sunday there, unlike systemd's `weekly`. */
const WORDS: Readonly<Record<string, string>> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@hourly': '0 * * * *',
}

function wordOf(text: string): string {
  const word = fieldsOf(text.toLowerCase()).join(' ')
  if (!word.startsWith('@')) return text
  const meaning = WORDS[word]
  if (meaning !== undefined) return meaning
  if (word === '@reboot') {
    throw wrong(
      text,
      '"@reboot" is no time',
      'Give a time: "0 2 * * *"; with persistent = true a run that was missed while the host was off is made up for after its start.',
    )
  }
  const words = Object.keys(WORDS)
  throw wrong(
    text,
    `cron knows no word ${quote(word)}${didYouMean(word, words)}`,
    `There is: ${words.join(', ')}; or give five fields: "0 2 * * *"`,
  )
}

function valuesOf(word: string, field: Field, text: string): number[] {
  const values = word.split(',').flatMap((item) => itemValues(item, field, text))
  const isWeek = field.high === 7
  return [...new Set(isWeek ? values.map((value) => value % 7) : values)].toSorted((a, b) => a - b)
}

/** One of a list: a value, a range, all; the last two with a step. */
function itemValues(item: string, field: Field, text: string): number[] {
  assertNoExtra(item, field, text)
  const parts = /^(\*|[a-z0-9]+)(?:-([a-z0-9]+))?(?:\/([^/]*))?$/i.exec(item)
  const example = `A right ${field.name} is ${field.example}.`
  if (parts === null || (parts[1] === '*' && parts[2] !== undefined)) {
    throw wrong(
      text,
      `the ${field.name} ${quote(item)} is no value, no range a-b, and no step */n or a-b/n`,
      example,
    )
  }
  const [, first, last, step] = parts
  if (last === undefined && first !== '*') {
    if (step === undefined) return [valueOf(first!, field, text)]
    throw wrong(
      text,
      `the ${field.name} ${quote(item)} has a step, but no range`,
      `Say where it ends: "${first}-${field.high === 7 ? 6 : field.high}/${step}"`,
    )
  }
  const [from, to] = first === '*' ? [field.low, field.high] : rangeOf([first!, last!], field, { item, text })
  return range(from, to, step === undefined ? 1 : stepOf(step, field, { item, text }))
}

interface Where {
  readonly item: string
  readonly text: string
}

function rangeOf([first, last]: [string, string], field: Field, { item, text }: Where): [number, number] {
  const from = valueOf(first, field, text)
  const to = valueOf(last, field, text)
  if (from <= to) return [from, to]
  if (field.high === 7) return [from, to + 7]
  throw wrong(
    text,
    `the ${field.name} ${quote(item)} is a range that ends before it begins`,
    `Write two ranges: "${from}-${field.high},${field.low}-${to}"`,
  )
}

function stepOf(step: string, field: Field, { item, text }: Where): number {
  const value = /^\d{1,4}$/.test(step) ? Number(step) : 0
  const most = field.high === 7 ? 6 : field.high
  if (value >= 1 && value <= most) return value
  throw wrong(
    text,
    `the ${field.name} ${quote(item)} has the step ${quote(step)}, which should be a number from 1 to ${most}`,
    `A step only counts within its own field: "*/${field.high === 59 ? 15 : 2}" begins anew with each ${FIELDS[FIELDS.indexOf(field) + 1]?.name ?? 'week'}.`,
  )
}

function valueOf(word: string, field: Field, text: string): number {
  const named = field.names.indexOf(word.toLowerCase())
  if (named !== -1) return field.low + named
  const value = /^\d{1,4}$/.test(word) ? Number(word) : undefined
  if (value !== undefined && value >= field.low && value <= field.high) return value
  throw wrong(
    text,
    value === undefined
      ? `the ${field.name} ${quote(word)} is no number${field.names.length > 0 ? ' and no name' : ''}${didYouMean(word, field.names)}`
      : `the ${field.name} ${word} is not within ${field.low}-${field.high}`,
    `A right ${field.name} is ${field.example}.`,
  )
}

/** What other programs call cron too, and what says the same here. */
const EXTRAS: readonly (readonly [pattern: RegExp, what: string, hint: string])[] = [
  [
    /^L(-\d+|W)?$|^(\d+|[a-z]{3})L$/i,
    '"L" (the last one)',
    'Write a systemd expression: "*-*~01 02:00:00" is the last day of each month.',
  ],
  [
    /^\d+W$/i,
    '"W" (the nearest working day)',
    'Name the days: "0 2 * * mon-fri", or those of the month: "0 2 1 * *".',
  ],
  [
    /#/,
    '"#" (the n-th weekday of a month)',
    'Write a systemd expression: "Mon *-*-01..07 02:00:00" is the first Monday of each month.',
  ],
  [
    /\+/,
    '"+" (both days have to fit)',
    'Write a systemd expression: "Fri *-*-13 02:00:00" is each Friday the 13th.',
  ],
  [/\?/, '"?"', 'Write "*" instead.'],
  [
    /~|^H(\(.*\))?(\/\d+)?$/i,
    'a random time',
    'Give a time, and say how much later a run may begin: randomized_delay = "15min".',
  ],
]

function assertNoExtra(item: string, field: Field, text: string): void {
  const extra = EXTRAS.find(([pattern]) => pattern.test(item))
  if (!extra) return
  const [, what, hint] = extra
  throw wrong(text, `the ${field.name} ${quote(item)} has ${what}, which cron does not know`, hint)
}

const LONGEST = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

/** A date that never comes is a mistake, even where a weekday would do too. */
function assertSomeDate(days: readonly number[], months: readonly number[], text: string): void {
  if (months.some((month) => days[0]! <= LONGEST[month - 1]!)) return
  throw wrong(
    text,
    `the day of the month ${days.join(', ')} never comes in month ${months.join(', ')}`,
    'Name a day that those months have; the last day of each month is "*-*~01 02:00:00", a systemd expression.',
  )
}

function wrongCount(text: string, words: readonly string[]): Fail {
  const hint = 'Five fields are: minute, hour, day of the month, month, day of the week: "0 2 * * *"'
  if (words.length <= 5) return wrong(text, `it has ${words.length} of the five fields of cron`, hint)
  return wrong(text, `it has ${words.length} fields: cron has five, and knows no seconds and no years`, hint)
}

/** An error that names the expression and the part of it that is wrong. */
export function wrong(text: string, what: string, hint: string): Fail {
  return new Fail('host-file', `the schedule ${quote(text)} cannot be used: ${what}`, { hint })
}

/** Any text in one line of bounded length. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}...` : text)
}
