import { join } from 'node:path'
import type { ExecOptions } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import type { Cluster } from './cluster.ts'

/** A command line of one of PostgreSQL's programs, and how it is run. */
export interface Program {
  readonly argv: readonly string[]
  readonly options: ExecOptions
}

/**
 * One of PostgreSQL's client programs, connected to a database of a cluster. Always that of the
 * cluster's major: pg_dump must not be older than the server, and pg_restore not older than pg_dump.
 * @throws {Fail} `not-permitted` when none is installed
 */
export function clientProgram(
  cluster: Cluster,
  name: 'pg_dump' | 'pg_dumpall' | 'pg_restore' | 'psql',
  database: string,
  args: readonly string[],
): Program {
  if (cluster.bindir === '') {
    throw new Fail(
      'not-permitted',
      `there is no ${name} for PostgreSQL ${cluster.major} or newer on this host`,
      {
        hint: `Install it: apt-get install postgresql-client-${cluster.major}`,
      },
    )
  }
  const client = cluster.clientArguments(connectionString(database))
  return {
    argv: [join(cluster.bindir, name), ...client.argv, '--no-password', ...args],
    options: {
      as: cluster.osUser === '' ? undefined : cluster.osUser,
      env: client.env,
    },
  }
}

/**
 * A database's name where libpq takes a name or a connection string: bare, `a=b` would be read as
 * the setting `a`. Pure.
 */
export function connectionString(database: string): string {
  return `dbname='${database.replaceAll(/[\\']/g, String.raw`\$&`)}'`
}
