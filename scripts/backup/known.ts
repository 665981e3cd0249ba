import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { Fail } from '../core/fail.ts'
import { type Access, exists, makeFolder, writeFileAtomic } from '../core/file.ts'
import type { Store } from '../store/store.ts'
import type { Layout } from './layout.ts'

/** Where this host remembers what it has stored where. */
export interface KnownScope {
  readonly stateDir: string
  readonly store: Store
  readonly layout: Layout
}

/**
 * Refuses a store that has nothing of a cluster although this host has stored something of it there: a disk
 * that is not mounted looks so, and an empty place would pass for a store without backups, or for a new one.
 * @throws {Fail} `store-missing`
 */
export async function assertNotLost(scope: KnownScope): Promise<void> {
  const { store, layout } = scope
  const path = pathOf(scope)
  // Who may not look into the state folder knows of no store.
  if (!(await exists(path).catch(() => false))) return
  for await (const _entry of store.list(`${layout.cluster}/`)) return
  throw new Fail(
    'store-missing',
    `${store.url} has nothing of "${layout.cluster}", although this host has stored backups or WAL there`,
    { hint: `Is its disk mounted? If the store was emptied on purpose, begin anew: rm ${path}` },
  )
}

/**
 * Remembers that something of a cluster is in a store.
 * @throws {Fail} `file-unreadable`
 */
export async function rememberStore(scope: KnownScope, access: Access): Promise<void> {
  const path = pathOf(scope)
  if (await exists(path)) return
  const content = { format: 1, store: scope.store.url, cluster: scope.layout.cluster }
  await makeFolder(join(scope.stateDir, 'stores'), access)
  await writeFileAtomic(path, `${JSON.stringify(content)}\n`, { ...access, mode: 0o644 })
}

function pathOf({ stateDir, store, layout }: KnownScope): string {
  const hash = createHash('sha256').update(`${store.url}\n${layout.cluster}`).digest('hex')
  return join(stateDir, 'stores', `${hash.slice(0, 16)}.json`)
}
