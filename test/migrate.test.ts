import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { runScript, type ScriptResult } from './support/script.ts'
import { startServer, type TestServer } from './support/server.ts'

let server: TestServer
let file: string
let dir: string

beforeAll(async () => {
  server = await startServer()
  dir = join(server.dir, 'migrations')
  file = join(server.dir, 'host.toml')
  await server.query('postgres', 'create role app')
  await writeFile(file, host())
})

afterAll(() => server[Symbol.asyncDispose]())

beforeEach(async () => {
  await rm(dir, { recursive: true, force: true })
  await mkdir(dir)
  await server.query('postgres', 'drop database if exists telemetry with (force)')
  await server.query('postgres', 'create database telemetry owner app')
})

const host = (more = '') => `${server.header}
[databases.telemetry]
owner = "app"
[databases.telemetry.migrations]
dir = "migrations"
lock_timeout = "200ms"
tries = 2
${more}`

const put = (name: string, up: string, down?: string) =>
  writeFile(
    join(dir, name),
    `-- migrate:up\n${up}\n${down === undefined ? '' : `-- migrate:down\n${down}\n`}`,
  )

const migrate = (...args: readonly string[]): Promise<ScriptResult> =>
  runScript(['migrate', ...args, '-c', file])

const query = <Row extends object>(text: string) => server.query<Row>('telemetry', text)

async function twoTables(): Promise<void> {
  await put('0001_first.sql', 'create table first (n int);', 'drop table first;')
  await put(
    '0002_second.sql',
    'create table second (n int);\ninsert into second values (1);',
    'drop table second;',
  )
}

test('up and down: what is pending is applied in order, as the owner, and taken back', async () => {
  await twoTables()
  const plan = await migrate('up', '--plan')
  expect(plan).toMatchObject({ code: 0, stderr: '' })
  expect(plan.stdout).toContain('+ telemetry: 0002_second.sql, up\ncreate table second (n int);')
  expect(await query(`select from pg_namespace where nspname = 'howdah'`)).toEqual([])
  expect((await migrate('check')).stdout).toBe(
    'telemetry: 0001 is pending, 0002 is pending; run: howdah migrate up\n',
  )
  expect((await migrate('up')).stdout).toBe('+ telemetry: 0001 first\n+ telemetry: 0002 second\n')
  expect((await migrate('up')).stdout).toBe('telemetry: nothing to do\n')
  expect(await migrate('check')).toMatchObject({ code: 0, stdout: 'all is applied\n' })
  expect(
    await query(
      `select tablename::text as name, tableowner::text as owner from pg_tables where schemaname = 'public' order by 1`,
    ),
  ).toEqual([
    { name: 'first', owner: 'app' },
    { name: 'second', owner: 'app' },
  ])
  expect(await migrate('down')).toMatchObject({
    code: 40,
    stderr: expect.stringContaining('0002_second.sql deletes what they made') as string,
  })
  expect((await migrate('down', '--allow', 'deletes-data')).stdout).toBe('- telemetry: 0002 second\n')
  expect((await migrate('status')).stdout).toMatch(
    /^ {2}0001 {2}first {3}applied .* by \S+\n {2}0002 {2}second {2}pending$/m,
  )
  expect((await migrate('down', '--to', '0', '--allow', 'deletes-data')).stdout).toBe(
    '- telemetry: 0001 first\n',
  )
  expect(await query(`select from pg_tables where schemaname = 'public'`)).toEqual([])
})

test('the ledger: nobody but the superuser may read it', async () => {
  await twoTables()
  await migrate('up')
  const [row] = await query<{ may: boolean }>(`select has_schema_privilege('app', 'howdah', 'usage') as may`)
  expect(row!.may).toBe(false)
})

