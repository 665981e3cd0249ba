import { readdir, readFile } from 'node:fs/promises'
import { Fail, messageOf } from '../core/fail.ts'
import { readSecret, type Secret } from '../core/secret.ts'
import { type Postgres } from '../host/schema.ts'
import { type Cluster, type ConnectOptions } from './cluster.ts'
import { connect } from './connect.ts'

/**
 * A server that is reached by its URL only. Nothing of its host can be touched.
 * @throws {Fail} `secret`, `server-unreachable`, `server-denied`, `not-permitted`
 */
export async function openRemote(spec: Postgres): Promise<Cluster> {
  const url = new URL(spec.url!)
  const host = decodeURIComponent(url.searchParams.get('host') ?? url.hostname)
  const port = Number(url.port || spec.port)
  const user = decodeURIComponent(url.username) || spec.superuser
  const password = spec.password ? await readSecret(spec.password) : undefined
  const label = `remote cluster ${host}:${port}`
  const ssl = await sslOptions(spec)
  const connectTo = (database: string, options: ConnectOptions = {}) =>
    connect({
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

async function sslOptions(spec: Postgres): Promise<boolean | { rejectUnauthorized: boolean; ca?: string }> {
  const mode = spec.sslmode ?? 'verify-full'
  if (mode === 'disable') return false
  const ca = spec.ca_file
    ? await readFile(spec.ca_file, 'utf8').catch((cause: unknown) => {
        throw new Fail('file-unreadable', `cannot read ca_file "${spec.ca_file}": ${messageOf(cause)}`, {
          cause,
        })
      })
    : undefined
  return { rejectUnauthorized: mode.startsWith('verify'), ...(ca !== undefined && { ca }) }
}

function libpqSsl(spec: Postgres): Record<string, string> {
  return { PGSSLMODE: spec.sslmode ?? 'verify-full', ...(spec.ca_file && { PGSSLROOTCERT: spec.ca_file }) }
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
