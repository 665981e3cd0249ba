import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import type { LocalMinute } from './cron.ts'

/** Where the clock of a zone is changed. Milliseconds; local times are counted as if they were UTC. */
export interface ClockChange {
  /** The local time that the clock shows at the change. */
  readonly from: number
  /** The local time that it is set to: later in spring, earlier in autumn. */
  readonly to: number
}

/** Tells the local time of an instant, in milliseconds as if it was UTC. */
export type Clock = (instant: number) => number

/**
 * Refuses what is no IANA name of a time zone: systemd reads it from the folder of zones, where case counts.
 * @throws {Fail} `host-file`, with the nearest name
 */
export function assertZone(zone: string): void {
  if (isZone(zone)) return
  const names = ['UTC', ...Intl.supportedValuesOf('timeZone')]
  const begun = names.filter((name) => name.toLowerCase().startsWith(zone.toLowerCase()))
  const near = didYouMean(zone, [...begun, ...names])
  throw new Fail('host-file', `there is no time zone ${JSON.stringify(zone)}${near}`, {
    hint: 'A time zone has an IANA name: "UTC" or "Europe/Vienna".',
  })
}

/** Whether that is an IANA name of a time zone, in its right case as far as that is known. */
export function isZone(zone: string): boolean {
  if (zone === 'UTC') return true
  if (!/^[A-Z][A-Za-z0-9_+-]*(\/[A-Z][A-Za-z0-9_+-]*)*$/.test(zone)) return false
  try {
    // The name of an alias changes here: only the names that differ in nothing else than case are wrong ones.
    const { timeZone } = new Intl.DateTimeFormat('en', { timeZone: zone }).resolvedOptions()
    return timeZone === zone || timeZone.toLowerCase() !== zone.toLowerCase()
  } catch {
    return false
  }
}

/** The clock of a zone. */
export function clockOf(zone: string): Clock {
  if (zone === 'UTC') return (instant) => instant
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    calendar: 'gregory',
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  return (instant) => {
    const numbers = format.format(instant).match(/\d+/g)!.map(Number)
    const [month, day, year, hour, minute, second] = numbers as [
      number,
      number,
      number,
      number,
      number,
      number,
    ]
    return Date.UTC(year, month - 1, day, hour, minute, second) + (((instant % 1000) + 1000) % 1000)
  }
}

/** A local time in milliseconds, in its parts. Pure. */
export function localMinute(local: number): LocalMinute {
  const date = new Date(local)
  return {
    year: date.getUTCFullYear(),
    month: date.getUTCMonth() + 1,
    day: date.getUTCDate(),
    hour: date.getUTCHours(),
    minute: date.getUTCMinutes(),
  }
}

/**
 * Whether the clock showed that local time before already, because it was set back since. systemd's timers
 * only elapse the first time (measured with 252 and 257), unless they are armed within the second.
 */
export function isSecondPass(clock: Clock, instant: number): boolean {
  const shift = offset(clock, instant - DAY) - offset(clock, instant)
  return shift > 0 && clock(instant - shift) === clock(instant)
}

/** The changes of a clock in so many years after an instant. */
export function clockChanges(clock: Clock, from: number, years: number): ClockChange[] {
  const changes: ClockChange[] = []
  const end = from + years * 366 * DAY
  let before = offset(clock, from)
  // No zone changes its clock twice within two weeks.
  for (let at = from; at < end; at += 14 * DAY) {
    const after = offset(clock, at + 14 * DAY)
    if (before === after) continue
    const change = firstAfter(clock, [at, at + 14 * DAY])
    changes.push({ from: change + before, to: change + after })
    before = after
  }
  return changes
}

const DAY = 86_400_000

function offset(clock: Clock, instant: number): number {
  return clock(instant) - instant
}

/** The instant between two others at which the offset of a clock changes; changes are at whole minutes. */
function firstAfter(clock: Clock, [from, to]: [number, number]): number {
  let low = Math.floor(from / 60_000)
  let high = Math.ceil(to / 60_000)
  const before = offset(clock, low * 60_000)
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (offset(clock, middle * 60_000) === before) low = middle
    else high = middle
  }
  return high * 60_000
}
