import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

// The named queries of the profiles, each on what it is for. Those of lablink are in test/inspect.test.ts.

const NAMES = ['walt', 'openwec', 'xtelem'] as const
type Name = (typeof NAMES)[number]

let server: TestServer
const profiles = new Map<Name, Profile>()
const asked = new Set<string>()

beforeAll(async () => {
  server = await startServer()
  for (const name of NAMES) {
    const profile = await openProfile(server, name)
    expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
    profiles.set(name, profile)
  }
}, 60_000)
afterAll(() => server[Symbol.asyncDispose]())

async function rows(name: Name, query: string, ...args: string[]): Promise<unknown[]> {
  asked.add(`${name}/${query}.sql`)
  const { code, stdout, stderr } = await profiles
    .get(name)!
    .run('inspect', 'query', name, query, ...args, '--json')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return (JSON.parse(stdout) as { result: { rows: unknown[] } }).result.rows
}

describe('walt', () => {
  beforeAll(async () => {
    await server.query(
      'walt',
      `insert into devices (mac, name, type) values ('m1', 'rpi', 'node'), ('m2', 'sw"1', 'switch');
       insert into logstreams (id, issuer_mac, name) values (1, 'm1', 'console'), (2, 'm2', 'x');
       insert into topology values ('m1', 1, 'm2', 2, true, now());
       insert into vpnauth (vpnmac) values ('v1'); insert into vpnnodes values ('m1', 'v1');
       insert into nodes (mac) values ('m1'); insert into poeoff values ('m2', 2, 'powersave')`,
    )
  })

  test('log lines: 10,000 at once, and those of streams that are forgotten break nothing', async () => {
    const lines = Array.from({ length: 10_000 }, (_, i) => ({
      stream: i % 2 === 0 ? 1 : 99,
      time: 1_790_000_000 + i / 1000,
      line: `line ${i}: "quoted" \\ ü`,
    }))
    asked.add('walt/insert_logs.sql')
    const done = await profiles
      .get('walt')!
      .feed(JSON.stringify(lines), 'inspect', 'query', 'walt', 'insert_logs', '--stdin', 'lines')
    expect(done).toMatchObject({ code: 0, stdout: '5000 rows changed\n' })
    expect(
      await server.query(
        'walt',
        `select count(*)::int as n, count(distinct stream_id)::int as streams from logs`,
      ),
    ).toEqual([{ n: 5000, streams: 1 }])
    expect(await server.query('walt', `select line from logs order by timestamp limit 1`)).toEqual([
      { line: 'line 0: "quoted" \\ ü' },
    ])
  })

  test('log lines of a stream that somebody forgets meanwhile: are left out, too', async () => {
    await server.query('walt', `insert into logstreams (id, issuer_mac, name) values (3, 'm1', 'gone')`)
    const lines = JSON.stringify([
      { stream: 3, time: 1, line: 'too late' },
      { stream: 2, time: 1, line: 'in time' },
    ])
    await server.withClient('walt', async (client) => {
      await client.query('begin; delete from logstreams where id = 3')
      const storing = profiles.get('walt')!.run('inspect', 'query', 'walt', 'insert_logs', lines)
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock'`
      await expect.poll(() => server.query('walt', waiting), { timeout: 20_000 }).toHaveLength(1)
      await client.query('commit')
      expect(await storing).toMatchObject({ code: 0, stdout: '1 row changed\n' })
    })
    await server.query('walt', 'delete from logs where stream_id = 2')
  })

  test('devices, streams, logs: are found', async () => {
    expect(await rows('walt', 'devices')).toHaveLength(2)
    expect(await rows('walt', 'devices', 'switch')).toMatchObject([{ mac: 'm2', conf: {} }])
    expect(await rows('walt', 'streams')).toMatchObject([
      { issuer: 'rpi', stream: 'console', mode: 'line', lines: 5000 },
      { issuer: 'sw"1', lines: 0, newest: null },
    ])
    const first = ['2026-09-21 14:13:20Z', '2026-09-21 14:13:20.1Z']
    expect(await rows('walt', 'logs', 'rpi', ...first)).toHaveLength(50)
  })

  test('a device that is forgotten: all of it goes, in the order of the keys; its VPN key stays, with its name', async () => {
    expect(await rows('walt', 'forget_device', 'rpi', '--allow', 'deletes-data')).toEqual([
      { mac: 'm1', name: 'rpi', type: 'node' },
    ])
    const [left] = await server.query(
      'walt',
      `select (select count(*)::int from logs) as logs, (select count(*)::int from logstreams) as streams,
              (select count(*)::int from topology) as cables, (select count(*)::int from poeoff) as off,
              (select string_agg(device_label, ',') from vpnauth) as label`,
    )
    expect(left).toEqual({ logs: 0, streams: 1, cables: 0, off: 1, label: 'rpi' })
  })
})

