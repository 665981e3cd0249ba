import type { Client } from 'pg'

/** How a client connects. */
export interface ConnectOptions {
  /** Role to log in as; default: the superuser, by peer. */
  readonly user?: string
  /** Default `howdah`. */
  readonly applicationName?: string
  /** Speaks the replication protocol. */
  readonly replication?: boolean
}

/** One PostgreSQL cluster, however it is driven. */
export interface Cluster {
  readonly kind: 'debian' | 'private' | 'remote'
  /** For messages: `debian cluster 15/main`, never a secret. */
  readonly label: string
  /** Major version of the data directory (remote: of the server). */
  readonly major: number
  /** Programs of this major: never the wrappers in /usr/bin, which pick a cluster by themselves. */
  readonly bindir: string
  readonly port: number
  /** Folder of the Unix socket, or a host name for a remote cluster. */
  readonly socketDir: string
  /** Empty for a remote cluster. */
  readonly dataDir: string
  /** Folder of postgresql.conf, of which `conf.d/` is read; empty for a remote cluster. */
  readonly configDir: string
  /** OS user of the server process; empty for a remote cluster. */
  readonly osUser: string
  /** The role that everything is done as. */
  readonly superuser: string
  /** Connection options for PostgreSQL's own programs, and the environment they need. */
  clientArguments(database: string): { argv: readonly string[]; env: Readonly<Record<string, string>> }
  /**
   * A connected client; whoever asks for it ends it.
   * @throws {Fail} `server-unreachable`, `server-denied`, `cluster-mismatch`
   */
  connect(database: string, options?: ConnectOptions): Promise<Client>
  isRunning(): Promise<boolean>
  /** Starts it and waits until it answers. */
  start(): Promise<void>
  stop(): Promise<void>
  restart(): Promise<void>
}
