import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import { type Host } from '../host/schema.ts'
import { dirStore, type Owner } from './dir.ts'
import { type Store } from './store.ts'

/**
 * The store that a host file names.
 * @param owner who a new folder is made for when this process is root
 * @throws {Fail} `usage` when the host file has no store of that name
 */
export function openStore(host: Host, name: string, owner?: Owner): Store {
  const spec = Object.hasOwn(host.store, name) ? host.store[name] : undefined
  if (spec === undefined) {
    const names = Object.keys(host.store)
    throw new Fail('usage', `there is no [store.${name}] in the host file${didYouMean(name, names)}`, {
      hint: names.length === 0 ? 'Add one: [store.NAME] type = "dir"' : `There is: ${names.join(', ')}`,
    })
  }
  switch (spec.type) {
    case 'dir':
      return dirStore(spec.path, owner)
  }
}
