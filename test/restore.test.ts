import { createHash } from 'node:crypto'
import { cp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Manifest } from '../scripts/backup/manifest.ts'
import { type BackupHost, backupHost } from './support/backup.ts'
import { runScript } from './support/script.ts'
import { startServer, type TestServer } from './support/server.ts'

let server: TestServer
/** A backup of the database `shared`, which is there and stays as it is. */
let shared: BackupHost
let sharedManifest: Manifest

beforeAll(async () => {
  server = await startServer({ settings: { max_prepared_transactions: '5' } })
  await server.query('postgres', 'create role app login')
  await server.query('postgres', 'create role reader')
  ;({ host: shared, manifest: sharedManifest } = await rich('shared'))
})

afterAll(() => server[Symbol.asyncDispose]())

const quote = (name: string) => `"${name.replaceAll('"', '""')}"`

/** A database with many kinds of things in it, and a backup of it. */
async function rich(name: string): Promise<{ host: BackupHost; manifest: Manifest }> {
  await server.query('postgres', `create database ${quote(name)} owner app`)
  await server.query(name, RICH)
  const host = await backupHost(server, `databases = [${JSON.stringify(name)}]`)
  return { host, manifest: await host.take() }
}

const RICH = `
  create table t (id bigint generated always as identity primary key, x text, j jsonb, at timestamptz);
  insert into t (x, j, at) select md5(i::text), jsonb_build_object('i', i), '2026-01-01'::timestamptz + i * interval '1 s 7 us'
    from generate_series(1, 5000) i;
  alter table t owner to app;
  create index on t (x);
  create schema "Odd Name" authorization app;
  create table "Odd Name"."a""b" (x int check (x > 0), t_id bigint references t);
  create unlogged table u as select 1 as x;
  create view v as select count(*) from t;
  create materialized view m as select x from t where id < 10;
  create function f(int) returns int language sql as 'select $1 + 1';
  create function tell() returns trigger language plpgsql as 'begin return new; end';
  create trigger tr after insert on t for each row execute function tell();
  create type pair as (a int, b text);
  create sequence s start 41;
  select nextval('s');
  create table part (k int, x text) partition by range (k);
  create table part1 partition of part for values from (0) to (10);
  create index on part (x);
  insert into part values (1, 'one');
  select lo_from_bytea(0, 'large object');
  grant select on t to reader;
  alter default privileges for role app grant select on tables to reader;
  comment on table t is 'it''s';
`

/** Everything in a database that must be there after a restore, as one text. */
async function contentOf(name: string): Promise<string> {
  const rows = await server.query(
    name,
    `select 't' as what, md5(string_agg(t::text, '|' order by id)) as hash from t
     union all select 'part', md5(string_agg(p::text, '|')) from part p
     union all select 'm', md5(string_agg(x, '|' order by x)) from m
     union all select 'u', count(*)::text from u
     union all select 's', nextval('s')::text
     union all select 'f', f(1)::text
     union all select 'lo', string_agg(convert_from(lo_get(oid), 'UTF8'), '|') from pg_largeobject_metadata
     union all select 'acl', string_agg(relname || coalesce(relacl::text, ''), ' ' order by relname) from pg_class where relnamespace = 'public'::regnamespace
     union all select 'owner', string_agg(relname || pg_get_userbyid(relowner), ' ' order by relname) from pg_class where relnamespace = 'public'::regnamespace
     union all select 'comment', obj_description('t'::regclass)
     union all select 'analyzed', (count(*) > 0)::text from pg_stats where tablename = 't'`,
  )
  return JSON.stringify(rows)
}

/** What a database is besides its content. */
async function propertiesOf(name: string): Promise<unknown> {
  const [row] = await server.query(
    'postgres',
    `select pg_get_userbyid(datdba) as owner, pg_encoding_to_char(encoding) as encoding, datcollate::text as collate, datctype::text as ctype, datistemplate,
       datallowconn, datconnlimit, spcname::text as tablespace, shobj_description(d.oid, 'pg_database') as comment,
       (select string_agg(a::text, ' ' order by a::text) from unnest(datacl) a) as acl,
       (select json_agg(json_build_object('role', setrole::regrole, 'set', setconfig) order by setrole) from pg_db_role_setting where setdatabase = d.oid) as settings
     from pg_database d join pg_tablespace t on t.oid = dattablespace where datname = $1`,
    [name],
  )
  return row
}

const databases = async () =>
  (
    await server.query<{ name: string }>(
      'postgres',
      'select datname::text as name from pg_database order by 1',
    )
  ).map(({ name }) => name)

