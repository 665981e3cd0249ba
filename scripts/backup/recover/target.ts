import { Fail } from '../../core/fail.ts'
import { formatLsn, parseLsn } from '../wal/segment.ts'

/** What a recovery is asked to reach. */
export type Target =
  | { readonly kind: 'latest' | 'immediate' }
  /** ISO, in UTC, to the microsecond. */
  | { readonly kind: 'time'; readonly time: string }
  | { readonly kind: 'lsn'; readonly lsn: bigint }
  | { readonly kind: 'xid' | 'name'; readonly value: string }

/** The options that name a target, as they were given. */
export interface TargetOptions {
  readonly at?: string | undefined
  readonly lsn?: string | undefined
  readonly xid?: string | undefined
  readonly name?: string | undefined
  readonly immediate?: boolean | undefined
}

/**
 * The target that the command line asks for; the newest WAL without any. Pure.
 * @throws {Fail} `usage`
 */
export function parseTarget(options: TargetOptions): Target {
  const given = (['at', 'lsn', 'xid', 'name', 'immediate'] as const).filter(
    (key) => options[key] !== undefined && options[key] !== false,
  )
  if (given.length > 1) {
    throw new Fail('usage', `${given.map((key) => `--${key}`).join(' and ')} exclude each other`, {
      hint: 'A recovery ends at one target.',
    })
  }
  if (options.at !== undefined) return { kind: 'time', time: parseTime(options.at) }
  if (options.lsn !== undefined) return { kind: 'lsn', lsn: lsnOf(options.lsn) }
  if (options.xid !== undefined) return { kind: 'xid', value: xidOf(options.xid) }
  if (options.name !== undefined) return { kind: 'name', value: nameOf(options.name) }
  return { kind: options.immediate ? 'immediate' : 'latest' }
}

/** A target for people: `time 2026-11-22T10:00:00Z`. Pure. */
export function showTarget(target: Target): string {
  switch (target.kind) {
    case 'latest':
      return 'the newest WAL'
    case 'immediate':
      return 'the end of the backup'
    case 'time':
      return `time ${target.time}`
    case 'lsn':
      return `LSN ${formatLsn(target.lsn)}`
    case 'xid':
      return `transaction ${target.value}`
    case 'name':
      return `restore point "${target.value}"`
  }
}

// `2026-11-22 10:00:00.123456+01`, `2026-11-22T09:00Z`
const TIME =
  /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(?::(\d\d)(?:[.,](\d{1,6}))?)?\s*(Z|UTC|[+-]\d\d(?::?\d\d)?)?$/i

/**
 * A moment with its offset, in UTC. JavaScript's dates have milliseconds, PostgreSQL's commits have
 * microseconds: those are kept as text.
 */
function parseTime(text: string): string {
  const [, day, minute, second = '00', fraction = '', offset] = TIME.exec(text.trim()) ?? []
  if (day === undefined) {
    throw new Fail('usage', `--at ${JSON.stringify(text)} is no time`, {
      hint: 'Write it with its offset: --at "2026-11-22 10:00:00+01"',
    })
  }
  const zone = offset === undefined || /^(z|utc)$/i.test(offset) ? 'Z' : wholeOffset(offset)
  const moment = new Date(`${day}T${minute}:${second}${zone}`)
  // Date takes 30 February for 2 March.
  const isDay = !Number.isNaN(moment.getTime()) && isOnCalendar(day)
  if (!isDay) throw new Fail('usage', `--at ${JSON.stringify(text)} is no time that there is`)
  const utc = moment.toISOString().slice(0, 19) + (fraction === '' ? '' : `.${fraction}`)
  if (offset === undefined) {
    throw new Fail('usage', `--at ${JSON.stringify(text)} has no offset, so it could mean several moments`, {
      hint: `If it is in UTC: --at ${utc}Z`,
    })
  }
  return `${utc}Z`
}

function wholeOffset(offset: string): string {
  const digits = offset.slice(1).replace(':', '').padEnd(4, '0')
  return `${offset[0]}${digits.slice(0, 2)}:${digits.slice(2)}`
}

function isOnCalendar(day: string): boolean {
  const found = new Date(`${day}T00:00:00Z`)
  return !Number.isNaN(found.getTime()) && found.toISOString().startsWith(day)
}

function lsnOf(text: string): bigint {
  const lsn = parseLsn(text)
  if (lsn !== undefined) return lsn
  throw new Fail('usage', `--lsn ${JSON.stringify(text)} is no LSN`, { hint: 'It looks like 0/3000028.' })
}

/** As pg_current_xact_id() gives it; the server compares the lower half. */
function xidOf(text: string): string {
  if (/^[1-9]\d{0,19}$/.test(text)) return (BigInt(text) & 0xffffffffn).toString()
  throw new Fail('usage', `--xid ${JSON.stringify(text)} is no transaction`, { hint: 'It is a number.' })
}

/** At most 63 bytes: MAXFNAMELEN, src/include/access/xlog_internal.h. */
function nameOf(text: string): string {
  if (text !== '' && Buffer.byteLength(text) < 64 && !/[\0\n\r]/.test(text)) return text
  throw new Fail('usage', `--name ${JSON.stringify(text)} is no name of a restore point`)
}
