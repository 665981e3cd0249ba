import { randomBytes } from 'node:crypto'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { holdResource, stateAccess } from '../cluster/lock.ts'
import { type LoadedHost, requireCluster } from '../cluster/open.ts'
import { assertIdentity } from '../cluster/ready.ts'
import { Fail, messageOf } from '../core/fail.ts'
import type { Access } from '../core/file.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { didYouMean } from '../core/nearest.ts'
import { parseSize } from '../core/quantity.ts'
import { VERSION } from '../core/version.ts'
import type { BackupSpec } from '../host/schema.ts'
import { hostIdentity } from '../store/identity.ts'
import { openStore } from '../store/open.ts'
import type { Store } from '../store/store.ts'
import { baseInto } from './base/base.ts'
import { awaitWal } from './base/archived.ts'
import { checkBefore } from './base/checks.ts'
import { restoreBasePaper } from './base/paper.ts'
import {
  findParent,
  forgetManifests,
  keepManifest,
  manifestFolder,
  type Parent,
  parentsText,
} from './base/parent.ts'
import { type PhysicalSurvey, surveyPhysical } from './base/survey.ts'
import { type Box, openBox } from './box.ts'
import { catalogLabels } from './catalog.ts'
import { dumpInto } from './dump.ts'
import { configurationFiles } from './etc.ts'
import { type BackupKind, makeLabel } from './label.ts'
import { assertNotLost } from './known.ts'
import { type Layout, layoutOf } from './layout.ts'
import { type Manifest, type ManifestFile, renderManifest } from './manifest.ts'
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
  /** How long to wait for another run that has the store; default 0. */
  readonly waitSeconds?: number | undefined
  /** Told of each file that is stored. */
  readonly onFile?: (file: ManifestFile) => void
  /** Told of each piece that is read. */
  readonly onBytes?: (count: number) => void
  /** Told, of a base backup, how much the server has read of the cluster. */
  readonly onProgress?: (bytes: number, ofBytes: number) => void
}

/** What a take would do. */
export interface TakePlan {
  readonly job: string
  readonly kind: BackupSpec['kind']
  readonly cluster: string
  readonly store: string
  readonly databases: readonly Pick<DatabaseLine, 'name' | 'size'>[]
  /** Of a base backup. */
  readonly tablespaces: readonly { readonly name: string; readonly location: string }[]
  /** Whether it is encrypted. */
  readonly encrypted: boolean
  /** What a person should know. */
  readonly findings: readonly string[]
}

/**
 * What {@link take} would do; nothing is written.
 * @throws {Fail} `usage`, `backup-failed`, and what a connection throws
 */
export async function planTake(scope: TakeScope): Promise<TakePlan> {
  const { host } = scope.loaded
  const spec = jobOf(scope)
  const cluster = await requireCluster(host)
  const store = openStore(host, spec.store, { canBeNew: true })
  const layout = layoutOf(host)
  await assertNotLost({ stateDir: host.host.state_dir, store, layout })
  const seen = await look(scope, { spec, cluster, store, layout })
  const { survey, physical } = seen
  const findings = [...seen.findings]
  if (spec.kind === 'incr') {
    await using identity = await hostIdentity(host, undefined)
    const parent = await findParent({
      spec,
      cluster,
      store,
      layout,
      survey,
      folder: manifestFolder(host.host.state_dir, spec.store),
      identity: identity?.path,
    })
    findings.push(
      typeof parent === 'string' ? `this one becomes a base: ${parent}` : `it is on top of ${parent.label}`,
    )
  }
  return {
    job: scope.job,
    kind: spec.kind,
    cluster: `${cluster.label}, PostgreSQL ${survey.version}`,
    store: `${store.url}/${layout.cluster}`,
    databases: physical?.databases ?? seen.databases,
    tablespaces: physical?.tablespaces ?? [],
    encrypted: host.encryption !== undefined,
    findings,
  }
}

