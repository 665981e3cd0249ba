import { chmod, chown, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Client } from 'pg'
import type { Cluster, ConnectOptions } from '../../scripts/cluster/cluster.ts'
import { userId } from '../../scripts/cluster/connect.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import { run } from '../../scripts/core/exec.ts'
import { writeFileAtomic } from '../../scripts/core/file.ts'
import { currentUser } from '../../scripts/core/user.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Host } from '../../scripts/host/schema.ts'
import type { Change } from '../../scripts/plan/change.ts'
import { execute, type Target } from '../../scripts/plan/executor.ts'
import { observeHost } from '../../scripts/plan/observe.ts'
import { type AnyKind, type Planned, planKinds } from '../../scripts/plan/planner.ts'
import type { Kind, Observe } from '../../scripts/plan/kind.ts'

/** A PostgreSQL server of its own: a fresh private cluster, a Unix socket only, gone when disposed of. */
export interface TestServer extends AsyncDisposable {
  readonly cluster: Cluster
  /** Holds `data/`, `socket/` and `state/`; tests may put more there. Its owner is the server's OS user. */
  readonly dir: string
  readonly major: number
  /** The `format`, `[host]` and `[postgres]` part of a host file for this server. */
  readonly header: string
  /** A whole host: the header and what a test adds, such as `[roles.app]`. */
  host(toml: string): Host
  /** One query as the superuser, in a session of its own. */
  query<Row extends object = Record<string, unknown>>(
    database: string,
    text: string,
    values?: unknown[],
  ): Promise<Row[]>
  /** What a body does with a connected client. */
  withClient<T>(database: string, body: (client: Client) => Promise<T>, options?: ConnectOptions): Promise<T>
  /** What a body sees through read-only eyes. */
  observe<T>(toml: string, body: (observe: Observe) => Promise<T>): Promise<T>
  plan(kinds: readonly Kind<any>[], toml: string): Promise<Planned>
  /** Plans and executes. @returns the plan that was executed */
  apply(kinds: readonly Kind<any>[], toml: string, target?: Partial<Target>): Promise<Planned>
}

/** Settings and initdb options that a test wants from the start. */
export interface ServerOptions {
  readonly settings?: Readonly<Record<string, string>>
  readonly initdb?: readonly string[]
  /** Programs to use; default: the newest of /usr/lib/postgresql. */
  readonly bindir?: string
}

const isRoot = process.getuid?.() === 0
const osUser = isRoot ? 'postgres' : undefined
// Peer lets an OS user in as the role of its name only.
const superuser = osUser ?? currentUser()

/** Makes and starts a server; about a second. */
export async function startServer(options: ServerOptions = {}): Promise<TestServer> {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-test-'))
  const bindir = options.bindir ?? `/usr/lib/postgresql/${await newestMajor()}/bin`
  const major = Number.parseInt((await run([join(bindir, 'postgres'), '-V'])).stdout.replace(/\D*/, ''), 10)
  const owner = osUser ? userId(osUser) : { uid: process.getuid!(), gid: process.getgid!() }
  await chmod(dir, 0o755)
  await chown(dir, owner.uid, owner.gid)
  const data = join(dir, 'data')
  const initdb = [join(bindir, 'initdb'), '-D', data, '--no-sync', `--username=${superuser}`]
  const auth = [
    '--auth-local=peer',
    '--auth-host=scram-sha-256',
    '--locale=C.UTF-8',
    '--encoding=UTF8',
    '--data-checksums',
  ]
  await run([...initdb, ...auth, ...(options.initdb ?? [])], { as: osUser })
  await run(['mkdir', join(data, 'conf.d'), join(dir, 'socket')], { as: osUser })
  await run(['sh', '-c', `echo "include_dir = 'conf.d'" >>"$1"`, 'sh', join(data, 'postgresql.conf')], {
    as: osUser,
  })
  const settings = {
    fsync: 'off',
    full_page_writes: 'off',
    listen_addresses: '',
    unix_socket_directories: join(dir, 'socket'),
    ...options.settings,
  }
  const conf = Object.entries(settings)
    .map(([name, value]) => `${name} = '${value}'\n`)
    .join('')
  await writeFileAtomic(join(data, 'conf.d/00-test.conf'), conf, { mode: 0o640, ...owner })
  const header = headerOf(dir, major, bindir, options.settings?.['port'])
  const cluster = (await openCluster(parseHost(header)))!
  await cluster.start()
  return testServer({ dir, major, header, cluster })
}

/** The newest major of Debian's packages on this machine. */
export async function newestMajor(): Promise<number> {
  return Math.max(...(await readdir('/usr/lib/postgresql')).map(Number).filter(Number.isFinite))
}

function headerOf(dir: string, major: number, bindir: string, port = '5432'): string {
  return [
    'format = 1',
    '[host]',
    'name = "test"',
    `state_dir = "${dir}/state"`,
    '[postgres]',
    'kind = "private"',
    `major = ${major}`,
    `bindir = "${bindir}"`,
    `data_dir = "${dir}/data"`,
    `port = ${port}`,
    `superuser = "${superuser}"`,
    '',
  ].join('\n')
}

function testServer(base: Pick<TestServer, 'dir' | 'major' | 'header' | 'cluster'>): TestServer {
  const { cluster, dir, header } = base
  const server: TestServer = {
    ...base,
    host: (toml) => parseHost(`${header}${toml}`),
    query: (database, text, values) =>
      server.withClient(database, async (client) => (await client.query(text, values)).rows),
    async withClient(database, body, options) {
      const client = await cluster.connect(database, options)
      try {
        return await body(client)
      } finally {
        await client.end()
      }
    },
    async observe(toml, body) {
      const host = server.host(toml)
      await using observe = await observeHost(host, await openCluster(host))
      return await body(observe)
    },
    plan: (kinds, toml) => server.observe(toml, (observe) => planKinds(kinds as readonly AnyKind[], observe)),
    async apply(kinds, toml, target = {}) {
      const planned = await server.plan(kinds, toml)
      await execute(planned.changes, {
        open: () => openCluster(server.host(toml)),
        stateDir: join(dir, 'state'),
        ...target,
      })
      return planned
    },
    async [Symbol.asyncDispose]() {
      await run([join(cluster.bindir, 'pg_ctl'), '-s', '-D', cluster.dataDir, '-m', 'immediate', 'stop'], {
        as: osUser,
        okCodes: [0, 1],
        evenInterrupted: true,
      })
      await rm(dir, { recursive: true, force: true })
    },
  }
  return server
}

/** The changes of a plan as lines such as `+ role app: login`. */
export function linesOf(changes: readonly Change[]): string[] {
  const symbols = { create: '+', alter: '~', drop: '-' }
  return changes.map(({ action, kind, name, line }) => `${symbols[action]} ${kind} ${name}: ${line}`)
}
