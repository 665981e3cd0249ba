import { stampOf } from './stamp.ts'

/** A record as it is stored; texts as PostgreSQL reads them. */
export interface Row {
  readonly ts: string
  readonly device: string
  readonly ec: string
  /** JSON: numbers have the digits that they were written with. */
  readonly msg: string
}

/** A row, or why a line is none. */
export type Parsed = Row | string

/** What the columns hold: telem.ec, telem.device. */
const EC_CHARACTERS = 20
export const DEVICE_CHARACTERS = 50

// As all instruments write it; whatever looks otherwise goes the long way.
const USUAL = /^\{"ts": ?"([^"\\]*)", ?"prio": ?"[^"\\]*", ?"ec": ?"([^"\\]*)", ?"msg": ?(.*)\}[ \r]*$/

/**
 * Reads a line of a device. Pure.
 * @param zone what a time without a zone is in
 * @returns a text says what is wrong with the line
 */
export function parseLine(line: string, device: string, zone: string): Parsed {
  const usual = USUAL.exec(line)
  if (usual) {
    const msg = usual[3]!
    if (isJson(msg)) return rowOf({ ts: usual[1]!, ec: usual[2]!, msg, device }, zone)
  }
  return parseAny(line, device, zone)
}

/** The long way: keys in any order, and words that are no JSON. */
function parseAny(line: string, device: string, zone: string): Parsed {
  const text = isJson(line) ? line : withoutWords(line)
  let document: unknown
  try {
    document = JSON.parse(text, keepNumber as (key: string, value: unknown) => unknown)
  } catch {
    return 'no JSON'
  }
  if (typeof document !== 'object' || document === null || Array.isArray(document)) return 'no JSON object'
  const { ts, ec, msg } = document as Record<string, unknown>
  if (ts === undefined || ec === undefined || msg === undefined) {
    const missing = Object.entries({ ts, ec, msg }).filter(([, value]) => value === undefined)
    return `without ${missing.map(([key]) => `"${key}"`).join(' and ')}`
  }
  if (typeof ts !== 'string') return '"ts" is no text'
  if (typeof ec !== 'string') return '"ec" is no text'
  return rowOf({ ts, ec, msg: JSON.stringify(msg), device }, zone)
}

/** Makes a row of its parts, when the table can hold them. Pure. */
export function rowOf(parts: Row, zone: string): Parsed {
  const ts = stampOf(parts.ts, zone)
  if (ts === undefined) return `"ts" is no time: ${parts.ts.slice(0, 40)}`
  const { ec, device, msg } = parts
  if (isLonger(ec, EC_CHARACTERS)) return `"ec" has more than ${EC_CHARACTERS} characters`
  if (isLonger(device, DEVICE_CHARACTERS)) return `the device has more than ${DEVICE_CHARACTERS} characters`
  if (ec.includes('\0') || device.includes('\0')) return 'a text holds a NUL, which the server cannot store'
  const problem = msg.length > LONG || /\\u|[eE][+-]?\d{4}/.test(msg) ? unstorable(msg) : undefined
  return problem ?? { ts, ec, device, msg }
}

/** PostgreSQL counts characters, JavaScript halves of some. */
export function isLonger(text: string, characters: number): boolean {
  return text.length > characters && Array.from(text).length > characters
}

/** Short enough to be neither too deep nor too precise for the server. */
const LONG = 2000
const DEEPEST = 1000
const DIGITS = 100_000

/** Why the server would refuse what is good JSON (src/backend/utils/adt/jsonfuncs.c, numeric.c). */
function unstorable(msg: string): string | undefined {
  // What stays an escape here is a NUL or half of a pair.
  if (/(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/.test(JSON.stringify(JSON.parse(msg)))) {
    return 'a text holds a NUL or half a character, which the server cannot store'
  }
  let depth = 0
  for (const [token] of msg.matchAll(TOKENS)) {
    if (token === '{' || token === '[') depth += 1
    else if (token === '}' || token === ']') depth -= 1
    else if (
      token[0] !== '"' &&
      (token.length > DIGITS || Number(/[eE][+-]?0*(\d+)/.exec(token)?.[1]) > 9999)
    )
      return 'a number is larger than the server can store'
    if (depth > DEEPEST) return `"msg" is more than ${DEEPEST} levels deep`
  }
  return undefined
}

const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]]|-?\d[\d.eE+-]*/g

// Strings are passed over whole, so that none of these words is looked for inside of one.
const WORDS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\b(?:nan|inf|infinity)\b/gi

/** Puts null where a program wrote a number that JSON has not. */
function withoutWords(text: string): string {
  return text.replace(WORDS, (found) => (found.startsWith('"') ? found : 'null'))
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

interface RawJson {
  rawJSON(text: string): unknown
}

/** A number keeps its digits: as one of JavaScript's it would lose some. */
function keepNumber(_key: string, value: unknown, { source }: { readonly source?: string }): unknown {
  return typeof value === 'number' ? (JSON as unknown as RawJson).rawJSON(source!) : value
}
