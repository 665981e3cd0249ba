import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import type { Host, StoreSpec } from '../host/schema.ts'
import { dirStore, type Owner } from './dir.ts'
import { guardRoot, type RootOptions } from './root.ts'
import { s3Store } from './s3.ts'
import type { Store } from './store.ts'
import { parseStoreUrl } from './url.ts'

/** How a store is opened. */
export interface OpenOptions extends RootOptions {
  /** Who a new folder is made for when this process is root. */
  readonly owner?: Owner | undefined
}

/**
 * The store that a host file names.
 * @throws {Fail} `usage` when the host file has no store of that name
 */
export function openStore(host: Host, name: string, options: OpenOptions = {}): Store {
  const spec = Object.hasOwn(host.store, name) ? host.store[name] : undefined
  if (spec === undefined) {
    const names = Object.keys(host.store)
    throw new Fail('usage', `there is no [store.${name}] in the host file${didYouMean(name, names)}`, {
      hint: names.length === 0 ? 'Add one: [store.NAME] type = "dir"' : `There is: ${names.join(', ')}`,
    })
  }
  return openSpec(spec, options)
}

/**
 * The store of a URL, for a host that has no host file yet. Credentials of S3 are those that its SDK
 * finds: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role.
 * @throws {Fail} `usage`
 */
export function openStoreUrl(url: string): Store {
  return openSpec(parseStoreUrl(url), {})
}

function openSpec(spec: StoreSpec, options: OpenOptions): Store {
  switch (spec.type) {
    case 'dir':
      return guardRoot(dirStore(spec.path, options.owner), spec.path, options)
    case 's3':
      return s3Store(spec)
  }
}
