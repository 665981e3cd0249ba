import { copyFile, chown, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { makeFolder } from '../../scripts/core/file.ts'
import { log } from '../../scripts/core/log.ts'
import { formatSize } from '../../scripts/core/quantity.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { assertSpace, endOrKeep, folderBytes, POSTGRES, type Rig, rigOf } from './dataset.ts'
import type { Bench, BenchOptions, BenchResult } from './measure.ts'
import { HOWDAH, ourVersions, writeOurHost } from './ours.ts'
import { makePgBackRest, pgBackRestVersion } from './pgbackrest.ts'
import { assertRoot, installPackages } from './process.ts'
import { measureSides, type Side, SIDES_NOTES } from './sides.ts'

/** Finished segments of WAL into a store, beside pgBackRest's archive-push. */
export const wal: Bench = {
  name: 'wal',
  summary: "finished segments of WAL into a store, beside pgBackRest's archive-push",
  cases: { wal: { isDefault: true } },
  measure,
}

const NOTES = [
  'All store the same segments, which a load of short transactions made (full_page_writes on), compressed with zstd level 3.',
  'howdah: the archive service is started with all of them in its spool and measured from its start until the last one',
  'is in the store; pg_receivewal, which it runs, is part of it. pgbackrest-archive-push: called once for each segment in',
  'turn by a loop of sh, as the archiver calls it; the pauses of the archiver itself are not measured. -async: the same',
  'with archive-async and process-max 2; what it leaves in the background is not in its memory and CPU.',
]

/** Segments at scale 1. */
const SEGMENTS = 80

const SEGMENT_BYTES = 16 * 1024 * 1024

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const versions = { ...(await pgBackRestVersion()), ...(await installPackages(['zstd'])) }
  await assertSpace(8e9 * options.scale + 1e9)
  const settings = {
    wal_keep_size: '8GB',
    full_page_writes: 'on',
    synchronous_commit: 'off',
    autovacuum: 'off',
  }
  const server = await startServer({ settings })
  await using _end = { [Symbol.asyncDispose]: () => endOrKeep(server, options.keep) }
  const rig = rigOf(server)
  const segments = await makeSegments(rig, Math.ceil(SEGMENTS * options.scale))
  const ours = await ourSide(rig, segments)
  const peers = {
    'pgbackrest-archive-push': await pushSide(rig, segments, false),
    'pgbackrest-archive-push-async': await pushSide(rig, segments, true),
  }
  const bytes = segments.names.length * SEGMENT_BYTES
  const measured = await measureSides('wal', {
    ...options,
    rig,
    ours,
    peers,
    bytes,
    reads: [segments.folder],
  })
  const notes = [await describe(segments), ...NOTES, ...SIDES_NOTES]
  return { versions: { ...(await ourVersions(server)), ...versions }, notes, measured }
}

/** Finished segments, one after the other, in a folder of their own. */
interface Segments {
  readonly folder: string
  readonly names: readonly string[]
}

/** A table that is changed at random places, and one that grows; values do not repeat. */
const TABLES_TEXT = `
  create table state as
    select i as id, now() as at, encode(sha256(int8send(i)), 'hex') as key, 'gateway ' || (i & 63) as place
    from generate_series(1::bigint, 400000) as i;
  alter table state add primary key (id);
  create table history (id bigint generated always as identity primary key, at timestamptz, key text, value float8)`

/** Short transactions; the server makes them itself, since waiting for a client would take minutes. */
const LOAD_TEXT = `
  do $$ declare chosen bigint; begin
    for n in 1..40000 loop
      chosen := 1 + floor(random() * 400000);
      update state set at = clock_timestamp(), key = encode(sha256(random()::text::bytea), 'hex')
        where id = chosen;
      insert into history (at, key, value) values (clock_timestamp(), md5(random()::text), random());
      if n % 3 = 0 then commit; end if;
    end loop;
  end $$`

async function makeSegments({ server, folder }: Rig, count: number): Promise<Segments> {
  log('info', `bench: making ${count} segments of WAL`)
  const { dataDir } = server.cluster
  await server.query('postgres', TABLES_TEXT)
  await server.query('postgres', 'checkpoint')
  const first = await currentSegment(server)
  const finished = async () => {
    const current = await currentSegment(server)
    const names = (await readdir(join(dataDir, 'pg_wal')))
      .filter((name) => /^[0-9A-F]{24}$/.test(name))
      .sort()
    return names.filter((name) => name >= first && name < current)
  }
  let names = await finished()
  while (names.length < count) {
    await Promise.all([1, 2].map(() => server.query('postgres', LOAD_TEXT)))
    names = await finished()
  }
  // The last ones: the server goes on behind them, so no hole opens between them and what it streams.
  names = names.slice(-count)
  const target = await folder('segments')
  for (const name of names) await copyFile(join(dataDir, 'pg_wal', name), join(target, name))
  return { folder: target, names }
}

