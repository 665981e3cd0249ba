import { isDay } from './name.ts'

// The last minute that was found good: lines of one file come from few of them.
let goodMinute = ''

// A time may lack its fraction; a program that drops a fraction of 0, and then adds three digits to it, wrote 59000.
const STAMP = /^(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})|000)?(Z|[+-]\d\d(?::?\d\d)?)?$/

/**
 * The time of a record as PostgreSQL reads it, to the microsecond: cut there, never rounded, and never a number on
 * the way. Undefined when it is none. Pure.
 * @param zone what a time without a zone is in: an IANA name
 */
export function stampOf(text: string, zone: string): string | undefined {
  // What nearly every line has: nine digits and no zone.
  if (text.length === 29 && text.startsWith(goodMinute) && goodMinute !== '' && TAIL.test(text.slice(16))) {
    return suffixed(text.slice(0, 26), zone)
  }
  const parts = STAMP.exec(text)
  if (!parts) return undefined
  const [, year, month, day, hour, minute, second, fraction = '', own] = parts
  if (!isDay(Number(year), Number(month), Number(day))) return undefined
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 59) return undefined
  if (own !== undefined && own !== 'Z' && Math.abs(Number(own.slice(0, 3))) > 15) return undefined
  goodMinute = `${year}-${month}-${day}T${hour}:${minute}`
  const micros = fraction.slice(0, 6).padEnd(6, '0')
  const cut = `${goodMinute}:${second}.${micros}`
  return own === undefined ? suffixed(cut, zone) : `${cut}${own}`
}

const TAIL = /^:[0-5]\d\.\d{9}$/

function suffixed(cut: string, zone: string): string {
  return zone === 'UTC' ? `${cut}Z` : `${cut} ${zone}`
}
