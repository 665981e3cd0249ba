import { stat } from 'node:fs/promises'
import { Fail } from '../core/fail.ts'
import { isMissing } from '../core/file.ts'
import { unmountedPoint } from '../core/mounts.ts'
import type { Store } from './store.ts'

/** What {@link guardRoot} expects. */
export interface RootOptions {
  /**
   * Whether the folder may not be there yet: it is an empty store then, and the first write makes it.
   * For whoever begins a store, and for nobody else.
   */
  readonly canBeNew?: boolean | undefined
}

/**
 * A store in a folder, which refuses everything while the disk of the folder is not mounted: the place
 * looks like an empty store then, and what is written there fills another disk.
 *
 * Each use fails with `store-unreachable` when a mount point that is declared above the folder has
 * nothing mounted on it, or when the folder is not there and cannot be a new one.
 */
export function guardRoot(store: Store, root: string, { canBeNew = false }: RootOptions = {}): Store {
  const check = async () => {
    const point = await unmountedPoint(root)
    if (point !== undefined) throw unmounted(root, point)
    if (!canBeNew && (await isGone(root))) throw gone(root)
  }
  return {
    url: store.url,
    async *list(prefix) {
      await check()
      yield* store.list(prefix)
    },
    async get(key, range) {
      await check()
      return store.get(key, range)
    },
    async put(key, body) {
      await check()
      return store.put(key, body)
    },
    async create(key, body) {
      await check()
      return store.create(key, body)
    },
    async delete(keys) {
      await check()
      await store.delete(keys)
    },
  }
}

async function isGone(root: string): Promise<boolean> {
  // Any other reason is told by what is done next.
  return stat(root).then(() => false, isMissing)
}

function unmounted(root: string, point: string): Fail {
  return new Fail(
    'store-unreachable',
    `the store "${root}" is to be on "${point}", on which nothing is mounted`,
    { hint: `It is in /etc/fstab, or a unit of systemd. Mount it first: mount ${point}` },
  )
}

function gone(root: string): Fail {
  return new Fail('store-unreachable', `the store has no folder "${root}"`, {
    hint: 'Is its disk mounted? The folder of a new store is made by the first backup: howdah backup take JOB',
  })
}
