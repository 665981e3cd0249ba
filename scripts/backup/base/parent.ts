import { createReadStream } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Cluster } from '../../cluster/cluster.ts'
import { type Access, exists, makeFolder } from '../../core/file.ts'
import { formatDuration, parseDuration } from '../../core/quantity.ts'
import type { BackupSpec } from '../../host/schema.ts'
import { unpack } from '../../store/pipeline.ts'
import type { Store } from '../../store/store.ts'
import { readCatalog } from '../catalog.ts'
import type { Layout } from '../layout.ts'
import type { Manifest } from '../manifest.ts'
import { withClient } from '../session.ts'
import type { ClusterSurvey } from '../survey.ts'
import { parseLsn } from '../wal/segment.ts'

/** The backup that an incremental one is on top of. */
export interface Parent {
  readonly label: string
  /** All that it takes to restore it, oldest first: a base, and what is on top of it; this one is last. */
  readonly chain: readonly string[]
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
  /** See {@link manifestFolder}. */
  readonly folder: string
  /** File of the private key, where this host has one. */
  readonly identity: string | undefined
}

/**
 * The newest backup that an incremental one can be on top of.
 * @returns a text that says why there is none: then a base has to be made
 */
export async function findParent(scope: ParentScope): Promise<Parent | string> {
  const { cluster, survey, store, layout, folder, identity } = scope
  if (cluster.major < 17) return `PostgreSQL ${cluster.major} has no incremental backups: they came with 17`
  const entries = await readCatalog(store, layout)
  const manifests = entries.flatMap((entry) => ('manifest' in entry ? [entry.manifest] : []))
  const parent = newestOf(manifests, survey)
  if (parent === undefined) return 'there is no base of this cluster and timeline in the store'
  const chain = chainOf(parent, manifests)
  if (typeof chain === 'string') return chain
  const reason = tooOld(chain[0]!, scope) ?? (await summaryGap(cluster, parent))
  if (reason !== undefined) return reason
  const found = { label: parent.label, chain: chain.map(({ label }) => label) }
  const { label, physical } = parent
  const kept = manifestPath(folder, label)
  if (await exists(kept)) return { ...found, manifest: () => createReadStream(kept) }
  const file = parent.files.find(({ name }) => name === physical!.backupManifest)!
  if (file.name.endsWith('.age') && identity === undefined)
    return `this host has no copy of the manifest of ${label}, and cannot read the stored one`
  const { name, ...sums } = file
  return {
    ...found,
    manifest: () => unpack(store, { key: `${layout.files(label)}${name}`, ...sums }, { identity }),
  }
}

function newestOf(manifests: readonly Manifest[], survey: ClusterSurvey): Manifest | undefined {
  return manifests.findLast(
    ({ physical, systemIdentifier, timeline }) =>
      physical !== undefined && systemIdentifier === survey.systemIdentifier && timeline === survey.timeline,
  )
}

/** A backup with those that it is on top of, oldest first; a text when one of them is gone. */
function chainOf(top: Manifest, manifests: readonly Manifest[]): Manifest[] | string {
  const chain = [top]
  for (let label = top.physical!.parent; label !== null; label = chain[0]!.physical!.parent) {
    const below = manifests.find((manifest) => manifest.label === label && manifest.physical !== undefined)
    if (below === undefined) return `${label}, which ${chain[0]!.label} is on top of, is gone`
    chain.unshift(below)
  }
  return chain
}

function tooOld(base: Manifest, { spec, survey }: ParentScope): string | undefined {
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

/** Where this host keeps the manifests of the newest backups in a store. */
export function manifestFolder(stateDir: string, store: string): string {
  return join(stateDir, 'manifests', store)
}

function manifestPath(folder: string, label: string): string {
  return join(folder, `${label}.backup_manifest`)
}

/**
 * Passes a manifest on, and keeps a copy on this host: an encrypted one in the store cannot be read
 * here, and the next incremental backup needs it.
 */
export async function* keepManifest(
  content: AsyncIterable<Buffer>,
  { folder, label, access }: { readonly folder: string; readonly label: string; readonly access: Access },
): AsyncGenerator<Buffer, void> {
  for (const path of [dirname(dirname(folder)), dirname(folder), folder]) await makeFolder(path, access)
  const path = manifestPath(folder, label)
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
export async function forgetManifests(folder: string, label: string): Promise<void> {
  const names = await readdir(folder).catch(() => [])
  for (const name of names) {
    if (name.endsWith('.backup_manifest') && !name.startsWith(label))
      await rm(join(folder, name), { force: true })
  }
}

/** What restore.sh reads: the folders that it needs beside its own, oldest first. Pure. */
export function parentsText({ chain }: Parent): string {
  return chain.map((label) => `${label}\n`).join('')
}
