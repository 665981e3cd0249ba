import { afterAll, beforeAll, expect, test } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

let server: TestServer
let profile: Profile

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(server, 'openwec')
})

afterAll(() => server[Symbol.asyncDispose]())

const migrate = (...args: readonly string[]) => profile.run('migrate', ...args)

async function outputs(): Promise<unknown> {
  const [row] = await server.query<{ outputs: string }>('openwec', 'select outputs from subscriptions')
  return JSON.parse(row!.outputs)
}

const BEFORE_9 = [
  {
    Files: [
      'Json',
      { base: '/var/events', split_on_addr_index: null, append_node_name: true, filename: 'messages' },
      true,
    ],
  },
  { Kafka: ['Raw', { topic: 'events', options: { 'bootstrap.servers': 'localhost:9092' } }, false] },
  {
    Files: [
      'Raw',
      { base: '/srv/a', split_on_addr_index: 1, append_node_name: false, filename: 'other' },
      false,
    ],
  },
]
const AFTER_9 = BEFORE_9.map((output) => {
  const [driver, [format, config, enabled]] = Object.entries(output)[0]! as [
    string,
    [string, object, boolean],
  ]
  return { format, driver: { [driver]: config }, enabled }
})
const AFTER_12 = [
  { format: 'Json', driver: { Files: { path: '/var/events/{ip}/{client}/{node}/messages' } }, enabled: true },
  AFTER_9[1],
  {
    format: 'Raw',
    driver: { Files: { path: '/srv/a/{ip:1}/{ip:2}/{ip:3}/{ip}/{client}/other' } },
    enabled: false,
  },
]

test('provisioned from nothing: fifteen versions, and where openwec looks for them, too', async () => {
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
  expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  const rows = await server.query<{ version: number }>(
    'openwec',
    'select version::int from __schema_migrations order by 1',
  )
  expect(rows.map(({ version }) => version)).toEqual(Array.from({ length: 15 }, (_, index) => index + 1))
  expect(await migrate('check')).toMatchObject({ code: 0 })
  expect(await migrate('up', '--scratch')).toMatchObject({ code: 0 })
})

test('openwec may not do what it needs: a plan names each thing that it lacks, and it may again afterwards', async () => {
  await server.query(
    'openwec',
    `alter database openwec owner to postgres; alter schema public owner to postgres;
     alter role openwec nologin`,
  )
  const plan = await profile.run('provision', 'plan', '--check')
  expect(plan.code).toBe(1)
  expect(plan.stdout).toMatch(/^~ role openwec: .*login/m)
  expect(plan.stdout).toMatch(/^~ database openwec: .*owner/m)
  expect(plan.stdout).toMatch(/^~ schema .*public.*owner/m)
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
  expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
})

test('data: outputs change their shape with 9 and 12, and back as far as the original can', async () => {
  await migrate('down', '--to', '8', '--allow', 'deletes-data')
  await server.query(
    'openwec',
    `insert into subscriptions (uuid, version, name, query, outputs, princs_filter_op, princs_filter_value) values ('u', 'v', 'n', 'q', $1, 'Only', 'a,b')`,
    [JSON.stringify(BEFORE_9)],
  )
  await migrate('up', '--to', '9')
  expect(await outputs()).toEqual(AFTER_9)
  await migrate('down', '--allow', 'deletes-data')
  expect(await outputs()).toEqual(BEFORE_9)
  await migrate('up')
  expect(await outputs()).toEqual(AFTER_12)
  expect(
    await server.query(
      'openwec',
      'select client_filter_op, client_filter_kind, client_filter_targets from subscriptions',
    ),
  ).toEqual([{ client_filter_op: 'Only', client_filter_kind: 'Client', client_filter_targets: 'a,b' }])
  await migrate('down', '--to', '11', '--allow', 'deletes-data')
  const lost = { base: '/', split_on_addr_index: null, append_node_name: false, filename: 'messages' }
  expect(await outputs()).toEqual([
    { format: 'Json', driver: { Files: lost }, enabled: false },
    { ...AFTER_9[1], enabled: true },
    { format: 'Raw', driver: { Files: lost }, enabled: false },
  ])
  await migrate('up')
  expect(await migrate('check')).toMatchObject({ code: 0 })
})

test('a subscription without outputs: keeps an empty list', async () => {
  await migrate('down', '--to', '8', '--allow', 'deletes-data')
  await server.query('openwec', `update subscriptions set outputs = '[]'`)
  await migrate('up')
  expect(await outputs()).toEqual([])
})

test('a database that openwec itself has migrated: its own table of versions says which are adopted', async () => {
  await migrate('down', '--to', '12', '--allow', 'deletes-data')
  await server.query('openwec', 'drop schema howdah cascade')
  const readable = await server.withClient('openwec', async (client) => {
    await client.query('set role openwec')
    return client.query('select version from __schema_migrations')
  })
  expect(readable.rowCount).toBe(12)
  expect((await migrate('adopt')).stdout).toBe('openwec: 12 migrations are noted as applied; none was run\n')
  expect(await migrate('check')).toMatchObject({
    code: 1,
    stdout: expect.stringContaining('0013 is pending'),
  })
  expect(await migrate('up')).toMatchObject({ code: 0 })
  await server.query('openwec', 'drop schema howdah cascade; insert into __schema_migrations values (16)')
  const newer = await migrate('adopt')
  expect(newer.code).toBe(65)
  expect(newer.stderr).toContain('the application has applied version 16, and there is no file of it')
})