describe('openwec', () => {
  beforeAll(async () => {
    await server.query(
      'openwec',
      `insert into subscriptions (uuid, version, name, query, outputs, enabled) values ('u1', 'v1', 'all', 'q', '[]', true), ('u2', 'v2', 'none', 'q', '[]', false);
       insert into bookmarks values ('pc1', 'u1', 'b1'), ('pc2', 'u1', 'b2');
       insert into heartbeats (machine, ip, subscription, first_seen, last_seen) values
         ('pc1', '10.0.0.1', 'u1', 0, extract(epoch from now())::bigint - 60),
         ('pc2', '10.0.0.2', 'u1', 0, extract(epoch from now())::bigint - 7200)`,
    )
  })

  test('subscriptions, their bookmarks, machines that are silent: are found', async () => {
    expect(await rows('openwec', 'subscriptions')).toMatchObject([
      { name: 'all', enabled: true, machines: 2 },
      { name: 'none', enabled: false, machines: 0 },
    ])
    expect(await rows('openwec', 'bookmarks', 'all')).toEqual([
      { machine: 'pc1', bookmark: 'b1' },
      { machine: 'pc2', bookmark: 'b2' },
    ])
    expect(await rows('openwec', 'silent')).toMatchObject([{ machine: 'pc2', subscription: 'all' }])
    expect(await rows('openwec', 'silent', '10 seconds')).toHaveLength(2)
  })

  test('sizes: of each table with its indexes, the largest first', async () => {
    await server.query(
      'openwec',
      `insert into bookmarks select 'many' || i, 'u1', repeat('b', 100) from generate_series(1, 2000) i; analyze`,
    )
    const found = (await rows('openwec', 'sizes')) as { table: string; bytes: string; about_rows: string }[]
    expect(found[0]!.table).toBe('bookmarks')
    expect(found.map(({ table }) => table).toSorted()).toEqual([
      '__schema_migrations',
      'bookmarks',
      'heartbeats',
      'subscriptions',
    ])
    const [real] = await server.query<{ with: string; without: string; rows: string }>(
      'openwec',
      `select pg_table_size('bookmarks') + pg_indexes_size('bookmarks') as with, pg_table_size('bookmarks') as without,
              count(*) as rows from bookmarks`,
    )
    expect(found[0]).toEqual({ table: 'bookmarks', bytes: real!.with, about_rows: real!.rows })
    expect(Number(real!.with)).toBeGreaterThan(Number(real!.without))
  })
})

describe('xtelem', () => {
  beforeAll(async () => {
    await server.query(
      'xtelem',
      `insert into telem (ts, device, ec, msg) select timestamptz '2026-03-14 00:00Z' + i * interval '1 minute', 'stage', 'telem', jsonb_build_object('x', i)
         from generate_series(0, 99) i;
       insert into telem (ts, device, ec, msg) values ('2026-03-14 05:00Z', 'cam', 'telem', '{"gain": 2}');
       insert into telem (ts, device, msg) values
         ('2026-03-14 01:00Z', 'observers', '{"email": "a@b", "obsName": "first", "observing": true}'),
         ('2026-03-14 02:00Z', 'observers', '{"email": "a@b", "obsName": "first", "observing": false}');
       insert into file_origins values ('aoc', '/a', '2026-03-14 01:00Z', now(), 1), ('icc', '/b', '2026-03-14 01:00Z', now(), 1);
       insert into file_ingest_times values ('2026-03-14 00:00Z', 'd', '2026-03-14 02:00Z', 'aoc', '/a')`,
    )
  })

  test('values of a key in a span of time: the first moment belongs to it, the last does not', async () => {
    const found = await rows('xtelem', 'values', 'stage', 'x', '2026-03-14 00:10Z', '2026-03-14 00:13Z')
    expect(found).toMatchObject([{ value: 10 }, { value: 11 }, { value: 12 }])
    expect(await rows('xtelem', 'values', 'stage', 'y', '2026-01-01', '2027-01-01')).toEqual([])
  })

  test('the newest of each device, observations, files to read: are found', async () => {
    expect(await rows('xtelem', 'newest')).toMatchObject([
      { device: 'cam', msg: { gain: 2 } },
      { device: 'observers' },
      { device: 'stage', msg: { x: 99 } },
    ])
    expect(await rows('xtelem', 'observations')).toMatchObject([{ duration: '01:00:00', obsname: 'first' }])
    expect(await rows('xtelem', 'not_ingested')).toMatchObject([{ origin_host: 'icc', ingested_at: null }])
    expect(await rows('xtelem', 'not_ingested', 'aoc')).toEqual([])
    const entry = (path: string, state: string, size: number) =>
      server.query(
        'xtelem',
        `insert into file_ingests (origin_host, origin_path, state, size_bytes, modification_time, tried_at, tried_by)
         select origin_host, origin_path, '${state}', ${size}, modification_time, now(), 'x' from file_origins where origin_path = '${path}'
         on conflict (origin_host, origin_path) do update set state = excluded.state, size_bytes = excluded.size_bytes`,
      )
    await entry('/b', 'same', 1) // it has no time of its own
    expect(await rows('xtelem', 'not_ingested')).toEqual([])
    await entry('/a', 'whole', 2)
    await entry('/b', 'failed', 1)
    expect(await rows('xtelem', 'not_ingested')).toMatchObject([
      { origin_path: '/a', state: 'whole' },
      { origin_path: '/b', state: 'failed' },
    ])
  })
})

test('the newest of each device: of many messages only few are read', async () => {
  await server.query(
    'xtelem',
    `insert into telem (ts, device, msg) select timestamptz '2026-05-01 00:00Z' + i * interval '1 second', 'bulk', '{}' from generate_series(1, 50000) i;
     analyze telem`,
  )
  const text = await readFile(join(ROOT, 'sql/xtelem/queries/newest.sql'), 'utf8')
  const [plan] = await server.query<{ 'QUERY PLAN': [{ Plan: { 'Shared Hit Blocks': number } }] }>(
    'xtelem',
    `explain (analyze, buffers, format json) ${text}`,
  )
  expect(plan!['QUERY PLAN'][0].Plan['Shared Hit Blocks']).toBeLessThan(100)
  expect(await rows('xtelem', 'newest')).toHaveLength(4)
})

test('every query of these profiles was asked', async () => {
  const all = await Promise.all(
    NAMES.map(async (name) =>
      (await readdir(join(ROOT, `sql/${name}/queries`))).map((file) => `${name}/${file}`),
    ),
  )
  expect([...asked].toSorted()).toEqual(all.flat().toSorted())
})
