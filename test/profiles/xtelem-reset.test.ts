import type { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

// A telemetry database that is set back by one of three levels, to be filled again from the files.

let server: TestServer
let profile: Profile

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(
    server,
    'xtelem',
    `[store.local]\ntype = "dir"\npath = "${server.dir}/store"\n[backup.nightly]\nkind = "dump"\nstore = "local"\n`,
  )
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())

beforeEach(async () => {
  await sql('truncate telem, file_origins, file_ingest_times, file_replicas, file_ingests, file_rejects')
  await sql(`insert into telem values ('2026-03-14 00:00Z', 'd', '{}');
    insert into file_origins values ('aoc', '/a', now(), now(), 1);
    insert into file_ingest_times values ('2026-03-14 00:00Z', 'd', now(), 'aoc', '/a');
    insert into file_replicas values ('b', '/b/a', now(), 1, 'aoc', '/a')`)
})

const sql = <Row extends object>(text: string) => server.query<Row>('xtelem', text)
const reset = (...args: string[]) => profile.run('migrate', 'reset', ...args)
const allowed = (level: string) => reset('--level', level, '--allow', 'deletes-data')

async function rows(): Promise<unknown> {
  const [row] =
    await sql(`select (select count(*)::int from telem) as telem, (select count(*)::int from file_origins) as origins,
    (select count(*)::int from file_ingest_times) as times, (select count(*)::int from file_replicas) as replicas`)
  return row
}
const FULL = { telem: 1, origins: 1, times: 1, replicas: 1 }
const EMPTY = { telem: 0, origins: 0, times: 0, replicas: 0 }

/** Everything that matters of the schema, with owners and foreign keys. */
async function schema(): Promise<unknown> {
  return sql(`select relname::text, relkind::text, pg_get_userbyid(relowner)::text as owner, array_to_string(relacl, ' ') as acl,
                (select string_agg(pg_get_constraintdef(o.oid), '; ' order by 1) from pg_constraint o where conrelid = c.oid and contype <> 'n') as keys
    from pg_class c where relnamespace = 'public'::regnamespace order by 1`)
}

async function backups(): Promise<number> {
  const { stdout } = await profile.run('backup', 'list', '--json')
  // There is no store yet before the first one.
  return (JSON.parse(stdout) as { result?: { backups: unknown[] } }).result?.backups.length ?? 0
}

test('--plan, or without consent: says what it would do, and nothing is done', async () => {
  for (const level of ['1', '2', '3']) {
    const planned = await reset('--level', level, '--plan')
    expect(planned.code).toBe(0)
    expect(planned.stdout).toMatch(/^first a backup by the job nightly\n/)
    expect(await reset('--level', level)).toMatchObject({ code: 40, stdout: '' })
  }
  expect((await reset('--level', '1', '--plan')).stdout).toContain(
    'truncate public.file_ingest_times, public.file_ingests, public.file_origins, public.file_rejects, public.file_replicas, public.replicas, public.telem restart identity;',
  )
  expect((await reset('--level', '3', '--plan')).stdout).toMatch(
    /drop database if exists "xtelem" with \(force\);\n.*drop role if exists "xsup";\n.*drop role if exists "xtelem";/,
  )
  expect(await reset()).toMatchObject({ code: 2, stderr: expect.stringContaining('--level is missing') })
  expect(await rows()).toEqual(FULL)
  expect(await backups()).toBe(0)
})

test('level 1: no table keeps a row, also where somebody has dropped its foreign key', async () => {
  await sql('alter table file_ingest_times drop constraint file_ingest_times_origin_host_origin_path_fkey')
  const before = await backups()
  expect(await allowed('1')).toMatchObject({ code: 0 })
  expect(await rows()).toEqual(EMPTY)
  expect(await backups()).toBe(before + 1)
  await sql(
    'alter table file_ingest_times add foreign key (origin_host, origin_path) references file_origins (origin_host, origin_path)',
  )
})

describe('level 2', () => {
  test('two tables were dropped by hand, and those that refer to them have lost their keys: all are made anew, and no old row keeps a file from being read', async () => {
    const before = await schema()
    await sql('drop table telem cascade; drop table file_origins cascade')
    const done = await allowed('2')
    expect({ code: done.code, stdout: done.stdout }).toEqual({ code: 0, stdout: 'xtelem: reset\n' })
    expect(await schema()).toEqual(before)
    expect(await rows()).toEqual(EMPTY)
    expect(await profile.run('migrate', 'check')).toMatchObject({ code: 0 })
    expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  })

  test('somebody holds a table: gives up, and nothing is gone', { timeout: 30_000 }, async () => {
    await server.withClient('xtelem', async (client) => {
      await client.query('begin; select from telem')
      const done = await allowed('2')
      expect(done.code).toBe(32)
      expect(done.stderr).toContain('lock timeout')
    })
    expect(await rows()).toEqual(FULL)
  })
})

describe('level 3', () => {
  test('somebody is connected: is ended, and database and roles are made anew', async () => {
    const before = await schema()
    const ids = () =>
      server.query<{ oid: string }>(
        'postgres',
        `select oid::text from pg_database where datname = 'xtelem' union all
        select oid::text from pg_roles where rolname in ('xtelem', 'xsup')`,
      )
    const old = await ids()
    await using other = await connected()
    expect(await allowed('3')).toMatchObject({ code: 0, stdout: 'xtelem: reset\n' })
    await expect(other.client.query('select 1')).rejects.toThrow(/terminat|not queryable/)
    expect(await schema()).toEqual(before)
    expect(await rows()).toEqual(EMPTY)
    const fresh = await ids()
    expect(fresh).toHaveLength(3)
    expect(fresh.filter(({ oid }) => old.some((one) => one.oid === oid))).toEqual([])
    expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  })

  test('a role that owns something in another database: stays, and that is said', async () => {
    await server.query('postgres', 'create database other')
    await server.query('other', 'create table t (); alter table t owner to xtelem')
    const done = await allowed('3')
    expect(done).toMatchObject({ code: 0 })
    expect(done.stdout).toBe('xtelem: reset\nrole xtelem stays: it has something in database other\n')
    expect(await server.query('other', 'select from t')).toEqual([])
    await server.query('postgres', 'drop database other')
  })

  test('a former run was killed after it had dropped the database: the next one makes it, without a backup of nothing', async () => {
    await server.query('postgres', 'drop database xtelem')
    await server.query('postgres', 'drop role xsup')
    const before = await backups()
    expect(await allowed('3')).toMatchObject({ code: 0 })
    expect(await backups()).toBe(before)
    expect(await rows()).toEqual(EMPTY)
    expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  })
})

test('no job takes a backup: nothing is lost', async () => {
  const bare = await openProfile(server, 'xtelem')
  for (const level of ['1', '2', '3']) {
    const done = await bare.run('migrate', 'reset', '--level', level, '--allow', 'deletes-data')
    expect(done).toMatchObject({ code: 42, stderr: expect.stringContaining('no job covers it') })
  }
  expect(await rows()).toEqual(FULL)
})

async function connected(): Promise<AsyncDisposable & { client: Client }> {
  const client = await server.cluster.connect('xtelem')
  return { client, [Symbol.asyncDispose]: () => client.end().catch(() => {}) }
}
