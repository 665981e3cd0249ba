import { lstat } from 'node:fs/promises'
import type { DatabaseSync } from 'node:sqlite'
import { Fail, messageOf } from '../core/fail.ts'
import { reasonOf } from '../core/file.ts'

/** A table of an SQLite file. */
export interface SqliteTable {
  readonly name: string
  readonly columns: readonly string[]
}

/** An SQLite file at one moment, whatever a program writes to it meanwhile. */
export interface SqliteFile extends Disposable {
  readonly path: string
  readonly tables: readonly SqliteTable[]
  /** Versions in a table in which an application notes them, lowest first; undefined without that table. */
  versions(table: string): bigint[] | undefined
  count(table: string): number
  /**
   * Rows of a table. Of each column its type in SQLite, which knows one of each value only, and the value: integers
   * as bigint, texts as the bytes that are stored.
   */
  rows(table: SqliteTable): Iterable<readonly SqliteValue[]>
}

/** A value as it is stored. */
export interface SqliteValue {
  readonly type: 'null' | 'integer' | 'real' | 'text' | 'blob'
  readonly value: null | bigint | number | Uint8Array
}

/**
 * Opens an SQLite file for reading. All that is read is of the moment at which it was opened; what stands in its
 * `-wal` file belongs to it.
 * @throws {Fail} `file-unreadable` when it is none, or is damaged
 */
export async function openSqlite(path: string): Promise<SqliteFile> {
  const found = await lstat(path).catch((cause: unknown) => {
    throw unreadable(path, reasonOf(cause), cause)
  })
  if (found.isDirectory()) throw unreadable(path, 'it is a folder')
  if (found.size === 0) throw unreadable(path, 'it is empty')
  // Only here: it takes a while, and hardly anybody needs it.
  const { DatabaseSync } = await import('node:sqlite')
  let database: DatabaseSync | undefined
  try {
    database = new DatabaseSync(path, { readOnly: true, timeout: 5000 })
    database.exec('begin')
    const tables = tablesOf(database)
    assertWhole(database, path)
    return fileOf(database, path, tables)
  } catch (cause) {
    database?.close()
    if (cause instanceof Fail) throw cause
    throw unreadable(path, messageOf(cause), cause)
  }
}

function unreadable(path: string, why: string, cause?: unknown): Fail {
  return new Fail('file-unreadable', `cannot read the SQLite file "${path}": ${why}`, {
    hint: 'Name the file of the database itself; "-wal" and "-shm" stay beside it.',
    cause,
  })
}

function tablesOf(database: DatabaseSync): SqliteTable[] {
  const names = texts(
    database,
    `select name from sqlite_schema where type = 'table' and name not like 'sqlite~_%' escape '~' order by name`,
  )
  return names.map((name) => {
    const columns = database.prepare('select name from pragma_table_info(?) order by cid').all(name)
    return { name, columns: columns.map((column) => String(column['name'])) }
  })
}

function assertWhole(database: DatabaseSync, path: string): void {
  const [first] = texts(database, 'pragma quick_check(1)')
  if (first !== 'ok') throw unreadable(path, `it is damaged: ${first}`)
}

function texts(database: DatabaseSync, sql: string): string[] {
  return database
    .prepare(sql)
    .all()
    .map((row) => String(Object.values(row)[0]))
}

function fileOf(database: DatabaseSync, path: string, tables: readonly SqliteTable[]): SqliteFile {
  return {
    path,
    tables,
    versions(table) {
      if (!tables.some(({ name, columns }) => name === table && columns.includes('version'))) return undefined
      const statement = database.prepare(`select version from ${quoted(table)} order by version`)
      statement.setReadBigInts(true)
      return statement.all().map(({ version }) => version as bigint)
    },
    count: (table) => Number(database.prepare(`select count(*) as n from ${quoted(table)}`).get()!['n']),
    *rows({ name, columns }) {
      // As bytes, for an invalid text would arrive as another one.
      const list = columns.map(
        (column) =>
          `typeof(${quoted(column)}), case typeof(${quoted(column)}) when 'text' then cast(${quoted(column)} as blob) else ${quoted(column)} end`,
      )
      const statement = database.prepare(`select ${list.join(', ')} from ${quoted(name)}`)
      statement.setReadBigInts(true)
      statement.setReturnArrays(true)
      for (const row of statement.iterate() as Iterable<unknown[]>) {
        yield columns.map((_, index) => ({ type: row[index * 2], value: row[index * 2 + 1] }) as SqliteValue)
      }
    },
    [Symbol.dispose]: () => database.close(),
  }
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
