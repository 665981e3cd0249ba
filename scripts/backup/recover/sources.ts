import { Fail } from '../../core/fail.ts'
import { parseHost } from '../../host/host.ts'
import type { Host } from '../../host/schema.ts'
import { openStore } from '../../store/open.ts'
import { unpack } from '../../store/pipeline.ts'
import type { Store } from '../../store/store.ts'
import { type CatalogEntry, readCatalog, readCatalogs } from '../catalog.ts'
import { layoutOf } from '../layout.ts'

/** Where the backups of a cluster are, and its WAL. */
export interface Sources {
  /** Every backup, oldest first. */
  readCatalog(): Promise<CatalogEntry[]>
  /** Where the WAL of a system is: a store, and a prefix of its keys. */
  walOf(
    catalog: readonly CatalogEntry[],
    systemIdentifier: string,
  ): { readonly store: Store; readonly prefix: string }
}

/** The stores of a host file. */
export function hostSources(host: Host): Sources {
  return {
    readCatalog: () => readCatalogs(host),
    walOf(catalog, system) {
      const prefix = layoutOf(host).wal(system)
      if (host.archive) return { store: openStore(host, host.archive.store), prefix }
      const entry = catalog.findLast(
        (each) => 'manifest' in each && each.manifest.systemIdentifier === system,
      )
      return { store: entry!.store, prefix }
    },
  }
}

/**
 * One store, and one cluster in it: all that is left of a host.
 * @param cluster `<host>/<cluster>`
 */
export function storeSources(store: Store, cluster: string): Sources {
  return {
    readCatalog: async () => {
      const catalog = await readCatalog(store, layoutOfCluster(cluster))
      if (catalog.length > 0) return catalog
      throw new Fail('backup-missing', `${store.url} has no backup of "${cluster}"`, {
        hint: await namesIn(store),
      })
    },
    walOf: (_, system) => ({ store, prefix: `${cluster}/wal/${system}/` }),
  }
}

/**
 * The host file out of the newest backup that has one.
 * @param identity file of the private key
 * @throws {Fail} `backup-missing`, `host-file`, `wrong-key`
 */
export async function storedHost(
  sources: Sources,
  identity: string | undefined,
  overrides: readonly string[],
): Promise<Host> {
  for (const entry of (await sources.readCatalog()).toReversed()) {
    if ('problem' in entry) continue
    const { manifest, store, label } = entry
    const file = manifest.files.find(({ name }) => /^host\.toml(\.zst)?(\.age)?$/.test(name))
    if (!file) continue
    const chunks: Buffer[] = []
    const key = `${manifest.cluster}/backup/${label}/${file.name}`
    const content = file.name.includes('.zst')
      ? unpack(store, { ...file, key }, { identity })
      : await store.get(key)
    for await (const chunk of content) chunks.push(chunk as Buffer)
    return parseHost(Buffer.concat(chunks).toString('utf8'), { path: `host.toml of ${label}`, overrides })
  }
  throw new Fail('backup-missing', 'no backup there has a host file')
}

function layoutOfCluster(cluster: string): Parameters<typeof readCatalog>[1] {
  const [name, ...rest] = cluster.split('/')
  if (!name || rest.length !== 1 || !rest[0]) {
    throw new Fail('usage', `"${cluster}" does not name a cluster in a store`, {
      hint: 'It looks like HOST/CLUSTER: --cluster db1/main',
    })
  }
  return layoutOf({ host: { name }, postgres: { cluster: rest[0] } } as Host)
}

/** The clusters that a store has, for a hint. */
async function namesIn(store: Store): Promise<string> {
  const names = new Set<string>()
  for await (const { key } of store.list('')) {
    const [host, cluster, what] = key.split('/')
    if (what === 'catalog') names.add(`${host}/${cluster}`)
  }
  return names.size === 0 ? 'It has none at all.' : `It has: ${[...names].join(', ')}`
}