test('a statement that fails: says file, line and column, and the database is as it was', async () => {
  await put('0001_a.sql', 'create table a (n int);\n\ninsert into a\n  values (nope);')
  const done = await migrate('up')
  expect(done.code).toBe(64)
  expect(done.stderr).toContain('0001_a.sql:5:11: column "nope" does not exist (42703)')
  expect(done.stderr).toContain('in: insert into a values (nope)')
  expect(await query(`select from pg_tables where tablename = 'a'`)).toEqual([])
  expect((await migrate('status')).stdout).toContain('pending')
})

test('the four stories: missing, edited, renamed, out of order: each has its own words', async () => {
  await twoTables()
  await migrate('up')
  await put('0002_second.sql', 'create table second (n int, m int);')
  expect(await migrate('up')).toMatchObject({
    code: 65,
    stderr: expect.stringMatching(/0002_second.sql was changed after it had been applied on 2/) as string,
  })
  expect((await migrate('repair', '2')).stdout).toContain('noted as 0002_second.sql is now')
  await rm(join(dir, '0002_second.sql'))
  expect((await migrate('up')).stderr).toContain('version 2 (second) is applied, and there is no file of it')
  await put('0002_other.sql', 'create table second (n int, m int);')
  expect((await migrate('up')).stderr).toContain(
    'version 0002 was applied as "second" and is called "other" now',
  )
  await migrate('repair', '0002')
  await put('0003_third.sql', 'create table third ()')
  await migrate('up')
  await put('0002_1_late.sql', 'select 1;')
  expect((await migrate('up')).stderr).toContain('version 2 is there twice: 0002_1_late.sql, 0002_other.sql')
})

test('a version that comes late: is refused, and run when that is asked for; down goes in the order of applying', async () => {
  await put('0001_a.sql', 'select 1;', 'select 1;')
  await put('0003_c.sql', 'select 1;', 'select 1;')
  await migrate('up')
  await put('0002_b.sql', 'select 1;', 'select 1;')
  expect(await migrate('up')).toMatchObject({
    code: 65,
    stderr: expect.stringContaining('0002_b.sql was never applied, although later ones were') as string,
  })
  expect((await migrate('up', '--out-of-order')).stdout).toBe('+ telemetry: 0002 b\n')
  expect((await migrate('down', '--allow', 'deletes-data')).stdout).toBe('- telemetry: 0002 b\n')
})

test('only the way back was edited: nothing stands in the way', async () => {
  await put('0001_a.sql', 'select 1;', 'select 1;')
  await migrate('up')
  await put('0001_a.sql', 'select 1;', 'select 2;')
  expect(await migrate('check')).toMatchObject({ code: 0 })
  expect((await migrate('status')).stdout).toContain('the way back was changed since')
})

test('a file without a way back: down says so, before anything is done', async () => {
  await put('0001_a.sql', 'create table a ();')
  await migrate('up')
  expect(await migrate('down', '--allow', 'deletes-data')).toMatchObject({ code: 42 })
})

test('what one migration sets in its session: the next one does not see', async () => {
  await put('0001_a.sql', `set search_path = pg_catalog; set statement_timeout = '1s';`)
  await put(
    '0002_b.sql',
    `create table b as select current_setting('search_path') as path, current_setting('statement_timeout') as time;`,
  )
  await migrate('up')
  expect(await query('select * from b')).toEqual([{ path: '"$user", public', time: '0' }])
})

test('outside of a transaction: an index is made concurrently, while another run waits for the lock', async () => {
  await put('0001_a.sql', 'create table a as select 1 as n;')
  await writeFile(
    join(dir, '0002_b.sql'),
    '-- migrate:up transaction:false\ncreate index concurrently a_n on a (n);\n',
  )
  const [one, two] = await Promise.all([migrate('up'), migrate('up')])
  expect([one.code, two.code]).toEqual([0, 0])
  expect([one.stdout, two.stdout].toSorted()).toEqual([
    '+ telemetry: 0001 a\n+ telemetry: 0002 b\n',
    'telemetry: nothing to do\n',
  ])
})

