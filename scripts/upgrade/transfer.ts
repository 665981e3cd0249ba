import { copyFile, mkdir, readdir, rename, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { closedFolder } from '../cluster/closed-folder.ts'
import { configFileOf, startClosed, stopServer } from '../cluster/restricted.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, readTextIfAny } from '../core/file.ts'
import { transferDump } from './dump.ts'
import { linkPrograms } from './programs.ts'
import type { Method } from './state.ts'

/** Two clusters, and how the data of one gets into the other. */
export interface Transfer {
  readonly old: Cluster
  readonly new: Cluster
  readonly method: Method
  /** The role that initdb made, in both. */
  readonly installUser: string
  readonly jobs: number
  /** Where what the programs said is kept when they fail. */
  readonly logs: string
}

/**
 * Brings the files of the old cluster into the new one; both are stopped before and afterwards.
 * @throws {Fail} `command-failed` with what pg_upgrade said, `no-space`
 */
export async function transferFiles(transfer: Transfer): Promise<void> {
  await using folder = await closedFolder(transfer.old.osUser)
  await pgUpgrade(transfer, folder.path, [])
}

/** A new cluster that runs behind closed doors and takes much at once. */
export interface Target extends AsyncDisposable {
  readonly cluster: Cluster
}

/** Starts a new cluster for {@link transferRows}. */
export async function openTarget(cluster: Cluster): Promise<Target> {
  await using opened = new AsyncDisposableStack()
  const folder = opened.use(await closedFolder(cluster.osUser))
  opened.defer(() => stopServer(cluster))
  // With summaries, which came with 17, wal_level could not be minimal.
  const summaries = cluster.major >= 17 ? { summarize_wal: 'off' } : {}
  const closed = await startClosed(cluster, { folder: folder.path, settings: { ...BULK, ...summaries } })
  const kept = opened.move()
  return { cluster: closed, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

/**
 * Brings all rows of the old cluster, which runs behind closed doors, into the new one, which is stopped afterwards.
 * @param transfer.new as it is when it does not run; `target` is where it does
 * @throws {Fail} `command-failed` with what pg_restore said, `no-space`
 */
export async function transferRows(
  transfer: Omit<Transfer, 'method' | 'logs'> & { readonly target: Target },
): Promise<void> {
  await transferDump({ ...transfer, new: transfer.target.cluster }).catch(async (error: unknown) => {
    await assertSpace(transfer.new.dataDir)
    throw error
  })
  await stopServer(transfer.new)
  // What was written without a sync is made durable at once, and before anybody relies on it.
  await run([join(transfer.new.bindir, 'initdb'), '--sync-only', '-D', transfer.new.dataDir], {
    as: transfer.new.osUser,
    timeoutSeconds: 3600,
  })
}

// A new cluster that breaks now is thrown away: neither WAL nor a sync is for anything. With wal_level = minimal a
// table that was made in the same transaction is filled without WAL (src/backend/access/heap/README, "COPY").
const BULK: Readonly<Record<string, string>> = {
  fsync: 'off',
  full_page_writes: 'off',
  wal_level: 'minimal',
  max_wal_senders: '0',
  max_wal_size: '10GB',
  checkpoint_timeout: '1h',
  maintenance_work_mem: '256MB',
}

/**
 * pg_upgrade's own check of a pair, while the old cluster serves and the new one is stopped.
 * @throws {Fail} `plan-impossible` with what it found
 */
export async function checkPair(pair: Transfer): Promise<void> {
  await using folder = await closedFolder(pair.old.osUser)
  try {
    await pgUpgrade(pair, folder.path, ['--check'])
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('plan-impossible', `pg_upgrade --check says no: ${error.message}`, {
      hint: error.hint,
      cause: error,
    })
  }
}

const METHODS: Readonly<Record<Exclude<Method, 'dump'>, readonly string[]>> = {
  copy: [],
  clone: ['--clone'],
  link: ['--link'],
  swap: ['--swap'],
}

async function pgUpgrade(pair: Transfer, folder: string, more: readonly string[]): Promise<void> {
  const { old, new: target, installUser, jobs, method } = pair
  // It writes where it stands, and its sockets too.
  const argv = ['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', folder, join(target.bindir, 'pg_upgrade')]
  const programs = { old: join(folder, 'old-bin'), new: join(folder, 'new-bin') }
  await linkPrograms(old.bindir, programs.old)
  await linkPrograms(target.bindir, programs.new)
  const options = {
    'old-bindir': programs.old,
    'new-bindir': programs.new,
    'old-datadir': old.dataDir,
    'new-datadir': target.dataDir,
    'old-port': String(old.port),
    'new-port': String(old.port === 65_535 ? old.port - 1 : old.port + 1),
    username: installUser,
    jobs: String(jobs),
    socketdir: folder,
    'old-options': optionsOf(configFileOf(old)),
    'new-options': optionsOf({ ...configFileOf(target), ...NEW_SETTINGS }),
  }
  for (const [name, value] of Object.entries(options)) argv.push(`--${name}=${value}`)
  argv.push(...METHODS[method === 'dump' ? 'copy' : method], ...more)
  const done = await run(argv, {
    as: old.osUser,
    env: { LC_ALL: 'C.UTF-8' },
    timeoutSeconds: 86_400,
    okCodes: ANY,
  })
  if (done.code === 0) return
  await assertSpace(target.dataDir)
  // Where they cannot be kept, what it printed is told in any case.
  const logs = await keepLogs(pair, folder).catch(() => undefined)
  throw new Fail('command-failed', `pg_upgrade failed: ${await reasonOf(done.stdout, logs)}`, {
    hint: logs === undefined ? done.stderr.trim() : `All that it said is in "${logs}".`,
  })
}

/** A program that fails on a full disk says so in many ways, or not at all. */
async function assertSpace(folder: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize > 16 * 1024 ** 2) return
  throw new Fail('no-space', `there is no space left in "${folder}"`, {
    hint: `Make some, and begin again: df -h ${folder}`,
  })
}

const ANY = Array.from({ length: 256 }, (_, code) => code)

// Its files may name an archive that is the old one's, and modules that begin to work as soon as they are loaded.
const NEW_SETTINGS: Readonly<Record<string, string>> = {
  archive_mode: 'off',
  synchronous_standby_names: '',
  'cron.launch_active_jobs': 'off',
}

/** For pg_upgrade, which hands them to a shell between double quotes. */
function optionsOf(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `-c ${name}=${value}`)
    .join(' ')
}

/** The part of its output that says why: what comes after the last line of dots. */
async function reasonOf(stdout: string, logs: string | undefined): Promise<string> {
  const lines = stdout.trim().split('\n')
  const fatal = lines.findLastIndex((line) => /\b(fatal|failed|error)\b/i.test(line))
  const text = lines
    .slice(fatal === -1 ? -5 : fatal)
    .join('\n')
    .trim()
  const details = logs === undefined ? [] : await detailsIn(logs)
  return [text, ...details].join('\n')
}

/** Lists of things that it objects to, and errors of its restores. */
async function detailsIn(logs: string): Promise<string[]> {
  const found: string[] = []
  for (const name of (await readdir(logs)).toSorted()) {
    const text = (await readTextIfAny(join(logs, name))) ?? ''
    const errors = text.split('\n').filter((line) => /\b(ERROR|FATAL|error):/.test(line))
    if (name.endsWith('.txt')) found.push(text.trim().split('\n').slice(0, 20).join('\n'))
    else if (/dump_\d+|globals|restore/.test(name)) found.push(...errors.slice(0, 3))
  }
  return found
}

/** From 15 on its files are below the new data directory, before that where it stood. */
async function keepLogs({ new: target, logs }: Transfer, folder: string): Promise<string | undefined> {
  const output = join(target.dataDir, 'pg_upgrade_output.d')
  const from = (await exists(output)) ? output : folder
  await rm(logs, { recursive: true, force: true })
  await mkdir(logs, { recursive: true, mode: 0o750 })
  for (const entry of await readdir(from, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/\.(log|txt)$/.test(entry.name)) continue
    await copyFile(join(entry.parentPath, entry.name), join(logs, entry.name))
  }
  return logs
}

/**
 * Lets an old cluster start again whose files were linked to a new one that never served: pg_upgrade had
 * renamed its control file (src/bin/pg_upgrade/controldata.c, disable_old_cluster).
 */
export async function enableOld({ dataDir }: Cluster): Promise<void> {
  const control = join(dataDir, 'global/pg_control')
  if (!(await exists(control)) && (await exists(`${control}.old`))) await rename(`${control}.old`, control)
}
