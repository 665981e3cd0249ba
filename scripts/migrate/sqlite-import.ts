import { createHash } from 'node:crypto'
import type { Client } from 'pg'
import { ident, literal } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { readLedger } from './ledger.ts'
import type { MigrateScope } from './scope.ts'
import { openSession } from './session.ts'
import type { SqliteFile, SqliteTable } from './sqlite.ts'
import { convert, isKnownType } from './sqlite-value.ts'
import { versionLines } from './state.ts'

/** What an import does, or would do. */
export interface Import {
  /** In the order in which they are filled: what a foreign key refers to comes first. */
  readonly tables: readonly { readonly name: string; readonly rows: number }[]
  /** The version of the SQLite file, and the one of the database that has the same schema. */
  readonly versions: { readonly from: string | null; readonly to: string }
}

/** Told how many rows are over. */
export type OnRows = (table: string, done: number, of: number) => void

/** Rows in one statement. */
const CHUNK = 5000

/**
 * What an import would move; nothing is written.
 * @throws {Fail} `migration-diverged`, `target-not-empty`, `verify-failed` when the tables are not the same
 */
export async function planImport(scope: MigrateScope, file: SqliteFile): Promise<Import> {
  await using session = await openSession(scope.cluster, scope.database, scope.options)
  const { versions, tables } = await prepare(session.client, scope, file)
  return { versions, tables: tables.map(({ name }) => ({ name, rows: file.count(name) })) }
}

/**
 * Moves all rows of an SQLite file into a database that was migrated to the same schema, in one transaction: all of
 * them are there at the end, or none. Before that all are read back, and compared with what the file has.
 * @throws {Fail} `migration-diverged`, `target-not-empty`, `verify-failed`, what a connection throws
 */
export async function importSqlite(scope: MigrateScope, file: SqliteFile, onRows: OnRows): Promise<Import> {
  await using session = await openSession(scope.cluster, scope.database, scope.options)
  const { client } = session
  await client.query('begin')
  const { versions, tables } = await prepare(client, scope, file)
  const names = tables.map(({ name }) => ident(name)).join(', ')
  // The application must not write what is then compared, nor read half of it.
  await client.query(
    `set local lock_timeout = '${scope.options.lockTimeout}'; lock table ${names} in exclusive mode`,
  )
  const { role } = scope.options
  if (role !== undefined) await client.query(`set local role ${ident(role)}`)
  const moved: { name: string; rows: number }[] = []
  for (const table of tables) {
    const sent = await fill(client, table, file, onRows)
    assertSame(table.name, sent, await readBack(client, table))
    await setSequences(client, table)
    moved.push({ name: table.name, rows: sent.rows })
  }
  interrupted.throwIfAborted()
  await client.query('commit')
  return { versions, tables: moved }
}

interface Column {
  readonly name: string
  readonly type: string
}

interface Table {
  readonly name: string
  readonly columns: readonly Column[]
}

async function prepare(
  client: Client,
  scope: MigrateScope,
  file: SqliteFile,
): Promise<{ versions: Import['versions']; tables: Table[] }> {
  const versions = await checkVersions(client, scope, file)
  const mirror = scope.options.mirrorTable?.split('.').at(-1)
  const tables = (await tablesOf(client)).filter(({ name }) => name !== mirror)
  checkTables(
    tables,
    file.tables.filter(({ name }) => name !== mirror),
  )
  for (const { name } of tables) {
    const { rows } = await client.query(`select from ${ident(name)} limit 1`)
    if (rows.length === 0) continue
    throw new Fail('target-not-empty', `table ${name} of database ${scope.database} has rows already`, {
      hint: 'An import fills empty tables only: nothing would tell old rows from new ones.',
    })
  }
  return { versions, tables }
}

async function checkVersions(
  client: Client,
  { migrations, options, database }: MigrateScope,
  file: SqliteFile,
): Promise<Import['versions']> {
  const lines = versionLines(migrations, await readLedger(client))
  const other = lines.find(({ state }) => state !== 'applied')
  const newest = migrations.at(-1)
  if (other !== undefined || newest === undefined) {
    throw new Fail(
      'migration-diverged',
      `database ${database} is not at its newest version: ${other?.version} is ${other?.state}`,
      {
        hint: 'Run: howdah migrate up',
      },
    )
  }
  const noted =
    options.mirrorTable === undefined ? undefined : file.versions(options.mirrorTable.split('.').at(-1)!)
  if (noted === undefined) return { from: null, to: newest.version }
  const from = noted.at(-1)
  const wanted = newest.sqlite ?? newest.version
  const isWhole = noted.every((version, index) => version === BigInt(index + 1))
  if (from !== BigInt(wanted) || !isWhole) {
    throw new Fail(
      'migration-diverged',
      `"${file.path}" has the versions ${noted.join(', ') || 'none'}; version ${BigInt(newest.version)} of the database is version ${BigInt(wanted)} there`,
      { hint: 'Let the application bring its SQLite file to that version first.' },
    )
  }
  return { from: String(from), to: newest.version }
}

/** Tables of the schema `public`, those that a foreign key refers to before those that it belongs to. */
async function tablesOf(client: Client): Promise<Table[]> {
  const { rows } = await client.query<{ name: string; columns: Column[]; after: string[] }>(`
    select c.relname::text as name,
           (select json_agg(json_build_object('name', attname, 'type', format_type(atttypid, null)) order by attnum)
              from pg_attribute
             where attrelid = c.oid and attnum > 0 and not attisdropped and attgenerated = '') as columns,
           array(select confrelid::regclass::text from pg_constraint
                  where conrelid = c.oid and contype = 'f' and confrelid <> conrelid) as after
      from pg_class c
     where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
     order by c.relname`)
  const ordered: Table[] = []
  const waiting = [...rows]
  while (waiting.length > 0) {
    const isFree = ({ after }: { after: string[] }) =>
      after.every((name) => !waiting.some((other) => other.name === name))
    const index = waiting.findIndex(isFree)
    if (index === -1) {
      throw new Fail(
        'verify-failed',
        `foreign keys of ${waiting.map(({ name }) => name).join(', ')} go in a circle`,
      )
    }
    const { name, columns } = waiting[index]!
    waiting.splice(index, 1)
    ordered.push({ name, columns })
  }
  return ordered
}

