import type { Client } from 'pg'
import { Fail } from '../core/fail.ts'
import { assertRole, brokenIndexesOf, type Change, dropInvalidIndexes, invalidIndexes } from './apply.ts'
import { applyAll } from './batch.ts'
import { assertMajor, chooseDown, chooseUp, type UpChoice } from './choose.ts'
import {
  forgetText,
  makeLedger,
  mirrorTableText,
  mirrorText,
  noteText,
  readLedger,
  stateText,
} from './ledger.ts'
import { notedBefore } from './probe.ts'
import { assertSame, comparable, openScratch, rehearse, schemaOf } from './scratch.ts'
import { look, type MigrateScope } from './scope.ts'
import { flushCommits, openSession, type RunOptions } from './session.ts'
import { type VersionLine, versionLines } from './state.ts'

/** Told of each change before it is done. */
export type OnChange = (change: Change, index: number, of: number) => void

/** What `up` would run; nothing is written. */
export async function planUp(scope: MigrateScope, choice: UpChoice): Promise<Change[]> {
  const chosen = chooseUp(await look(scope), choice)
  assertMajor(chosen, scope.cluster.major)
  return chosen.map((migration) => ({ migration, direction: 'up' }))
}

/** What `down` would run; nothing is written. */
export async function planDown(scope: MigrateScope, to: string | undefined): Promise<Change[]> {
  return chooseDown(await look(scope), to).map((migration) => ({ migration, direction: 'down' }))
}

/**
 * Runs what is chosen of a database while no other run works on it: the choice is made under the lock.
 * @returns what was run
 * @throws {Fail} `lock-held`, `migration-failed`, `migration-diverged`, what a choice throws
 */
export async function migrate(
  scope: MigrateScope,
  wanted:
    | { readonly direction: 'up'; readonly choice: UpChoice }
    | { readonly direction: 'down'; readonly to: string | undefined },
  onChange: OnChange = () => {},
): Promise<Change[]> {
  const { cluster, database, migrations, options } = scope
  await using session = await openSession(cluster, database, options)
  const { client } = session
  await assertRole(client, options.role)
  const lines = versionLines(migrations, await readLedger(client))
  const chosen = wanted.direction === 'up' ? chooseUp(lines, wanted.choice) : chooseDown(lines, wanted.to)
  if (chosen.length === 0) return []
  if (wanted.direction === 'up') assertMajor(chosen, cluster.major)
  await makeLedger(client)
  if (options.mirrorTable !== undefined)
    await client.query(mirrorTableText(options.mirrorTable, options.role))
  const changes = chosen.map((migration): Change => ({ migration, direction: wanted.direction }))
  try {
    await applyAll(session, changes, options, (change) =>
      onChange(change, changes.indexOf(change), changes.length),
    )
  } catch (error) {
    await flushCommits(client).catch(() => {}) // a session that is lost tells nobody of anything
    throw error
  }
  await flushCommits(client)
  return changes
}

/**
 * Rehearses all migrations of a database in a scratch one: up, down, up.
 * @returns whether each has a way back; without one they were not taken back
 * @throws {Fail} `migration-failed`, `verify-failed`
 */
export async function rehearseAll(scope: MigrateScope): Promise<boolean> {
  assertMajor(scope.migrations, scope.cluster.major)
  await using session = await openSession(scope.cluster, scope.database, scope.options)
  await assertRole(session.client, scope.options.role)
  await using scratch = await openScratch(scope)
  return await rehearse(scratch, scope.migrations)
}

/** How a database is taken over. */
export interface AdoptChoice {
  /** The one whose schema it has; default: what another program has noted, or what the probes of the files find. */
  readonly version: string | undefined
  /** Without comparing the schemas. */
  readonly isTrusted: boolean
  /** Nothing is noted. */
  readonly planOnly: boolean
}

/**
 * Takes over a database that has the schema of a version already, but no ledger of ours: the migrations up to it
 * are noted, none is run. First they are run in a scratch database, whose schema must be that of the database.
 * @returns the migrations that are noted
 * @throws {Fail} `verify-failed` with the lines that differ; `migration-diverged` when there is a ledger already
 */
