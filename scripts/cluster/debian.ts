import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, readTextIfAny } from '../core/file.ts'
import { parseConf } from '../host/conf.ts'
import type { Postgres } from '../host/schema.ts'
import type { Cluster } from './cluster.ts'
import { connect } from './connect.ts'
import { isListening, runningAt, waitUntilReady } from './ready.ts'

/** Where Debian's clusters have their sockets. */
export const DEBIAN_SOCKET_DIR = '/var/run/postgresql'

/** Folder of a Debian cluster's postgresql.conf. */
export function debianConfigDir(spec: Postgres): string {
  return `/etc/postgresql/${spec.major}/${spec.cluster}`
}

/** Data directory of a Debian cluster that is not there yet. */
export function debianDataDir(spec: Postgres): string {
  return spec.data_dir ?? `/var/lib/postgresql/${spec.major}/${spec.cluster}`
}

/** The unit of one cluster. `postgresql.service` is an umbrella that succeeds even when a cluster fails. */
export function debianUnit(spec: Postgres): string {
  return `postgresql@${spec.major}-${spec.cluster}.service`
}

/**
 * A cluster of postgresql-common; undefined while there is none of that major and name.
 * @throws {Fail} `cluster-mismatch` when it has another data directory than the host file says
 */
export async function openDebian(spec: Postgres): Promise<Cluster | undefined> {
  const configDir = debianConfigDir(spec)
  const text = await readTextIfAny(join(configDir, 'postgresql.conf'))
  if (text === undefined) return undefined
  const dataDir = confValue(text, 'data_directory') ?? debianDataDir(spec)
  if (spec.data_dir !== undefined && spec.data_dir !== dataDir) {
    throw new Fail(
      'cluster-mismatch',
      `cluster ${spec.major}/${spec.cluster} has its data in "${dataDir}", the host file says "${spec.data_dir}"`,
      {
        hint: `Set postgres.data_dir = "${dataDir}", or name another cluster.`,
      },
    )
  }
  const port = Number((await portOfFiles(configDir, dataDir)) ?? confValue(text, 'port') ?? 5432)
  const place = (await runningAt(dataDir)) ?? { port, socketDir: DEBIAN_SOCKET_DIR }
  return debianCluster(spec, { configDir, dataDir, ...place })
}

interface Found {
  readonly configDir: string
  readonly dataDir: string
  readonly port: number
  readonly socketDir: string
}

function debianCluster(spec: Postgres, found: Found): Cluster {
  const label = `debian cluster ${spec.major}/${spec.cluster}`
  const socketDir = spec.socket_dir ?? found.socketDir
  const osUser = 'postgres'
  // Where it listens now, which may be somewhere else than before.
  const waitUntilStarted = async () => waitUntilReady((await openDebian(spec))!)
  return {
    kind: 'debian',
    label,
    major: spec.major!,
    bindir: `/usr/lib/postgresql/${spec.major}/bin`,
    port: found.port,
    socketDir,
    dataDir: found.dataDir,
    configDir: found.configDir,
    osUser,
    superuser: spec.superuser,
    clientArguments: (database) => ({
      argv: [
        '--host',
        socketDir,
        '--port',
        String(found.port),
        '--username',
        spec.superuser,
        '--dbname',
        database,
      ],
      env: {},
    }),
    connect: (database, options = {}) =>
      connect({
        host: socketDir,
        port: found.port,
        user: options.user ?? spec.superuser,
        database,
        peer: osUser,
        applicationName: options.applicationName ?? 'howdah',
        replication: options.replication,
        label,
      }),
    isRunning: () => isListening(socketDir, found.port),
    async start() {
      await control(spec, 'start', label)
      await waitUntilStarted()
    },
    stop: () => control(spec, 'stop', label),
    async restart() {
      await control(spec, 'restart', label)
      await waitUntilStarted()
    },
  }
}

// Under systemd the unit must be told: a server started by pg_ctlcluster as another user than root
// escapes the unit's control group.
async function control(spec: Postgres, verb: 'start' | 'stop' | 'restart', label: string): Promise<void> {
  const hasSystemd = await exists('/run/systemd/system')
  const argv = hasSystemd
    ? ['systemctl', verb, debianUnit(spec)]
    : ['pg_ctlcluster', String(spec.major), spec.cluster, verb, ...(verb === 'start' ? [] : ['-m', 'fast'])]
  try {
    await run(argv)
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('command-failed', `${label} did not ${verb}`, {
      hint: await lastLog(spec, error.hint),
      cause: error,
    })
  }
}

async function lastLog(spec: Postgres, otherwise: string | undefined): Promise<string | undefined> {
  const text = await readTextIfAny(`/var/log/postgresql/postgresql-${spec.major}-${spec.cluster}.log`).catch(
    () => undefined,
  )
  return text?.trim().split('\n').slice(-5).join('\n') ?? otherwise
}

/** The value that a configuration file gives a setting: its last line for it, without quotes. Pure. */
export function confValue(text: string, name: string): string | undefined {
  return parseConf(text).lines.findLast((line) => line.name === name)?.value
}

/** The port as the files that come after postgresql.conf give it: the last one counts, and ALTER SYSTEM wins. */
async function portOfFiles(configDir: string, dataDir: string): Promise<string | undefined> {
  const folder = join(configDir, 'conf.d')
  const names = (await readdir(folder).catch(() => [])).filter((name) => /^[^.].*\.conf$/.test(name)).sort()
  const files = [...names.map((name) => join(folder, name)), join(dataDir, 'postgresql.auto.conf')]
  const texts = await Promise.all(files.map((path) => readTextIfAny(path).catch(() => undefined)))
  return texts.map((text) => confValue(text ?? '', 'port')).findLast((port) => port !== undefined)
}
