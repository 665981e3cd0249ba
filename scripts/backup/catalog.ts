import { text } from 'node:stream/consumers'
import { Fail, messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import { nearest } from '../core/nearest.ts'
import type { Host } from '../host/schema.ts'
import { openStore } from '../store/open.ts'
import type { Store } from '../store/store.ts'
import { assertNotLost } from './known.ts'
import { isLabel } from './label.ts'
import { type Layout, layoutOf } from './layout.ts'
import { type Manifest, parseManifest } from './manifest.ts'

/** One backup of the catalog. A manifest that cannot be read hides no other one. */
export type CatalogEntry = { readonly label: string; readonly store: Store } & (
  | { readonly manifest: Manifest }
  | { readonly problem: Fail }
)

/** A backup that can be used, and the store that has it. */
export interface Found {
  readonly manifest: Manifest
  readonly store: Store
}

/** Which backup is wanted. */
export interface Choice {
  /** A label, or `latest`. */
  readonly label: string
  /** Of this job only. */
  readonly job?: string | undefined
  /** That has this database only. */
  readonly database?: string | undefined
}

/**
 * Every backup of a host's cluster in all of its stores, oldest first. A store that cannot be read is a
 * warning while another one has backups: that other one may be all that a disaster has left.
 * @throws {Fail} `store-missing` for a store that has lost all of it, and what a store throws
 */
export async function readCatalogs(host: Host): Promise<CatalogEntry[]> {
  const layout = layoutOf(host)
  const catalogs = Object.keys(host.store).map((name) => catalogOf(host, name, layout))
  const read = await Promise.allSettled(catalogs)
  const entries = inOrder(read.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])))
  for (const result of read) {
    if (result.status === 'fulfilled') continue
    if (entries.length === 0) throw result.reason
    log(
      'warning',
      `backup: what one store has is not known, a newer backup may be there: ${messageOf(result.reason)}`,
    )
  }
  return entries
}

/**
 * The backup that is wanted, in whatever store has it. A store that cannot be read is no hindrance
 * when a label says which backup it is and another store has that.
 * @throws {Fail} `backup-missing`, `backup-damaged`, and what a store throws
 */
export async function findBackup(host: Host, choice: Choice): Promise<Found> {
  const layout = layoutOf(host)
  const catalogs = Object.keys(host.store).map((name) => catalogOf(host, name, layout))
  const read = await Promise.allSettled(catalogs)
  const entries = inOrder(read.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])))
  const failure = read.find((result) => result.status === 'rejected')
  if (failure && !entries.some(({ label }) => label === choice.label)) throw failure.reason
  return chooseBackup(entries, choice)
}

async function catalogOf(host: Host, name: string, layout: Layout): Promise<CatalogEntry[]> {
  const store = openStore(host, name)
  const entries = await readCatalog(store, layout)
  if (entries.length === 0) await assertNotLost({ stateDir: host.host.state_dir, store, layout })
  return entries
}

function inOrder(catalogs: readonly (readonly CatalogEntry[])[]): CatalogEntry[] {
  return catalogs.flat().toSorted((a, b) => (a.label < b.label ? -1 : 1))
}

/** Every backup of a cluster in one store, oldest first. */
export async function readCatalog(store: Store, layout: Layout): Promise<CatalogEntry[]> {
  const labels = await catalogLabels(store, layout)
  const entries = await Promise.all(labels.map((label) => readEntry(store, layout, label)))
  return entries.filter((entry) => entry !== undefined)
}

/** The labels that are there, oldest first; manifests are not opened. */
export async function catalogLabels(store: Store, layout: Layout): Promise<string[]> {
  const entries = await Array.fromAsync(store.list(layout.catalog))
  return entries
    .map(({ key }) => key.slice(layout.catalog.length).replace(/\.json$/, ''))
    .filter(isLabel)
    .toSorted()
}

/** @returns undefined when it was pruned meanwhile */
async function readEntry(store: Store, layout: Layout, label: string): Promise<CatalogEntry | undefined> {
  const content = await store.get(layout.manifest(label)).then(text, (error: unknown) => {
    if (error instanceof Fail && error.code === 'store-missing') return undefined
    throw error
  })
  if (content === undefined) return undefined
  try {
    return { label, store, manifest: parseManifest(content, { label, cluster: layout.cluster }) }
  } catch (error) {
    if (error instanceof Fail && error.code === 'backup-damaged') return { label, store, problem: error }
    throw error
  }
}

/**
 * The backup that is wanted. An older one never stands in for one that cannot be read. Pure.
 * @throws {Fail} `backup-missing`, `backup-damaged`
 */
export function chooseBackup(catalog: readonly CatalogEntry[], choice: Choice): Found {
  if (choice.label !== 'latest') return byLabel(catalog, choice)
  for (const entry of catalog.toReversed()) {
    if ('problem' in entry) throw entry.problem
    if (fits(entry.manifest, choice)) return entry
  }
  throw new Fail('backup-missing', `there is no backup${describe(choice)}`, {
    hint: catalog.length === 0 ? 'Take one: howdah backup take JOB' : 'See what there is: howdah backup list',
  })
}

function byLabel(catalog: readonly CatalogEntry[], choice: Choice): Found {
  const entries = catalog.filter(({ label }) => label === choice.label)
  const entry = entries.find((entry) => 'manifest' in entry) ?? entries[0]
  if (entry === undefined) {
    const found = nearest(
      choice.label,
      catalog.map(({ label }) => label),
    )
    throw new Fail('backup-missing', `there is no backup "${choice.label}"`, {
      hint: found === undefined ? 'See what there is: howdah backup list' : `Did you mean ${found}?`,
    })
  }
  if ('problem' in entry) throw entry.problem
  if (!fits(entry.manifest, choice)) {
    const names = entry.manifest.databases.map(({ name }) => name).join(', ')
    throw new Fail('backup-missing', `backup ${choice.label} is none${describe(choice)}`, {
      hint: `It is of job ${entry.manifest.job}, with: ${names || 'no database'}`,
    })
  }
  return entry
}

function fits(manifest: Manifest, { job, database }: Choice): boolean {
  if (job !== undefined && manifest.job !== job) return false
  return database === undefined || manifest.databases.some(({ name }) => name === database)
}

function describe({ job, database }: Choice): string {
  const of = job === undefined ? '' : ` of job "${job}"`
  return database === undefined ? of : `${of} with database "${database}"`
}
