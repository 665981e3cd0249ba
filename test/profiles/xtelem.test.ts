import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

let server: TestServer
let profile: Profile

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(server, 'xtelem')
})

afterAll(() => server[Symbol.asyncDispose]())

test('provisioned from nothing: six tables, the view and the tablespace; xsup reads, and does not write', async () => {
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
  expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  expect(await profile.run('migrate', 'up', '--scratch')).toMatchObject({ code: 0 })
  const [row] = await server.query(
    'xtelem',
    `select (select string_agg(tablename, ' ' order by tablename) from pg_tables where tableowner = 'xtelem') as tables,
            (select count(*)::int from pg_constraint where contype = 'f') as keys,
            (select spcname from pg_tablespace t join pg_database d on d.dattablespace = t.oid where datname = 'xtelem') as space,
            has_table_privilege('xsup', 'telem', 'select') as reads, has_table_privilege('xsup', 'telem', 'insert') as writes`,
  )
  expect(row).toEqual({
    tables: 'file_ingest_times file_ingests file_origins file_rejects file_replicas replicas telem',
    keys: 4,
    space: 'data_array',
    reads: true,
    writes: false,
  })
})

test('observations: a span from each switching on to the next switching off, newest first', async () => {
  const rows = [
    ['00', 'a@example.org', 'first', false],
    ['01', 'a@example.org', 'first', true],
    ['02', 'a@example.org', 'first', true],
    ['03', 'a@example.org', 'first', false],
    ['04', 'b@example.org', '', true],
    ['05', 'b@example.org', 'second', true],
  ] as const
  for (const [hour, email, obsName, observing] of rows) {
    await server.query('xtelem', `insert into telem (ts, device, msg) values ($1, 'observers', $2)`, [
      `2026-03-14T${hour}:00:00Z`,
      JSON.stringify({ email, obsName, observing }),
    ])
  }
  expect(
    await server.query(
      'xtelem',
      `select extract(hour from start_ts at time zone 'utc')::int as start, extract(hour from end_ts at time zone 'utc')::int as end, obsname from observations`,
    ),
  ).toEqual([
    { start: 5, end: null, obsname: 'second' },
    { start: 1, end: 3, obsname: 'first' },
  ])
})
