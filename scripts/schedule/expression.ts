import { didYouMean } from '../core/nearest.ts'
import { fieldsOf, quote, range, type Times, wrong } from './cron.ts'
import { assertZone } from './zone.ts'

/** A calendar expression of systemd, taken apart as far as it is needed here. */
export interface Expression {
  /** As it was written, without its zone, one blank between its parts. */
  readonly text: string
  /** What it names by itself. */
  readonly zone: string | undefined
  /** When it is due at most: seconds and years are left out. Undefined where that is not known. */
  readonly times: Times | undefined
}

/**
 * Reads a calendar expression of systemd (systemd.time(7)) as far as that can be done without systemd,
 * whose own program has the last word. Pure.
 * @throws {Fail} `host-file` for what certainly is none, and for an unknown zone
 */
export function parseExpression(text: string): Expression {
  assertCharacters(text)
  const words = fieldsOf(text)
  if (words.length === 0) throw wrong(text, 'it is empty', RIGHT)
  if (looksLikeCron(words)) {
    throw wrong(
      text,
      `it has ${words.length} fields, cron has five`,
      `${RIGHT} Seconds and years are not known.`,
    )
  }
  const beginning = words.find((word) => !/^[a-z\d*]/i.test(word))
  if (beginning !== undefined) throw wrong(text, `${quote(beginning)} is no part of a date or a time`, RIGHT)
  const zone = words.length > 1 && isWord(words.at(-1)!) ? words.at(-1) : undefined
  if (zone !== undefined) assertZone(zone)
  const rest = zone === undefined ? words : words.slice(0, -1)
  if (rest.length > 3)
    throw wrong(text, `${quote(rest[3]!)} is too much: it has weekdays, a date and a time`, RIGHT)
  assertShorthand(rest, text)
  return { text: rest.join(' '), zone, times: timesOf(rest) }
}

const RIGHT = 'Right ones are "0 2 * * *" (cron) and "Mon..Fri *-*-* 02:00:00" (systemd).'

/** None of these has another meaning to the reader of a unit file, as "%", quotes and line ends have. */
function assertCharacters(text: string): void {
  const strange = /[^A-Za-z0-9 \t*:.,~/_+-]/u.exec(text)
  if (strange) throw wrong(text, `${quote(strange[0])} has no place in it`, RIGHT)
  if (text.length > 1000) throw wrong(text, `it has ${text.length} characters`, RIGHT)
}

function looksLikeCron(words: readonly string[]): boolean {
  const isField = (word: string) => /^[\d*]/.test(word) && !/:|-.*-|~/.test(word)
  return words.length > 5 || (words.length > 1 && isField(words[0]!) && isField(words[1]!))
}

const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
const WEEKDAY = /^(sun|mon|tues?|wed(nes)?|thu(rs)?|fri|sat(ur)?)(day)?(?![a-z])/i

const SHORTHANDS: Readonly<Record<string, string>> = {
  minutely: '*-*-* *:*:00',
  hourly: '*-*-* *:00:00',
  daily: '*-*-* 00:00:00',
  weekly: 'Mon *-*-* 00:00:00',
  monthly: '*-*-01 00:00:00',
  quarterly: '*-01,04,07,10-01 00:00:00',
  semiannually: '*-01,07-01 00:00:00',
  'semi-annually': '*-01,07-01 00:00:00',
  biannually: '*-01,07-01 00:00:00',
  'bi-annually': '*-01,07-01 00:00:00',
  yearly: '*-01-01 00:00:00',
  annually: '*-01-01 00:00:00',
  anually: '*-01-01 00:00:00',
}

/** Neither a part of a date nor a weekday. */
function isWord(word: string): boolean {
  return /^[a-z]/i.test(word) && !WEEKDAY.test(word)
}

function assertShorthand(words: readonly string[], text: string): void {
  const strange = words.find(isWord)
  if (strange === undefined || (words.length === 1 && SHORTHANDS[strange.toLowerCase()] !== undefined)) return
  const near = didYouMean(strange, Object.keys(SHORTHANDS))
  throw wrong(text, `${quote(strange)} is no weekday, no date and no time${near}`, RIGHT)
}

function timesOf(words: readonly string[]): Times | undefined {
  const meaning = words.length === 1 ? SHORTHANDS[words[0]!.toLowerCase()] : undefined
  if (meaning !== undefined) return timesOf(meaning.split(' '))
  const time = words.find((word) => word.includes(':'))?.split(':') ?? ['0', '0']
  const date = words.find((word) => /^[\d*]/.test(word) && !word.includes(':')) ?? '*-*'
  // "~" counts from the end of a month: any day may be meant.
  const parts = date.replace(/~.*$/, '-*').split('-')
  const week = words.find((word) => WEEKDAY.test(word))
  const weekdays = week === undefined ? range(0, 6) : weekdaysOf(week)
  const minutes = componentOf(time[1]!, 0, 59)
  const hours = componentOf(time[0]!, 0, 23)
  const days = componentOf(parts.at(-1)!, 1, 31)
  const months = componentOf(parts.at(-2) ?? '', 1, 12)
  if (!minutes || !hours || !days || !months || !weekdays) return undefined
  return { minutes, hours, days, months, weekdays, isEither: false }
}

function componentOf(text: string, low: number, high: number): number[] | undefined {
  const values = text.split(',').map((item) => {
    const parts = /^(?:\*|(\d+)(?:\.\.(\d+))?)(?:\/(\d+))?$/.exec(item)
    if (!parts) return undefined
    const from = parts[1] === undefined ? low : Number(parts[1])
    const isRange = parts[1] === undefined || parts[2] !== undefined || parts[3] !== undefined
    const to = isRange ? Number(parts[2] ?? high) : from
    return to > high || from > to || parts[3] === '0' ? undefined : range(from, to, Number(parts[3] ?? 1))
  })
  return values.includes(undefined) ? undefined : values.flatMap((some) => some!)
}

function weekdaysOf(text: string): number[] | undefined {
  const dayOf = (word: string) => WEEKDAYS.indexOf(word.slice(0, 3).toLowerCase())
  const values = text
    .split(',')
    .filter((item) => item !== '')
    .map((item) => {
      const ends = item.split(/\.\.|-/).map(dayOf)
      const [from, to = from] = ends
      if (ends.includes(-1) || from === undefined) return undefined
      return range(from, to! < from ? to! + 7 : to!).map((day) => day % 7)
    })
  return values.includes(undefined) ? undefined : values.flatMap((some) => some!)
}
