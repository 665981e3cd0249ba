import type { Cluster } from '../cluster/cluster.ts'
import { type LoadedHost, requireCluster } from '../cluster/open.ts'
import { migrationsFolder } from '../cluster/profile.ts'
import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import { parseDuration } from '../core/quantity.ts'
import type { DatabaseSpec, Host } from '../host/schema.ts'
import type { Migration } from './file.ts'
import { readFolder } from './folder.ts'
import { readLedger } from './ledger.ts'
import { connectTo, type RunOptions } from './session.ts'
import { type VersionLine, versionLines } from './state.ts'

/** A database whose schema is migrated. */
export interface MigrateScope {
  readonly cluster: Cluster
  readonly database: string
  readonly spec: DatabaseSpec
  /** Folder of the files. */
  readonly dir: string
  readonly migrations: readonly Migration[]
  readonly options: RunOptions
}

/** How long another run is waited for. */
const WAIT_SECONDS = 60

/** Names of the databases whose schema is migrated, in the order of the file. Pure. */
export function migratedDatabases(host: Host): string[] {
  return Object.entries(host.databases).flatMap(([name, { migrations }]) => (migrations ? [name] : []))
}

/**
 * The one that is meant: by name, or the only one. Pure.
 * @throws {Fail} `usage`
 */
export function oneDatabase(host: Host, name: string | undefined): string {
  const names = migratedDatabases(host)
  if (name === undefined ? names.length === 1 : names.includes(name)) return name ?? names[0]!
  if (names.length === 0) {
    throw new Fail('usage', 'no database of the host file has migrations', {
      hint: 'Add: [databases.NAME.migrations] dir = "..."',
    })
  }
  throw new Fail(
    'usage',
    name === undefined
      ? `which database? There are several with migrations: ${names.join(', ')}`
      : `database "${name}" has no migrations${didYouMean(name, names)}`,
    { hint: `Say --database ${names[0]}` },
  )
}

/**
 * Everything that is known of a database before it is connected to.
 * @throws {Fail} `cluster-mismatch` when there is none, `file-unreadable`, `migration-invalid`
 */
export async function openScope(loaded: LoadedHost, database: string): Promise<MigrateScope> {
  const { host } = loaded
  const spec = host.databases[database]!
  const dir = await migrationsFolder(loaded, spec)
  const migrations = await readFolder(dir)
  const cluster = await requireCluster(host)
  const { role = spec.owner, lock_timeout: lockTimeout, tries, mirror_table: mirror } = spec.migrations!
  const milliseconds = Math.round(parseDuration(lockTimeout)! * 1000)
  // Where it is made: a migration may set another search_path.
  const mirrorTable = mirror === undefined || mirror.includes('.') ? mirror : `public.${mirror}`
  const options = { role, lockTimeout: `${milliseconds}ms`, tries, waitSeconds: WAIT_SECONDS, mirrorTable }
  return { cluster, database, spec, dir, migrations, options }
}

/** How each version stands; nothing is written. */
export async function look({ cluster, database, migrations }: MigrateScope): Promise<VersionLine[]> {
  const client = await connectTo(cluster, database)
  try {
    return versionLines(migrations, await readLedger(client))
  } finally {
    await client.end()
  }
}
