import { statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { makeFolder, writeFileAtomic } from '../../scripts/core/file.ts'
import { log } from '../../scripts/core/log.ts'
import { formatCount, formatSize } from '../../scripts/core/quantity.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { serverCpuSeconds } from './tree.ts'

/** The OS user of the server, as which the other sides run. */
export const POSTGRES: { readonly uid: number; readonly gid: number } = userId('postgres')

/** The database that holds the rows. */
export const DATABASE = 'bench'

/** A server that programs are measured beside. */
export interface Rig {
  readonly server: TestServer
  /** A new folder of the server's OS user. */
  readonly folder: (name: string) => Promise<string>
  /**
   * Writes out what earlier runs left to be written, then reads all data once: every side begins
   * with a disk at rest and a warm page cache.
   * @param also folders to be read as well
   */
  rest(also?: readonly string[]): Promise<void>
  /** Seconds of CPU that the server used while a body ran. */
  serverCpu<T>(body: () => Promise<T>): Promise<{ result: T; serverCpuSeconds: number }>
}

/** A server with data to back up, and room for stores beside it. */
export interface Dataset extends Rig, AsyncDisposable {
  /** What there is, for the notes. */
  readonly notes: readonly string[]
  /** Rows of each large table. */
  readonly rows: Readonly<Record<string, number>>
  /** Bytes of the data directory and of the second tablespace, without WAL. */
  readonly bytes: number
}

/** Large tables at scale 1: two in the data directory, a small one in the second tablespace. */
const TABLES = [
  { name: 'readings', rows: 4_600_000, tablespace: 'pg_default' },
  { name: 'events', rows: 4_600_000, tablespace: 'pg_default' },
  { name: 'history', rows: 700_000, tablespace: 'cold' },
] as const

const SMALL_TABLES = 100

/** Bytes at scale 1 of data, of a store for each side, and of what is restored from two of them. */
const SPACE = 14e9

/** What the rows may compress by at most: ones that compress better would measure memcpy. */
const RATIO = 3

const MINIMAL = { wal_level: 'minimal', max_wal_senders: '0', fsync: 'off', full_page_writes: 'off' }
const USED = { wal_level: 'replica', fsync: 'on', full_page_writes: 'on', archive_mode: 'on' }
const COMMON = {
  shared_buffers: '512MB',
  maintenance_work_mem: '256MB',
  max_wal_size: '8GB',
  checkpoint_timeout: '30min',
  autovacuum: 'off',
}

/**
 * Makes a server with data checksums and, at scale 1, more than 2 GB of rows that compress by less
 * than three, a tenth of them at most in a second tablespace. It is loaded fast, then restarted as
 * a server that is used: fsync, full_page_writes and archiving on.
 * @param settings on top of ours, such as archive_command
 * @throws {Fail} `no-space`, `verify-failed` when the rows compress too well
 */
export async function makeDataset(options: {
  readonly scale: number
  readonly keep: boolean
  readonly settings: (dir: string) => Promise<Readonly<Record<string, string>>>
}): Promise<Dataset> {
  await assertSpace(SPACE * options.scale)
  log('info', 'bench: making the data')
  await using undo = new AsyncDisposableStack()
  const server = undo.use(await startServer({ settings: { ...COMMON, ...MINIMAL } }))
  const rig = rigOf(server, [join(server.dir, 'cold')])
  const rows = await load(rig, options.scale)
  await restartWith(server, { ...COMMON, ...USED, ...(await options.settings(server.dir)) })
  const notes = await describe(server, rows)
  undo.move()
  return { ...rig, ...notes, rows, [Symbol.asyncDispose]: () => endOrKeep(server, options.keep) }
}

/**
 * Leaves a folder of servers and stores when asked to, else removes it.
 * @param servers that have ended by then
 */
export async function endOrKeep(server: TestServer, keep: boolean): Promise<void> {
  if (!keep) return server[Symbol.asyncDispose]()
  await server.cluster.stop()
  log('notice', `bench: kept: ${server.dir}`)
}

/** Restarts a server with other settings in the place of those it was made with. */
export async function restartWith(
  server: TestServer,
  settings: Readonly<Record<string, string>>,
): Promise<void> {
  const all = { listen_addresses: '', unix_socket_directories: server.cluster.socketDir, ...settings }
  const text = Object.entries(all).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`)
  const file = join(server.cluster.dataDir, 'conf.d/00-test.conf')
  await writeFileAtomic(file, text.join(''), { mode: 0o640, ...POSTGRES })
  await server.cluster.restart()
}

/** Bytes of all files of a folder. */
export async function folderBytes(path: string): Promise<number> {
  const { stdout } = await run(['du', '--summarize', '--bytes', path])
  return Number.parseInt(stdout, 10)
}

/** @throws {Fail} `no-space` */
export async function assertSpace(bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(tmpdir())
  const free = bavail * bsize
  if (free >= bytes) return
  throw new Fail('no-space', `${tmpdir()} has ${formatSize(free)} free: ${formatSize(bytes)} are needed`, {
    hint: 'Name another folder by TMPDIR, or measure less of it with --scale.',
  })
}

/** @param tablespaces their folders */
export function rigOf(server: TestServer, tablespaces: readonly string[] = []): Rig {
  const { dataDir } = server.cluster
  return {
    server,
    async folder(name) {
      const path = join(server.dir, name)
      await makeFolder(path, { mode: 0o750, ...POSTGRES })
      return path
    },
    async rest(also = []) {
      await server.query('postgres', 'checkpoint')
      await run(['sync'])
      const folders = [join(dataDir, 'base'), join(dataDir, 'global'), ...tablespaces, ...also]
      await run([
        'find',
        ...folders,
        '-type',
        'f',
        '-exec',
        'sh',
        '-c',
        'cat "$@" >/dev/null',
        'sh',
        '{}',
        '+',
      ])
    },
    async serverCpu(body) {
      const postmaster = await postmasterOf(server)
      const before = serverCpuSeconds(postmaster)
      const result = await body()
      // What a session used is counted when the server has seen it end.
      await new Promise((resolve) => setTimeout(resolve, 300))
      return { result, serverCpuSeconds: serverCpuSeconds(postmaster) - before }
    },
  }
}

async function postmasterOf(server: TestServer): Promise<number> {
  const { stdout } = await run(['head', '-n1', join(server.cluster.dataDir, 'postmaster.pid')])
  return Number(stdout)
}

async function load({ server, folder }: Rig, scale: number): Promise<Record<string, number>> {
  await server.query('postgres', `create tablespace cold location '${await folder('cold')}'`)
  await server.query('postgres', `create database ${DATABASE}`)
  const rows = Object.fromEntries(TABLES.map(({ name, rows }) => [name, Math.ceil(rows * scale)]))
  await Promise.all(
    TABLES.map(({ name, tablespace }) => server.query(DATABASE, tableText(name, tablespace, rows[name]!))),
  )
  await server.query(DATABASE, SMALL_TEXT)
  // Frozen, or the first reader would write hint bits for the others.
  await server.query(DATABASE, 'vacuum (freeze, analyze)')
  await server.query('postgres', 'checkpoint')
  return rows
}

/**
 * Rows such as sensors send: numbers that grow, measured values, keys as text, and a word or two.
 * They are the same in each run.
 */
function tableText(name: string, tablespace: string, rows: number): string {
  return `
    create table ${name} tablespace ${tablespace} as
    select i as id,
           timestamptz '2026-01-01 00:00:00+00' + i * interval '3.7 seconds' as at,
           (hashint8(i) & 1023) as sensor,
           hashint8(i * 7) / 1000.0::float8 as value,
           encode(sha256(int8send(i)), 'hex') as key,
           'gateway ' || (hashint8(i + 1) & 63) || ' at site ' || (hashint8(i + 2) & 255)
             || (array[': nominal', ': late by one interval', ': recalibrated', ': out of range'])[1 + (hashint8(i + 3) & 3)]
             as state
    from generate_series(1::bigint, ${rows}) as i;
    alter table ${name} add primary key (id) using index tablespace ${tablespace};
    create index on ${name} (sensor, at) tablespace ${tablespace}`
}

/** What every database has many of. */
const SMALL_TEXT = `
  do $$ begin
    for n in 1..${SMALL_TABLES} loop
      execute format('create table small_%s (id int primary key, label text)', n);
      execute format('insert into small_%s select i, md5(i::text) from generate_series(1, 50) i', n);
    end loop;
  end $$`

async function describe(
  server: TestServer,
  rows: Readonly<Record<string, number>>,
): Promise<{ notes: string[]; bytes: number }> {
  const [size] = await server.query<{ all: string; cold: string }>(
    DATABASE,
    `select sum(pg_tablespace_size(oid))::text as all, pg_tablespace_size('cold')::text as cold
     from pg_tablespace`,
  )
  const ratio = await compressedBy(server)
  if (ratio > RATIO) {
    throw new Fail('verify-failed', `the rows compress by ${ratio.toFixed(2)}: ${RATIO} is the limit`)
  }
  const [bytes, cold] = [Number(size!.all), Number(size!.cold)]
  const count = formatCount(Object.values(rows).reduce((sum, value) => sum + value, 0))
  const notes = [
    `Data: ${formatSize(bytes)} (of it ${formatSize(cold)} in a second tablespace), ${count} rows in ${TABLES.length} tables with`,
    `two indexes each, and ${SMALL_TABLES} small tables; the files of their rows compress by ${ratio.toFixed(2)} with zstd -3. Checksums on.`,
  ]
  return { notes, bytes }
}

async function compressedBy(server: TestServer): Promise<number> {
  const paths = await server.query<{ path: string }>(
    DATABASE,
    'select pg_relation_filepath(name::regclass) as path from unnest($1::text[]) as name',
    [TABLES.map(({ name }) => name)],
  )
  const script = 'cd "$1" && shift && for file; do cat "$file" "$file".*; done 2>/dev/null'
  const files = paths.map(({ path }) => path)
  const count = async (filter: string) => {
    const argv = ['sh', '-c', `{ ${script}; } | ${filter}`, 'sh', server.cluster.dataDir, ...files]
    return Number((await run(argv)).stdout)
  }
  return (await count('wc -c')) / (await count('zstd -3 -T2 -q -c | wc -c'))
}