const journals = () => readdir(join(server.dir, 'state/journal')).catch(() => [])

describe('restore of a database', () => {
  test('that is gone: it is there again with all that it had, and is ready for queries', async () => {
    const { host, manifest } = await rich('gone')
    await server.query('gone', 'analyze; select setval($$s$$, 41)')
    const content = await contentOf('gone')
    await server.query('postgres', 'drop database gone')
    const before = await databases()
    const { code, stdout, stderr } = await host.restore('database', 'gone')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(
      new RegExp(
        `^database gone is that of ${manifest.label}: .*1 composite type, .*, 5 tables, .* in [\\d.]+ s\n$`,
      ),
    )
    expect(await contentOf('gone')).toBe(content)
    expect(await databases()).toEqual([...before, 'gone'].toSorted())
    expect(await journals()).toEqual([])
  })

  test('properties: owner, privileges, settings, comment, limit, template: as they were', async () => {
    await server.query(
      'postgres',
      'create database props owner app encoding $$SQL_ASCII$$ locale $$C$$ template template0 connection limit 7'.replaceAll(
        '$$',
        "'",
      ),
    )
    const setUp = [
      `alter database props set search_path = "A b", public`,
      `alter database props set work_mem = '5MB'`,
      `alter database props set app.token = 'a=b''c'`,
      `alter database props set temp_tablespaces = ''`,
      `alter role reader in database props set statement_timeout = '5s'`,
      'revoke connect on database props from public',
      'grant create on database props to reader with grant option',
      'set role reader; grant create on database props to app; reset role',
      `comment on database props is 'it''s'`,
      'alter database props is_template true',
    ]
    await server.withClient('postgres', async (client) => {
      for (const statement of setUp) await client.query(statement)
    })
    const host = await backupHost(server, 'databases = ["props"]')
    await host.take()
    const properties = await propertiesOf('props')
    await server.query('postgres', 'alter database props is_template false')
    await server.query('postgres', 'drop database props')
    expect(await host.restore('database', 'props')).toMatchObject({ code: 0, stderr: '' })
    expect(await propertiesOf('props')).toEqual(properties)
    expect(properties).toMatchObject({
      encoding: 'SQL_ASCII',
      datconnlimit: 7,
      acl: expect.stringContaining('app=C/reader'),
    })
    await server.query('postgres', 'alter database props is_template false')
    await server.query('postgres', 'drop database props')
  })

  test('with hostile names: restored, swapped in, and the old ones kept under names of at most 63 bytes', async () => {
    const names = ['a"b', 'Ünï cødé', `'; drop table x; --`, 'a=b', 'a/../b', 'x'.repeat(63), 'ü'.repeat(31)]
    for (const name of names) {
      await server.query('postgres', `create database ${quote(name)}`)
      await server.query(name, 'create table t as select 1 as x')
    }
    const host = await backupHost(server, `databases = ${JSON.stringify(names)}`)
    await host.take()
    for (const name of names) {
      await server.query(name, 'update t set x = 2')
      const { code, stdout } = await host.restore('database', name, '--swap', '--json')
      expect([name, code]).toEqual([name, 0])
      const { before } = (JSON.parse(stdout) as { result: { before: string } }).result
      expect(Buffer.byteLength(before)).toBeLessThanOrEqual(63)
      expect(await server.query(name, 'select x from t')).toEqual([{ x: 1 }])
      expect(await server.query(before, 'select x from t')).toEqual([{ x: 2 }])
      for (const each of [name, before]) await server.query('postgres', `drop database ${quote(each)}`)
    }
  })

  test('that exists: refused without --swap, and nothing is changed', async () => {
    const before = await databases()
    const { code, stderr } = await shared.restore('database', 'shared')
    expect(code).toBe(56)
    expect(stderr).toContain('nothing was changed: database "shared" exists')
    expect(stderr).toContain('--swap')
    expect((await shared.restore('database', 'shared', '--as', 'shared')).code).toBe(56)
    expect((await shared.restore('database', 'shared', '--as', 'postgres')).code).toBe(56)
    expect(await databases()).toEqual(before)
  })

  test('--as: beside the one that exists, which is not touched', async () => {
    await server.query('shared', `analyze; select setval('s', 41)`)
    const content = await contentOf('shared')
    expect(await shared.restore('database', 'shared', '--as', 'copy')).toMatchObject({ code: 0 })
    for (const name of ['shared', 'copy']) {
      await server.query(name, `select setval('s', 41)`)
      expect(await contentOf(name)).toBe(content)
    }
  })

  test('--swap: sessions are ended, also of a client that connects again at once', async () => {
    const { host } = await rich('busy')
    let isOver = false
    let count = 0
    const pesterers = Array.from({ length: 4 }, async () => {
      while (!isOver) {
        await server.query('busy', 'select pg_sleep(0.2)').catch(() => {})
        count++
      }
    })
    const { code, stdout, stderr } = await host.restore('database', 'busy', '--swap', '--json')
    isOver = true
    await Promise.all(pesterers)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(count).toBeGreaterThan(4)
    const { before } = (JSON.parse(stdout) as { result: { before: string } }).result
    expect(await databases()).toEqual(expect.arrayContaining(['busy', before]))
  })

  test('--drop-old: needs consent; with it the old one is gone', async () => {
    const before = await databases()
    const refused = await shared.restore('database', 'shared', '--swap', '--drop-old')
    expect(refused).toMatchObject({ code: 40, stderr: expect.stringContaining('--allow deletes-data') })
    expect((await shared.restore('database', 'shared', '--drop-old', '--allow', 'deletes-data')).code).toBe(2)
    expect(
      (await shared.restore('database', 'shared', '--swap', '--drop-old', '--allow', 'deletes-date')).code,
    ).toBe(2)
    expect(await databases()).toEqual(before)
    const done = await shared.restore('database', 'shared', '--swap', '--drop-old', '--allow', 'deletes-data')
    expect(done).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/shared_before_\w+, which was in its place, was dropped/),
    })
    expect(await databases()).toEqual(before)
  })

  test('--plan: says what it would do, exit 1 when it cannot, and changes nothing', async () => {
    const before = await databases()
    const possible = await shared.restore('database', 'shared', '--plan', '--swap')
    expect(possible.code).toBe(0)
    expect(possible.stdout).toMatch(
      new RegExp(
        `^database shared of ${sharedManifest.label} \\(job nightly, .* ago\\)
\\+ database shared_restored_\\w{6}: .* kB to fetch, .* MB on disk, .* free
~ database shared: becomes shared_before_\\w+
~ database shared_restored_\\w{6}: becomes shared\n$`,
      ),
    )
    const refused = await shared.restore('database', 'shared', '--plan')
    expect(refused).toMatchObject({ code: 1, stdout: expect.stringContaining('! database "shared" exists') })
    expect(await databases()).toEqual(before)
    expect(await journals()).toEqual([])
  })

  test('an older backup by its label: what it was then', async () => {
    await server.query('postgres', 'create database dated')
    const host = await backupHost(server, 'databases = ["dated"]')
    const labels: string[] = []
    for (const word of ['one', 'two']) {
      await server.query('dated', `drop table if exists t; create table t as select '${word}' as x`)
      labels.push((await host.take()).label)
    }
    expect((await host.restore('database', 'dated', '--backup', labels[0]!, '--as', 'dated1')).code).toBe(0)
    expect((await host.restore('database', 'dated', '--as', 'dated2')).code).toBe(0)
    expect(await server.query('dated1', 'select x from t')).toEqual([{ x: 'one' }])
    expect(await server.query('dated2', 'select x from t')).toEqual([{ x: 'two' }])
  })

  test('whose schema public was dropped: it does not come back', async () => {
    await server.query('postgres', 'create database bare')
    await server.query('bare', 'drop schema public; create schema own; create table own.t as select 1 as x')
    const host = await backupHost(server, 'databases = ["bare"]')
    await host.take()
    await server.query('postgres', 'drop database bare')
    expect(await host.restore('database', 'bare')).toMatchObject({ code: 0 })
    expect(
      await server.query('bare', `select nspname::text from pg_namespace where nspname in ('public', 'own')`),
    ).toEqual([{ nspname: 'own' }])
  })

  test('named postgres: swapped in too, though every tool connects to it', async () => {
    await server.query('postgres', 'create table marker as select 1 as x')
    const host = await backupHost(server, 'databases = ["postgres"]')
    await host.take()
    await server.query('postgres', 'update marker set x = 2')
    const { code, stderr } = await host.restore(
      'database',
      'postgres',
      '--swap',
      '--drop-old',
      '--allow',
      'deletes-data',
    )
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(await server.query('postgres', 'select x from marker')).toEqual([{ x: 1 }])
    await server.query('postgres', 'drop table marker')
  })

  test('unknown database: the backup is not found, and the databases that there are are named', async () => {
    expect(await shared.restore('database', 'knwon')).toMatchObject({
      code: 53,
      stderr: expect.stringContaining('with database "knwon"'),
    })
    const byLabel = await shared.restore('database', 'knwon', '--backup', sharedManifest.label)
    expect(byLabel).toMatchObject({ code: 53, stderr: expect.stringContaining('with: shared') })
    expect((await shared.restore('database', 'shared', '--job', 'other')).code).toBe(53)
  })
})

