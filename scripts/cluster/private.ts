import { readFile, stat } from 'node:fs/promises'
import process from 'node:process'
import { dirname, join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { isMissing, makeFolder, readTextIfAny } from '../core/file.ts'
import { currentUser } from '../core/user.ts'
import type { Postgres } from '../host/schema.ts'
import type { Cluster } from './cluster.ts'
import { connect, userId, userName } from './connect.ts'
import { isListening, runningAt, waitUntilReady } from './ready.ts'

/** Folder of a private cluster's socket and server log. */
export function privateSocketDir(spec: Postgres): string {
  return spec.socket_dir ?? join(dirname(spec.data_dir!), 'socket')
}

/** Programs of a private cluster. */
export function privateBindir(spec: Postgres): string {
  return spec.bindir ?? `/usr/lib/postgresql/${spec.major}/bin`
}

/**
 * OS user of a private cluster: the owner of its data directory, else who a new one would be made for.
 * An empty folder of root's is no exception, since no server runs as root.
 */
export async function privateOsUser(spec: Postgres): Promise<string> {
  const future = process.getuid?.() === 0 ? 'postgres' : currentUser()
  try {
    const { uid } = await stat(spec.data_dir!)
    return uid === 0 ? future : userName(uid)
  } catch (error) {
    if (!isMissing(error)) throw error
    return future
  }
}

/**
 * A cluster in a data directory of its own, driven by `pg_ctl`; undefined while there is none.
 * @throws {Fail} `cluster-mismatch` when the folder holds something else, which is never touched
 */
export async function openPrivate(spec: Postgres): Promise<Cluster | undefined> {
  const dataDir = spec.data_dir!
  const version = await readTextIfAny(join(dataDir, 'PG_VERSION')).catch((error: unknown) => {
    throw new Fail('not-permitted', `cannot look into the data directory "${dataDir}"`, {
      hint: 'Run this as root, or as its owner.',
      cause: error,
    })
  })
  if (version === undefined) return undefined
  const major = Number.parseInt(version, 10)
  if (major !== spec.major) {
    throw new Fail(
      'cluster-mismatch',
      `the data directory "${dataDir}" is of major ${major}, the host file says ${spec.major}`,
      {
        hint: `Set postgres.major = ${major}, or name another data_dir.`,
      },
    )
  }
  return privateCluster(spec, await privateOsUser(spec), await runningAt(dataDir))
}

function privateCluster(
  spec: Postgres,
  osUser: string,
  running: { port: number; socketDir: string } | undefined,
): Cluster {
  const dataDir = spec.data_dir!
  const { port, socketDir } = running ?? { port: spec.port, socketDir: privateSocketDir(spec) }
  const bindir = privateBindir(spec)
  const serverLog = join(socketDir, 'server.log')
  const label = `private cluster ${dataDir}`
  const pgCtl = async (...argv: readonly string[]) => {
    try {
      await run([join(bindir, 'pg_ctl'), '-s', '-w', '-D', dataDir, ...argv], {
        as: osUser,
        env: { LC_ALL: 'C.UTF-8' },
      })
    } catch (error) {
      if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
      throw new Fail('command-failed', `${label} did not ${argv[0]}`, {
        hint:
          (await lastLines(serverLog)) || `Its log would be "${serverLog}": ${error.hint ?? error.message}`,
        cause: error,
      })
    }
  }
  // pg_ctl opens its log before it starts anything.
  const makeLogFolder = () => makeFolder(socketDir, { mode: 0o755, ...ownerOf(osUser) })
  // Where it listens now, which may be somewhere else than before.
  const waitUntilStarted = async () => waitUntilReady(privateCluster(spec, osUser, await runningAt(dataDir)))
  return {
    kind: 'private',
    label,
    major: spec.major!,
    bindir,
    port,
    socketDir,
    dataDir,
    configDir: dataDir,
    osUser,
    superuser: spec.superuser,
    clientArguments: (database) => ({
      argv: ['--host', socketDir, '--port', String(port), '--username', spec.superuser, '--dbname', database],
      env: {},
    }),
    connect: (database, options = {}) =>
      connect({
        host: socketDir,
        port,
        user: options.user ?? spec.superuser,
        database,
        peer: osUser,
        applicationName: options.applicationName ?? 'howdah',
        replication: options.replication,
        label,
      }),
    isRunning: () => isListening(socketDir, port),
    async start() {
      await makeLogFolder()
      await pgCtl('start', '-l', serverLog)
      await waitUntilStarted()
    },
    stop: () => pgCtl('stop', '-m', 'fast'),
    async restart() {
      await makeLogFolder()
      await pgCtl('restart', '-m', 'fast', '-l', serverLog)
      await waitUntilStarted()
    },
  }
}

function ownerOf(osUser: string): { uid: number; gid: number } | undefined {
  return process.getuid?.() === 0 ? userId(osUser) : undefined
}

async function lastLines(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.trim().split('\n').slice(-5).join('\n')
}
