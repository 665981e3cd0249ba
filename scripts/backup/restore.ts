import { randomBytes } from 'node:crypto'
import type { Client } from 'pg'
import { z } from 'zod'
import type { Cluster } from '../cluster/cluster.ts'
import { holdResource, systemIdentifier } from '../cluster/lock.ts'
import { requireCluster } from '../cluster/open.ts'
import { assertIdentity } from '../cluster/ready.ts'
import { input } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { hostIdentity, type Identity } from '../store/identity.ts'
import { type Expected, requireIdentity, unpack } from '../store/pipeline.ts'
import { type Choice, findBackup, type Found } from './catalog.ts'
import { PROPERTIES_NAME } from './dump.ts'
import { randomLetters } from './label.ts'
import type { ManifestFile } from './manifest.ts'
import { clientProgram } from '../cluster/program.ts'
import { createStatement, propertyStatements } from './properties.ts'
import { assertPossible, planRestore, type RestorePlan, type RestoreRequest } from './restore-plan.ts'
import {
  dropDatabase,
  maintenanceDatabase,
  recoverRestores,
  type RestoreJournal,
  restoreLog,
} from './scratch.ts'
import { withClient } from './session.ts'
import { countObjects, type DatabaseProperties } from './survey.ts'
import { swapDatabases } from './swap.ts'
import { targetFacts } from './target.ts'

/** What to restore, and from which backup. */
export interface RestoreScope {
  readonly host: Host
  readonly request: RestoreRequest
  /** Which backup; of all stores of the host. */
  readonly choice: Choice
  /** File of the private key, for what is encrypted; default: what the host file says. */
  readonly identity?: string | undefined
}

/** How to restore. */
export interface RestoreOptions {
  /** Asked with the plan before anything is changed; false stops it. */
  readonly confirm?: (plan: RestorePlan) => Promise<boolean>
  /** Told what has just been done. */
  readonly onPhase?: (phase: RestorePhase) => void
  /** Told of each piece of the dump. */
  readonly onBytes?: (count: number) => void
}

export type RestorePhase = 'planned' | 'created' | 'filled' | 'analyzed' | 'decided' | 'swapped' | 'dropped'

/**
 * Plans the restore of a database; changes nothing.
 * @throws {Fail} `backup-missing`, `backup-damaged`, `wrong-key`, and what a store and a connection throw
 */
export async function planDatabaseRestore(scope: RestoreScope): Promise<RestorePlan> {
  const cluster = await requireCluster(scope.host)
  await assertIdentity(cluster)
  const source = await findBackup(scope.host, scope.choice)
  await using _key = await keyFor(scope, source)
  return planFor(scope, cluster, source)
}

/** The private key, of a backup that needs one; what is stored in clear is restored without, wherever it is. */
async function keyFor(scope: RestoreScope, { manifest }: Found): Promise<Identity | undefined> {
  if (!manifest.encrypted) return undefined
  const key = await hostIdentity(scope.host, scope.identity)
  requireIdentity(manifest.label, key?.path)
  return key
}

/**
 * Restores a database: into a new one, which is checked and then takes its name. Until that moment
 * nothing that was there is changed, and after any failure the new one is gone.
 * @throws {Fail} what {@link assertPossible} throws, `wrong-key`, `backup-damaged`, `verify-failed`, `lock-held`,
 *   `command-failed`, `server-failed`
 */
export async function restoreDatabase(
  scope: RestoreScope,
  options: RestoreOptions = {},
): Promise<RestorePlan> {
  const { host } = scope
  const cluster = await requireCluster(host)
  await assertIdentity(cluster)
  await using _lock = await holdResource(host, cluster, 'cluster')
  const identifier = await systemIdentifier(cluster)
  await recoverRestores(host.host.state_dir, cluster, identifier)
  const source = await findBackup(host, scope.choice)
  await using key = await keyFor(scope, source)
  const plan = await planFor(scope, cluster, source)
  assertPossible(plan)
  if ((await options.confirm?.(plan)) === false) {
    throw new Fail('interrupted', 'nothing was changed', { hint: 'Answer y, or give --yes.' })
  }
  const identity = key?.path
  const properties = await readProperties(source, plan, identity)
  await run({ host, cluster, source, plan, properties, identifier, identity }, options)
  return plan
}

interface Run {
  readonly host: Host
  readonly cluster: Cluster
  readonly source: Found
  readonly plan: RestorePlan
  readonly properties: DatabaseProperties
  /** Of the cluster that it is restored into. */
  readonly identifier: string
  /** File of the private key. */
  readonly identity: string | undefined
}

