import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Migrating, openMigrating } from '../support/migrating.ts'

// Migrations that are alone in a message, and those outside of a transaction.

let it: Migrating
beforeAll(async () => {
  it = await openMigrating()
})
afterAll(() => it[Symbol.asyncDispose]())
beforeEach(() => it.begin())

const interrupt = (pid: number) => void process.kill(pid, 'SIGINT')

test('Ctrl-C in the midst of the only one: it ends at once, and nothing of it is there', async () => {
  await it.put('0001_a', 'create table a ();\nselect pg_sleep(60);')
  expect(await it.migrateUntil(['up'], 'PgSleep', interrupt)).toMatchObject({ code: 130 })
  expect((await it.migrate('status')).stdout).toMatch(/0001 {2}a {2}pending/)
})

test('Ctrl-C in the midst of one outside of a transaction: it ends at once, and says what is to be done', async () => {
  await it.put('0001_a', 'create table a ();\nselect pg_sleep(60);', { transaction: false })
  const done = await it.migrateUntil(['up'], 'PgSleep', interrupt)
  expect(done.stderr).toMatch(/1 of its 2 statements are done[^]*howdah migrate repair 0001 --as pending/)
  expect((await it.migrate('status')).stdout).toMatch(/0001 {2}a {2}half-done/)
})

test('transactions of its own, in a file outside of any: are run as they stand', async () => {
  await it.put(
    '0001_a',
    'begin;\ncreate table a ();\ncommit;\nvacuum a;\nbegin;\ncreate table b ();\nrollback;',
    {
      transaction: false,
    },
  )
  expect(await it.migrate('up')).toMatchObject({ code: 0, stderr: '' })
  expect(
    await it.query(`select to_regclass('a') is not null as a, to_regclass('b') is not null as b`),
  ).toEqual([{ a: true, b: false }])
})

test('savepoints: are no end of the transaction, in each of their spellings', async () => {
  await it.put(
    '0001_a',
    'savepoint s; create table a (); rollback to s; rollback work to savepoint s; rollback transaction to s;',
  )
  expect(await it.migrate('up')).toMatchObject({ code: 0, stderr: '' })
})

test('an older transaction, for which an index that is made concurrently waits: has the time of all tries', async () => {
  await it.query('create table a as select 1 as n; alter table a owner to app')
  await it.put('0001_a', 'create index concurrently a_n on a (n);', { transaction: false })
  await it.server.withClient('telemetry', async (client) => {
    await client.query('begin isolation level repeatable read; select')
    const done = it.migrate('up')
    await it.waitFor('create index concurrently')
    await sleep(250) // longer than one try
    await client.query('commit')
    expect(await done).toMatchObject({ code: 0, stderr: '' })
  })
  expect((await it.migrate('check')).code).toBe(0)
})

test('repair: drops the invalid index of the file, not another one whose name is a word in it', async () => {
  await it.query('create table a as select 1 as n; alter table a owner to app')
  await it.query('create table other as select 1 as x; create index n on other (x)')
  await it.put('0001_a', 'create index concurrently a_n on a (n);\nselect nope;', { transaction: false })
  expect((await it.migrate('up')).code).toBe(64)
  await it.query(
    `update pg_index set indisvalid = false where indexrelid in ('a_n'::regclass, 'n'::regclass)`,
  )
  expect(await it.migrate('repair', '1', '--as', 'applied')).toMatchObject({
    code: 65,
    stderr: expect.stringContaining('version 0001 is not applied: a_n is invalid') as string,
  })
  expect((await it.migrate('repair', '1', '--as', 'pending')).stdout).toContain('is dropped: a_n\n')
  expect(await it.query(`select to_regclass('n') is not null as there`)).toEqual([{ there: true }])
})

test('a server that takes backslashes in strings for escapes: sees the statements that the file has', async () => {
  await it.query('alter database telemetry set standard_conforming_strings = off')
  await it.put('0001_a', String.raw`create table a (); select 'x\''; commit; --';` + '\nselect nope;')
  expect((await it.migrate('up')).code).toBe(64)
  expect(await it.query(`select to_regclass('a') is not null as there`)).toEqual([{ there: false }])
})

test('an error of syntax: is told by itself, without a warning of a transaction that was never begun', async () => {
  await it.put('0001_a', 'create tabel a ();')
  const { stderr } = await it.migrate('up')
  expect(stderr).toContain('0001_a.sql:2:8: syntax error')
  expect(stderr).not.toContain('no transaction in progress')
})

test('what the operator should know first: is said before it runs', async () => {
  await it.put('0001_a', '-- note: deletes all images\ncreate table a ();')
  expect(await it.migrate('up')).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('0001_a.sql: deletes all images') as string,
  })
})

test('a rehearsal of files of which one has no way back: says what was tried, and what not', async () => {
  await it.put('0001_a', 'create table a ();', { down: 'drop table a;' })
  await it.put('0002_b', 'create table b ();')
  expect((await it.migrate('up', '--scratch')).stdout).toBe(
    'telemetry: 2 migrations go up; not down again: 0002_b.sql has no way back\n',
  )
})

test.each(['', ' ', 'abc', '-1', '0x0'])(
  'down --to %j: no version, and nothing is taken back',
  async (to) => {
    await it.put('0001_a', 'create table a ();', { down: 'drop table a;' })
    await it.migrate('up')
    expect(await it.migrate('down', `--to=${to}`, '--allow', 'deletes-data')).toMatchObject({ code: 2 })
    expect((await it.migrate('check')).code).toBe(0)
  },
)
