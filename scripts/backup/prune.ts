import { hostname } from 'node:os'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { holdResource, stateAccess, systemIdentifier } from '../cluster/lock.ts'
import { requireCluster } from '../cluster/open.ts'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { journalPath, readJournal, removeJournal, writeJournal } from '../core/journal.ts'
import { didYouMean } from '../core/nearest.ts'
import type { Host } from '../host/schema.ts'
import { openStore } from '../store/open.ts'
import type { Store } from '../store/store.ts'
import { type Layout, layoutOf } from './layout.ts'
import { hostId, readOwner } from './owner.ts'
import { isEmptyPlan, planOf, type StorePlan } from './prune-plan.ts'
import { readShelf, storeClock } from './shelf.ts'
import { openWalStore } from './wal/wal-store.ts'

/** Which backups are pruned. */
export interface PruneScope {
  readonly host: Host
  /** Of this job only. */
  readonly job?: string | undefined
  /** How long to wait for other runs that have its stores; default 0. */
  readonly waitSeconds?: number | undefined
}

/** How to prune. */
export interface PruneOptions {
  /** Asked with the plan before anything is deleted; false stops it. */
  readonly confirm?: (plans: readonly StorePlan[]) => Promise<boolean>
  /** Told what has just been done. */
  readonly onPhase?: (phase: PrunePhase) => void
  /** Told of keys that are gone. */
  readonly onDeleted?: (count: number) => void
}

/** In this order, for each store. */
export type PrunePhase = 'planned' | 'manifest' | 'manifests' | 'file' | 'files' | 'segment' | 'wal' | 'swept'

/** What a prune has done. */
export interface Pruned {
  readonly plans: readonly StorePlan[]
  /** Labels that the store would not let go of. */
  readonly denied: readonly string[]
}

/**
 * What a prune has decided, written before its first delete. A label whose manifest is gone is
 * finished by the next run; one whose manifest is still there is judged again.
 */
interface PruneJournal {
  readonly url: string
  readonly labels: readonly string[]
}

/**
 * What {@link prune} would do; nothing is changed.
 * @throws {Fail} `usage`, `cluster-mismatch`, and what a store throws
 */
export async function planPrune(scope: PruneScope): Promise<StorePlan[]> {
  const site = await openSite(scope, await requireCluster(scope.host))
  return lookAndPlan(site, new Map())
}

/**
 * Deletes what retention does not keep: manifests first, then their files, then WAL, then what dead
 * takes left. Killed at any moment, the next run finishes it.
 * @throws {Fail} `usage`, `lock-held`, `cluster-mismatch`, `interrupted` when it is not confirmed, and what
 *   a store throws; what a store denies to delete is kept and told
 */
export async function prune(scope: PruneScope, options: PruneOptions = {}): Promise<Pruned> {
  const cluster = await requireCluster(scope.host)
  const site = await openSite(scope, cluster)
  await using held = new AsyncDisposableStack()
  const deadline = performance.now() + (scope.waitSeconds ?? 0) * 1000
  // In one order, so that two of them never wait for each other.
  for (const name of [...site.selected].sort()) {
    const left = Math.max(0, (deadline - performance.now()) / 1000)
    held.use(await holdResource(scope.host, cluster, `store:${name}`, left))
  }
  const clocks = new Map<string, Date>()
  for (const name of site.selected) {
    const clock = await ownedClock(site, name)
    if (clock) clocks.set(name, clock)
  }
  const plans = await lookAndPlan(site, clocks)
  if (isEmptyPlan(plans)) {
    for (const { store } of plans) await removeJournal(journalOf(site, store))
    return { plans, denied: [] }
  }
  if ((await options.confirm?.(plans)) === false) {
    throw new Fail('interrupted', 'nothing was changed', { hint: 'Answer y, or give --yes.' })
  }
  const denied: string[] = []
  for (const plan of plans) denied.push(...(await execute(site, plan, options)))
  return { plans, denied }
}