async function currentSegment(server: TestServer): Promise<string> {
  const [row] = await server.query<{ name: string }>(
    'postgres',
    'select pg_walfile_name(pg_current_wal_insert_lsn()) as name',
  )
  return row!.name
}

async function describe({ folder, names }: Segments): Promise<string> {
  const { stdout } = await run(['sh', '-c', 'cat "$1"/* | zstd -3 -T2 -q -c | wc -c', 'sh', folder])
  const plain = names.length * SEGMENT_BYTES
  const ratio = (plain / Number(stdout)).toFixed(2)
  return `WAL: ${names.length} segments, ${formatSize(plain)}, which compress by ${ratio} with zstd -3.`
}

async function ourSide({ server }: Rig, segments: Segments): Promise<Side> {
  const host = await writeOurHost(server, 'plain', '[archive]\nstore = "local"\n')
  const [row] = await server.query<{ id: string }>(
    'postgres',
    'select system_identifier::text as id from pg_control_system()',
  )
  const spool = join(server.dir, 'state/spool', row!.id)
  const stored = join(host.store, 'test/main/wal', row!.id, segments.names[0]!.slice(0, 8))
  return {
    argv: [HOWDAH, 'archive', 'run', '-c', host.file],
    isRoot: true,
    async before() {
      for (const folder of [join(server.dir, 'state'), host.store])
        await rm(folder, { recursive: true, force: true })
      await server.query(
        'postgres',
        'select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active',
      )
      await makeFolder(spool, { mode: 0o750, ...POSTGRES })
      await copyInto(spool, segments)
    },
    until: async () => (await storedSegments(stored)).length >= segments.names.length,
    async after() {
      const found = new Set(await storedSegments(stored))
      const missing = segments.names.filter((name) => !found.has(name))
      if (missing.length > 0) throw new Fail('verify-failed', `not stored by us: ${missing.join(' ')}`)
      return segmentBytes(stored, segments.names)
    },
  }
}

/** A segment is in the store when its body and its hash are. */
async function storedSegments(folder: string): Promise<string[]> {
  const files = new Set(await readdir(folder).catch(() => []))
  return [...files]
    .filter((name) => files.has(`${name.slice(0, 24)}.sha256`) && /^[0-9A-F]{24}\.zst$/.test(name))
    .map((name) => name.slice(0, 24))
}

/** Bytes of what is stored of segments; the service goes on with those that come after them. */
async function segmentBytes(folder: string, names: readonly string[]): Promise<number> {
  const sizes = names.map(async (name) => (await stat(join(folder, `${name}.zst`))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}

/** A data directory with no more than the program looks at: archive-push needs no server. */
async function pushSide({ server }: Rig, segments: Segments, isAsync: boolean): Promise<Side> {
  const dir = join(server.dir, isAsync ? 'push-async' : 'push')
  const data = join(dir, 'data')
  const status = join(data, 'pg_wal/archive_status')
  await run([
    'install',
    '-d',
    '-m',
    '700',
    '-o',
    'postgres',
    '-g',
    'postgres',
    dir,
    data,
    join(data, 'global'),
    join(data, 'pg_wal'),
    status,
  ])
  for (const name of ['PG_VERSION', 'global/pg_control']) {
    await copyFile(join(server.cluster.dataDir, name), join(data, name))
    await chown(join(data, name), POSTGRES.uid, POSTGRES.gid)
  }
  const pgBackRest = await makePgBackRest(join(dir, 'pgbackrest'), { 'pg1-path': data })
  await copyInto(join(data, 'pg_wal'), segments)
  const push = pgBackRest.argv('tuned', 'archive-push', ...(isAsync ? ['--archive-async'] : []))
  const stored = join(pgBackRest.repo, 'archive/bench')
  return {
    argv: [
      'sh',
      '-c',
      'cd "$1" && shift && for file in pg_wal/0*; do "$@" "$file" || exit; done',
      'sh',
      data,
      ...push,
    ],
    async before() {
      for (const folder of [pgBackRest.repo, pgBackRest.spool])
        await rm(folder, { recursive: true, force: true })
      for (const folder of [pgBackRest.repo, pgBackRest.spool]) await mkdir(folder)
      for (const folder of [pgBackRest.repo, pgBackRest.spool])
        await chown(folder, POSTGRES.uid, POSTGRES.gid)
      await pgBackRest.run('stanza-create', '--no-online')
      for (const name of segments.names) await writeFile(join(status, `${name}.ready`), '')
    },
    async after() {
      const files = await readdir(stored, { recursive: true })
      const found = files.filter((name) => /\/[0-9A-F]{24}-[0-9a-f]{40}\.zst$/.test(name))
      if (found.length === segments.names.length) return folderBytes(stored)
      throw new Fail(
        'verify-failed',
        `pgBackRest stored ${found.length} of ${segments.names.length} segments`,
      )
    },
  }
}

async function copyInto(folder: string, { folder: source, names }: Segments): Promise<void> {
  for (const name of names) {
    await copyFile(join(source, name), join(folder, name))
    await chown(join(folder, name), POSTGRES.uid, POSTGRES.gid)
  }
}
