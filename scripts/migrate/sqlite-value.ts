import { Fail } from '../core/fail.ts'
import type { SqliteValue } from './sqlite.ts'

/** Where a value stands, for errors. */
export interface Place {
  readonly table: string
  readonly column: string
  /** Of the row: the values of its first columns. */
  readonly key: string
}

/** What a value becomes: a text as PostgreSQL writes it, or null. */
type Converted = string | null

type Convert = (value: SqliteValue, wrong: (why: string) => Fail) => Converted

const CONVERSIONS: Readonly<Record<string, Convert>> = {
  text: toText,
  'character varying': toText,
  boolean: toBoolean,
  smallint: toInteger(16),
  integer: toInteger(32),
  bigint: toInteger(64),
}

/** Whether values can become those of a type of PostgreSQL. Pure. */
export function isKnownType(type: string): boolean {
  return Object.hasOwn(CONVERSIONS, type)
}

/**
 * A value as one of a type of PostgreSQL. Nothing is rounded, cut or guessed. Pure.
 * @param type one that {@link isKnownType} knows
 * @throws {Fail} `verify-failed`, with the table, the column and the row
 */
export function convert(value: SqliteValue, type: string, place: Place): Converted {
  if (value.type === 'null') return null
  return CONVERSIONS[type]!(
    value,
    (why) =>
      new Fail(
        'verify-failed',
        `${place.table}.${place.column} of row ${place.key} cannot be ${type}: ${why}`,
        {
          hint: 'Correct it in the SQLite file, and run the same command again.',
        },
      ),
  )
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function toText({ type, value }: SqliteValue, wrong: (why: string) => Fail): string {
  if (type !== 'text') throw wrong(`it is of type ${type}`)
  let text: string
  try {
    text = UTF8.decode(value as Uint8Array)
  } catch {
    throw wrong('it is not valid UTF-8')
  }
  if (text.includes('\0')) throw wrong('it holds a NUL character')
  return text
}

function toBoolean({ type, value }: SqliteValue, wrong: (why: string) => Fail): string {
  if (type === 'integer' && value === 0n) return 'f'
  if (type === 'integer' && value === 1n) return 't'
  throw wrong(type === 'integer' ? `it is ${value as bigint}, neither 0 nor 1` : `it is of type ${type}`)
}

function toInteger(bits: number): Convert {
  return ({ type, value }, wrong) => {
    if (type !== 'integer') throw wrong(`it is of type ${type}`)
    const number = value as bigint
    if (BigInt.asIntN(bits, number) !== number) throw wrong(`${number} does not fit`)
    return String(number)
  }
}
