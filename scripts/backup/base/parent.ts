import { createReadStream } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Cluster } from '../../cluster/cluster.ts'
import { type Access, exists, makeFolder } from '../../core/file.ts'
import { formatDuration, parseDuration } from '../../core/quantity.ts'
import { type BackupSpec } from '../../host/schema.ts'
import { unpack } from '../../store/pipeline.ts'
import { type Store } from '../../store/store.ts'
import { readCatalog } from '../catalog.ts'
import { type Layout } from '../layout.ts'
import { type Manifest } from '../manifest.ts'
import { withClient } from '../session.ts'
import { type ClusterSurvey } from '../survey.ts'
import { parseLsn } from '../wal/segment.ts'

/** The backup that an incremental one is on top of. */
export interface Parent {
  readonly label: string
  /** PostgreSQL's own manifest of it. */
  manifest(): AsyncIterable<Buffer>
}

/** Where a parent is looked for. */
export interface ParentScope {
  readonly cluster: Cluster
  readonly spec: BackupSpec
  readonly survey: ClusterSurvey
  readonly store: Store
  readonly layout: Layout
  readonly stateDir: string
  /** File of the private key, where this host has one. */
  readonly identity: string | undefined
}

/**
 * The newest backup that an incremental one can be on top of.
 * @returns a text that says why there is none: then a base has to be made
 */
export async function findParent(scope: ParentScope): Promise<Parent | string> {
  const { cluster, survey, store, layout, stateDir, identity } = scope
  if (cluster.major < 17) return `PostgreSQL ${cluster.major} has no incremental backups: they came with 17`
  const entries = await readCatalog(store, layout)
  const manifests = entries.flatMap((entry) => ('manifest' in entry ? [entry.manifest] : []))
  const parent = newestOf(manifests, survey)
  if (parent === undefined) return 'there is no base of this cluster and timeline in the store'
  const reason = tooOld(parent, manifests, scope) ?? (await summaryGap(cluster, parent))
  if (reason !== undefined) return reason
  const { label, physical } = parent
  const kept = manifestPath(stateDir, label)
  if (await exists(kept)) return { label, manifest: () => createReadStream(kept) }
  const file = parent.files.find(({ name }) => name === physical!.backupManifest)!
  if (file.name.endsWith('.age') && identity === undefined)
    return `this host has no copy of the manifest of ${label}, and cannot read the stored one`
  const { name, ...sums } = file
  return {
    label,
    manifest: () => unpack(store, { key: `${layout.files(label)}${name}`, ...sums }, { identity }),
  }
}

function newestOf(manifests: readonly Manifest[], survey: ClusterSurvey): Manifest | undefined {
  return manifests.findLast(
    ({ physical, systemIdentifier, timeline }) =>
      physical !== undefined && systemIdentifier === survey.systemIdentifier && timeline === survey.timeline,
  )
}

function tooOld(
  parent: Manifest,
  manifests: readonly Manifest[],
  { spec, survey }: ParentScope,
): string | undefined {
  let base = parent
  while (base.physical!.parent !== null) {
    const above = manifests.find(({ label }) => label === base.physical!.parent)
    if (above?.physical === undefined)
      return `${base.physical!.parent}, which ${base.label} is on top of, is gone`
    base = above
  }
  const seconds = (Date.parse(survey.now) - Date.parse(base.begun)) / 1000
  if (seconds <= parseDuration(spec.full_every)!) return undefined
  return `the last base is ${formatDuration(seconds)} old, and full_every is ${spec.full_every}`
}

/** Summaries are removed when they are older than wal_summary_keep_time. */
async function summaryGap(cluster: Cluster, parent: Manifest): Promise<string | undefined> {
  const { rows } = await withClient(cluster, 'postgres', (client) =>
    client.query<{ on: string; first: string | null }>(
      `select current_setting('summarize_wal') as on, (select min(start_lsn)::text from pg_available_wal_summaries() where tli = $1) as first`,
      [parent.timeline],
    ),
  )
  const { on, first } = rows[0]!
  if (on !== 'on') return 'summarize_wal is off: set it to "on" under [settings]'
  if (first !== null && parseLsn(first)! <= parseLsn(parent.physical!.startLsn)!) return undefined
  return `the server has no summaries of its WAL since ${parent.label}`
}

function manifestPath(stateDir: string, label: string): string {
  return join(stateDir, 'manifests', `${label}.backup_manifest`)
}

/**
 * Passes a manifest on, and keeps a copy on this host: an encrypted one in the store cannot be read
 * here, and the next incremental backup needs it.
 */
export async function* keepManifest(
  content: AsyncIterable<Buffer>,
  { stateDir, label, access }: { readonly stateDir: string; readonly label: string; readonly access: Access },
): AsyncGenerator<Buffer, void> {
  const folder = join(stateDir, 'manifests')
  await makeFolder(stateDir, access)
  await makeFolder(folder, access)
  const path = manifestPath(stateDir, label)
  const file = await open(path, 'w', 0o600)
  try {
    if (access.uid !== undefined && access.gid !== undefined) await file.chown(access.uid, access.gid)
    for await (const chunk of content) {
      await file.writeFile(chunk)
      yield chunk
    }
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Forgets the copies of other backups than this one. */
export async function forgetManifests(stateDir: string, label: string): Promise<void> {
  const folder = join(stateDir, 'manifests')
  const names = await readdir(folder).catch(() => [])
  for (const name of names) {
    if (name.endsWith('.backup_manifest') && !name.startsWith(label))
      await rm(join(folder, name), { force: true })
  }
}
