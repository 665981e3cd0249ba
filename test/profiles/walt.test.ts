import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

let server: TestServer
let profile: Profile

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(server, 'walt')
})

afterAll(() => server[Symbol.asyncDispose]())

const configuration = () =>
  Promise.all(
    ['postgresql.conf', 'pg_hba.conf', 'postgresql.auto.conf'].map((name) =>
      readFile(join(server.dir, 'data', name), 'utf8'),
    ),
  )

test('provisioned from nothing: twelve tables of root, and no setting is touched', async () => {
  const before = await configuration()
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
  expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  expect(await profile.run('migrate', 'up', '--scratch')).toMatchObject({ code: 0 })
  expect(await configuration()).toEqual(before)
  const tables = await server.query<{ name: string; owner: string }>(
    'walt',
    `select tablename::text as name, tableowner::text as owner from pg_tables where schemaname = 'public' order by 1`,
  )
  expect(tables.map(({ name }) => name).join(' ')).toBe(
    'checkpoints devices images logs logstreams nodes poeoff switches switchports topology vpnauth vpnnodes',
  )
  expect(new Set(tables.map(({ owner }) => owner))).toEqual(new Set(['root']))
  const [role] = await server.query(
    'postgres',
    `select rolcreatedb, rolcanlogin, rolsuper from pg_roles where rolname = 'root'`,
  )
  expect(role).toEqual({ rolcreatedb: true, rolcanlogin: true, rolsuper: false })
})