/**
 * Takes a backup. Its manifest is written last: before that nothing is a backup, and what was
 * stored is taken back on any failure. After a SIGKILL it is garbage that no manifest names.
 * @throws {Fail} `usage`, `lock-held`, `cluster-mismatch`, `backup-failed`, `no-space`, what a store and
 *   a connection throw
 */
export async function take(scope: TakeScope): Promise<Manifest> {
  const { host } = scope.loaded
  const spec = jobOf(scope)
  const cluster = await requireCluster(host)
  await assertIdentity(cluster)
  await using _lock = await holdResource(host, cluster, `store:${spec.store}`, scope.waitSeconds)
  const owner = cluster.osUser === '' ? undefined : userId(cluster.osUser)
  const store = openStore(host, spec.store, { owner, canBeNew: true })
  const layout = layoutOf(host)
  const place = { spec, cluster, store, layout }
  const seen = await look(scope, place)
  for (const finding of seen.findings) log('warning', `backup: ${finding}`)
  const { survey } = seen
  await claimOwnership(store, layout, {
    systemIdentifier: survey.systemIdentifier,
    timeline: survey.timeline,
    hostId: await hostId(host.host.state_dir, accessOf(cluster)),
    state: { folder: host.host.state_dir, access: accessOf(cluster) },
    takeOver: scope.takeOver,
  })
  await using identity = spec.kind === 'incr' ? await hostIdentity(host, undefined) : undefined
  const parent =
    spec.kind === 'incr'
      ? await findParent({
          ...place,
          survey,
          folder: manifestFolder(host.host.state_dir, spec.store),
          identity: identity?.path,
        })
      : undefined
  if (typeof parent === 'string') log('notice', `backup: this one is a base: ${parent}`)
  const kind = typeof parent === 'string' ? 'base' : spec.kind
  const newest = (await catalogLabels(store, layout)).at(-1)
  const label = makeLabel({ now: new Date(survey.now), kind, random: randomBytes(6), newest })
  await using _marker = await beginMarker(store, layout.marker(label), { label, job: scope.job })
  return await fill(scope, {
    ...place,
    ...seen,
    label,
    kind,
    parent: typeof parent === 'string' ? undefined : parent,
  })
}

interface Place {
  readonly spec: BackupSpec
  readonly cluster: Cluster
  readonly store: Store
  readonly layout: Layout
}

interface Seen {
  readonly survey: ClusterSurvey
  /** Of a dump. */
  readonly databases: readonly DatabaseLine[]
  /** Of a base backup. */
  readonly physical: PhysicalSurvey | undefined
  readonly findings: readonly string[]
}

interface Filling extends Place, Seen {
  readonly label: string
  readonly kind: BackupKind
  readonly parent: Parent | undefined
}

async function fill(scope: TakeScope, filling: Filling): Promise<Manifest> {
  const { store, layout, label, cluster, spec } = filling
  const { host } = scope.loaded
  const box = openBox(store, layout.files(label), {
    level: spec.compression_level,
    recipients: host.encryption?.recipients,
    rate: spec.rate_limit === undefined ? undefined : parseSize(spec.rate_limit),
    onFile: scope.onFile,
    onBytes: filling.physical ? undefined : scope.onBytes, // that of a base is told by the server
  })
  // From the moment on in which its manifest may be in the store, its files must not go before that.
  let mayExist = false
  try {
    const content = await contentInto(box, scope, filling)
    await box.add('host.toml', Buffer.from(hostText(scope)))
    for (const { name, content } of await configurationFiles(cluster)) await box.add(`etc/${name}`, content)
    const head = headOf(scope, filling, content)
    const paper = head.physical
      ? restoreBasePaper(head, box.files, filling.parent?.chain ?? [])
      : restorePaper(head, box.files, await locationsOf(cluster))
    await box.addPlain('RESTORE.md', Buffer.from(paper))
    if (filling.parent) await box.addPlain('PARENTS', Buffer.from(parentsText(filling.parent)))
    await box.addPlain('restore.sh', Buffer.from(await readRestoreScript(head.kind)))
    await box.addPlain('SHA256SUMS', Buffer.from(checksumsText(box.files)))
    const ended = await withClient(cluster, 'postgres', serverTime)
    const manifest: Manifest = { ...head, ended, files: [...box.files] }
    await box.assertComplete()
    interrupted.throwIfAborted()
    mayExist = true
    // Commit point: from here on the backup exists.
    if (!(await store.create(layout.manifest(label), renderManifest(manifest))))
      throw new Fail('backup-failed', `the store already has a backup ${label}`)
    if (content.physical) await forgetOthers(manifestFolder(host.host.state_dir, spec.store), label)
    return manifest
  } catch (error) {
    box.callOff(error)
    try {
      if (mayExist) await store.delete([layout.manifest(label)])
      await box.empty()
    } catch (failure) {
      log('warning', `backup: files of ${label} are left in the store: ${messageOf(failure)}`)
    }
    throw error
  }
}

