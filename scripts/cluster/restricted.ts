import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { readTextIfAny } from '../core/file.ts'
import { shellWord } from '../core/shell.ts'
import type { Cluster } from './cluster.ts'
import { isClosedFolder } from './closed-folder.ts'
import { connect } from './connect.ts'
import { isListening, livePid } from './ready.ts'

/** Whether a cluster, as it was opened, runs where nobody else can reach it. */
export function isClosed({ socketDir }: Cluster): boolean {
  return isClosedFolder(socketDir)
}

/** How a server is started behind closed doors. */
export interface ClosedOptions {
  readonly folder: string
  /** Whether rules of its own let people in; only the closed folder keeps them out then. */
  readonly hasOwnRules?: boolean
  /** Settings on top. */
  readonly settings?: Readonly<Record<string, string>>
}

/**
 * Starts the server of a cluster so that nobody but its OS user can come in: on a socket in a closed folder,
 * with nothing that writes of its own accord. Whatever its files say of places, ports and logs waits.
 * @returns the cluster as it is reached there
 * @throws {Fail} `command-failed` with the end of its log
 */
export async function startClosed(cluster: Cluster, options: ClosedOptions): Promise<Cluster> {
  const { folder } = options
  const closed = closedCluster(cluster, options)
  const rules = options.hasOwnRules ? {} : await writeRules(cluster, folder)
  const settings = {
    ...configFileOf(cluster),
    ...CLOSED,
    unix_socket_directories: folder,
    ...rules,
    ...options.settings,
  }
  const words = Object.entries(settings).map(([name, value]) => `-c ${shellWord(`${name}=${value}`)}`)
  const log = join(folder, 'server.log')
  const argv = ['-s', '-w', '-t', '600', '-D', cluster.dataDir, '-l', log, '-o', words.join(' ')]
  try {
    const started = run([join(cluster.bindir, 'pg_ctl'), 'start', ...argv], {
      as: cluster.osUser,
      env: { LC_ALL: 'C.UTF-8' },
      timeoutSeconds: 660,
    })
    await endedOr(started, () => isReadyIn(folder, cluster.dataDir))
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    const text = await readTextIfAny(log)
    throw new Fail('command-failed', `${cluster.label} did not start behind closed doors`, {
      hint: text?.trim().split('\n').slice(-5).join('\n') ?? error.hint,
      cause: error,
    })
  }
  return closed
}

/**
 * What names a cluster's configuration to a program that is given its data directory, as settings of the server.
 * Given the other folder instead, each run of pg_ctl first asks a postgres for the data directory.
 */
export function configFileOf({ configDir, dataDir }: Cluster): Readonly<Record<string, string>> {
  return configDir === dataDir ? {} : { config_file: join(configDir, 'postgresql.conf') }
}

/** pg_ctl looks ten times a second; somebody waits for each of these, with no server at all. */
const LOOK_MILLISECONDS = 5

/** Waits until a program ends, or what it is waiting for is seen before. @throws what the program throws */
async function endedOr(program: Promise<unknown>, isDone: () => Promise<boolean>): Promise<void> {
  let hasEnded = false
  const ended = program.finally(() => (hasEnded = true))
  ended.catch(() => {}) // it is thrown below, or comes when nobody waits for it any more
  while (!hasEnded) {
    if (await isDone()) return
    await Promise.race([ended, sleep(LOOK_MILLISECONDS)])
  }
  await ended
}

/**
 * Whether a server takes connections in a folder: the lines of its file say where, and if (src/include/utils/pidfile.h).
 * One that somebody else has started there meanwhile is none of ours.
 */
async function isReadyIn(folder: string, dataDir: string): Promise<boolean> {
  const lines = (await readTextIfAny(join(dataDir, 'postmaster.pid')))?.split('\n') ?? []
  const [place, status] = [lines[4], lines[7]?.trim()]
  const isReady = place === folder && (status === 'ready' || status === 'standby')
  return isReady && (await livePid(dataDir)) !== undefined
}

