import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

// Every version of every profile goes up, down and up again, with rows in all tables that there are.

type Row = Record<string, unknown>

/** A row for each table, in an order in which they can be stored; whatever columns are not there yet are left out. */
const SEEDS: Readonly<Record<string, readonly (readonly [table: string, row: Row])[]>> = {
  walt: [
    ['devices', { mac: 'm1', name: 'sw"1', type: 'switch', virtual: false }],
    ['images', { fullname: 'user/image:latest', ready: true }],
    ['nodes', { mac: 'm1', image: 'user/image:latest', booted: false, netsetup: 1 }],
    ['switches', { mac: 'm1', lldp_explore: true, poe_reboot_nodes: false, snmp_conf: '{"version": 1}' }],
    ['switchports', { mac: 'm1', port: 1, name: 'p' }],
    ['topology', { mac1: 'm1', port1: 1, mac2: 'm1', confirmed: true }],
    ['logstreams', { id: 7, sender_mac: 'm1', issuer_mac: 'm1', name: 's' }],
    ['logs', { stream_id: 7, timestamp: '2026-03-14 01:02:03.123456', line: 'ü\n' }],
    ['poeoff', { mac: 'm1', port: 1, reason: 'powersave' }],
    ['checkpoints', { username: 'u', timestamp: '2026-03-14 01:02:03', name: 'c' }],
    ['vpnauth', { vpnmac: 'v', revoked: true }],
    ['vpnnodes', { mac: 'm1', vpnmac: 'v' }],
  ],
  openwec: [
    [
      'subscriptions',
      { uuid: 'u', version: 'v', name: 'n "x"', query: '<q/>', enabled: true, outputs: '[]', max_time: 30 },
    ],
    ['bookmarks', { machine: 'pc', subscription: 'u', bookmark: '<b/>' }],
    ['heartbeats', { machine: 'pc', ip: '::1', subscription: 'u', first_seen: 1, last_seen: 2 }],
  ],
  lablink: [['vms', { id: 7, hostname: 'vm-7', status: 'available', crd_command: "it's" }]],
  xtelem: [
    ['telem', { ts: '2026-03-14 01:02:03.123456Z', device: 'd', msg: { a: [1, null] }, ec: 'e' }],
    ['file_origins', { origin_host: 'h', origin_path: '/p', size_bytes: 7 }],
    ['file_ingest_times', { ts: '2026-03-14 01:02:03Z', device: 'd', origin_host: 'h', origin_path: '/p' }],
    ['file_replicas', { hostname: 'b', replica_path: '/b/h/p', origin_host: 'h', origin_path: '/p' }],
    [
      'file_ingests',
      {
        origin_host: 'h',
        origin_path: '/p',
        state: 'whole',
        tried_at: '2026-03-14 01:02:03Z',
        tried_by: 'h',
      },
    ],
    ['file_rejects', { origin_host: 'h', origin_path: '/p', line: 7, reason: 'r', content: 'c' }],
    ['replicas', { hostname: 'b', prefix: '/b', added_at: '2026-03-14 01:02:03Z' }],
  ],
}

/** What the way back cannot bring, as the files say; or what the way there sets to another moment. */
const LOSES: Readonly<Record<string, readonly string[]>> = { 'walt 5': ['last_seen'] }

const DATABASES: Readonly<Record<string, string>> = { lablink: 'lablink_db' }

let server: TestServer

beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server[Symbol.asyncDispose]())

describe.each(Object.keys(SEEDS))('%s', async (name) => {
  const database = DATABASES[name] ?? name
  const files = (await readdir(join(ROOT, `sql/${name}/migrations`))).toSorted()
  let profile: Profile
  const migrate = async (...args: string[]) => {
    const done = await profile.run('migrate', ...args)
    const { code } = done
    const stderr = done.stderr.replaceAll(/^\d+_\w+\.sql: .*\n/gm, '') // notes for the operator
    expect({ args, code, stderr }).toEqual({ args, code: 0, stderr: '' })
  }

  beforeAll(async () => {
    profile = await openProfile(server, name)
    expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
    await migrate('down', '--to', '0', '--allow', 'deletes-data')
  })

  test.each(files.map((file, index) => [index + 1, file] as const))(
    'version %i, %s: up, down and up, with rows: they are as they were',
    async (number) => {
      await migrate('up', '--to', String(number))
      await fill(database, SEEDS[name]!)
      const before = await contents(database)
      expect(before.size).toBeGreaterThan(0)
      await migrate('down', '--to', String(number - 1), '--allow', 'deletes-data')
      const down = await contents(database)
      await migrate('up', '--to', String(number))
      const after = await contents(database)
      expect([...after.keys()]).toEqual([...before.keys()])
      const lost = LOSES[`${name} ${number}`] ?? []
      // Tables of this version itself came back empty; so did columns, with what they have by default.
      const same = [...after].map(([table, rows]) => withColumnsOf(rows, down.get(table), lost))
      const wanted = [...before].map(([table, rows]) =>
        down.has(table) ? withColumnsOf(rows, down.get(table), lost) : [],
      )
      expect(same).toEqual(wanted)
      await fill(database, SEEDS[name]!)
    },
  )

  test('all of them down again: nothing is left', async () => {
    await migrate('down', '--to', '0', '--allow', 'deletes-data')
    expect((await contents(database)).size).toBe(0)
  })
})

async function fill(database: string, seeds: readonly (readonly [string, Row])[]): Promise<void> {
  for (const [table, row] of seeds) {
    const [found] = await server.query(database, 'select to_regclass($1) as there', [table])
    if (found!['there'] === null) continue
    const columns = await server.query<{ name: string }>(
      database,
      'select attname::text as name from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped',
      [table],
    )
    const own = columns.map(({ name }) => name).filter((name) => Object.hasOwn(row, name))
    await server.query(
      database,
      `insert into ${table} (${own.join(', ')}) select ${own.join(', ')} from jsonb_populate_record(null::${table}, $1)
        where not exists (select from ${table})`,
      [JSON.stringify(row)],
    )
  }
}

/** Rows of all tables that a profile has made, as objects. */
async function contents(database: string): Promise<Map<string, Row[]>> {
  const tables = await server.query<{ name: string }>(
    database,
    `select tablename::text as name from pg_tables where schemaname = 'public' and tablename not in ('__schema_migrations', 'vm_audit') order by 1`,
  )
  const found = new Map<string, Row[]>()
  for (const { name } of tables) {
    const rows = await server.query<{ row: string }>(
      database,
      `select to_jsonb(t)::text as row from ${name} t order by 1`,
    )
    found.set(
      name,
      rows.map(({ row }) => JSON.parse(row) as Row),
    )
  }
  return found
}

/** What a version adds or renames is not there after the way down. */
function withColumnsOf(
  rows: readonly Row[],
  others: readonly Row[] | undefined,
  lost: readonly string[],
): Row[] {
  const known = new Set(Object.keys(others?.[0] ?? {}).filter((column) => !lost.includes(column)))
  return rows.map((row) => Object.fromEntries(Object.entries(row).filter(([column]) => known.has(column))))
}
