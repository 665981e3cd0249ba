import { randomBytes } from 'node:crypto'
import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { clientProgram } from '../cluster/program.ts'
import { ident, literal } from '../cluster/sql.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import type { DatabaseSpec } from '../host/schema.ts'
import { applyChange, type Change } from './apply.ts'
import type { Migration } from './file.ts'
import { makeLedger, mirrorTableText } from './ledger.ts'
import { cancelling, type RunOptions } from './session.ts'

/** Where dbmate notes what it has applied, in schema public. */
export const DBMATE_TABLE = 'schema_migrations'

/** What a scratch database is like. */
export interface ScratchScope {
  readonly cluster: Cluster
  /** The one that it stands for: it gets its encoding, locale and owner. */
  readonly database: string
  readonly spec: DatabaseSpec
  readonly options: RunOptions
}

/** A throw-away database that is like another one, without any of its tables. */
export interface Scratch extends AsyncDisposable {
  readonly name: string
  run(changes: readonly Change[]): Promise<void>
  /** Its schema as pg_dump has it. */
  schema(): Promise<string>
}

/**
 * Makes a scratch database; those that dead runs left are dropped. The caller holds the lock of the database, so
 * nobody else works on one of these.
 * @throws {Fail} what a connection throws
 */
export async function openScratch(scope: ScratchScope): Promise<Scratch> {
  const { cluster, database } = scope
  const admin = await cluster.connect(database, { applicationName: 'howdah migrate: scratch' })
  try {
    return await makeScratch(scope, admin)
  } catch (error) {
    await admin.end() // it would keep this process alive
    throw error
  }
}

async function makeScratch(
  { cluster, database, spec, options }: ScratchScope,
  admin: Client,
): Promise<Scratch> {
  const { rows } = await admin.query<{ id: string; encoding: string; collate: string; ctype: string }>(
    `select oid::text as id, pg_encoding_to_char(encoding) as encoding, datcollate as collate, datctype as ctype
       from pg_database where datname = ${literal(database)}`,
  )
  const { id, encoding, collate, ctype } = rows[0]!
  const prefix = `howdah_scratch_${id}_`
  const { rows: left } = await admin.query<{ name: string }>(
    `select datname as name from pg_database where starts_with(datname, ${literal(prefix)})`,
  )
  for (const { name } of left) await admin.query(`drop database if exists ${ident(name)} with (force)`)
  const name = `${prefix}${randomBytes(4).toString('hex')}`
  const like = `encoding ${literal(encoding)} lc_collate ${literal(collate)} lc_ctype ${literal(ctype)}`
  await admin.query(
    `create database ${ident(name)} template template0 ${like}${options.role === undefined ? '' : ` owner ${ident(options.role)}`}`,
  )
  const drop = async () => {
    await admin.query(`drop database if exists ${ident(name)} with (force)`)
  }
  try {
    const client = await cluster.connect(name, { applicationName: 'howdah migrate: scratch' })
    try {
      await makeLedger(client)
      if (options.mirrorTable !== undefined)
        await client.query(mirrorTableText(options.mirrorTable, options.role))
      for (const extension of spec.extensions) {
        await client.query(`create extension if not exists ${ident(extension.name)} cascade`)
      }
      for (const [schema, { owner }] of Object.entries(spec.schemas)) {
        await client.query(`create schema if not exists ${ident(schema)}`)
        if (owner !== undefined) await client.query(`alter schema ${ident(schema)} owner to ${ident(owner)}`)
      }
    } finally {
      await client.end()
    }
  } catch (error) {
    await drop()
    throw error
  }
  return {
    name,
    run: (changes) => runThere({ cluster, options, admin }, name, changes),
    schema: () => schemaOf(cluster, name, options.mirrorTable),
    [Symbol.asyncDispose]: () => drop().finally(() => admin.end()),
  }
}

async function runThere(
  { cluster, options, admin }: Pick<ScratchScope, 'cluster' | 'options'> & { readonly admin: Client },
  name: string,
  changes: readonly Change[],
): Promise<void> {
  const client = await cluster.connect(name, { applicationName: 'howdah migrate: scratch' })
  const cancel = async () => {
    const end = 'select pg_cancel_backend(pid) from pg_stat_activity where datname = $1'
    await admin.query(end, [name])
  }
  try {
    for (const change of changes) {
      interrupted.throwIfAborted()
      await cancelling({ cancel }, () => applyChange(client, change, options))
    }
  } finally {
    await client.end()
  }
}

/**
 * A database's schema as text, without what only notes versions; the same for the same schema.
 * @param mirrorTable where an application looks for them
 */
export async function schemaOf(
  cluster: Cluster,
  database: string,
  mirrorTable: string | undefined,
): Promise<string> {
  const tables = [`public.${DBMATE_TABLE}`, ...(mirrorTable === undefined ? [] : [mirrorTable])]
  const patterns = tables.map((table) => `--exclude-table=${table.split('.').map(ident).join('.')}`)
  const without = ['--exclude-schema=howdah', ...patterns]
  const { argv, options } = clientProgram(cluster, 'pg_dump', database, ['--schema-only', ...without])
  const { stdout } = await run(argv, options)
  // A random word of each dump, and what says when and by what it was made.
  return stdout
    .split('\n')
    .filter((line) => !/^\\(un)?restrict |^-- (Dumped|Started|Completed)|^$|^--$/.test(line))
    .join('\n')
}

/**
 * A schema in which only what migrations are about differs: neither how foreign keys are called, which a column keeps
 * that was renamed, nor the order, which follows their names, nor who may do what, which provisioning says. Pure.
 */
export function comparable(schema: string): string {
  return schema
    .split('\n')
    .filter((line) => !line.startsWith('-- '))
    .map((line) => line.replace(/ADD CONSTRAINT (?:"(?:[^"]|"")+"|\S+) FOREIGN KEY/, 'ADD FOREIGN KEY'))
    .join('\n')
    .split(/(?<=;)\n/)
    .filter((statement) => !/^(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) /.test(statement))
    .toSorted()
    .join('\n')
}

/**
 * Proves in a scratch database that migrations can be applied, and, where each has a way back, taken back and applied
 * again to the same end.
 * @returns whether they were taken back
 * @throws {Fail} `migration-failed` when they cannot; `verify-failed` when the ends differ
 */
export async function rehearse(scratch: Scratch, migrations: readonly Migration[]): Promise<boolean> {
  const ups = migrations.map((migration): Change => ({ migration, direction: 'up' }))
  const downs = migrations
    .filter(({ down }) => down !== undefined)
    .map((migration): Change => ({ migration, direction: 'down' }))
    .toReversed()
  const begin = await scratch.schema()
  await scratch.run(ups)
  const first = await scratch.schema()
  if (downs.length < ups.length) return false
  await scratch.run(downs)
  assertSame(begin, await scratch.schema(), 'after all downs the schema is not what it was before the ups')
  await scratch.run(ups)
  assertSame(first, await scratch.schema(), 'the second ups lead to another schema than the first')
  return true
}

/** @throws {Fail} `verify-failed`, with the lines that differ */
export function assertSame(wanted: string, actual: string, message: string): void {
  if (wanted === actual) return
  const [a, b] = [wanted.split('\n'), actual.split('\n')]
  const gone = a.filter((line) => !b.includes(line)).map((line) => `- ${line}`)
  const added = b.filter((line) => !a.includes(line)).map((line) => `+ ${line}`)
  const lines = [...gone, ...added]
  throw new Fail('verify-failed', message, {
    hint: lines.length === 0 ? 'The same lines stand in another order.' : lines.slice(0, 20).join('\n'),
  })
}
