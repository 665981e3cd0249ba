import { type Parsed, rowOf } from './line.ts'

/** Reads the lines of a CSV file, header first; a record may span several of them. */
export interface CsvReader {
  /** @returns undefined while a record is not at its end, and for the header; a text says what is wrong */
  push(line: string): Parsed | undefined
  /** A record that began and has no end. */
  readonly isOpen: boolean
}

/** Characters of one record. */
const RECORD_CHARACTERS = 100_000

/**
 * Columns `ts`, `ec` and `msg`, in any order; `device`, or else it is the one of the name of the file. Others are
 * passed over.
 * @param onHeader told why the header is none; what follows is of no use then
 */
export function csvReader(device: string, zone: string, onHeader: (problem: string) => never): CsvReader {
  let columns: readonly string[] | undefined
  let text = ''
  let isOpen = false
  const record = (fields: readonly string[]): Parsed | undefined => {
    if (columns === undefined) {
      columns = fields.map((field) => field.trim().toLowerCase())
      const missing = ['ts', 'ec', 'msg'].filter((name) => !columns!.includes(name))
      if (missing.length > 0) onHeader(`wrong columns: there is no ${missing.join(', ')}`)
      return undefined
    }
    if (fields.length !== columns.length) return `${fields.length} fields, the header has ${columns.length}`
    const field = (name: string) => fields[columns!.indexOf(name)]
    const msg = field('msg')!
    try {
      JSON.parse(msg)
    } catch {
      return '"msg" is no JSON'
    }
    return rowOf({ ts: field('ts')!, ec: field('ec')!, msg, device: field('device') ?? device }, zone)
  }
  return {
    get isOpen() {
      return isOpen
    },
    push(line) {
      text = isOpen ? `${text}\n${line}` : line
      const fields = fieldsOf(text)
      isOpen = fields === undefined && text.length < RECORD_CHARACTERS
      if (isOpen) return undefined
      return fields === undefined ? 'a quote is never closed' : record(fields)
    },
  }
}

/** The fields of a record (RFC 4180); undefined when a quote is not closed. */
function fieldsOf(text: string): string[] | undefined {
  const line = text.endsWith('\r') ? text.slice(0, -1) : text
  const fields: string[] = []
  for (let at = 0; ;) {
    FIELD.lastIndex = at
    const found = FIELD.exec(line)
    if (!found) return line[at] === '"' ? undefined : [...fields, line.slice(at)]
    const [all, quoted, bare, comma] = found
    fields.push(quoted === undefined ? bare! : quoted.replaceAll('""', '"'))
    at += all.length
    if (comma === '') return fields
  }
}

const FIELD = /(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/y
