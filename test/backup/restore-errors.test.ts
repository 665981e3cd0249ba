import { afterAll, beforeAll, expect, test } from 'vitest'
import { backupHost } from '../support/backup.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer()
})

afterAll(() => server[Symbol.asyncDispose]())

test('a dump of which one object cannot be made again, after which pg_restore alone goes on with the rest: no half-filled database, and the error is told', async () => {
  await server.query('postgres', 'create database app')
  // Its function finds the table by a search_path that a restore does not have.
  for (const text of [
    'create table a as select 1 as i',
    `create function n() returns bigint language sql as 'select count(*) from a'`,
    'create materialized view m as select n()',
    'create index on a (i)',
  ])
    await server.query('app', text)
  const host = await backupHost(server, 'databases = ["app"]')
  await host.take()
  const databases = () => server.query('postgres', 'select datname from pg_database order by 1')
  const before = await databases()
  for (const how of [['--swap'], ['--as', 'copy']]) {
    const { code, stderr } = await host.restore('database', 'app', ...how, '--yes')
    expect([code, stderr]).toEqual([25, expect.stringContaining('relation "a" does not exist')])
  }
  expect(await databases()).toEqual(before)
  expect(await server.query('app', 'select n() as n')).toEqual([{ n: '1' }])
})
