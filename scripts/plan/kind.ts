import type { Cluster } from '../cluster/cluster.ts'
import type { Host } from '../host/schema.ts'
import type { Change, Finding } from './change.ts'

/** What planners know of the machine. */
export interface Facts {
  /** Of the cluster, or the wanted one where there is none. */
  readonly major: number
  /** What this host, or its cgroup, may use. */
  readonly memoryBytes: number
  readonly cpus: number
  /** OS user that the server runs as. */
  readonly osUser: string
  /** Folder of postgresql.conf; empty for a remote cluster. */
  readonly configDir: string
  readonly dataDir: string
  readonly socketDir: string
}

/** Read-only eyes on a cluster. Everything runs in `READ ONLY` transactions with `search_path = pg_catalog`. */
export interface Observe {
  readonly host: Host
  readonly facts: Facts
  /** Undefined while there is no cluster yet: every `actual` is then empty. */
  readonly cluster: Cluster | undefined
  /** Whether the server answers. While it does not, kinds that ask it are empty. */
  readonly isRunning: boolean
  /** Set by `export`: kinds that otherwise look only at what the host file names then look at everything. */
  readonly isExport?: boolean
  /** Names of the databases that can be connected to; empty while the server does not answer. */
  databases(): Promise<readonly string[]>
  /** One query. Sessions are kept: one a database. */
  query<Row extends object>(database: string, text: string, values?: readonly unknown[]): Promise<Row[]>
}

/** One kind of thing on a host. It decides; it never does. */
export interface Kind<T> {
  /** Also the word of `--only`. */
  readonly name: string
  /** What the host file wants. Pure. */
  wanted(host: Host, facts: Facts): Map<string, T>
  /** What is there: catalog queries and files, never a write. */
  actual(observe: Observe): Promise<Map<string, T>>
  /** What turns actual into wanted; undefined is nothing to do. Pure. */
  change(name: string, wanted: T, actual: T | undefined, context: Context): Change | undefined
  /** What takes away one that the file does not name. Left out: never dropped. Pure. */
  drop?(name: string, actual: T, context: Context): Change | undefined
  /** What to say about one that `drop` would take away; with `impossible` it is not asked to. Pure. */
  dropFindings?(name: string, actual: T, context: Context): Finding[]
  /** What to say about one. Pure. */
  findings?(name: string, wanted: T, actual: T | undefined, context: Context): Finding[]
  /**
   * The host file's words for what is there, as a part of the TOML document that `export` writes:
   * `{ roles: { xtelem: { login: true } } }`. Leaves out defaults and what an empty cluster has. Pure.
   */
  exported?(actual: ReadonlyMap<string, T>, context: Context): Record<string, unknown>
}

/** What `change` and `findings` may look at besides the two values. */
export interface Context {
  readonly host: Host
  readonly facts: Facts
}
