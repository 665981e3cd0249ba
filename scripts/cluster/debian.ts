import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, readTextIfAny } from '../core/file.ts'
import { type Postgres } from '../host/schema.ts'
import { type Cluster } from './cluster.ts'
import { connect } from './connect.ts'
import { isListening, waitUntilReady } from './ready.ts'

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
  const port = Number((await portOfSnippets(configDir)) ?? confValue(text, 'port') ?? 5432)
  return debianCluster(spec, { configDir, dataDir, port })
}

function debianCluster(spec: Postgres, found: { configDir: string; dataDir: string; port: number }): Cluster {
  const label = `debian cluster ${spec.major}/${spec.cluster}`
  const socketDir = spec.socket_dir ?? DEBIAN_SOCKET_DIR
  const osUser = 'postgres'
  const cluster: Cluster = {
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
      await waitUntilReady(cluster)
    },
    stop: () => control(spec, 'stop', label),
    async restart() {
      await control(spec, 'restart', label)
      await waitUntilReady(cluster)
    },
  }
  return cluster
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

/** The value that a configuration file gives a setting: its last line for it, without quotes. */
export function confValue(text: string, name: string): string | undefined {
  let value: string | undefined
  for (const line of text.split('\n')) {
    const match = /^\s*([A-Za-z_.]+)\s*=?\s*(?:'((?:[^']|'')*)'|([^\s#]+))/.exec(line)
    if (match?.[1]?.toLowerCase() === name) value = match[2]?.replaceAll("''", "'") ?? match[3]
  }
  return value
}

async function portOfSnippets(configDir: string): Promise<string | undefined> {
  const folder = join(configDir, 'conf.d')
  let port: string | undefined
  for (const file of (await readdir(folder).catch(() => []))
    .filter((name) => /^[^.].*\.conf$/.test(name))
    .sort()) {
    port = confValue((await readTextIfAny(join(folder, file)).catch(() => undefined)) ?? '', 'port') ?? port
  }
  return port
}
