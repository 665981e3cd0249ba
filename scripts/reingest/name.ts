/** What the name of a file of telemetry says. */
export interface FileName {
  readonly device: string
  /** When its first record was made, in UTC to the microsecond, as PostgreSQL reads it. */
  readonly time: string
  /** `.ndjson.gz`: all from the first dot after the time. */
  readonly ending: string
}

// `camsci1_20260314021530123456789` or `camsci1_2026-03-14T021530`: the device has "_" and "-" of its own.
const COMPACT = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d{0,9})$/
const DASHED = /^(\d{4})-(\d\d)-(\d\d)T(\d\d)(\d\d)(\d\d)(\d{0,9})$/

/** Reads the name of a file; undefined when it is no file of telemetry. Pure. */
export function parseFileName(path: string): FileName | undefined {
  const name = path.slice(path.lastIndexOf('/') + 1)
  const underscore = name.lastIndexOf('_')
  const dot = name.indexOf('.', underscore)
  if (underscore < 1 || dot === -1) return undefined
  const text = name.slice(underscore + 1, dot)
  const parts = COMPACT.exec(text) ?? DASHED.exec(text)
  if (!parts) return undefined
  const [, year, month, day, hour, minute, second, fraction = ''] = parts
  if (!isDay(Number(year), Number(month), Number(day))) return undefined
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 59) return undefined
  const time = `${year}-${month}-${day} ${hour}:${minute}:${second}.${fraction.slice(0, 6).padEnd(6, '0')}Z`
  return { device: name.slice(0, underscore), time, ending: name.slice(dot) }
}

/** Whether a month has that day. Pure. */
export function isDay(year: number, month: number, day: number): boolean {
  if (year < 1 || month < 1 || month > 12 || day < 1) return false
  const isLeap = (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0
  return day <= (month === 2 && isLeap ? 29 : DAYS[month - 1]!)
}

const DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] as const