async function run(running: Run, options: RestoreOptions): Promise<void> {
  const { host, cluster, plan, identifier } = running
  const { scratch, target, before, dropsBefore, manifest } = plan
  const journal: Omit<RestoreJournal, 'phase'> = {
    systemIdentifier: identifier,
    label: manifest.label,
    scratch,
    target,
    before,
    dropsBefore,
  }
  const id = scratch.slice(-6)
  const written = restoreLog(host.host.state_dir, id, cluster.osUser === '' ? undefined : cluster.osUser)
  const inCluster = <T>(body: (client: Client) => Promise<T>) =>
    withClient(cluster, maintenanceDatabase(target), body)
  await written.write({ ...journal, phase: 'fill' })
  options.onPhase?.('planned')
  try {
    await inCluster((client) => client.query(createStatement(scratch, plan.entry, cluster.major)))
    options.onPhase?.('created')
    await fill(running, options)
    interrupted.throwIfAborted()
    await written.write({ ...journal, phase: 'swap' })
    options.onPhase?.('decided')
    await swapDatabases(cluster, plan) // commit point: the restored database has its name
  } catch (error) {
    await undo(
      running,
      () => inCluster((client) => dropDatabase(client, scratch)),
      () => written.remove(),
    )
    throw error
  }
  options.onPhase?.('swapped')
  if (dropsBefore && before !== null) {
    await written.write({ ...journal, phase: 'drop' })
    await inCluster((client) => dropDatabase(client, before))
    options.onPhase?.('dropped')
  }
  await written.remove()
}

/** Drops the scratch database. When the server does not let us, the journal makes the next run do it. */
async function undo({ plan }: Run, drop: () => Promise<void>, forget: () => Promise<void>): Promise<void> {
  try {
    await drop()
    await forget()
  } catch (error) {
    log(
      'warning',
      `restore: "${plan.scratch}" could not be dropped, the next restore does it: ${messageOf(error)}`,
    )
  }
}

async function fill(running: Run, options: RestoreOptions): Promise<void> {
  const { cluster, plan, properties } = running
  const { scratch, entry } = plan
  if (!properties.hasPublicSchema)
    await withClient(cluster, scratch, (client) => client.query('drop schema public'))
  await restoreContent(running, options.onBytes)
  options.onPhase?.('filled')
  await withClient(cluster, scratch, async (client) => {
    assertSameObjects(await countObjects(client), plan)
    // A dump has no statistics before 18, and without them the first queries are slow.
    await client.query('analyze')
    await client.query('begin')
    for (const statement of propertyStatements(scratch, entry.owner, properties))
      await client.query(statement)
    await client.query('commit')
  })
  options.onPhase?.('analyzed')
}

async function restoreContent(
  { cluster, source, plan, identity }: Run,
  onBytes?: (count: number) => void,
): Promise<void> {
  const transaction = plan.isSingleTransaction ? ['--single-transaction'] : []
  const { argv, options } = clientProgram(cluster, 'pg_restore', plan.scratch, [
    '--exit-on-error',
    ...transaction,
  ])
  let isWhole = false
  async function* content() {
    for await (const chunk of unpack(source.store, expected(source, plan.file), { identity })) {
      onBytes?.(chunk.length)
      yield chunk
    }
    isWhole = true
  }
  try {
    await input(argv, content(), options)
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('command-failed', `cannot restore database "${plan.entry.name}": ${error.message}`, {
      hint: error.hint,
      cause: error,
    })
  }
  // pg_restore reads no further than it needs: only the end proves that all of the file is right.
  if (!isWhole) throw new Fail('backup-damaged', `pg_restore ended before the end of "${plan.file.name}"`)
}

function assertSameObjects(found: Readonly<Record<string, number>>, { entry }: RestorePlan): void {
  const kinds = new Set([...Object.keys(found), ...Object.keys(entry.objects)])
  const wrong = [...kinds].filter((kind) => (found[kind] ?? 0) !== (entry.objects[kind] ?? 0))
  if (wrong.length === 0) return
  const text = wrong.map((kind) => `${found[kind] ?? 0} ${kind} of ${entry.objects[kind] ?? 0}`).join(', ')
  throw new Fail('verify-failed', `the restored database "${entry.name}" has ${text}`, {
    hint: 'Nothing was changed. Restore it under another name by hand to look at it: see RESTORE.md of the backup.',
  })
}

async function planFor(scope: RestoreScope, cluster: Cluster, source: Found): Promise<RestorePlan> {
  const facts = await targetFacts(cluster, source, scope.request)
  const random = randomLetters(randomBytes(6))
  return planRestore(source.manifest, scope.request, facts, { now: new Date(), random })
}

const propertiesSchema = z.object({
  format: z.literal(1),
  properties: z.record(
    z.string(),
    z.custom<DatabaseProperties>((value) => typeof value === 'object' && value !== null),
  ),
})

async function readProperties(
  source: Found,
  { entry, manifest }: RestorePlan,
  identity: string | undefined,
): Promise<DatabaseProperties> {
  const file = manifest.files.find(({ name }) => name.startsWith(`${PROPERTIES_NAME}.`))
  if (!file)
    throw new Fail('backup-damaged', `the manifest of ${manifest.label} names no file "${PROPERTIES_NAME}"`)
  const bytes = Buffer.concat(
    await Array.fromAsync(unpack(source.store, expected(source, file), { identity })),
  )
  const properties = propertiesSchema.safeParse(JSON.parse(bytes.toString('utf8'))).data?.properties[
    entry.name
  ]
  if (!properties)
    throw new Fail('backup-damaged', `"${file.name}" of ${manifest.label} says nothing of "${entry.name}"`)
  return properties
}

function expected({ manifest }: Found, file: ManifestFile): Expected {
  const { name, ...sums } = file
  return { key: `${manifest.cluster}/backup/${manifest.label}/${name}`, ...sums }
}
