import { chown, mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { openCluster } from '../../cluster/open.ts'
import { openPrivate, privateSocketDir } from '../../cluster/private.ts'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail } from '../../core/fail.ts'
import { exists, makeFolder, readText } from '../../core/file.ts'
import { renderConf } from '../../host/conf.ts'
import type { Host, Postgres } from '../../host/schema.ts'
import { unpack } from '../../store/pipeline.ts'
import { copySettings, copySettingsHere, withoutOtherPlace } from './copy-settings.ts'
import { flushAll, releaseSettings, writeFor } from './fetch.ts'
import type { RecoverPlan } from './plan.ts'
import { copySocketDir } from './place.ts'
import { ownSettings } from './settings.ts'
import type { Work } from './work.ts'

/**
 * Makes a recovered data directory what its owner will start: with its own settings, or, a copy, with
 * those that keep it away from the cluster that it comes from.
 */
export async function handOver(
  host: Host,
  plan: RecoverPlan,
  work: Work,
  identity: string | undefined,
): Promise<void> {
  const { place } = plan
  const more = place.kind === 'copy' ? copySettings(place.dataDir, copySpec(host, plan).port) : {}
  await releaseSettings(work, (text) => ownSettings(text, more), place.owner)
  await rm(join(work.data, 'tablespace_map.old'), { force: true }) // it names places that are gone
  if (place.configDir === undefined) await ensureConf(plan, work)
  else await restoreConfig(plan, place.configDir, identity)
  // Before anything is in its place: whoever starts it after a crash needs the folder, too.
  if (place.kind === 'own') await makeSocketDir(host, plan)
  else await adaptCopy(plan, work, more)
  // The server that recovered has flushed nothing.
  const paths = [work.data, ...work.tablespaces.map(({ temporary }) => temporary)]
  if (place.configDir !== undefined) paths.push(place.configDir)
  await flushAll(paths)
}

/**
 * The cluster that was restored, which is there now.
 * @throws {Fail} `cluster-mismatch`
 */
export async function restoredCluster(host: Host, plan: RecoverPlan): Promise<Cluster> {
  const { place } = plan
  const cluster = place.kind === 'own' ? await openCluster(host) : await openPrivate(copySpec(host, plan))
  if (cluster) return cluster
  throw new Fail('cluster-mismatch', `there is no cluster in "${place.dataDir}"`)
}

/** Starts what was restored. */
export async function startRestored(host: Host, plan: RecoverPlan): Promise<Cluster> {
  const cluster = await restoredCluster(host, plan)
  await cluster.start()
  return restoredCluster(host, plan) // where it really listens is in its own settings
}

/** What else a copy must not do shows in its own files, which are there by now. */
async function adaptCopy(plan: RecoverPlan, work: Work, more: Record<string, string>): Promise<void> {
  const { place, chain } = plan
  const { blockSize } = chain.at(-1)!.manifest.physical
  const here = await copySettingsHere(work.data, blockSize, place)
  await releaseSettings(work, (text) => ownSettings(text, { ...more, ...here }), place.owner)
}

/** One that is there stays as it is: it may serve others. */
async function makeSocketDir({ postgres }: Host, { place }: RecoverPlan): Promise<void> {
  const folder = postgres.kind === 'private' ? privateSocketDir(postgres) : postgres.socket_dir
  if (folder !== undefined) await makeFolder(folder, { mode: 0o755, ...place.owner })
}

/** A copy as a cluster of its own. Pure. */
export function copySpec(host: Host, plan: RecoverPlan): Postgres {
  const { place, request, chain } = plan
  return {
    ...host.postgres,
    kind: 'private',
    major: chain.at(-1)!.manifest.postgres.major,
    data_dir: place.dataDir,
    bindir: place.bindir,
    socket_dir: copySocketDir(place.dataDir),
    port: request.port ?? host.postgres.port,
  }
}

// Debian keeps them outside of the data directory: without one no server starts.
async function ensureConf(plan: RecoverPlan, work: Work): Promise<void> {
  const { owner } = plan.place
  const { settings } = plan.chain.at(-1)!.manifest.physical
  const write = async (name: string, text: string) => {
    if (!(await exists(join(work.data, name)))) await writeFor(join(work.data, name), text, owner)
  }
  const lines = Object.entries(settings)
    .filter(([name]) => name !== 'summarize_wal')
    .map(([name, value]) => ({ name, value }))
  await write('postgresql.conf', renderConf('made by a restore: etc/ of the backup has what was set', lines))
  await write('pg_hba.conf', 'local all all peer\n')
  await write('pg_ident.conf', '')
  const path = join(work.data, 'postgresql.conf')
  const text = await readText(path)
  const own = withoutOtherPlace(text, plan.place.dataDir)
  if (own !== text) await writeFor(path, own, owner)
}

/** Debian's folder of a cluster's configuration, where it is missing. */
async function restoreConfig(plan: RecoverPlan, folder: string, identity: string | undefined): Promise<void> {
  if (await exists(join(folder, 'postgresql.conf'))) return
  const { owner, dataDir } = plan.place
  const { manifest, store } = plan.chain.at(-1)!
  for (const file of manifest.files.filter(({ name }) => name.startsWith('etc/'))) {
    const name = decodeURIComponent(file.name.slice('etc/'.length).replace(/\.zst(\.age)?$/, ''))
    if (name === 'postgresql.auto.conf') continue // it is in the data directory
    if (name.split('/').includes('..'))
      throw new Fail('backup-damaged', `"${file.name}" leads out of its folder`)
    const key = `${manifest.cluster}/backup/${manifest.label}/${file.name}`
    const chunks: Buffer[] = []
    for await (const chunk of unpack(store, { ...file, key }, { identity })) chunks.push(chunk)
    let text = Buffer.concat(chunks).toString('utf8')
    if (name === 'postgresql.conf') text += `\ndata_directory = '${dataDir.replaceAll("'", "''")}'\n`
    await makeConfigFolder(dirname(join(folder, name)), owner)
    await writeFor(join(folder, name), text, owner)
  }
}

async function makeConfigFolder(path: string, owner: RecoverPlan['place']['owner']): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o755 })
  if (owner) await chown(path, owner.uid, owner.gid)
}
