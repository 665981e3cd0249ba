/**
 * Cron once more, made for comparisons: bits as in entry.c and one look at each minute as in cron.c of
 * Vixie cron. It shares nothing with the code that it checks.
 */
export interface Entry {
  readonly minute: boolean[]
  readonly hour: boolean[]
  readonly dom: boolean[]
  readonly month: boolean[]
  readonly dow: boolean[]
  /** The first character of one of the two is `*`. */
  readonly star: boolean
}

const NAMES = 'sun0mon1tue2wed3thu4fri5sat6jan1feb2mar3apr4may5jun6jul7aug8sep9oct10nov11dec12'

/** Reads five right fields. A range of weekdays that ends before it begins goes on after Saturday. */
export function entryOf(text: string): Entry {
  const [minute, hour, dom, month, dow] = text.split(' ') as [string, string, string, string, string]
  const week = bits(dow, 0, 7)
  for (let day = 7; day < week.length; day++) if (week[day]) week[day % 7] = true
  return {
    minute: bits(minute, 0, 59),
    hour: bits(hour, 0, 23),
    dom: bits(dom, 1, 31),
    month: bits(month, 1, 12),
    dow: week,
    star: dom[0] === '*' || dow[0] === '*',
  }
}

function bits(field: string, low: number, high: number): boolean[] {
  const set: boolean[] = []
  const number = (word: string) =>
    /^\d/.test(word) ? Number(word) : Number(new RegExp(`${word.toLowerCase()}(\\d+)`).exec(NAMES)![1])
  for (const item of field.split(',')) {
    const [span, step = '1'] = item.split('/') as [string, string?]
    const [first, last = first] = span.split('-') as [string, string?]
    const from = first === '*' ? low : number(first)
    let to = first === '*' ? high : number(last)
    if (to < from) to += 7
    for (let value = from; value <= to; value += Number(step)) set[value] = true
  }
  return set
}

const DAY = 86_400_000

/** Whether it is due on a day, a number of milliseconds. */
function isDay(entry: Entry, day: number): boolean {
  const date = new Date(day)
  if (!entry.month[date.getUTCMonth() + 1]) return false
  const dom = entry.dom[date.getUTCDate()] === true
  const dow = entry.dow[date.getUTCDay()] === true
  return entry.star ? dom && dow : dom || dow
}

/** Local times that are due after another, as milliseconds of UTC, for at most 60 years. */
export function* dueAfter(entry: Entry, after: number): Generator<number> {
  for (let day = after - (after % DAY); day < after + 60 * 366 * DAY; day += DAY) {
    if (!isDay(entry, day)) continue
    for (let minute = 0; minute < 1440; minute++) {
      const at = day + minute * 60_000
      if (at > after && entry.minute[minute % 60] && entry.hour[Math.floor(minute / 60)]) yield at
    }
  }
}

/** Whether one of its days of the month ever comes. */
export function hasDate(entry: Entry): boolean {
  for (let day = Date.UTC(2024, 0, 1); day < Date.UTC(2025, 0, 1); day += DAY) {
    const date = new Date(day)
    if (entry.month[date.getUTCMonth() + 1] && entry.dom[date.getUTCDate()]) return true
  }
  return false
}