interface Site {
  readonly scope: PruneScope
  readonly layout: Layout
  readonly systemIdentifier: string
  readonly hostId: string
  readonly osUser: string | undefined
  /** By the names of the host file. */
  readonly stores: ReadonlyMap<string, Store>
  /** Names of those that are pruned. */
  readonly selected: ReadonlySet<string>
}

async function openSite(scope: PruneScope, cluster: Cluster): Promise<Site> {
  const { host } = scope
  const osUser = cluster.osUser === '' ? undefined : cluster.osUser
  const owner = osUser === undefined ? undefined : userId(osUser)
  const names = Object.keys(host.store)
  return {
    scope,
    layout: layoutOf(host),
    systemIdentifier: await systemIdentifier(cluster),
    hostId: await hostId(host.host.state_dir, stateAccess(osUser)),
    osUser,
    stores: new Map(names.map((name) => [name, openStore(host, name, { owner })])),
    selected: new Set(scope.job === undefined ? names : storesOf(host, scope.job)),
  }
}

/** The stores that a job's backups and the WAL for them are in. */
function storesOf(host: Host, job: string): string[] {
  const spec = Object.hasOwn(host.backup, job) ? host.backup[job] : undefined
  if (spec === undefined) {
    const names = Object.keys(host.backup)
    throw new Fail('usage', `there is no [backup.${job}] in the host file${didYouMean(job, names)}`, {
      hint: names.length === 0 ? 'The host file has no [backup.NAME].' : `There is: ${names.join(', ')}`,
    })
  }
  return host.archive === undefined ? [spec.store] : [spec.store, host.archive.store]
}

/**
 * Whose a store is, and what time it is there; undefined for one that has nothing of this cluster.
 * @throws {Fail} `cluster-mismatch` when it is another one's
 */
async function ownedClock(site: Site, name: string): Promise<Date | undefined> {
  const store = site.stores.get(name)!
  if (!(await isOurs(site, store))) return undefined
  return storeClock(store, site.layout)
}

async function isOurs({ layout, systemIdentifier, hostId }: Site, store: Store): Promise<boolean> {
  const owner = await readOwner(store, layout)
  if (owner === undefined) {
    for await (const _entry of store.list(layout.catalog)) {
      throw new Fail('cluster-mismatch', `${store.url} does not say whose backups "${layout.cluster}" are`, {
        hint: `Its "${layout.owner}" is missing: the next backup makes it. Then prune.`,
      })
    }
    return false
  }
  if (owner.systemIdentifier === systemIdentifier && owner.hostId === hostId) return true
  throw new Fail(
    'cluster-mismatch',
    `the backups of "${layout.cluster}" in ${store.url} belong to ${owner.hostId === hostId ? `another cluster, with system identifier ${owner.systemIdentifier}` : `machine "${owner.machine}"`}: only it may delete them`,
    { hint: `If that one is gone for good: howdah backup take JOB --take-over ${owner.machine}` },
  )
}

/** @param clocks of the stores; of one that is left out, that of this machine */
async function lookAndPlan(site: Site, clocks: ReadonlyMap<string, Date>): Promise<StorePlan[]> {
  const { scope, layout, stores, selected } = site
  if (clocks.size === 0) for (const name of selected) await isOurs(site, stores.get(name)!)
  const here = new Date()
  const shelves = await Promise.all([...stores].map(([name, store]) => readShelf(name, store, layout)))
  const begun = new Map<string, Set<string>>()
  for (const name of selected) {
    const journal = await readJournal<PruneJournal>(journalOf(site, name))
    if (journal?.url === stores.get(name)!.url) begun.set(name, new Set(journal.labels))
  }
  return planOf({
    shelves,
    stores: selected,
    jobs: scope.host.backup,
    job: scope.job,
    systemIdentifier: site.systemIdentifier,
    machine: hostname(),
    // A clock that jumped ahead must not make everything old: the one that is behind decides.
    now: new Date(Math.min(here.getTime(), ...[...clocks.values()].map(Number))),
    clocks: new Map([...stores.keys()].map((name) => [name, clocks.get(name) ?? here])),
    begun,
  })
}

