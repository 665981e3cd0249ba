import { join } from 'node:path'
import type { Cluster } from '../../cluster/cluster.ts'
import { closedFolder } from '../../cluster/closed-folder.ts'
import { startClosed, stopServer } from '../../cluster/restricted.ts'
import type { Host, Postgres } from '../../host/schema.ts'
import { bindirOf, makeCluster } from '../make.ts'
import type { Origin } from '../origin.ts'
import { hostWith } from '../place.ts'

/** An empty cluster of the new major, to be asked and thrown away. */
export interface Scratch extends AsyncDisposable {
  /** Its folder holds nothing else, and only the OS user of the old cluster looks into it. */
  readonly folder: string
  /** Not running. */
  readonly cluster: Cluster
  /** Starts it; stopping it is up to the caller. @returns as it is reached */
  start(): Promise<Cluster>
  stop(): Promise<void>
}

/**
 * Makes a cluster of the new major in a temporary folder, in everything that initdb decides like the old one.
 * @throws {Fail} `command-failed` with what initdb said
 */
export async function makeScratch(
  host: Host,
  spec: Postgres,
  origin: Origin,
  osUser: string,
): Promise<Scratch> {
  await using made = new AsyncDisposableStack()
  const folder = made.use(await closedFolder(osUser))
  const own: Postgres = {
    ...spec,
    kind: 'private',
    data_dir: join(folder.path, 'data'),
    socket_dir: folder.path,
    bindir: bindirOf(spec),
    superuser: origin.installUser,
  }
  const cluster = await makeCluster(hostWith(host, own), origin, osUser)
  made.defer(() => stopServer(cluster))
  const owned = made.move()
  return {
    folder: folder.path,
    cluster,
    start: () => startClosed(cluster, { folder: folder.path, settings: { fsync: 'off' } }),
    stop: () => stopServer(cluster),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
