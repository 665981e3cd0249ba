import { isAscii, isUtf8 } from 'node:buffer'
import { interrupted } from '../core/interrupt.ts'
import { Fail } from '../core/fail.ts'
import { csvReader } from './csv.ts'
import { type Parsed, parseLine } from './line.ts'

/** A line that is no row. */
export interface Reject {
  readonly line: number
  readonly reason: string
  /** Its beginning. */
  readonly content: string
}

/** What was found in a file, so far. */
export interface Found {
  lines: number
  rows: number
  rejected: number
  /** The first of those that were rejected. */
  readonly rejects: Reject[]
  /** The last line, when it has no end and is no row by itself. */
  torn: Reject | undefined
}

/** How a file is read. */
export interface Reading {
  readonly format: 'ndjson' | 'csv'
  readonly device: string
  /** What a time without a zone is in. */
  readonly zone: string
}

/** Bytes of a line that is kept in memory. */
const LINE_BYTES = 16 * 1024 * 1024
/** Rejects that are kept of one file. */
const REJECTS = 10_000
const CONTENT_CHARACTERS = 500

/** Nothing, so far. */
export function nothingFound(): Found {
  return { lines: 0, rows: 0, rejected: 0, rejects: [], torn: undefined }
}

/**
 * Makes of what is in a file what `COPY table (ts, device, ec, msg)` reads. Pure, but for `found`, which tells what was
 * found when all is read.
 * @throws {Fail} `file-unreadable` when the columns of a CSV file are wrong
 */
export async function* rowsOf(
  blocks: AsyncIterable<Buffer>,
  reading: Reading,
  found: Found,
): AsyncGenerator<Buffer, void> {
  const { parse, isOpen } = parserOf(reading)
  let rest: Buffer[] = []
  let restBytes = 0
  for await (const block of blocks) {
    interrupted.throwIfAborted()
    const end = block.lastIndexOf(NEWLINE)
    if (end === -1 || restBytes > LINE_BYTES) {
      // Of a line that is too long only the beginning is kept.
      const first = end === -1 ? block.length : block.indexOf(NEWLINE)
      if (restBytes <= LINE_BYTES) rest.push(Buffer.from(block))
      restBytes += first
      if (end === -1) continue
    }
    let whole = block.subarray(0, end + 1)
    if (restBytes > LINE_BYTES) {
      reject(
        found,
        ++found.lines,
        `longer than ${LINE_BYTES / 1024 ** 2} MB`,
        rest[0]!.toString('latin1', 0, 2000),
      )
      whole = whole.subarray(whole.indexOf(NEWLINE) + 1)
    } else if (restBytes > 0) whole = Buffer.concat([...rest, whole])
    const text = textOf(whole, parse, found)
    if (text.length > 0) yield text
    rest = end + 1 < block.length ? [Buffer.from(block.subarray(end + 1))] : []
    restBytes = rest[0]?.length ?? 0
  }
  if (restBytes > 0) yield* lastLine(rest, restBytes, { parse, found })
  else if (isOpen()) found.torn = { line: found.lines, reason: 'the last record is cut off', content: '' }
}

const NEWLINE = 10

type Parser = (line: string) => Parsed | undefined

/** A line without its end: a row, or the first part of one that is being written. */
function* lastLine(
  rest: readonly Buffer[],
  bytes: number,
  { parse, found }: { parse: Parser; found: Found },
): Generator<Buffer, void> {
  const line = Buffer.concat(rest)
  const text = isUtf8(line) ? line.toString('utf8') : '\uFFFD'
  if (text.trim() === '') return
  const parsed = bytes > LINE_BYTES ? 'cut off' : parse(text)
  found.lines += 1
  if (typeof parsed === 'object') {
    found.rows += 1
    yield Buffer.from(copyLine(parsed))
  } else {
    const content = line.toString('latin1', 0, 2000)
    found.torn = { line: found.lines, reason: 'the last line is cut off', content: shortened(content) }
  }
}

function parserOf({ format, device, zone }: Reading): { parse: Parser; isOpen: () => boolean } {
  if (format === 'ndjson') return { parse: (line) => parseLine(line, device, zone), isOpen: () => false }
  const reader = csvReader(device, zone, (problem) => {
    throw new Fail('file-unreadable', problem)
  })
  return { parse: (line) => reader.push(line), isOpen: () => reader.isOpen }
}

/** The rows of whole lines. */
function textOf(bytes: Buffer, parse: Parser, found: Found): Buffer {
  if (isAscii(bytes)) return Buffer.from(linesOf(bytes.toString('latin1'), parse, found), 'utf8')
  if (isUtf8(bytes)) return Buffer.from(linesOf(bytes.toString('utf8'), parse, found), 'utf8')
  let text = ''
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(NEWLINE, at)
    const line = bytes.subarray(at, end)
    if (isUtf8(line)) text += linesOf(`${line.toString('utf8')}\n`, parse, found)
    else reject(found, ++found.lines, 'not UTF-8', line.toString('latin1', 0, 2000))
    at = end + 1
  }
  return Buffer.from(text, 'utf8')
}

function linesOf(text: string, parse: Parser, found: Found): string {
  let out = ''
  for (let at = 0; at < text.length;) {
    const end = text.indexOf('\n', at)
    const line = text.slice(at, end)
    at = end + 1
    found.lines += 1
    if (line.trim() === '') continue
    const parsed = parse(line)
    if (parsed === undefined) continue
    if (typeof parsed === 'string') reject(found, found.lines, parsed, line)
    else {
      found.rows += 1
      out += copyLine(parsed)
    }
  }
  return out
}

function copyLine({ ts, device, ec, msg }: Exclude<Parsed, string>): string {
  return `${ts}\t${escaped(device)}\t${escaped(ec)}\t${escaped(msg)}\n`
}

/** A text in the text format of COPY. */
export function escaped(text: string): string {
  return SPECIAL.test(text) ? text.replace(EACH_SPECIAL, (found) => ESCAPES[found]!) : text
}

const SPECIAL = /[\\\t\n\r]/
const EACH_SPECIAL = /[\\\t\n\r]/g
const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' }

function reject(found: Found, line: number, reason: string, content: string): void {
  found.rejected += 1
  if (found.rejects.length < REJECTS) found.rejects.push({ line, reason, content: shortened(content) })
}

/** What the server can store of it. */
function shortened(content: string): string {
  return content.slice(0, CONTENT_CHARACTERS).toWellFormed().replaceAll('\0', '\uFFFD')
}