function journalOf({ scope, layout }: Site, store: string): string {
  return journalPath(scope.host.host.state_dir, `prune-${layout.cluster}-${store}`)
}

/** @returns labels and names that the store would not let go of */
async function execute(site: Site, plan: StorePlan, options: PruneOptions): Promise<string[]> {
  const store = site.stores.get(plan.store)!
  const journal = journalOf(site, plan.store)
  const { remove, denied } = deleting(store, options)
  // Newest first: what is on top of another one goes before it.
  const going = plan.backups.filter(({ kept }) => !kept).toReversed()
  const labels = [...going, ...plan.leftovers].map(({ label }) => label)
  await writeJournal(journal, { url: store.url, labels } satisfies PruneJournal, stateAccess(site.osUser))
  options.onPhase?.('planned')
  const gone: { label: string; keys: readonly string[] }[] = [...plan.leftovers]
  for (const backup of going) {
    // Commit point: without its manifest it is no backup any more.
    if (await remove(backup.label, [site.layout.manifest(backup.label)])) gone.push(backup)
    options.onPhase?.('manifest')
  }
  options.onPhase?.('manifests')
  const left: string[] = []
  for (const { label, keys } of gone) {
    if (!(await remove(label, keys, () => options.onPhase?.('file')))) left.push(label)
  }
  options.onPhase?.('files')
  await executeWal(site, plan, { remove, onPhase: options.onPhase })
  options.onPhase?.('wal')
  await remove('marks of dead takes', plan.staleMarkers)
  options.onPhase?.('swept')
  if (left.length === 0) await removeJournal(journal)
  else await writeJournal(journal, { url: store.url, labels: left }, stateAccess(site.osUser))
  return [...denied]
}

/** How many keys go at once: what an interruption waits for, and what a store takes in one request. */
const BATCH = 100
/** Of WAL: each of them has some keys. */
const SEGMENTS = 20

type Remove = (what: string, keys: readonly string[], onBatch?: () => void) => Promise<boolean>

function deleting(
  store: Store,
  options: PruneOptions,
): { readonly remove: Remove; readonly denied: Set<string> } {
  const denied = new Set<string>()
  return {
    denied,
    /** @returns whether all of it is gone */
    async remove(what, keys, onBatch) {
      for (let first = 0; first < keys.length; first += BATCH) {
        interrupted.throwIfAborted()
        const batch = keys.slice(first, first + BATCH)
        try {
          await store.delete(batch)
        } catch (error) {
          // Locked objects, or credentials that may only add: what cannot go is kept.
          if (!(error instanceof Fail) || error.code !== 'store-denied') throw error
          denied.add(what)
          return false
        }
        options.onDeleted?.(batch.length)
        onBatch?.()
      }
      return true
    },
  }
}

async function executeWal(
  site: Site,
  plan: StorePlan,
  { remove, onPhase }: { remove: Remove; onPhase: PruneOptions['onPhase'] },
): Promise<void> {
  const store = site.stores.get(plan.store)!
  for (const { systemIdentifier, segments, keys } of plan.wal) {
    const prefix = site.layout.wal(systemIdentifier)
    // The store of the WAL knows what belongs to a segment; what is asked of it here goes through `remove`.
    const wal = openWalStore({
      store: { ...store, delete: async (all) => void (await remove(`WAL of ${systemIdentifier}`, all)) },
      prefix,
      level: 1,
    })
    for (let first = 0; first < segments.length; first += SEGMENTS) {
      await wal.delete(segments.slice(first, first + SEGMENTS)) // oldest first: what is left has no hole
      onPhase?.('segment')
    }
    await remove(`WAL of ${systemIdentifier}`, keys)
  }
}