describe('restore that cannot work', () => {
  test('roles, tablespaces, extensions that are missing: all of them are named, and nothing is changed', async () => {
    await server.query('postgres', 'create role vanishing')
    await server.query('postgres', 'create database needy owner vanishing')
    const host = await backupHost(server, 'databases = ["needy"]')
    await host.take()
    await server.query('postgres', 'drop database needy')
    await server.query('postgres', 'drop role vanishing')
    const before = await databases()
    const { code, stderr } = await host.restore('database', 'needy')
    expect(code).toBe(42)
    expect(stderr).toContain('these roles are missing: "vanishing"')
    expect(await databases()).toEqual(before)
  })

  test('prepared transaction in the database that is in its place: refused beforehand', async () => {
    const { host } = await rich('prepared')
    await server.query('prepared', `begin; insert into part values (2, 'two'); prepare transaction 'p'`)
    const { code, stderr } = await host.restore('database', 'prepared', '--swap')
    expect(code).toBe(42)
    expect(stderr).toContain('database "prepared" has a prepared transaction')
    await server.query('prepared', `rollback prepared 'p'`)
  })

  test('more objects than one transaction can lock: restored all the same', async () => {
    await using small = await startServer({
      settings: {
        max_locks_per_transaction: '10',
        max_connections: '10',
        max_worker_processes: '2',
        max_wal_senders: '0',
      },
    })
    await small.query('postgres', 'create database many')
    for (let batch = 0; batch < 40; batch++) {
      const tables = Array.from(
        { length: 25 },
        (_, index) => `create table t${batch * 25 + index} (id int primary key, x text)`,
      )
      await small.query('many', tables.join(';'))
    }
    // pg_dump needs a lock for each table, too: the server is given more of them for that time only.
    await small.query('postgres', 'alter system set max_locks_per_transaction = 200')
    await small.cluster.restart()
    const host = await backupHost(small, 'databases = ["many"]')
    await host.take()
    await small.query('postgres', 'drop database many')
    await small.query('postgres', 'alter system reset max_locks_per_transaction')
    await small.cluster.restart()
    expect(await host.restore('database', 'many')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('1,000 tables'),
    })
  })
})

