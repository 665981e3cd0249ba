import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
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

test('data of WalT 4 go through every step, and come back as far as they can', async () => {
  expect(await profile.run('migrate', 'down', '--to', '1', '--allow', 'deletes-data')).toMatchObject({
    code: 0,
  })
  await server.query('walt', OLD_DATA)
  const before = await rowsOf('switches', 'nodes', 'logstreams', 'logs')
  expect(await profile.run('migrate', 'up')).toMatchObject({ code: 0 })
  const devices = await server.query<{ mac: string; conf: string }>(
    'walt',
    'select mac, conf from devices order by mac',
  )
  expect(devices.map(({ mac, conf }) => ({ mac, conf: JSON.parse(conf) as unknown }))).toEqual([
    { mac: 'n1', conf: { netsetup: 1 } },
    { mac: 'n2', conf: { netsetup: 0 } },
    {
      mac: 's1',
      conf: {
        'lldp.explore': true,
        'poe.reboots': false,
        'snmp.version': 2,
        'snmp.community': 'pri "v" ate',
      },
    },
    { mac: 's2', conf: { 'lldp.explore': false, 'poe.reboots': true } },
  ])
  expect(await server.query('walt', 'select fullname from images order by 1')).toEqual([{ fullname: 'used' }])
  expect(await server.query('walt', `select issuer_mac, mode from logstreams`)).toEqual([
    { issuer_mac: 'n1', mode: 'line' },
  ])
  expect(await server.query('walt', 'select last_seen is not null as seen from topology')).toEqual([
    { seen: true },
  ])
  expect(await profile.run('migrate', 'down', '--to', '1', '--allow', 'deletes-data')).toMatchObject({
    code: 0,
  })
  expect(await rowsOf('switches', 'nodes', 'logstreams', 'logs')).toEqual(before)
  expect(await profile.run('migrate', 'up')).toMatchObject({ code: 0 })
})

describe('a database that WalT itself has made: what it has is found by looking', () => {
  const adopt = (...args: string[]) => profile.run('migrate', 'adopt', ...args)
  const status = async () => (await profile.run('migrate', 'status')).stdout

  test.each([
    ['1', 1],
    ['2', 2],
    ['3', 3],
    ['4', 4],
    ['5', 5],
  ])('of version %s: that is adopted, and the rest is applied', async (version, steps) => {
    await profile.run('migrate', 'down', '--to', version, '--allow', 'deletes-data')
    await server.query('walt', 'drop schema howdah cascade')
    expect((await adopt('--plan')).stdout).toBe(
      `walt: ${steps} migrations would be noted as applied; none would be run\n`,
    )
    expect(await profile.run('migrate', 'check')).toMatchObject({ code: 1 })
    expect((await adopt()).stdout).toBe(`walt: ${steps} migrations are noted as applied; none was run\n`)
    expect(await profile.run('migrate', 'up')).toMatchObject({ code: 0 })
    expect(await profile.run('migrate', 'check')).toMatchObject({ code: 0 })
  })

  test('that was migrated by WalT, whose foreign key kept its old name: is the same all the same', async () => {
    await server.query(
      'walt',
      'alter table logstreams rename constraint logstreams_issuer_mac_fkey to logstreams_sender_mac_fkey; drop schema howdah cascade',
    )
    expect(await adopt()).toMatchObject({ code: 0 })
    expect(await profile.run('migrate', 'check')).toMatchObject({ code: 0 })
  })

  test('with a later step and without one before it: is refused by both names', async () => {
    await server.query('walt', 'alter table nodes add column booted boolean; drop schema howdah cascade')
    const done = await adopt()
    expect(done.code).toBe(65)
    expect(done.stderr).toMatch(/has what 0005_\S+ makes, and not what 0004_\S+ makes before it/)
  })

  test('with an index less: is refused, with the line', async () => {
    await server.query('walt', 'alter table nodes drop column booted; drop index devices_ip_idx')
    const done = await adopt()
    expect(done.code).toBe(60)
    expect(done.stderr).toContain('CREATE INDEX devices_ip_idx')
    expect(await status()).toMatch(/pending/)
    await server.query('walt', 'create index devices_ip_idx on devices (ip)')
  })

  test('with nothing in it: there is nothing to adopt', async () => {
    await server.query('walt', 'drop schema public cascade; create schema public authorization root')
    expect(await adopt()).toMatchObject({ code: 42, stderr: expect.stringContaining('howdah migrate up') })
  })
})

const OLD_DATA = `
  insert into devices (mac, name, type) values ('n1', 'rpi', 'node'), ('n2', 'pc', 'node'), ('s1', 'sw1', 'switch'), ('s2', 'sw2', 'switch');
  insert into images values ('used', true), ('unused', true);
  insert into nodes values ('n1', 'used', 'rpi-4', true, 1), ('n2', null, 'pc', false, 0);
  insert into switches values ('s1', 'm', '{"version": 2, "community": "pri \\"v\\" ate"}', true, false), ('s2', 'm', null, false, true);
  insert into topology values ('n1', null, 's1', 7, true);
  insert into logstreams (sender_mac, name) values ('n1', 'console');
  insert into logs values (1, '2026-03-14 01:59:26.535897', 'a line');
`

async function rowsOf(...tables: readonly string[]): Promise<unknown> {
  const rows: unknown[] = []
  for (const table of tables) {
    const found = await server.query<{ row: Record<string, unknown> }>(
      'walt',
      `select to_jsonb(t) - 'booted' as row from ${table} t order by t::text`,
    )
    rows.push(...found.map(({ row }) => row))
  }
  return rows
}