export async function adopt(
  scope: MigrateScope,
  { version, isTrusted, planOnly }: AdoptChoice,
): Promise<Change[]> {
  const { cluster, database, migrations, options } = scope
  await using session = await openSession(cluster, database, options)
  const { client } = session
  if ((await readLedger(client)).length > 0) {
    throw new Fail('migration-diverged', `database ${database} has a ledger of migrations already`, {
      hint: 'Run: howdah migrate status',
    })
  }
  await assertRole(client, options.role)
  const noted =
    version === undefined
      ? await notedBefore(client, migrations, options.mirrorTable)
      : chooseUp(versionLines(migrations, []), { to: version })
  assertMajor(noted, cluster.major)
  const changes = noted.map((migration): Change => ({ migration, direction: 'up' }))
  if (!isTrusted) {
    await using scratch = await openScratch(scope)
    await scratch.run(changes)
    const last = noted.at(-1)?.version ?? '0'
    assertSame(
      comparable(await scratch.schema()),
      comparable(await schemaOf(cluster, database, options.mirrorTable)),
      `database ${database} has not the schema of version ${last}`,
    )
  }
  if (planOnly) return changes
  await makeLedger(client)
  if (options.mirrorTable !== undefined)
    await client.query(mirrorTableText(options.mirrorTable, options.role))
  const notes = noted.map(
    (migration) =>
      `${noteText(migration, 'applied')}; ${mirrorText(options.mirrorTable, migration.version, 'up')}`,
  )
  await client.query(`begin; ${notes.join('; ')}; commit`)
  return changes
}

/** How a version is repaired. */
export interface RepairChoice {
  /** How a half-done one is to be seen. */
  readonly as: 'applied' | 'pending' | undefined
  /** Nothing is changed. */
  readonly planOnly: boolean
}

/**
 * Sets the ledger right about one version: one that ended in its midst, or whose file has another name or text
 * than it had.
 * @returns a line for people
 * @throws {Fail} `usage` when there is nothing to repair
 */
export async function repair(
  scope: MigrateScope,
  version: string,
  { as, planOnly }: RepairChoice,
): Promise<string> {
  await using session = await openSession(scope.cluster, scope.database, scope.options)
  const { client } = session
  const line = versionLines(scope.migrations, await readLedger(client)).find(
    (line) => /^\d+$/.test(version) && BigInt(line.version) === BigInt(version),
  )
  if (line?.applied === undefined) {
    throw new Fail('usage', `version "${version}" is not in the ledger`, {
      hint: 'Run: howdah migrate status',
    })
  }
  const { state, migration, applied } = line
  if (state === 'half-done')
    return await repairHalfDone(client, line, { as, planOnly, options: scope.options })
  if (migration === undefined) {
    throw new Fail(
      'usage',
      `there is no file of version ${line.version} that the ledger could be set right by`,
      {
        hint: 'Bring the file back.',
      },
    )
  }
  if (state === 'applied') {
    throw new Fail('usage', `there is nothing to repair at version ${line.version}`, {
      hint: 'Run: howdah migrate status',
    })
  }
  if (planOnly) return `version ${line.version} would be noted as ${migration.file} is now`
  // Its place in the order stays.
  await client.query(
    `update howdah.migration set name = $2, up_checksum = $3, down_checksum = $4 where version = $1`,
    [applied.version, migration.name, migration.up.checksum, migration.down?.checksum ?? null],
  )
  return `version ${line.version} is noted as ${migration.file} is now`
}

async function repairHalfDone(
  client: Client,
  { version, migration, applied }: VersionLine,
  { as, planOnly, options }: RepairChoice & { readonly options: RunOptions },
): Promise<string> {
  if (as === undefined) {
    throw new Fail('usage', `version ${version} is half-done: is it to be seen as applied, or as pending?`, {
      hint: 'Look at what is there, then say --as applied or --as pending.',
    })
  }
  const broken = migration === undefined ? [] : await brokenIndexesOf(client, migration)
  if (as === 'applied' && applied?.state === 'started' && broken.length > 0) {
    throw new Fail(
      'migration-diverged',
      `version ${version} is not applied: ${broken.join(', ')} is invalid`,
      {
        hint: `Drop it and run it again: howdah migrate repair ${version} --as pending. Or mend it: reindex index concurrently ${broken[0]}`,
      },
    )
  }
  if (planOnly) return `version ${version} would be seen as ${as}`
  const dropped =
    migration === undefined || as === 'applied'
      ? []
      : await dropInvalidIndexes(client, migration, options.lockTimeout)
  const mirror = mirrorText(options.mirrorTable, version, as === 'applied' ? 'up' : 'down')
  const note = as === 'applied' ? stateText(applied!.version, 'applied') : forgetText(applied!.version)
  await client.query(`begin; ${mirror}; ${note}; commit`)
  const also = dropped.length === 0 ? '' : `, its invalid index is dropped: ${dropped.join(', ')}`
  return `version ${version} is seen as ${as}${also}`
}

/** Indexes of a database that a failed CREATE INDEX CONCURRENTLY left. */
export async function brokenIndexes({ cluster, database }: MigrateScope): Promise<string[]> {
  const client = await cluster.connect(database)
  try {
    return await invalidIndexes(client)
  } finally {
    await client.end()
  }
}