test('outside of a transaction, and it fails: is seen as half-done, with the index that is invalid; repair clears up', async () => {
  await put('0001_a.sql', 'create table a as select 1 as n union all select 1;')
  await writeFile(
    join(dir, '0002_b.sql'),
    '-- migrate:up transaction:false\ncreate table b ();\ncreate unique index concurrently if not exists a_n on a (n);\n',
  )
  const done = await migrate('up')
  expect(done.code).toBe(64)
  expect(done.stderr).toMatch(
    /0002_b.sql: could not create unique index "a_n" .*; 1 of its 2 statements are done/,
  )
  expect((await migrate('status')).stdout).toMatch(/0002 {2}b {2}half-done[^]*! index a_n is invalid/)
  expect(await migrate('up')).toMatchObject({ code: 65 })
  expect((await migrate('repair', '2')).code).toBe(2)
  expect((await migrate('repair', '2', '--as', 'pending', '--plan')).stdout).toContain(
    'would be seen as pending',
  )
  expect((await migrate('status')).stdout).toContain('half-done')
  await query('delete from a; drop table b')
  expect(await migrate('repair', '2', '--as', 'pending')).toMatchObject({
    stderr: '',
    stdout: expect.stringContaining('its invalid index is dropped: a_n'),
  })
  expect((await migrate('up')).stdout).toBe('+ telemetry: 0002 b\n')
  expect(await query('select from pg_index where not indisvalid')).toEqual([])
})

test('a lock that somebody holds: is tried again, then given up, and nobody has waited behind it', async () => {
  await put('0001_a.sql', 'create table a ();')
  await migrate('up')
  await put('0002_b.sql', 'alter table a add column n int;')
  const done = await server.withClient('telemetry', async (client) => {
    await client.query('begin; lock table a')
    return migrate('up')
  })
  expect(done.code).toBe(64)
  expect(done.stderr).toContain('no lock within 200ms, try 2 of 2')
  expect((await migrate('up')).code).toBe(0)
})

test('killed in its midst: nothing of it is there, and nothing stays locked', async () => {
  await put('0001_a.sql', 'create table a (); select pg_sleep(30);')
  const killed = runScript(['migrate', 'up', '-c', file], {
    onStart: (pid) => void waitFor('pg_sleep').then(() => process.kill(pid, 'SIGKILL')),
  })
  expect(await killed).toMatchObject({ signal: 'SIGKILL' })
  await server.query(
    'postgres',
    `select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(30)%' and pid <> pg_backend_pid()`,
  )
  await put('0001_a.sql', 'create table a ();')
  expect((await migrate('up')).stdout).toBe('+ telemetry: 0001 a\n')
})

async function waitFor(text: string): Promise<void> {
  const seen = () =>
    server.query(
      'postgres',
      `select from pg_stat_activity where query like '%${text}%' and state = 'active' and pid <> pg_backend_pid()`,
    )
  while ((await seen()).length === 0);
}

test('a rehearsal: up, down, up in a scratch database; a way back that forgets something is found', async () => {
  await twoTables()
  expect((await migrate('up', '--scratch')).stdout).toBe('telemetry: 2 migrations go up, down and up again\n')
  expect(await query(`select from pg_tables where schemaname = 'public'`)).toEqual([])
  await put('0003_c.sql', 'create table c (); create type d as enum ();', 'drop table c;')
  const done = await migrate('up', '--scratch')
  expect(done.code).toBe(60)
  expect(done.stderr).toContain('+ CREATE TYPE public.d AS ENUM')
  expect(await server.query('postgres', `select from pg_database where datname like 'howdah%'`)).toEqual([])
})

test('adopt: a database that has the schema already is compared, then noted', async () => {
  await twoTables()
  await query(
    'create table first (n int); alter table first owner to app; create table second (n bigint); alter table second owner to app',
  )
  const differs = await migrate('adopt', '2')
  expect(differs.code).toBe(60)
  expect(differs.stderr).toMatch(/- {5}n integer|\+ {5}n bigint/)
  await query('alter table second alter n type int')
  expect((await migrate('adopt', '2', '--plan')).stdout).toContain('2 migrations would be noted')
  expect((await migrate('adopt', '2')).stdout).toContain('2 migrations are noted as applied')
  expect(await migrate('check')).toMatchObject({ code: 0 })
})

