import { hash } from 'node:crypto'
import { Fail } from '../core/fail.ts'
import { type Statement, statementsOf, UnfinishedText } from './statement.ts'

/** One direction of a migration. */
export interface Section {
  /** As it stands in the file, marker line left out. */
  readonly text: string
  /** Its first line in the file, from 1. */
  readonly line: number
  /** `transaction:false`: its statements are sent one by one, outside of any transaction. */
  readonly transaction: boolean
  /** SHA-256 of its text, whatever its line breaks are. */
  readonly checksum: string
  readonly statements: readonly Statement[]
}

/** One file of a folder of migrations. */
export interface Migration {
  /** `0007`, as the name of the file begins; told apart as a number. */
  readonly version: string
  /** `add_outputs`. */
  readonly name: string
  /** `0007_add_outputs.sql` */
  readonly file: string
  readonly up: Section
  readonly down: Section | undefined
  /** What an operator should know before it runs. */
  readonly notes: readonly string[]
  /** The version of the application's own SQLite files that has the same schema, where it is another one. */
  readonly sqlite: string | undefined
  /** A query that says whether a database without a ledger has what this one makes. */
  readonly probe: string | undefined
  /** The oldest major of PostgreSQL on which it can be applied. */
  readonly requires: number | undefined
}

/** What names of migrations look like; dbmate's, whose versions are times, fit in. */
const FILE_NAME = /^(\d{1,18})_?(.*)\.sql$/

/** Whether a file of a folder is a migration, by its name. */
export function isMigrationFile(file: string): boolean {
  return FILE_NAME.test(file)
}

/**
 * Reads one file in dbmate's format. Pure.
 * @param file its name
 * @throws {Fail} `migration-invalid`, with the line and column of what is wrong
 */
export function parseMigration(file: string, content: string): Migration {
  const [, version = '', name = ''] = FILE_NAME.exec(file) ?? []
  const text = content.replace(/^\uFEFF/, '').replaceAll('\r\n', '\n')
  assertText(file, text)
  const marks = marksOf(text)
  const [up, down, ...more] = marks
  const wrong = (line: number, message: string, hint?: string) =>
    new Fail('migration-invalid', `${file}:${line}: ${message}`, { hint })
  if (up === undefined || up.direction !== 'up') {
    throw wrong(
      up?.line ?? 1,
      'the first section must be "-- migrate:up"',
      'howdah migrate new NAME makes a file to begin with.',
    )
  }
  if (more.length > 0)
    throw wrong(more[0]!.line, `"-- migrate:${more[0]!.direction}" stands there a second time`)
  if (down?.direction === 'up') throw wrong(down.line, '"-- migrate:up" stands there a second time')
  const before = text.slice(0, up.offset)
  const stray = /^(?!\s*(--|$)).*\S/m.exec(before)
  if (stray) {
    const line = before.slice(0, stray.index).split('\n').length
    throw wrong(line, 'nothing may stand before "-- migrate:up" but comments')
  }
  const source = { file, text }
  return {
    version,
    name,
    file,
    up: sectionOf(source, up, down?.offset ?? text.length),
    down: down && sectionOf(source, down, text.length),
    ...remarksOf(text),
  }
}

function assertText(file: string, text: string): void {
  const nul = text.indexOf('\0')
  if (nul === -1) return
  const { line, column } = lineAt(text, nul)
  throw new Fail('migration-invalid', `${file}:${line}:${column}: a NUL character, which no SQL has`)
}

function remarksOf(text: string): Pick<Migration, 'notes' | 'sqlite' | 'probe' | 'requires'> {
  const requires = /^-- requires: *(\d+) *$/m.exec(text)?.[1]
  return {
    notes: [...text.matchAll(/^-- note: *(.*\S)/gm)].map(([, note]) => note!),
    sqlite: /^-- sqlite: *(\d+) *$/m.exec(text)?.[1],
    probe: /^-- probe: *(.*\S)/m.exec(text)?.[1],
    requires: requires === undefined ? undefined : Number(requires),
  }
}

interface Mark {
  readonly direction: 'up' | 'down'
  readonly options: string
  readonly offset: number
  /** Where what follows begins. */
  readonly end: number
  readonly line: number
}

