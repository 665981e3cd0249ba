import { text } from 'node:stream/consumers'
import { Fail } from '../core/fail.ts'
import type { Entry, Store } from '../store/store.ts'
import { once } from './box.ts'
import { readCatalog } from './catalog.ts'
import { isLabel } from './label.ts'
import type { Layout } from './layout.ts'
import type { Manifest } from './manifest.ts'

/** Everything that one store has of a cluster. */
export interface Shelf {
  /** Its name in the host file. */
  readonly name: string
  readonly store: Store
  /** What the catalog has, oldest first: a manifest, or why it cannot be read. */
  readonly catalog: readonly ShelfEntry[]
  /** What is below `backup/`, by label. */
  readonly files: ReadonlyMap<string, readonly Entry[]>
  readonly markers: readonly Marker[]
  /** What is below `wal/`, by system identifier. */
  readonly wal: ReadonlyMap<string, readonly Entry[]>
}

/** One entry of a catalog. */
export type ShelfEntry = { readonly label: string } & (
  | { readonly manifest: Manifest }
  | { readonly problem: string }
)

/** The mark of a take that is in progress, or that died. */
export interface Marker {
  readonly key: string
  /** Empty when the mark does not say. */
  readonly job: string
  /** Name of the machine that takes it; empty when the mark does not say. */
  readonly machine: string
  /** By the store's clock. */
  readonly renewed: Date
}

/**
 * Looks at all that a store has of a cluster.
 * @throws {Fail} what a store throws: half a list is no list
 */
export async function readShelf(name: string, store: Store, layout: Layout): Promise<Shelf> {
  // In this order: a take marks itself before its first file, and its mark goes after its manifest is
  // there. So whatever file is seen here has a mark or a manifest that is seen below, or is garbage.
  const files = await listBy(store, `${layout.cluster}/backup/`)
  const markers = await readMarkers(store, layout)
  const catalog = (await readCatalog(store, layout)).map((entry): ShelfEntry =>
    'manifest' in entry
      ? { label: entry.label, manifest: entry.manifest }
      : { label: entry.label, problem: entry.problem.message },
  )
  const wal = await listBy(store, `${layout.cluster}/wal/`)
  const labelled = [...files].filter(([label]) => isLabel(label))
  return { name, store, catalog, files: new Map(labelled), markers, wal }
}

/**
 * The time by a store's own clock: that of an object that was just written there.
 * @throws {Fail} what a store throws
 */
export async function storeClock(store: Store, layout: Layout): Promise<Date> {
  const key = `${layout.cluster}/clock.json`
  await store.put(key, once(`${JSON.stringify({ format: 1, written: new Date().toISOString() })}\n`))
  try {
    for await (const entry of store.list(key)) if (entry.key === key) return entry.modified
  } finally {
    await store.delete([key]).catch((error: unknown) => {
      // Credentials that may only add: it is left, and written over the next time.
      if (!(error instanceof Fail) || error.code !== 'store-denied') throw error
    })
  }
  throw new Fail('store-unreachable', `${store.url} does not list "${key}", which was just stored there`, {
    hint: 'Its lists are late. Try it again.',
  })
}

/** Whether all files of a backup are there with their sizes; why not, if not. Pure. */
export function missingOf(manifest: Manifest, files: readonly Entry[]): string | undefined {
  const prefix = `${manifest.cluster}/backup/${manifest.label}/`
  const sizes = new Map(files.map(({ key, size }) => [key.slice(prefix.length), size]))
  for (const { name, size } of manifest.files) {
    const found = sizes.get(name)
    if (found === undefined) return `its file "${name}" is missing`
    if (found !== size) return `its file "${name}" has ${found} bytes, ${size} were written`
  }
  return undefined
}

/** Entries under a prefix by the next part of their keys. */
async function listBy(store: Store, prefix: string): Promise<Map<string, Entry[]>> {
  const entries = await Array.fromAsync(store.list(prefix))
  return Map.groupBy(entries, ({ key }) => key.slice(prefix.length).split('/', 1)[0]!)
}

async function readMarkers(store: Store, layout: Layout): Promise<Marker[]> {
  const entries = await Array.fromAsync(store.list(layout.running))
  return Promise.all(
    entries.map(async ({ key, modified }) => ({ key, renewed: modified, ...(await saidBy(store, key)) })),
  )
}

async function saidBy(store: Store, key: string): Promise<{ job: string; machine: string }> {
  const textOf = (value: unknown) => (typeof value === 'string' ? value : '')
  try {
    const { job, machine } = JSON.parse(await text(await store.get(key))) as Record<string, unknown>
    return { job: textOf(job), machine: textOf(machine) }
  } catch (error) {
    // It ended meanwhile, or what it says is nothing: that it is there is what counts.
    const isNothing = error instanceof SyntaxError || error instanceof TypeError
    if (isNothing || (error instanceof Fail && error.code === 'store-missing'))
      return { job: '', machine: '' }
    throw error
  }
}