type Damage = (host: BackupHost, manifest: Manifest) => Promise<unknown>

const dataFile = (host: BackupHost, { label }: Manifest) =>
  join(host.store, 'test/main/backup', label, 'damaged.dump.zst')

const editManifest =
  (edit: (manifest: Manifest) => unknown): Damage =>
  async (host, manifest) => {
    const path = join(host.store, 'test/main/catalog', `${manifest.label}.json`)
    const text = JSON.parse(await readFile(path, 'utf8')) as Manifest
    await writeFile(path, JSON.stringify(edit(text)))
  }

const editFile = (change: (file: Manifest['files'][number]) => object): Damage =>
  editManifest((manifest) => ({
    ...manifest,
    files: manifest.files.map((file) =>
      file.name === 'damaged.dump.zst' ? { ...file, ...change(file) } : file,
    ),
  }))

describe('damaged backup', () => {
  let host: BackupHost
  let manifest: Manifest
  let content: string
  let present: string[]

  beforeAll(async () => {
    ;({ host, manifest } = await rich('damaged'))
    await cp(host.store, `${host.store}.whole`, { recursive: true })
    await server.query('damaged', 'analyze')
    present = await databases()
    content = await contentOf('damaged')
  })
  beforeEach(async () => {
    await rm(host.store, { recursive: true })
    await cp(`${host.store}.whole`, host.store, { recursive: true })
  })

  test.each<[string, Damage]>([
    ['a flipped byte at the start', flip(() => 0)],
    ['a flipped byte in the middle', flip((length) => length >> 1)],
    ['a flipped byte in the last block', flip((length) => length - 5)],
    ['a file that was cut', async (host, manifest) => truncate(dataFile(host, manifest), 5000)],
    ['an empty file', async (host, manifest) => truncate(dataFile(host, manifest), 0)],
    ['a missing file', async (host, manifest) => rm(dataFile(host, manifest))],
    [
      'another file in its place',
      async (host, manifest) => writeFile(dataFile(host, manifest), Buffer.alloc(manifest.files[0]!.size)),
    ],
    ['a manifest with a wrong hash of the stored bytes', editFile(() => ({ sha256: '0'.repeat(64) }))],
    ['a manifest with a wrong hash of the content', editFile(() => ({ plainSha256: '0'.repeat(64) }))],
    [
      'a manifest with a wrong size of the content',
      editFile(({ plainSize }) => ({ plainSize: plainSize! + 1 })),
    ],
    [
      'a manifest that is cut',
      async (host, { label }) => truncate(join(host.store, 'test/main/catalog', `${label}.json`), 200),
    ],
    [
      'a manifest of another backup',
      editManifest((manifest) => ({ ...manifest, label: '20200101T000000Z-dump-aaaaaa' })),
    ],
    ['a manifest of a newer format', editManifest((manifest) => ({ ...manifest, format: 2 }))],
  ])('%s: backup-damaged, and nothing is changed', async (_name, damage) => {
    await damage(host, manifest)
    const { code, stderr } = await host.restore('database', 'damaged', '--swap')
    expect(stderr).toContain('error [backup-damaged]')
    expect(code).toBe(54)
    expect(await databases()).toEqual(present)
    expect(await journals()).toEqual([])
    await server.query('damaged', `select setval('s', 41)`)
    expect(await contentOf('damaged')).toBe(content)
  })

  test('a manifest that counts other objects: verify-failed, and nothing is changed', async () => {
    const edit = editManifest((manifest) => ({
      ...manifest,
      databases: manifest.databases.map((database) => ({
        ...database,
        objects: { ...database.objects, tables: 99 },
      })),
    }))
    await edit(host, manifest)
    const { code, stderr } = await host.restore('database', 'damaged', '--swap')
    expect(code).toBe(60)
    expect(stderr).toContain('5 tables of 99')
    expect(await databases()).toEqual(present)
  })

  test('a dump that pg_restore refuses: command-failed with its words, and nothing is changed', async () => {
    const path = dataFile(host, manifest)
    // Bytes whose sums are right, but which are no dump.
    const plain = Buffer.from('this is no dump')
    const { stdout } = await runZstd(plain)
    await writeFile(path, stdout)
    const sum = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
    await editFile(() => ({
      size: stdout.length,
      sha256: sum(stdout),
      plainSize: plain.length,
      plainSha256: sum(plain),
    }))(host, manifest)
    const { code, stderr } = await host.restore('database', 'damaged', '--swap')
    expect(code).toBe(25)
    expect(stderr).toContain('input file does not appear to be a valid archive')
    expect(await databases()).toEqual(present)
  })
})

