import type { Host } from '../host/schema.ts'
import { keyPart } from '../store/key.ts'

/** Where the parts of one cluster's backups are in a store: keys and prefixes. */
export interface Layout {
  /** `<host.name>/<postgres.cluster>` */
  readonly cluster: string
  /** Prefix of the manifests. */
  readonly catalog: string
  /** Prefix of the takes in progress. */
  readonly running: string
  /** Says whose backups these are. */
  readonly owner: string
  /** The manifest of a backup: it exists when this exists. */
  manifest(label: string): string
  /** Prefix of a backup's files. */
  files(label: string): string
  /** Prefix of the WAL of one system: `<cluster>/wal/<system identifier>/`. */
  wal(systemIdentifier: string): string
  /** The mark of a take in progress. */
  marker(label: string): string
}

/** Where a host's backups are in a store. Pure. */
export function layoutOf(host: Host): Layout {
  const cluster = `${host.host.name}/${host.postgres.cluster}`
  return {
    cluster,
    catalog: `${cluster}/catalog/`,
    running: `${cluster}/running/`,
    owner: `${cluster}/owner.json`,
    manifest: (label) => `${cluster}/catalog/${label}.json`,
    files: (label) => `${cluster}/backup/${label}/`,
    wal: (systemIdentifier) => `${cluster}/wal/${systemIdentifier}/`,
    marker: (label) => `${cluster}/running/${label}.json`,
  }
}

/** The name of a database's dump among the files of a backup, without the endings of compression. */
export function dumpName(database: string): string {
  return `${keyPart(database)}.dump`
}
