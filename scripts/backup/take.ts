import { randomBytes } from 'node:crypto'
import { type Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { holdResource, stateAccess } from '../cluster/lock.ts'
import { type LoadedHost, requireCluster } from '../cluster/open.ts'
import { assertIdentity } from '../cluster/ready.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { didYouMean } from '../core/nearest.ts'
import { VERSION } from '../core/version.ts'
import { type BackupSpec } from '../host/schema.ts'
import { openStore } from '../store/open.ts'
import { type Store } from '../store/store.ts'
import { once, openBox } from './box.ts'
import { catalogLabels } from './catalog.ts'
import { dumpInto } from './dump.ts'
import { configurationFiles } from './etc.ts'
import { makeLabel } from './label.ts'
import { type Layout, layoutOf } from './layout.ts'
import { type Manifest, type ManifestDatabase, type ManifestFile, renderManifest } from './manifest.ts'
import { beginMarker } from './marker.ts'
import { claimOwnership, hostId } from './owner.ts'
import { checksumsText, readRestoreScript, restorePaper } from './paper.ts'
import { scratchNames } from './scratch.ts'
import { withClient } from './session.ts'
import { type ClusterSurvey, type DatabaseLine, databasesOf, serverTime, surveyCluster } from './survey.ts'

/** What to take. */
export interface TakeScope {
  readonly loaded: LoadedHost
  readonly overrides: readonly string[]
  /** The name of a `[backup.NAME]`. */
  readonly job: string
  readonly takeOver?: string | undefined
  /** Told of each file that is stored. */
  readonly onFile?: (file: ManifestFile) => void
  /** Told of each piece that is read. */
  readonly onBytes?: (count: number) => void
}

/** What a take would do. */
export interface TakePlan {
  readonly job: string
  readonly kind: BackupSpec['kind']
  readonly cluster: string
  readonly store: string
  readonly databases: readonly DatabaseLine[]
}

/**
 * What {@link take} would do; nothing is written.
 * @throws {Fail} `usage`, `backup-failed`, and what a connection throws
 */
export async function planTake(scope: TakeScope): Promise<TakePlan> {
  const { host } = scope.loaded
  const spec = jobOf(scope)
  const cluster = await requireCluster(host)
  const store = openStore(host, spec.store)
  const { survey, databases } = await look(scope, spec, cluster)
  return {
    job: scope.job,
    kind: spec.kind,
    cluster: `${cluster.label}, PostgreSQL ${survey.version}`,
    store: `${store.url}/${layoutOf(host).cluster}`,
    databases,
  }
}

/**
 * Takes a backup. Its manifest is written last: before that nothing is a backup, and what was
 * stored is taken back on any failure. After a SIGKILL it is garbage that no manifest names.
 * @throws {Fail} `usage`, `lock-held`, `cluster-mismatch`, `backup-failed`, what a store and a connection throw
 */
export async function take(scope: TakeScope): Promise<Manifest> {
  const { host } = scope.loaded
  const spec = jobOf(scope)
  const cluster = await requireCluster(host)
  await assertIdentity(cluster)
  await using _lock = await holdResource(host, cluster, `store:${spec.store}`)
  const store = openStore(host, spec.store, cluster.osUser === '' ? undefined : userId(cluster.osUser))
  const layout = layoutOf(host)
  const { survey, databases } = await look(scope, spec, cluster)
  await claimOwnership(store, layout, {
    systemIdentifier: survey.systemIdentifier,
    timeline: survey.timeline,
    hostId: await hostId(
      host.host.state_dir,
      stateAccess(cluster.osUser === '' ? undefined : cluster.osUser),
    ),
    takeOver: scope.takeOver,
  })
  const newest = (await catalogLabels(store, layout)).at(-1)
  const label = makeLabel({ now: new Date(survey.now), kind: spec.kind, random: randomBytes(6), newest })
  await using _marker = await beginMarker(store, layout.marker(label), { label, job: scope.job })
  return await fill(scope, { spec, cluster, store, layout, survey, databases, label })
}

interface Filling {
  readonly spec: BackupSpec
  readonly cluster: Cluster
  readonly store: Store
  readonly layout: Layout
  readonly survey: ClusterSurvey
  readonly databases: readonly DatabaseLine[]
  readonly label: string
}

async function fill(scope: TakeScope, filling: Filling): Promise<Manifest> {
  const { store, layout, label, cluster } = filling
  const box = openBox(store, layout.files(label), {
    level: filling.spec.compression_level,
    onFile: scope.onFile,
    onBytes: scope.onBytes,
  })
  try {
    const databases = await dumpInto(box, filling)
    await box.add('host.toml', once(hostText(scope)))
    for (const { name, content } of await configurationFiles(cluster))
      await box.add(`etc/${name}`, once(content))
    const head = headOf(scope, filling, databases)
    await box.addPlain('RESTORE.md', Buffer.from(restorePaper(head, box.files, await locationsOf(cluster))))
    await box.addPlain('restore.sh', Buffer.from(await readRestoreScript()))
    await box.addPlain('SHA256SUMS', Buffer.from(checksumsText(box.files)))
    const ended = await withClient(cluster, 'postgres', serverTime)
    const manifest: Manifest = { ...head, ended, files: [...box.files] }
    await box.assertComplete()
    interrupted.throwIfAborted()
    // Commit point: from here on the backup exists.
    if (await store.create(layout.manifest(label), renderManifest(manifest))) return manifest
    throw new Fail('backup-failed', `the store already has a backup ${label}`)
  } catch (error) {
    box.callOff(error)
    await box.empty().catch((failure: unknown) => {
      log('warning', `backup: files without a manifest are left in the store: ${messageOf(failure)}`)
    })
    throw error
  }
}

function headOf(
  scope: TakeScope,
  { label, layout, spec, survey }: Filling,
  databases: ManifestDatabase[],
): Omit<Manifest, 'ended' | 'files'> {
  return {
    format: 1,
    label,
    job: scope.job,
    host: scope.loaded.host.host.name,
    cluster: layout.cluster,
    kind: spec.kind,
    howdah: VERSION,
    postgres: { version: survey.version, major: survey.major },
    systemIdentifier: survey.systemIdentifier,
    timeline: survey.timeline,
    begun: survey.now,
    hasPasswords: survey.isSuperuser,
    databases,
  }
}

function jobOf({ loaded: { host }, job }: TakeScope): BackupSpec {
  const spec = Object.hasOwn(host.backup, job) ? host.backup[job] : undefined
  if (spec) return spec
  const names = Object.keys(host.backup)
  throw new Fail('usage', `there is no [backup.${job}] in the host file${didYouMean(job, names)}`, {
    hint: names.length === 0 ? 'Add one: [backup.NAME] kind = "dump"' : `There is: ${names.join(', ')}`,
  })
}

async function look(
  { loaded: { host } }: TakeScope,
  spec: BackupSpec,
  cluster: Cluster,
): Promise<{ survey: ClusterSurvey; databases: DatabaseLine[] }> {
  const survey = await withClient(cluster, 'postgres', surveyCluster)
  const without = await scratchNames(host.host.state_dir, survey.systemIdentifier)
  return { survey, databases: databasesOf(survey, spec.databases, without) }
}

/** Folders of tablespaces, by name. */
async function locationsOf(cluster: Cluster): Promise<Map<string, string>> {
  const { rows } = await withClient(cluster, 'postgres', (client) =>
    client.query<{ name: string; location: string }>(
      'select spcname::text as name, pg_tablespace_location(oid) as location from pg_tablespace order by 1',
    ),
  )
  return new Map(rows.map(({ name, location }) => [name, location]))
}

/** The host file as it was, and what the command line put over it. */
function hostText({ loaded, overrides }: TakeScope): string {
  const rows = overrides.map((override) => `# on the command line: ${override}\n`)
  return rows.length === 0 ? loaded.text : `${loaded.text.trimEnd()}\n\n${rows.join('')}`
}
