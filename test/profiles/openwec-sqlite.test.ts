import { createHash } from 'node:crypto'
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

// An OpenWEC that began with an SQLite file, of its version 14, and goes over to PostgreSQL.

let server: TestServer
let profile: Profile
let file: string

beforeAll(async () => {
  server = await startServer()
  profile = await openProfile(server, 'openwec')
  expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
  file = join(server.dir, 'openwec.sqlite')
  makeFile(file)
})
afterAll(() => server[Symbol.asyncDispose]())

beforeEach(() => server.query('openwec', 'truncate subscriptions cascade'))

const SCHEMA = `
  create table __schema_migrations (version bigint primary key);
  create table subscriptions (uuid text not null unique primary key, version text not null unique, name text not null unique,
    query text not null, heartbeat_interval integer, connection_retry_count integer, connection_retry_interval integer,
    max_time integer, max_envelope_size integer, enabled integer, read_existing_events integer, outputs text not null,
    uri text, content_format text default 'RenderedText', ignore_channel_error integer default 1, client_filter_op text,
    client_filter_targets text, revision text, locale text, data_locale text, max_elements integer,
    client_filter_kind text, client_filter_flags integer);
  create table bookmarks (machine text not null, subscription text not null, bookmark text not null,
    primary key (machine, subscription), foreign key (subscription) references subscriptions (uuid));
  create table heartbeats (machine text not null, ip text not null, subscription text not null, first_seen integer,
    last_seen integer, last_event_seen integer, primary key (machine, subscription),
    foreign key (subscription) references subscriptions (uuid));`

const ODD = `Straße "7" \\ '; drop table bookmarks; --\n😀`

function makeFile(path: string, versions = 14): void {
  using database = new DatabaseSync(path)
  database.exec(SCHEMA)
  const note = database.prepare('insert into __schema_migrations values (?)')
  for (let version = 1; version <= versions; version++) note.run(version)
  database
    .prepare(
      `insert into subscriptions (uuid, version, name, query, outputs, enabled, read_existing_events, max_time) values (?, ?, ?, ?, ?, ?, ?, ?)`,
    )
    .run('u1', 'v1', ODD, '<Query/>', '[{"format": "Json"}]', 1, 0, 2_147_483_647)
  database
    .prepare(
      `insert into subscriptions (uuid, version, name, query, outputs) values ('u2', 'v2', '', 'q', '[]')`,
    )
    .run()
  database.exec(
    `${numbers(12_001)} insert into bookmarks select 'pc' || value, 'u1', '<BookmarkList><Bookmark RecordId="' || value || '"/></BookmarkList>' from g`,
  )
  database.exec(
    `${numbers(20_000)} insert into heartbeats select 'pc' || value, '10.0.0.1', 'u1', 9007199254740993, 1790000000 + value, null from g`,
  )
}

const numbers = (most: number) =>
  `with recursive g (value) as (select 1 union all select value + 1 from g where value < ${most})`

const importFile = (path: string, ...args: string[]) => profile.run('migrate', 'import-sqlite', path, ...args)
const counts = async () => {
  const [row] = await server.query(
    'openwec',
    `select (select count(*)::int from subscriptions) as s, (select count(*)::int from bookmarks) as b, (select count(*)::int from heartbeats) as h`,
  )
  return row
}
const EMPTY = { s: 0, b: 0, h: 0 }
const digest = async (path: string) =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex')

/** A copy of the file, and something that is done to it. */
async function changed(name: string, sql: string): Promise<string> {
  const path = join(server.dir, name)
  await copyFile(file, path)
  using database = new DatabaseSync(path, { enableForeignKeyConstraints: false })
  database.exec(sql)
  return path
}

test('--plan: says what would be moved, and moves nothing', async () => {
  const { code, stdout } = await importFile(file, '--plan')
  expect({ code, stdout }).toEqual({
    code: 0,
    stdout:
      'openwec: subscriptions: 2 rows would be moved\nopenwec: bookmarks: 12001 rows would be moved\nopenwec: heartbeats: 20000 rows would be moved\n',
  })
  expect(await counts()).toEqual(EMPTY)
})

test('subscriptions, bookmarks and heartbeats: are all there, 0 and 1 are no and yes, and the file is as it was', async () => {
  const before = await digest(file)
  const { code, stdout, stderr } = await importFile(file, '--json')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(JSON.parse(stdout)).toMatchObject({
    result: {
      versions: { from: '14', to: '0015' },
      tables: [
        { name: 'subscriptions', rows: 2 },
        { name: 'bookmarks', rows: 12_001 },
        { name: 'heartbeats', rows: 20_000 },
      ],
    },
  })
  expect(await counts()).toEqual({ s: 2, b: 12_001, h: 20_000 })
  expect(
    await server.query(
      'openwec',
      `select name, enabled, read_existing_events as old, max_time, content_format from subscriptions order by uuid`,
    ),
  ).toEqual([
    { name: ODD, enabled: true, old: false, max_time: 2_147_483_647, content_format: 'RenderedText' },
    { name: '', enabled: null, old: null, max_time: null, content_format: 'RenderedText' },
  ])
  expect(
    await server.query(
      'openwec',
      `select bookmark, first_seen from bookmarks join heartbeats using (machine) where machine = 'pc7'`,
    ),
  ).toEqual([
    { bookmark: '<BookmarkList><Bookmark RecordId="7"/></BookmarkList>', first_seen: '9007199254740993' },
  ])
  expect(await server.query('openwec', 'select count(*)::int as n from __schema_migrations')).toEqual([
    { n: 15 },
  ])
  expect(await digest(file)).toBe(before)
  const again = await importFile(file)
  expect(again.code).toBe(56)
  expect(again.stderr).toContain('table subscriptions of database openwec has rows already')
})