/** Nobody else is in this folder, so any number does. */
const PORT = 5432

// Without its archiver: WAL of a cluster that may be thrown away must not come beside another one's. Without
// subscriptions, and without a wait for standbys that cannot come.
const CLOSED: Readonly<Record<string, string>> = {
  listen_addresses: '',
  port: String(PORT),
  unix_socket_permissions: '0700',
  external_pid_file: '',
  logging_collector: 'off',
  log_destination: 'stderr',
  ssl: 'off',
  archive_mode: 'off',
  autovacuum: 'off',
  max_logical_replication_workers: '0',
  synchronous_standby_names: '',
  'cron.launch_active_jobs': 'off',
}

/** Settings whose values in files wait until the doors open: the server cannot say of them that they are right. */
export const WAITING: readonly string[] = [...Object.keys(CLOSED), 'unix_socket_directories']

async function writeRules({ osUser, superuser }: Cluster, folder: string): Promise<Record<string, string>> {
  const files = { hba_file: join(folder, 'pg_hba.conf'), ident_file: join(folder, 'pg_ident.conf') }
  const rules = onlyRules(osUser, superuser)
  for (const [path, text] of [
    [files.hba_file, rules.hba],
    [files.ident_file, rules.ident],
  ] as const) {
    await writeFile(path, text)
    await chmod(path, 0o644) // whatever the umask
  }
  return files
}

/** What pg_hba.conf and pg_ident.conf say where one OS user alone may come in, as one role. Pure. */
export function onlyRules(osUser: string, role: string): { readonly hba: string; readonly ident: string } {
  return {
    hba: `local all ${quoted(role)} peer map=howdah\n`,
    ident: `howdah ${quoted(osUser)} ${quoted(role)}\n`,
  }
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** A cluster as {@link startClosed} reaches, stops and starts it. */
function closedCluster(cluster: Cluster, options: ClosedOptions): Cluster {
  const { folder } = options
  const label = `${cluster.label} behind closed doors`
  return {
    ...cluster,
    label,
    port: PORT,
    socketDir: folder,
    clientArguments: (database) => ({
      argv: ['--host', folder, '--port', String(PORT), '--username', cluster.superuser, '--dbname', database],
      env: {},
    }),
    connect: (database, options = {}) =>
      connect({
        host: folder,
        port: PORT,
        user: options.user ?? cluster.superuser,
        database,
        peer: cluster.osUser,
        applicationName: options.applicationName ?? 'howdah',
        replication: options.replication,
        label,
      }),
    isRunning: () => isListening(folder, PORT),
    async start() {
      await startClosed(cluster, options)
    },
    stop: () => stopServer(cluster),
    async restart() {
      await stopServer(cluster)
      await startClosed(cluster, options)
    },
  }
}

/**
 * Stops whatever server runs on a data directory, in whatever way it was started.
 * @param dataDir of the cluster; nothing happens where there is no server, or no such folder
 */
export async function stopServer({
  bindir,
  dataDir,
  osUser,
}: Pick<Cluster, 'bindir' | 'dataDir' | 'osUser'>): Promise<void> {
  if ((await livePid(dataDir)) === undefined) return
  // It does not wait: with the next server in the same folder it would not see that this one has gone.
  await run([join(bindir, 'pg_ctl'), 'stop', '-s', '-W', '-m', 'fast', '-D', dataDir], {
    as: osUser,
    evenInterrupted: true,
    env: { LC_ALL: 'C.UTF-8' },
  })
  const deadline = Date.now() + STOP_SECONDS * 1000
  while ((await livePid(dataDir)) !== undefined) {
    if (Date.now() > deadline) {
      throw new Fail('command-failed', `the server of "${dataDir}" did not stop within an hour`, {
        hint: 'Look into its log, and stop it: pg_ctl stop -m immediate',
      })
    }
    await sleep(LOOK_MILLISECONDS)
  }
}

const STOP_SECONDS = 3600