/** The backup exists: what goes wrong here is no failure of it. */
async function forgetOthers(folder: string, label: string): Promise<void> {
  await forgetManifests(folder, label).catch((error: unknown) => {
    log('warning', `backup: manifests that nobody needs are left in "${folder}": ${messageOf(error)}`)
  })
}

type Content = Pick<Manifest, 'databases' | 'physical'> & Partial<Pick<Manifest, 'timeline'>>

async function contentInto(box: Box, scope: TakeScope, filling: Filling): Promise<Content> {
  const { physical, survey, cluster, label } = filling
  if (physical === undefined) return { databases: await dumpInto(box, filling) }
  const { host } = scope.loaded
  const isParent = Object.values(host.backup).some(({ kind }) => kind === 'incr')
  const folder = manifestFolder(host.host.state_dir, filling.spec.store)
  const taken = await baseInto(box, {
    ...filling,
    survey: physical,
    onProgress: scope.onProgress,
    keep: isParent
      ? (content) => keepManifest(content, { folder, label, access: accessOf(cluster) })
      : undefined,
  })
  await awaitWal(
    { host, spec: filling.spec, cluster, survey, layout: filling.layout },
    taken.timeline,
    taken.physical,
  )
  return { databases: [], ...taken }
}

function headOf(
  scope: TakeScope,
  { label, layout, kind, survey }: Filling,
  content: Content,
): Omit<Manifest, 'ended' | 'files'> {
  const { host } = scope.loaded
  return {
    format: 1,
    label,
    job: scope.job,
    host: host.host.name,
    cluster: layout.cluster,
    kind,
    howdah: VERSION,
    postgres: { version: survey.version, major: survey.major },
    systemIdentifier: survey.systemIdentifier,
    timeline: survey.timeline,
    begun: survey.now,
    hasPasswords: content.physical !== undefined || survey.isSuperuser,
    encrypted: host.encryption !== undefined,
    ...content,
  }
}

function accessOf(cluster: Cluster): Access {
  return stateAccess(cluster.osUser === '' ? undefined : cluster.osUser)
}

function jobOf({ loaded: { host }, job }: TakeScope): BackupSpec {
  const spec = Object.hasOwn(host.backup, job) ? host.backup[job] : undefined
  if (spec) return spec
  const names = Object.keys(host.backup)
  throw new Fail('usage', `there is no [backup.${job}] in the host file${didYouMean(job, names)}`, {
    hint: names.length === 0 ? 'Add one: [backup.NAME] kind = "dump"' : `There is: ${names.join(', ')}`,
  })
}

async function look({ loaded: { host } }: TakeScope, place: Place): Promise<Seen> {
  const { spec, cluster } = place
  const survey = await withClient(cluster, 'postgres', surveyCluster)
  if (spec.kind !== 'dump') {
    const physical = await surveyPhysical(cluster)
    return {
      survey,
      databases: [],
      physical,
      findings: await checkBefore({ host, ...place, survey, physical }),
    }
  }
  const without = await scratchNames(host.host.state_dir, survey.systemIdentifier)
  const databases = databasesOf(survey, spec.databases, without)
  return { survey, databases, physical: undefined, findings: [] }
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
