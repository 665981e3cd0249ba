import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { openWalStore, type WalStore } from '../../scripts/backup/wal/wal-store.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { openPrivate } from '../../scripts/cluster/private.ts'
import type { Cluster } from '../../scripts/cluster/cluster.ts'
import { run } from '../../scripts/core/exec.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { runScript, type ScriptResult } from './script.ts'
import { startServer, type TestServer } from './server.ts'

/** Bytes of a segment of the servers here. */
export const SEGMENT_SIZE = 1024 * 1024

/** A server whose base backups and WAL are in a folder. */
export interface RecoverSource extends AsyncDisposable {
  readonly server: TestServer
  readonly file: string
  /** Folder of the store. */
  readonly store: string
  readonly wal: WalStore
  readonly systemIdentifier: string
  /** Takes a base backup, which must succeed. */
  take(): Promise<Manifest>
  /** Stores all of the WAL so far: whole segments, and the beginning of the one being written. */
  ship(): Promise<string>
  restore(...args: readonly string[]): Promise<ScriptResult>
  /** Restores into a folder of its own, which must succeed. */
  copy(...args: readonly string[]): Promise<Copy>
}

/** A restored copy. */
export interface Copy extends AsyncDisposable {
  readonly dir: string
  readonly cluster: Cluster
  readonly result: Record<string, unknown>
  query<Row extends object>(database: string, text: string): Promise<Row[]>
}

let number = 0

/** Makes such a server; two seconds. */
export async function recoverSource(toml = '', recipients?: readonly string[]): Promise<RecoverSource> {
  const server = await startServer({
    initdb: ['--wal-segsize=1'],
    settings: {
      wal_level: 'replica',
      max_wal_senders: '5',
      full_page_writes: 'on',
      min_wal_size: '2MB',
      // Nothing is removed before it was shipped.
      wal_keep_size: '4GB',
    },
  })
  const store = join(server.dir, 'store')
  const file = join(server.dir, 'host.toml')
  await writeFile(
    file,
    `${server.header}
[store.local]
type = "dir"
path = "${store}"
[archive]
store = "local"
[backup.whole]
kind = "base"
store = "local"
${toml}`,
  )
  const [row] = await server.query<{ id: string }>(
    'postgres',
    'select system_identifier::text as id from pg_control_system()',
  )
  const systemIdentifier = row!.id
  const wal = openWalStore({
    store: dirStore(store),
    prefix: `test/main/wal/${systemIdentifier}/`,
    level: 1,
    recipients,
  })
  const restore = (...args: readonly string[]) => runScript(['restore', ...args, '-c', file])
  return {
    server,
    file,
    store,
    wal,
    systemIdentifier,
    restore,
    async take() {
      const { code, stdout, stderr } = await runScript(['backup', 'take', 'whole', '--json', '-c', file])
      if (code !== 0) throw new Error(`take failed: ${stderr}`)
      return (JSON.parse(stdout) as { result: Manifest }).result
    },
    ship: () => ship(server, wal, systemIdentifier),
    async copy(...args) {
      const dir = join(server.dir, `copy${++number}`)
      const port = String(20_000 + number)
      const { code, stdout, stderr } = await restore(
        'cluster',
        '--to',
        dir,
        '--port',
        port,
        '--json',
        ...args,
      )
      if (code !== 0) throw new Error(`restore failed with ${code}: ${stderr}`)
      return openCopy(server, dir, (JSON.parse(stdout) as { result: Record<string, unknown> }).result)
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** A copy that is there. */
export async function openCopy(
  server: TestServer,
  dir: string,
  result: Record<string, unknown> = {},
): Promise<Copy> {
  const { postgres } = parseHost(server.header)
  const cluster = (await openPrivate({ ...postgres, data_dir: dir, socket_dir: `${dir}.socket` }))!
  return {
    dir,
    cluster,
    result,
    async query<Row extends object>(database: string, text: string) {
      const client = await cluster.connect(database)
      try {
        return (await client.query<Row>(text)).rows
      } finally {
        await client.end()
      }
    },
    async [Symbol.asyncDispose]() {
      if (await cluster.isRunning()) {
        const stop = ['stop', '-s', '-D', dir, '-m', 'immediate']
        await run([join(cluster.bindir, 'pg_ctl'), ...stop], { as: cluster.osUser, okCodes: [0, 1] })
      }
      await rm(dir, { recursive: true, force: true })
      await rm(`${dir}.socket`, { recursive: true, force: true })
    },
  }
}

async function ship(server: TestServer, wal: WalStore, systemIdentifier: string): Promise<string> {
  const [row] = await server.query<{
    lsn: string
    file: string
    used: string
    timeline: number
    now: string
  }>(
    'postgres',
    `select lsn::text, pg_walfile_name(lsn) as file, (lsn - '0/0') % ${SEGMENT_SIZE} as used,
       (pg_control_checkpoint()).timeline_id as timeline,
       to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now
     from pg_current_wal_flush_lsn() lsn`,
  )
  const { lsn, file, timeline, now } = row!
  const folder = join(server.cluster.dataDir, 'pg_wal')
  const names = (await readdir(folder)).sort()
  // At the very end of a segment its name is still that of the segment that ended.
  const isWhole = row!.used === '0'
  for (const name of names) {
    if (/^[0-9A-F]{8}\.history$/.test(name)) await wal.put(name, join(folder, name))
    if (
      /^[0-9A-F]{24}$/.test(name) &&
      (isWhole ? name <= file : name < file) &&
      name.slice(0, 8) === file.slice(0, 8)
    )
      await wal.put(name, join(folder, name))
  }
  const used = Number(row!.used)
  if (used > 0 && (await wal.has(file)) !== 'whole') await wal.putPartial(file, join(folder, file), used)
  await wal.writePosition({
    format: 1,
    systemIdentifier,
    timeline,
    lsn,
    time: now,
    segmentSize: SEGMENT_SIZE,
  })
  return lsn
}

/** Makes a folder that belongs to the OS user of the server. */
export async function ownFolder(server: TestServer, name: string): Promise<string> {
  const path = join(server.dir, name)
  await mkdir(path, { recursive: true })
  await run(['chown', `--reference=${server.cluster.dataDir}`, path])
  return path
}
