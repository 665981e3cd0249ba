import { stateAccess, systemIdentifier } from '../cluster/lock.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import type { Host } from '../host/schema.ts'
import { openStore } from '../store/open.ts'
import { layoutOf } from './layout.ts'
import { handOver, hostId } from './owner.ts'

/**
 * Says in each store that has backups of one cluster that those of another one follow: an upgraded cluster has
 * another system identifier, and everything under its name would be a stranger's. What is another host's stays so.
 * @throws {Fail} what a store throws
 */
export async function handOverStores(host: Host, from: Cluster, to: Cluster): Promise<void> {
  const names = new Set(Object.values(host.backup).map(({ store }) => store))
  if (host.archive !== undefined) names.add(host.archive.store)
  const access = stateAccess(to.osUser)
  const owner = {
    from: await systemIdentifier(from),
    to: await systemIdentifier(to),
    hostId: await hostId(host.host.state_dir, access),
  }
  for (const name of names) {
    const store = openStore(host, name, { owner: userId(to.osUser), canBeNew: true })
    await handOver(store, layoutOf(host), owner)
  }
}
