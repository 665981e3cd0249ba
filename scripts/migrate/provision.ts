import type { Cluster } from '../cluster/cluster.ts'
import { type LoadedHost, openCluster } from '../cluster/open.ts'
import { migrationsFolder } from '../cluster/profile.ts'
import { Fail } from '../core/fail.ts'
import { sectionOf } from './apply.ts'
import { assertMajor, chooseUp } from './choose.ts'
import type { Migration } from './file.ts'
import { readFolder } from './folder.ts'
import { readLedger } from './ledger.ts'
import { migrate } from './migrate.ts'
import { migratedDatabases, openScope } from './scope.ts'
import { versionLines } from './state.ts'

/** A pending migration as a line of a plan; provisioning prints and saves it as it does its own. */
export interface PlannedMigration {
  readonly kind: 'migration'
  readonly name: string
  readonly action: 'create'
  readonly line: string
  readonly hazards: readonly []
  readonly steps: readonly [
    { readonly run: 'sql'; readonly database: string; readonly text: string; readonly transaction: boolean },
  ]
}

/** Why migrations of a database cannot be run. */
export interface MigrationFinding {
  readonly kind: 'migration'
  readonly name: string
  readonly level: 'impossible'
  readonly text: string
  readonly hint?: string
}

/**
 * The migrations of every database of a host file that are pending; all of those of a database that is not there
 * yet. What stands in their way is a finding.
 * @throws {Fail} what a connection throws
 */
export async function planMigrations(
  loaded: LoadedHost,
): Promise<{ changes: PlannedMigration[]; findings: MigrationFinding[] }> {
  const changes: PlannedMigration[] = []
  const findings: MigrationFinding[] = []
  const cluster = await openCluster(loaded.host)
  for (const database of migratedDatabases(loaded.host)) {
    try {
      const pending = await pendingOf(loaded, cluster, database)
      changes.push(...pending.map((migration) => plannedOf(database, migration)))
    } catch (error) {
      if (!(error instanceof Fail) || !OWN.has(error.code)) throw error
      const { message, hint } = error
      findings.push({
        kind: 'migration',
        name: database,
        level: 'impossible',
        text: message,
        ...(hint && { hint }),
      })
    }
  }
  return { changes, findings }
}

// What is wrong with the files, as opposed to the server.
const OWN = new Set<string>(['migration-invalid', 'migration-diverged', 'file-unreadable', 'plan-impossible'])

/**
 * Runs all pending migrations of a host file, database after database.
 * @throws {Fail} what {@link migrate} throws
 */
export async function runMigrations(
  loaded: LoadedHost,
  onDone: (change: PlannedMigration) => void,
): Promise<void> {
  for (const database of migratedDatabases(loaded.host)) {
    const scope = await openScope(loaded, database)
    const done = await migrate(scope, { direction: 'up', choice: {} })
    for (const { migration } of done) onDone(plannedOf(database, migration))
  }
}

async function pendingOf(
  loaded: LoadedHost,
  cluster: Cluster | undefined,
  database: string,
): Promise<Migration[]> {
  const migrations = await readFolder(await migrationsFolder(loaded, loaded.host.databases[database]!))
  const client =
    cluster && (await hasDatabase(cluster, database)) ? await cluster.connect(database) : undefined
  try {
    const pending = chooseUp(versionLines(migrations, client ? await readLedger(client) : []))
    assertMajor(pending, cluster?.major ?? loaded.host.postgres.major ?? Infinity)
    return pending
  } finally {
    await client?.end()
  }
}

async function hasDatabase(cluster: Cluster, database: string): Promise<boolean> {
  const client = await cluster.connect('postgres')
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [database])
    return rowCount !== 0
  } finally {
    await client.end()
  }
}

function plannedOf(database: string, migration: Migration): PlannedMigration {
  const { text, transaction } = sectionOf({ migration, direction: 'up' })
  const notes = migration.notes.map((note) => `: ${note}`).join('')
  return {
    kind: 'migration',
    name: `${database}: ${migration.file}`,
    action: 'create',
    line: `up${transaction ? '' : ', outside of a transaction'}${notes}`,
    hazards: [],
    steps: [{ run: 'sql', database, text: text.trim(), transaction }],
  }
}
