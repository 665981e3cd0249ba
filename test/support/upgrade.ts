import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../scripts/core/exec.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Cluster } from '../../scripts/cluster/cluster.ts'
import { debianServer } from './debian-server.ts'
import { newestMajor, type ServerOptions, startServer, type TestServer } from './server.ts'

/** All programs of a major, with pg_upgrade: the machine's own, or what was unpacked for tests. */
export async function allPrograms(major: number): Promise<string> {
  if (major === (await newestMajor())) return `/usr/lib/postgresql/${major}/bin`
  const found = await debianServer(major)
  if (found) return found.bindir
  throw new Error(`there is no PostgreSQL ${major} with all programs: run howdah test once, as root`)
}

/** A cluster that is to be upgraded, and its host file. */
export interface UpgradeHost extends AsyncDisposable {
  readonly server: TestServer
  /** Path of the host file. */
  readonly file: string
  readonly bindir: string
  readonly to: number
  /** The cluster that the host file names by now. */
  cluster(): Promise<Cluster>
  /** Rows of a query on whatever the host file names by now. */
  query<Row extends object>(database: string, text: string): Promise<Row[]>
}

/** Starts a server of a major with a host file beside it. */
export async function upgradeHost(
  [from, to]: readonly [number, number],
  toml = '',
  options: ServerOptions = {},
): Promise<UpgradeHost> {
  const server = await startServer({ bindir: await allPrograms(from), ...options })
  const file = join(server.dir, 'host.toml')
  await writeFile(file, `${server.header}${toml}`)
  const space = join(server.dir, 'space')
  await mkdir(space)
  await run(['chown', `--reference=${server.dir}`, space])
  const cluster = async () => (await openCluster(parseHost(await readFile(file, 'utf8'))))!
  return {
    server,
    file,
    bindir: await allPrograms(to),
    to,
    cluster,
    async query(database, text) {
      const client = await (await cluster()).connect(database)
      try {
        return (await client.query(text)).rows
      } finally {
        await client.end()
      }
    },
    async [Symbol.asyncDispose]() {
      const now = await cluster()
      const stop = [join(now.bindir, 'pg_ctl'), '-s', '-D', now.dataDir, '-m', 'immediate', 'stop']
      await run(stop, { as: now.osUser, okCodes: [0, 1] })
      await server[Symbol.asyncDispose]()
    },
  }
}