test('a file that a server writes to: what stands in its "-wal" file is moved, too', async () => {
  const path = join(server.dir, 'live.sqlite')
  await copyFile(file, path)
  using writer = new DatabaseSync(path)
  writer.exec('pragma journal_mode = wal; pragma wal_autocheckpoint = 0')
  writer.exec(`insert into bookmarks values ('late', 'u2', 'b')`)
  expect(await importFile(path)).toMatchObject({ code: 0 })
  expect(await counts()).toEqual({ s: 2, b: 12_002, h: 20_000 })
})

test.each([
  [
    'a number where a text is to be',
    `update bookmarks set bookmark = x'00ff' where machine = 'pc9000'`,
    'bookmarks.bookmark of row pc9000, u1 cannot be text: it is of type blob',
  ],
  [
    'neither 0 nor 1',
    'update subscriptions set enabled = 7',
    'subscriptions.enabled of row u1, v1 cannot be boolean: it is 7',
  ],
  [
    'a number that does not fit',
    'update subscriptions set max_time = 2147483648',
    'max_time of row u1, v1 cannot be integer',
  ],
  [
    'a text that is no UTF-8',
    `update subscriptions set query = cast(x'c3' as text)`,
    'query of row u1, v1 cannot be text: it is not valid UTF-8',
  ],
  ['a row that refers to none', `insert into bookmarks values ('x', 'gone', 'b')`, 'foreign key'],
  [
    'a column more',
    'alter table bookmarks add column extra text',
    'column of bookmarks "extra" is in the file only',
  ],
  [
    'a column less',
    'alter table heartbeats drop column ip',
    'column of heartbeats "ip" is missing in the file',
  ],
  ['a table more', 'create table stray (x)', 'table "stray" is in the file only'],
  [
    'an older version',
    'delete from __schema_migrations where version = 14',
    'version 15 of the database is version 14 there',
  ],
  ['a version that is left out', 'delete from __schema_migrations where version = 3', 'version 14 there'],
])('%s: nothing is moved, and it says where', async (name, sql, message) => {
  const path = await changed(`${name.replaceAll(' ', '-')}.sqlite`, sql)
  const done = await importFile(path)
  expect(done.stderr).toContain(message)
  expect(done.code).not.toBe(0)
  expect(await counts()).toEqual(EMPTY)
})

test('a row that is stored as another one: is found by reading all back, and nothing is moved', async () => {
  await server.query(
    'openwec',
    `create function bend() returns trigger language plpgsql as $$ begin new.last_seen := new.last_seen + 1; return new; end $$;
     create trigger bend before insert on heartbeats for each row when (new.machine = 'pc19999') execute function bend()`,
  )
  const done = await importFile(file)
  await server.query('openwec', 'drop trigger bend on heartbeats; drop function bend')
  expect(done.code).toBe(60)
  expect(done.stderr).toContain(
    'table heartbeats would have other values than the file: nothing was imported',
  )
  expect(await counts()).toEqual(EMPTY)
})

test('SIGKILL in the middle: nothing is there, and the next one moves all of it', async () => {
  await server.withClient('openwec', async (blocker) => {
    // The last row waits for this session, which has it already.
    await blocker.query(
      `begin; insert into subscriptions (uuid, version, name, query, outputs) values ('u2', 'v2', 'blocker', 'q', '[]')`,
    )
    const begun = Promise.withResolvers<number>()
    const importing = profile.begin(begun.resolve, 'migrate', 'import-sqlite', file)
    const waits = `select from pg_stat_activity where application_name = 'howdah migrate' and wait_event_type = 'Lock'`
    await expect.poll(() => server.query('openwec', waits), { timeout: 20_000 }).toHaveLength(1)
    process.kill(await begun.promise, 'SIGKILL')
    expect((await importing).signal).toBe('SIGKILL')
    await blocker.query('rollback')
  })
  await expect.poll(counts, { timeout: 10_000 }).toEqual(EMPTY)
  expect(await importFile(file)).toMatchObject({ code: 0 })
  expect(await counts()).toEqual({ s: 2, b: 12_001, h: 20_000 })
})

test('an older database: is to be migrated first', async () => {
  await profile.run('migrate', 'down', '--allow', 'deletes-data')
  const done = await importFile(file)
  await profile.run('migrate', 'up')
  expect(done.code).toBe(65)
  expect(done.stderr).toMatch(/is not at its newest version[^]*howdah migrate up/)
})

test('what is no SQLite file: is refused by what it is', async () => {
  const folder = join(server.dir, 'folder')
  await mkdir(folder)
  await writeFile(
    join(server.dir, 'text.sqlite'),
    'this is a text, and nothing else, of some length '.repeat(20),
  )
  await writeFile(join(server.dir, 'empty.sqlite'), '')
  const half = (await readFile(file)).subarray(0, 40_000)
  await writeFile(join(server.dir, 'half.sqlite'), half)
  for (const [name, message] of [
    ['folder', 'it is a folder'],
    ['none.sqlite', 'no such file'],
    ['text.sqlite', 'file is not a database'],
    ['empty.sqlite', 'it is empty'],
    ['half.sqlite', 'cannot read the SQLite file'],
  ] as const) {
    const done = await importFile(join(server.dir, name))
    expect({ name, code: done.code, stderr: done.stderr }).toEqual({
      name,
      code: 11,
      stderr: expect.stringContaining(message),
    })
  }
})