function marksOf(text: string): Mark[] {
  return [...text.matchAll(/^--[ \t]*migrate:(up|down)\b([^\n]*)(\n|$)/gm)].map((match) => ({
    direction: match[1] as 'up' | 'down',
    options: match[2]!.trim(),
    offset: match.index,
    end: match.index + match[0].length,
    line: lineAt(text, match.index).line,
  }))
}

interface Source {
  readonly file: string
  readonly text: string
}

function sectionOf({ file, text }: Source, mark: Mark, end: number): Section {
  const option = /^transaction:(true|false)$/.exec(mark.options)
  if (mark.options !== '' && option === null) {
    throw new Fail('migration-invalid', `${file}:${mark.line}: unknown option "${mark.options}"`, {
      hint: 'The one that there is: transaction:false',
    })
  }
  const body = text.slice(mark.end, end)
  const transaction = option?.[1] !== 'false'
  const at = (offset: number) => {
    const { line, column } = lineAt(text, mark.end + offset)
    return `${file}:${line}:${column}`
  }
  const statements = split(body, at)
  for (const statement of statements) assertAllowed(statement, { at, transaction })
  return {
    text: body,
    line: mark.line + 1,
    transaction,
    checksum: hash('sha256', body.trim()),
    statements,
  }
}

function split(body: string, at: (offset: number) => string): Statement[] {
  try {
    return statementsOf(body)
  } catch (error) {
    if (!(error instanceof UnfinishedText)) throw error
    throw new Fail('migration-invalid', `${at(error.offset)}: ${error.message}`, { cause: error })
  }
}

// Each of these would end the transaction that its row in the ledger stands in, or begin another one.
const ENDS_TRANSACTION =
  /^(begin|commit|rollback(?!( work| transaction)? to\b)|end|abort|start transaction|prepare transaction)\b/

// What PostgreSQL refuses inside a transaction block (PreventInTransactionBlock in src/backend/tcop/utility.c).
const NEEDS_NO_TRANSACTION =
  /^(create (unique )?index concurrently|drop index concurrently|reindex .*concurrently|vacuum|create database|drop database|create tablespace|drop tablespace|alter system|cluster$)/

function assertAllowed(
  statement: Statement,
  { at, transaction }: { at: (offset: number) => string; transaction: boolean },
): void {
  const { head, offset, isMetaCommand } = statement
  const wrong = (message: string, hint: string) =>
    new Fail('migration-invalid', `${at(offset)}: ${message}`, { hint })
  if (isMetaCommand) {
    throw wrong(
      `"${head}" is a command of psql, not SQL`,
      /^\\(un)?restrict/.test(head)
        ? 'pg_dump writes it; remove both lines, \\restrict and \\unrestrict.'
        : 'Write it in SQL.',
    )
  }
  if (/^copy\b[^]*\bfrom\s+stdin\b/i.test(statement.text)) {
    throw wrong(
      'COPY FROM STDIN has rows that only psql sends',
      'Write them as INSERT; pg_dump does so with --inserts.',
    )
  }
  if (/^create (database|tablespace)|^drop (database|tablespace)|^create role|^create user\b/.test(head)) {
    throw wrong(`"${head}" is not of this database`, 'It belongs into the host file: howdah provision')
  }
  if (transaction && ENDS_TRANSACTION.test(head)) {
    throw wrong(
      `"${head.split(' ')[0]}" ends the transaction of the migration`,
      'Each migration is a transaction by itself; take it out, or write "transaction:false" behind "-- migrate:up".',
    )
  }
  if (transaction && NEEDS_NO_TRANSACTION.test(head)) {
    throw wrong(
      `"${head}" cannot run in a transaction`,
      'Write "-- migrate:up transaction:false", with nothing else in that file.',
    )
  }
}

/** Line and column, from 1, of a place in a text. Pure. */
export function lineAt(text: string, offset: number): { readonly line: number; readonly column: number } {
  const before = text.slice(0, offset).split('\n')
  return { line: before.length, column: before.at(-1)!.length + 1 }
}
