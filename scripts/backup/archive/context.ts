import { join } from 'node:path'
import type { Cluster } from '../../cluster/cluster.ts'
import { userId } from '../../cluster/connect.ts'
import { stateAccess } from '../../cluster/lock.ts'
import { Fail } from '../../core/fail.ts'
import type { Access } from '../../core/file.ts'
import type { ArchiveSpec, Host } from '../../host/schema.ts'
import { openStore } from '../../store/open.ts'
import type { Store } from '../../store/store.ts'
import { type Layout, layoutOf } from '../layout.ts'
import { openWalStore, type WalStore } from '../wal/wal-store.ts'
import { Spool } from './spool.ts'

/** Majors before it cannot tell pg_receivewal where a slot begins. */
const OLDEST_MAJOR = 15

/** Where the WAL of one system comes from and goes to. */
export interface ArchivePlaces {
  readonly spec: ArchiveSpec
  readonly store: Store
  readonly layout: Layout
  /** Prefix of the WAL in the store. */
  readonly prefix: string
  readonly wal: WalStore
  readonly spool: Spool
  /** Says who the receiver is. */
  readonly pidFile: string
  readonly access: Access
}

/**
 * The `[archive]` of a host.
 * @throws {Fail} `usage` when there is none
 */
export function archiveOf(host: Host): ArchiveSpec {
  if (host.archive) return host.archive
  throw new Fail('usage', 'there is no [archive] in the host file', {
    hint: 'Add it: [archive] store = "NAME of a store"',
  })
}

/** @throws {Fail} `usage` for a server that is too old */
export function assertMajor(major: number): void {
  if (major >= OLDEST_MAJOR) return
  throw new Fail('usage', `WAL is archived from PostgreSQL ${OLDEST_MAJOR} on, this is ${major}`, {
    hint: 'Leave [archive] out, and take dumps: [backup.NAME] kind = "dump"',
  })
}

/** The places of a host and one system identifier. */
export function placesOf(host: Host, cluster: Cluster, systemIdentifier: string): ArchivePlaces {
  const spec = archiveOf(host)
  const owner = cluster.osUser === '' ? undefined : userId(cluster.osUser)
  const store = openStore(host, spec.store, { owner, canBeNew: true })
  const layout = layoutOf(host)
  const prefix = layout.wal(systemIdentifier)
  const access = stateAccess(cluster.osUser === '' ? undefined : cluster.osUser)
  const folder = join(host.host.state_dir, 'spool', systemIdentifier)
  return {
    spec,
    store,
    layout,
    prefix,
    wal: openWalStore({
      store,
      prefix,
      level: spec.compression_level,
      recipients: host.encryption?.recipients,
    }),
    spool: new Spool(folder, access),
    pidFile: `${folder}.receiver.json`,
    access,
  }
}