function flip(at: (length: number) => number): Damage {
  return async (host, manifest) => {
    const path = dataFile(host, manifest)
    const bytes = await readFile(path)
    bytes[at(bytes.length)]! ^= 1
    await writeFile(path, bytes)
  }
}

async function runZstd(bytes: Uint8Array): Promise<{ stdout: Buffer }> {
  const { execFileSync } = await import('node:child_process')
  return { stdout: execFileSync('zstd', ['-qc'], { input: bytes }) }
}

describe('restore that is ended', () => {
  test.each(['SIGINT', 'SIGTERM'] as const)(
    '%s in the middle: exit 130, the scratch database is gone',
    async (signal) => {
      const name = `ended_${signal.toLowerCase()}`
      await server.query('postgres', `create database ${name}`)
      await server.query(
        name,
        `create table big as select md5(i::text) || md5((i * 7)::text) as x from generate_series(1, 300000) i; create index on big (x)`,
      )
      const host = await backupHost(server, `databases = ["${name}"]`)
      await host.take()
      const before = await databases()
      const endIn = async (pid: number) => {
        const copying = `select from pg_stat_activity where application_name = 'pg_restore' and query like 'COPY%'`
        await expect
          .poll(() => server.query('postgres', copying), { interval: 5, timeout: 20_000 })
          .toHaveLength(1)
        process.kill(pid, signal)
      }
      const result = await runScript(['restore', 'database', name, '--swap', '-c', host.file], {
        onStart: (pid) => void endIn(pid),
      })
      expect(result).toMatchObject({ code: 130, stderr: expect.stringContaining(`ended by ${signal}`) })
      expect(await databases()).toEqual(before)
      expect(await journals()).toEqual([])
    },
  )
})
