import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { sharedCount } from '../../scripts/migrate/batch.ts'
import { parseMigration } from '../../scripts/migrate/file.ts'
import { type Migrating, openMigrating } from '../support/migrating.ts'

const changeOf = (up: string, options = '') => ({
  migration: parseMigration('0001_a.sql', `-- migrate:up${options}\n${up}\n`),
  direction: 'up' as const,
})
const small = changeOf('select 1;')
const large = changeOf(`select '${'x'.repeat(65_536)}';`)
const alone = changeOf('vacuum;', ' transaction:false')

test.each([
  ['small ones together', [small, small, small], 3],
  ['not more than 32', Array.from({ length: 40 }, () => small), 32],
  ['a large one ends it', [small, small, large, small], 2],
  ['a large one by itself', [large, small], 1],
  ['one outside of a transaction ends it', [small, alone, small], 1],
  ['one outside of a transaction by itself', [alone, small], 1],
])('a message: %s', (_, changes, count) => expect(sharedCount(changes)).toBe(count))

describe('many in one message', () => {
  let it: Migrating
  beforeAll(async () => {
    it = await openMigrating()
  })
  afterAll(() => it[Symbol.asyncDispose]())
  beforeEach(() => it.begin())

  const tables = async () => {
    const rows = await it.query<{ name: string }>(
      `select relname::text as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1`,
    )
    return rows.map(({ name }) => name)
  }

  test('one of them fails: those before it are done, and its own file, line and column are said', async () => {
    await it.put('0001_a', `create table a (n int); comment on table a is '🐘🐘🐘';`)
    await it.put('0002_b', 'create table b (n int);')
    await it.put('0003_c', `create table c (n text default '🐘');\ninsert into c\n  values (nope);`)
    await it.put('0004_d', 'create table d (n int);')
    const done = await it.migrate('up')
    expect(done.code).toBe(64)
    expect(done.stderr).toContain('0003_c.sql:4:11: column "nope" does not exist (42703)')
    expect(done.stderr).toContain('in: insert into c values (nope)')
    expect(await tables()).toEqual(['a', 'b'])
    expect((await it.migrate('check')).stdout).toBe(
      'telemetry: 0003 is pending, 0004 is pending; run: howdah migrate up\n',
    )
  })

  test('one of them fails without a place: its file is said', async () => {
    await it.put('0001_a', 'create table a (n int unique);')
    await it.put('0002_b', 'insert into a values (1), (1);')
    await it.put('0003_c', 'create table c ();')
    const done = await it.migrate('up')
    expect(done.stderr).toMatch(/0002_b.sql: duplicate key .* \(23505\)/)
    expect(await tables()).toEqual(['a'])
  })

  test('one of them has a syntax error: those before it are done all the same', async () => {
    await it.put('0001_a', 'create table a (n int);')
    await it.put('0002_b', 'create table b (n int);')
    await it.put('0003_c', 'create table c (n int);\nselect 1 +')
    await it.put('0004_d', 'selct 1;')
    const done = await it.migrate('up')
    expect(done.code).toBe(64)
    expect(done.stderr).toContain('0003_c.sql:3:11: syntax error at or near ";" (42601)')
    expect(done.stderr).toContain('in: select 1 +')
    expect(await tables()).toEqual(['a', 'b'])
  })

  test('one of them finds a table locked: it is tried again, and the rest follow', async () => {
    await it.query('create table locked (); alter table locked owner to app')
    await it.put('0001_a', 'create table a ();')
    await it.put('0002_b', 'alter table locked add column n int;')
    await it.put('0003_c', 'create table c ();')
    const done = await it.server.withClient('telemetry', async (client) => {
      await client.query('begin; lock table locked')
      const ended = it.migrate('up')
      while ((await tables()).length < 2);
      await new Promise((resolve) => setTimeout(resolve, 400))
      await client.query('rollback')
      return ended
    })
    expect(done).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('0002_b.sql: no lock within 200ms, try 2 of 2') as string,
    })
    expect(await tables()).toEqual(['a', 'c', 'locked'])
  })

  test('what one of them leaves in its session: the next one does not have', async () => {
    await it.put(
      '0001_a',
      `set session statement_timeout = '9s'; create temp table left_over (n int); prepare left_over as select 1;
       listen left_over; select pg_advisory_lock(7); set role none; declare left_over cursor with hold for select 1;
       create sequence s; select nextval('s');`,
    )
    await it.put(
      '0002_b',
      `create table b as select current_setting('statement_timeout') as time, current_user::text as role,
         to_regclass('left_over') is null as no_table, (select count(*)::int from pg_prepared_statements) as prepared,
         (select count(*)::int from pg_listening_channels()) as channels, (select count(*)::int from pg_cursors) as cursors,
         (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks;`,
    )
    expect(await it.migrate('up')).toMatchObject({ code: 0 })
    expect(await it.query('select * from b')).toEqual([
      { time: '0', role: 'app', no_table: true, prepared: 0, channels: 0, cursors: 0, locks: 0 },
    ])
  })

  test('down: many are taken back, and the ledger is empty', async () => {
    for (const name of ['a', 'b', 'c']) {
      await it.put(`000${name.codePointAt(0)! - 96}_${name}`, `create table ${name} ();`, {
        down: `drop table ${name};`,
      })
    }
    await it.migrate('up')
    expect((await it.migrate('down', '--to', '0', '--allow', 'deletes-data')).stdout).toBe(
      '- telemetry: 0003 c\n- telemetry: 0002 b\n- telemetry: 0001 a\n',
    )
    expect(await tables()).toEqual([])
    expect(await it.query('select from howdah.migration')).toEqual([])
  })

  test('Ctrl-C: the one under way is taken back, and those after it are not begun', async () => {
    await it.put('0001_a', 'create table a ();')
    await it.put('0002_b', 'create table b (); select pg_sleep(60);')
    await it.put('0003_c', 'create table c ();')
    const done = await it.migrateUntil(['up'], 'PgSleep', (pid) => void process.kill(pid, 'SIGINT'))
    expect(done).toMatchObject({ code: 130 })
    expect(await tables()).toEqual(['a'])
    expect((await it.migrate('check')).stdout).toContain('0002 is pending, 0003 is pending')
  })
})
