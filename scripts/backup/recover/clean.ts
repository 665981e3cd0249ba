import { join } from 'node:path'
import { holdResource, systemIdentifier } from '../../cluster/lock.ts'
import { openCluster } from '../../cluster/open.ts'
import { Fail } from '../../core/fail.ts'
import { exists } from '../../core/file.ts'
import { readJournal } from '../../core/journal.ts'
import type { Host } from '../../host/schema.ts'
import { leftIdentities, sweepIdentities } from '../../store/identity.ts'
import { recoverRestores, restoreJournals } from '../scratch.ts'
import { holdCopy, holdOwn } from './hold.ts'
import { ownDataDir } from './place.ts'
import { clearScratch, holdScratch, scratchCluster, scratchFolder } from './scratch-folder.ts'
import { endWork, type Work, workPaths } from './work.ts'

/** What a restore that was killed has left. */
export interface Leftover {
  readonly kind: 'cluster' | 'scratch' | 'identity' | 'database'
  /** The data directory that was to be restored, the scratch folder, the file, or the name of the database. */
  readonly path: string
  /** The backup that was being restored; null where nobody knows. */
  readonly label: string | null
  /** `undo`: what it had made goes; `finish`: it had been decided, so the restored cluster takes its place. */
  readonly action: 'undo' | 'finish' | 'remove'
  /** Why it is left alone; null when it is not. */
  readonly left: string | null
  /** Whether it is left alone because a run that lives needs it. */
  readonly isLive: boolean
}

/**
 * Removes or finishes what restores on this host have left that were killed, each as the next restore to
 * its place would do it. What a restore that lives is at is left alone, whatever it is.
 * @param planOnly only looks
 * @throws {Fail} `not-permitted`
 */
export async function cleanRestores(host: Host, planOnly: boolean): Promise<Leftover[]> {
  return [
    ...(await cleanScratch(host, planOnly)),
    ...(await cleanWorks(host, planOnly)),
    ...(await cleanDatabases(host, planOnly)),
    ...(await cleanIdentities(planOnly)),
  ]
}

async function cleanScratch(host: Host, planOnly: boolean): Promise<Leftover[]> {
  const path = scratchFolder(host)
  if (!(await exists(path))) return []
  return [
    await attempt({ kind: 'scratch', path, label: null, action: 'remove' }, async () => {
      await using _held = await holdScratch(host)
      if (!planOnly) await clearScratch(host)
    }),
  ]
}

async function cleanWorks(host: Host, planOnly: boolean): Promise<Leftover[]> {
  const found: Leftover[] = []
  for (const path of await workPaths(host.host.state_dir)) {
    const leftover = await cleanWork(host, path, planOnly)
    if (leftover) found.push(leftover)
  }
  return found
}

async function cleanWork(host: Host, path: string, planOnly: boolean): Promise<Leftover | undefined> {
  const read = { work: undefined as Work | undefined }
  const unread = await attempt({ kind: 'cluster', path, label: null, action: 'undo' }, async () => {
    read.work = await readJournal<Work>(path)
  })
  const { work } = read
  if (work === undefined) return unread.left === null ? undefined : unread
  const { target, label, phase } = work
  if (target === scratchCluster(host)) return undefined // it is the scratch folder's
  const action = phase === 'fill' ? 'undo' : 'finish'
  return attempt({ kind: 'cluster', path: target, label, action }, async () => {
    await using _held = await holdPlaceOf(host, work)
    const now = await readJournal<Work>(path) // it may have ended since
    if (now && now.phase !== phase) throw new Fail('lock-held', 'it went on meanwhile')
    if (now && !planOnly) await endWork(path, now)
  })
}

/** @throws {Fail} `lock-held` while the restore lives, `cluster-mismatch` when another host file is needed */
async function holdPlaceOf(host: Host, { kind, target, phase }: Work): Promise<AsyncDisposable> {
  const own = host.postgres.kind === 'remote' ? undefined : await ownDataDir(host)
  if (kind === 'copy' || (kind === undefined && target !== own)) return holdCopy(host, target)
  if (target !== own) {
    throw new Fail('cluster-mismatch', 'it is of the cluster of another host file', {
      hint: 'Name that file with -c.',
    })
  }
  // To undo it is nothing to those who ship the WAL of what is there.
  return holdOwn(host, phase === 'fill' ? ['cluster'] : ['cluster', 'archive'])
}

async function cleanDatabases(host: Host, planOnly: boolean): Promise<Leftover[]> {
  const found: Leftover[] = []
  const folder = join(host.host.state_dir, 'journal')
  const unread = await attempt({ kind: 'database', path: folder, label: null, action: 'undo' }, async () => {
    const journals = await restoreJournals(host.host.state_dir)
    const cluster = journals.length === 0 ? undefined : await openCluster(host)
    if (cluster === undefined) return
    const identifier = await systemIdentifier(cluster)
    const own = journals.filter(({ systemIdentifier }) => systemIdentifier === identifier)
    for (const { target: path, label, phase } of own) {
      const action = phase === 'drop' ? 'finish' : 'undo'
      found.push(
        await attempt({ kind: 'database', path, label, action }, async () => {
          await using _held = await holdResource(host, cluster, 'cluster')
          if (!planOnly) await recoverRestores(host.host.state_dir, cluster, identifier)
        }),
      )
    }
  })
  return unread.left === null ? found : [...found, unread]
}

async function cleanIdentities(planOnly: boolean): Promise<Leftover[]> {
  const left = await leftIdentities()
  const gone = new Set(planOnly ? left : await sweepIdentities())
  return left.map((path) => ({
    kind: 'identity',
    path,
    label: null,
    action: 'remove',
    left: gone.has(path) ? null : 'its owner only, or root, can remove it',
    isLive: false,
  }))
}

/** One that cannot be cleaned keeps nobody from cleaning the others. */
async function attempt(
  what: Pick<Leftover, 'kind' | 'path' | 'label' | 'action'>,
  clean: () => Promise<void>,
): Promise<Leftover> {
  try {
    await clean()
    return { ...what, left: null, isLive: false }
  } catch (error) {
    if (!(error instanceof Fail)) throw error
    return { ...what, left: error.message, isLive: error.code === 'lock-held' }
  }
}
