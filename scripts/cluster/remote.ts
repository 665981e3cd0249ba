import { readdir, readFile } from 'node:fs/promises'
import { Fail } from '../core/fail.ts'
import { reasonOf } from '../core/file.ts'
import { readSecret, type Secret } from '../core/secret.ts'
import type { Postgres } from '../host/schema.ts'
import type { Cluster, ConnectOptions } from './cluster.ts'
import { connect, type Target } from './connect.ts'

/**
 * A server that is reached by its URL only. Nothing of its host can be touched.
 * @throws {Fail} `secret`, `server-unreachable`, `server-denied`, `not-permitted`
 */
export async function openRemote(spec: Postgres): Promise<Cluster> {
  const url = new URL(spec.url!)
  const host = decodeURIComponent(url.searchParams.get('host') ?? url.hostname).replace(/^\[(.*)\]$/, '$1')
  const port = Number(url.port || spec.port)
  const user = decodeURIComponent(url.username) || spec.superuser
  const password = spec.password ? await readSecret(spec.password) : undefined
  const label = `remote cluster ${host}:${port}`
  const ssl = await sslOptions(spec)
  const connectTo = (database: string, options: ConnectOptions = {}) =>
    connectPreferably(spec, {
      host,
      port,
      user: options.user ?? user,
      database,
      password,
      ssl,
      applicationName: options.applicationName ?? 'howdah',
      replication: options.replication,
      label,
    })
  const major = await remoteMajor(connectTo)
  if (spec.major !== undefined && spec.major !== major) {
    throw new Fail('cluster-mismatch', `${label} is of major ${major}, the host file says ${spec.major}`, {
      hint: `Set postgres.major = ${major}.`,
    })
  }
  const refuse = (verb: string) => () =>
    Promise.reject(new Fail('not-permitted', `cannot ${verb} ${label}: it is reached by its URL only`))
  return {
    kind: 'remote',
    label,
    major,
    bindir: await newestBindir(major),
    port,
    socketDir: host,
    dataDir: '',
    configDir: '',
    osUser: '',
    superuser: user,
    clientArguments: (database) => ({
      argv: ['--host', host, '--port', String(port), '--username', user, '--dbname', database],
      env: { ...libpqSsl(spec), ...passwordEnvironment(password) },
    }),
    connect: connectTo,
    isRunning: () => Promise.resolve(true),
    start: refuse('start'),
    stop: refuse('stop'),
    restart: refuse('restart'),
  }
}

/** With `sslmode = "prefer"` a server without TLS is talked to in the clear, as libpq does. */
async function connectPreferably(spec: Postgres, target: Target): ReturnType<Cluster['connect']> {
  try {
    return await connect(target)
  } catch (error) {
    const isPlain = error instanceof Fail && /does not support SSL/.test(error.message)
    if (spec.sslmode !== 'prefer' || !isPlain) throw error
    return connect({ ...target, ssl: false })
  }
}

async function remoteMajor(connectTo: (database: string) => ReturnType<Cluster['connect']>): Promise<number> {
  const client = await connectTo('postgres')
  try {
    const { rows } = await client.query<{ major: number }>(
      `select current_setting('server_version_num')::int / 10000 as major`,
    )
    return rows[0]!.major
  } finally {
    await client.end()
  }
}

async function sslOptions(spec: Postgres): Promise<NonNullable<Target['ssl']>> {
  const mode = spec.sslmode ?? 'verify-full'
  if (mode === 'disable') return false
  const ca = spec.ca_file
    ? await readFile(spec.ca_file, 'utf8').catch((cause: unknown) => {
        throw new Fail('file-unreadable', `cannot read ca_file "${spec.ca_file}": ${reasonOf(cause)}`, {
          hint: `Look at it: ls -l ${spec.ca_file}`,
          cause,
        })
      })
    : undefined
  return {
    rejectUnauthorized: mode.startsWith('verify'),
    ...(ca !== undefined && { ca }),
    ...(mode === 'verify-ca' && { checkServerIdentity: () => undefined }),
  }
}

// libpq looks for authorities in the home of the user only, unless it is told where the system has them.
const SYSTEM_AUTHORITIES = '/etc/ssl/certs/ca-certificates.crt'

/** The environment that makes libpq judge a server's certificate as we do. Pure. */
export function libpqSsl(spec: Postgres): Record<string, string> {
  const mode = spec.sslmode ?? 'verify-full'
  if (!mode.startsWith('verify')) return { PGSSLMODE: mode }
  return { PGSSLMODE: mode, PGSSLROOTCERT: spec.ca_file ?? SYSTEM_AUTHORITIES }
}

// libpq's own way to take a password that is in no argument list; /proc/PID/environ is for the same user only.
function passwordEnvironment(password: Secret | undefined): Record<string, string> {
  return password === undefined ? {} : { PGPASSWORD: password.reveal() }
}

/** pg_dump must not be older than the server. */
async function newestBindir(major: number): Promise<string> {
  const majors = (await readdir('/usr/lib/postgresql').catch(() => []))
    .map(Number)
    .filter((found) => found >= major)
  const newest = majors.toSorted((a, b) => a - b)[0]
  return newest === undefined ? '' : `/usr/lib/postgresql/${newest}/bin`
}
