import { afterAll, beforeAll, expect, test } from 'vitest'
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