function checkTables(tables: readonly Table[], found: readonly SqliteTable[]): void {
  const differences = [
    ...missing('table', names(found), names(tables)),
    ...tables.flatMap(({ name, columns }) => {
      const same = found.find((table) => table.name === name)
      return same === undefined ? [] : missing(`column of ${name}`, same.columns, names(columns))
    }),
    ...tables.flatMap(({ name, columns }) =>
      columns
        .filter(({ type }) => !isKnownType(type))
        .map((column) => `${name}.${column.name} is of type ${column.type}`),
    ),
  ]
  if (differences.length === 0) return
  throw new Fail(
    'verify-failed',
    `the SQLite file has not the tables of the database: ${differences.join('; ')}`,
    {
      hint: 'Both must have the same schema: bring both to their newest version.',
    },
  )
}

function names(things: readonly { readonly name: string }[]): string[] {
  return things.map(({ name }) => name)
}

function missing(what: string, inFile: readonly string[], inDatabase: readonly string[]): string[] {
  return [
    ...inDatabase
      .filter((name) => !inFile.includes(name))
      .map((name) => `${what} "${name}" is missing in the file`),
    ...inFile
      .filter((name) => !inDatabase.includes(name))
      .map((name) => `${what} "${name}" is in the file only`),
  ]
}

/** Of all rows of a table, in whatever order. */
interface Sum {
  readonly rows: number
  readonly hash: bigint
}

async function fill(client: Client, table: Table, file: SqliteFile, onRows: OnRows): Promise<Sum> {
  const source: SqliteTable = { name: table.name, columns: names(table.columns) }
  const of = file.count(table.name)
  let sum: Sum = { rows: 0, hash: 0n }
  let chunk: (string | null)[][] = []
  const send = async () => {
    await insert(client, table, chunk)
    for (const row of chunk) sum = withRow(sum, row)
    chunk = []
    onRows(table.name, sum.rows, of)
    interrupted.throwIfAborted()
  }
  for (const row of file.rows(source)) {
    const key = row
      .slice(0, 2)
      .map(({ value }) => show(value))
      .join(', ')
    chunk.push(
      row.map((value, index) => {
        const { name: column, type } = table.columns[index]!
        return convert(value, type, { table: table.name, column, key })
      }),
    )
    if (chunk.length === CHUNK) await send()
  }
  if (chunk.length > 0) await send()
  return sum
}

/** One array a column: the protocol has room for 65,535 values, and an array is one. */
async function insert(
  client: Client,
  { name, columns }: Table,
  rows: readonly (string | null)[][],
): Promise<void> {
  const list = columns.map((column) => ident(column.name)).join(', ')
  const arrays = columns.map(({ type }, index) => `$${index + 1}::${type}[]`).join(', ')
  const values = columns.map((_, index) => rows.map((row) => row[index]!))
  await client.query(`insert into ${ident(name)} (${list}) select * from unnest(${arrays})`, values)
}

async function readBack(client: Client, { name, columns }: Table): Promise<Sum> {
  const list = columns.map((column) => `${ident(column.name)}::text`).join(', ')
  await client.query(`declare howdah_read no scroll cursor for select ${list} from ${ident(name)}`)
  let sum: Sum = { rows: 0, hash: 0n }
  for (;;) {
    const { rows } = await client.query({ text: `fetch ${CHUNK} from howdah_read`, rowMode: 'array' })
    if (rows.length === 0) break
    for (const row of rows as (string | null)[][]) sum = withRow(sum, row.map(unbooled(columns)))
  }
  await client.query('close howdah_read')
  return sum
}

/** boolean::text is `true`, and an array takes `t`. */
function unbooled(columns: readonly Column[]): (value: string | null, index: number) => string | null {
  return (value, index) => (columns[index]!.type === 'boolean' && value !== null ? value[0]! : value)
}

function withRow({ rows, hash }: Sum, row: readonly (string | null)[]): Sum {
  const digest = createHash('sha256').update(JSON.stringify(row)).digest()
  return { rows: rows + 1, hash: (hash + digest.readBigUInt64BE(0)) & 0xffff_ffff_ffff_ffffn }
}

function assertSame(table: string, sent: Sum, found: Sum): void {
  if (sent.rows === found.rows && sent.hash === found.hash) return
  const what = sent.rows === found.rows ? 'other values' : `${found.rows} rows instead of ${sent.rows}`
  throw new Fail('verify-failed', `table ${table} would have ${what} than the file: nothing was imported`, {
    hint: 'Does a trigger or a rule of the table change what is stored?',
  })
}

async function setSequences(client: Client, { name, columns }: Table): Promise<void> {
  for (const column of columns) {
    const table = literal(ident(name))
    const { rows } = await client.query<{ sequence: string | null }>(
      `select pg_get_serial_sequence(${table}, ${literal(column.name)}) as sequence`,
    )
    const { sequence } = rows[0]!
    if (sequence === null) continue
    await client.query(
      `select setval(${literal(sequence)}, max(${ident(column.name)})) from ${ident(name)} having max(${ident(column.name)}) is not null`,
    )
  }
}

function show(value: null | bigint | number | Uint8Array): string {
  return value instanceof Uint8Array ? Buffer.from(value).toString() : String(value)
}
