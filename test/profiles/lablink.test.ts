import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Table } from '../../scripts/inspect/list.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

let server: TestServer
let profile: Profile

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(server, 'lablink')
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
})

afterAll(() => server[Symbol.asyncDispose]())

const query = <Row extends object>(text: string) => server.query<Row>('lablink_db', text)

test('provisioned from nothing: nothing is pending, and every version goes up, down and up', async () => {
  expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
  expect(await profile.run('migrate', 'up', '--scratch')).toMatchObject({ code: 0 })
  const indexes = await query<{ name: string }>(
    `select indexname::text as name from pg_indexes where tablename = 'vms' order by 1`,
  )
  expect(indexes.map(({ name }) => name)).toEqual([
    'vms_email_idx',
    'vms_hostname_key',
    'vms_pkey',
    'vms_status_email_idx',
    'vms_status_idx',
  ])
})

test('the table: has the columns and keys that LabLink writes to', async () => {
  const { stdout } = await profile.run('inspect', 'list', 'lablink', 'vms', '--json')
  const [vms] = (JSON.parse(stdout) as { result: { tables: Table[] } }).result.tables
  expect(vms!.owner).toBe('lablink')
  expect(
    vms!.columns.map(({ name, type, isNullable, default: value }) => [name, type, isNullable, value]),
  ).toEqual([
    ['id', 'integer', false, `nextval('public.vms_id_seq'::regclass)`],
    ['hostname', 'character varying(255)', false, null],
    ['email', 'character varying(255)', true, null],
    ['status', 'character varying(50)', false, null],
    ['crd_command', 'text', true, null],
    ['created_at', 'timestamp without time zone', true, 'now()'],
    ['updated_at', 'timestamp without time zone', true, 'now()'],
  ])
  expect(vms!.constraints.map(({ definition }) => definition)).toEqual([
    'PRIMARY KEY (id)',
    'UNIQUE (hostname)',
  ])
})

test.each([
  ['a person', `email = 'p7@lab.org'`, 'vms_email_idx'],
  ['a status that few have', `status = 'failed'`, 'vms_status_idx'],
  ['both', `status = 'in-use' and email = 'p7@lab.org'`, /vms_(status_)?email_idx/],
])('100,000 machines: %s is looked up by an index', async (_title, condition, index) => {
  const plan = await server.withClient('lablink_db', async (client) => {
    await client.query(`begin; alter table vms disable trigger vm_update_trigger;
      insert into vms (hostname, email, status)
        select 'many-' || i, 'p' || i % 5000 || '@lab.org', case when i % 1000 = 0 then 'failed' else 'in-use' end
        from generate_series(1, 100000) i;
      analyze vms`)
    const { rows } = await client.query(`explain select * from vms where ${condition}`)
    await client.query('rollback')
    return JSON.stringify(rows)
  })
  expect(plan).toMatch(index)
})

test('LISTEN: each insert and update is told, and a command that is too long for NOTIFY is cut, not refused', async () => {
  const heard: Record<string, unknown>[] = []
  await server.withClient('lablink_db', async (client) => {
    client.on('notification', ({ payload }) => heard.push(JSON.parse(payload!) as Record<string, unknown>))
    await client.query('listen vm_updates')
    await client.query(`insert into vms (hostname, status) values ('vm-1', 'available')`)
    await client.query(`update vms set status = 'in-use', crd_command = repeat('ü', 8000)`)
    await client.query('select 1')
  })
  expect(heard).toMatchObject([
    { hostname: 'vm-1', status: 'available', crd_command: null },
    { hostname: 'vm-1', status: 'in-use', crd_command: 'ü'.repeat(200), crd_command_truncated: true },
  ])
  expect(await query('select length(crd_command)::int as length from vms')).toEqual([{ length: 8000 }])
})

test('updated_at: is maintained', async () => {
  await query(`update vms set updated_at = '2020-01-01'`)
  expect(await query(`select updated_at > '2021-01-01' as is_new from vms`)).toEqual([{ is_new: true }])
})

test('a status that nobody knows: is stored, and reported', async () => {
  await query(`insert into vms (hostname, status) values ('vm-2', 'on fire')`)
  expect(await query('select hostname from vms_of_unknown_status')).toEqual([{ hostname: 'vm-2' }])
})

test('audit: nothing is noted until that is wanted; then who changed what, without the key to a desktop', async () => {
  const inspect = (...args: string[]) => profile.run('inspect', 'query', 'lablink', ...args)
  const changes = `insert into vms (hostname, status, crd_command) values ('vm-3', 'available', 'code=4/secret');
    update vms set status = 'in-use', crd_command = null where hostname = 'vm-3'; delete from vms where hostname = 'vm-3'`
  await query(changes)
  expect(await query('select from vm_audit')).toEqual([])
  expect(await inspect('audit_on')).toMatchObject({ code: 0, stdout: 'done\n' })
  await query(changes)
  await query('truncate vms')
  expect(await inspect('audit_off')).toMatchObject({ code: 0 })
  await query(changes)
  const { stdout } = await inspect('audit', '--json')
  const { rows } = (JSON.parse(stdout) as { result: { rows: unknown[] } }).result
  const by = { by_role: server.cluster.superuser, hostname: 'vm-3' }
  expect(rows).toMatchObject([
    { what: 'TRUNCATE', hostname: null, before: null, after: null },
    { ...by, what: 'DELETE', before: { status: 'in-use' }, after: null },
    {
      ...by,
      what: 'UPDATE',
      before: { status: 'available', has_crd_command: true },
      after: { status: 'in-use', has_crd_command: false },
    },
    { ...by, what: 'INSERT', before: null, after: { hostname: 'vm-3', status: 'available' } },
  ])
  expect(stdout).not.toContain('secret')
  expect((await inspect('audit', 'vm-4')).stdout).toContain('0 rows')
})
