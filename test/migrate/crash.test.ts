import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { openSession } from '../../scripts/migrate/session.ts'
import { type Migrating, openMigrating } from '../support/migrating.ts'

let it: Migrating
beforeAll(async () => {
  it = await openMigrating()
})
afterAll(() => it[Symbol.asyncDispose]())
beforeEach(() => it.begin())

const kill = (pid: number) => void process.kill(pid, 'SIGKILL')

/** What a killed run still has going on in the server, which sees the end of a client only when it answers. */
async function endSessions(): Promise<void> {
  const ours = `from pg_stat_activity where application_name like 'howdah migrate%'`
  await it.server.query('postgres', `select pg_terminate_backend(pid, 5000) ${ours}`)
}

const tables = async () => {
  const rows = await it.query<{ name: string }>(
    `select relname::text as name from pg_class where relkind in ('r', 'i') and relnamespace = 'public'::regnamespace order by 1`,
  )
  return rows.map(({ name }) => name)
}

test('killed between two migrations: what is done stays done, and the next run does the rest', async () => {
  await it.put('0001_a', 'create table a ();')
  await it.put('0002_b', 'create table b (); select pg_sleep(60);')
  expect(await it.migrateUntil(['up'], 'PgSleep', kill)).toMatchObject({ signal: 'SIGKILL' })
  await endSessions()
  expect(await tables()).toEqual(['a'])
  expect((await it.migrate('status')).stdout).toMatch(/0001 {2}a {2}applied .*\n {2}0002 {2}b {2}pending$/m)
  await it.put('0002_b', 'create table b ();')
  expect((await it.migrate('up')).stdout).toBe('+ telemetry: 0002 b\n')
})

test('killed while it takes one back: the migration stands as before', async () => {
  await it.put('0001_a', 'create table a ();', { down: 'drop table a; select pg_sleep(60);' })
  await it.migrate('up')
  const down = ['down', '--allow', 'deletes-data']
  expect(await it.migrateUntil(down, 'PgSleep', kill)).toMatchObject({ signal: 'SIGKILL' })
  await endSessions()
  expect(await tables()).toEqual(['a'])
  expect(await it.migrate('check')).toMatchObject({ code: 0 })
})

test('killed while it takes one back, and taken back again while the server goes on with the first: is done once', async () => {
  await it.query('create table a as select 1 as n; alter table a owner to app')
  await it.put('0001_a', 'update a set n = n + 1;', {
    down: 'update a set n = n - 1; select pg_advisory_lock(7);',
  })
  await it.migrate('up')
  const down = ['down', '--allow', 'deletes-data']
  await it.server.withClient('telemetry', async (client) => {
    await client.query('select pg_advisory_lock(7)')
    expect(await it.migrateUntil(down, 'pg_advisory_lock', kill)).toMatchObject({ signal: 'SIGKILL' })
    expect(await it.migrate(...down)).toMatchObject({
      code: 64,
      stderr: expect.stringContaining('no lock within 200ms, try 2 of 2') as string,
    })
    await client.query('select pg_advisory_unlock(7)')
  })
  const sessions = `select from pg_stat_activity where application_name = 'howdah migrate'`
  while ((await it.server.query('postgres', sessions)).length > 0) await sleep(20)
  // The server may have ended it when it could not answer, or have done it to its end.
  expect((await it.migrate(...down)).code).toBe(0)
  expect(await it.query('select n from a')).toEqual([{ n: 1 }])
})

test('taken back by another run between the choice and the lock: is refused', async () => {
  await it.put('0001_a', 'create table a ();', { down: 'drop table a;' })
  await it.migrate('up')
  await it.server.withClient('telemetry', async (client) => {
    await client.query('begin; delete from howdah.migration')
    const second = it.migrate('down', '--allow', 'deletes-data')
    await it.waitFor('transactionid')
    await client.query('commit')
    expect(await second).toMatchObject({
      code: 64,
      stderr: expect.stringContaining('version 0001 was taken back meanwhile by another run') as string,
    })
  })
  expect(await tables()).toEqual(['a'])
})

test('killed while an index is made concurrently: is seen as half-done with its invalid index, and repaired', async () => {
  await it.query('create table a as select 1 as n; alter table a owner to app')
  await it.put('0001_a', 'create index concurrently a_n on a (n);', { transaction: false })
  await it.server.withClient('telemetry', async (client) => {
    await client.query('begin; lock table a in row exclusive mode') // which the index waits for
    const killed = await it.migrateUntil(['up'], 'index concurrently', kill)
    expect(killed).toMatchObject({ signal: 'SIGKILL' })
    await endSessions()
  })
  expect((await it.migrate('status')).stdout).toMatch(/0001 {2}a {2}half-done/)
  expect(await it.migrate('up')).toMatchObject({
    code: 65,
    stderr: expect.stringContaining('howdah migrate repair 0001 --as applied, or --as pending') as string,
  })
  await it.query('drop index if exists a_n')
  await it.query('create unique index a_n on a (n)')
  await it.query(`update pg_index set indisvalid = false where indexrelid = 'a_n'::regclass`)
  expect((await it.migrate('status')).stdout).toContain('! index a_n is invalid')
  expect((await it.migrate('repair', '1', '--as', 'pending')).stdout).toContain('dropped: a_n')
  expect((await it.migrate('up')).stdout).toBe('+ telemetry: 0001 a\n')
  expect(await it.query('select indisvalid as valid from pg_index where indrelid = $$a$$::regclass')).toEqual(
    [{ valid: true }],
  )
})