test("adopt: dbmate's own ledger is taken over", async () => {
  await twoTables()
  await query(
    `create table first (n int); alter table first owner to app; create table schema_migrations (version varchar primary key); insert into schema_migrations values ('0001')`,
  )
  expect((await migrate('adopt')).stdout).toContain('1 migrations are noted as applied')
  expect((await migrate('up')).stdout).toBe('+ telemetry: 0002 second\n')
})

test('a table in which an application looks: has the versions, too', async () => {
  await twoTables()
  await writeFile(file, host('mirror_table = "__schema_migrations"'))
  try {
    await migrate('up')
    expect(await query('select version::int from __schema_migrations order by 1')).toEqual([
      { version: 1 },
      { version: 2 },
    ])
    await migrate('down', '--allow', 'deletes-data')
    expect(await query('select version::int from __schema_migrations')).toEqual([{ version: 1 }])
  } finally {
    await writeFile(file, host())
  }
})

test('new: a file with the next number, which can be applied', async () => {
  await twoTables()
  expect((await migrate('new', 'Add outputs!')).stdout).toBe(`made ${join(dir, '0003_add_outputs.sql')}\n`)
  expect(await migrate('new', '../../x')).toMatchObject({ code: 2 })
  await migrate('up')
  expect(await migrate('check')).toMatchObject({ code: 0 })
})

test('a user without migrations: is told what to add', async () => {
  const other = join(server.dir, 'other.toml')
  await writeFile(other, server.header)
  expect(await runScript(['migrate', 'up', '-c', other])).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('[databases.NAME.migrations] dir = ') as string,
  })
})

const provisioned = () => `${server.header}
[roles.app]
[roles.reader]
[databases.telemetry]
owner = "app"
manage = "exact"
[databases.telemetry.migrations]
dir = "migrations"
[[databases.telemetry.grants]]
to = ["reader"]
on = "tables"
privileges = ["SELECT"]
`

test('provision apply: migrates before it grants, and then nothing is pending', async () => {
  await twoTables()
  const path = join(server.dir, 'provisioned.toml')
  await writeFile(path, provisioned())
  await server.query('postgres', 'drop database telemetry')
  const provision = (...args: readonly string[]) => runScript(['provision', ...args, '-c', path])
  const plan = await provision('plan')
  expect(plan.stdout).toMatch(
    /^\+ migration telemetry: 0001_first.sql: up\n\+ migration telemetry: 0002_second.sql: up$/m,
  )
  const applied = await provision('apply', '--yes')
  expect(applied).toMatchObject({ code: 0 })
  expect(applied.stdout).toMatch(/\+ migration telemetry: 0002_second.sql: up$/m)
  expect(
    await query<{ may: boolean }>(`select has_table_privilege('reader', 'second', 'select') as may`),
  ).toEqual([{ may: true }])
  expect(await provision('plan', '--check')).toMatchObject({ code: 0, stdout: 'nothing to do\n' })
  await put('0003_third.sql', 'create schema late; create table late.third ();')
  expect((await provision('plan', '--check')).code).toBe(1)
  expect((await provision('apply', '--yes', '--only', 'role')).stdout).toBe('nothing to do\n')
  await provision('apply', '--yes')
  expect(
    await query<{ may: boolean }>(`select has_table_privilege('reader', 'late.third', 'select') as may`),
  ).toEqual([{ may: true }])
  expect(await provision('plan', '--check')).toMatchObject({ code: 0 })
  expect((await provision('export')).stdout).not.toContain('schemas.howdah')
  await put('0003_third.sql', 'select 1;')
  const refused = await provision('plan')
  expect(refused.stdout).toContain('! migration telemetry: impossible: 0003_third.sql was changed after')
  expect(await provision('apply', '--yes')).toMatchObject({ code: 42 })
})