test('killed between the last statement outside of a transaction and the ledger: half-done; repaired as applied', async () => {
  await it.put('0001_a', 'create table a ();\nselect pg_advisory_lock(7);\ncreate table b ();', {
    transaction: false,
  })
  await it.server.withClient('telemetry', async (client) => {
    await client.query('select pg_advisory_lock(7)')
    const killed = it.migrateUntil(['up'], 'update howdah.migration', kill)
    await it.waitFor('pg_advisory_lock(7)')
    await client.query('begin; lock table howdah.migration in share mode')
    await client.query('select pg_advisory_unlock(7)')
    expect(await killed).toMatchObject({ signal: 'SIGKILL' })
    await endSessions()
  })
  expect(await tables()).toEqual(['a', 'b'])
  expect((await it.migrate('status')).stdout).toMatch(/0001 {2}a {2}half-done/)
  expect((await it.migrate('repair', '1', '--as', 'applied')).stdout).toContain('is seen as applied')
  expect(await it.migrate('check')).toMatchObject({ code: 0 })
})

test('the server dies in the midst of many: each is there together with its row, or not at all', async () => {
  await it.put('0001_a', 'create table a ();')
  await it.put('0002_b', 'create table b ();')
  await it.put('0003_c', 'create table c (); select pg_sleep(60);')
  const ended = await it.migrateUntil(['up'], 'PgSleep', async () => {
    const [row] = await it.query<{ pid: number }>(
      `select pid from pg_stat_activity where application_name = 'howdah migrate'`,
    )
    process.kill(row!.pid, 'SIGKILL') // the server starts all over, from its WAL
  })
  expect(ended.code).toBe(64)
  expect(ended.stderr).toContain('the connection was lost between 0001_a.sql and 0003_c.sql')
  const there = await untilAnswers(tables)
  const noted = await it.query<{ name: string }>('select name from howdah.migration order by 1')
  expect(noted.map(({ name }) => name)).toEqual(there)
  expect(there).not.toContain('c')
  await it.put('0003_c', 'create table c ();')
  expect((await it.migrate('up')).code).toBe(0)
  expect(await tables()).toEqual(['a', 'b', 'c'])
})

async function untilAnswers<T>(body: () => Promise<T>): Promise<T> {
  for (const deadline = Date.now() + 20_000; ;) {
    try {
      return await body()
    } catch (error) {
      if (Date.now() > deadline) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

test('another run holds the database: says so after its time, and nothing is changed', async () => {
  const { cluster } = it.server
  await using _first = await openSession(cluster, 'telemetry', { waitSeconds: 0 })
  await expect(openSession(cluster, 'telemetry', { waitSeconds: 0.3 })).rejects.toMatchObject({
    code: 'lock-held',
    message: 'another run migrates database telemetry',
    hint: 'Wait until it is done: howdah migrate status',
  })
  const sessions = `select from pg_stat_activity where application_name like 'howdah migrate%'`
  expect(await it.query(sessions)).toHaveLength(2)
})

test.each([
  ['a DO block', 'do $$ begin commit; end $$;', 'invalid transaction termination'],
  [
    'a procedure',
    `create procedure p() language plpgsql as 'begin rollback; end'; call p();`,
    'invalid transaction termination',
  ],
])('%s that ends the transaction: is refused, and nothing of the file is there', async (_, text, message) => {
  await it.put('0001_a', `create table a ();\n${text}`)
  const done = await it.migrate('up')
  expect(done).toMatchObject({ code: 64, stderr: expect.stringContaining(message) as string })
  expect(await tables()).toEqual([])
  expect((await it.migrate('status')).stdout).toMatch(/0001 {2}a {2}pending/)
})

test.each(['telemetry', 'no_such_database'])(
  'another cluster answers on its port, database %s: nothing is asked of it',
  async (database) => {
    const other = { ...it.server.cluster, dataDir: '/srv/another/data' }
    await expect(openSession(other, database, { waitSeconds: 0 })).rejects.toMatchObject({
      code: 'cluster-mismatch',
    })
    expect(
      await it.server.query(
        'postgres',
        `select from pg_stat_activity where application_name ~ '^howdah migrate'`,
      ),
    ).toEqual([])
  },
)
