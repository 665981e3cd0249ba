import type { Cluster } from '../cluster/cluster.ts'
import { clientProgram, type Program } from '../cluster/program.ts'

/** Where psql is to work, and as whom. */
export interface Shell {
  readonly cluster: Cluster
  readonly database: string
  /** The role that it becomes when it has connected as the superuser. */
  readonly role: string | undefined
}

/**
 * psql of the cluster's major, with its socket, port, database and role. It connects as the superuser, for whom
 * there is peer authentication, and has the rights of the role: `current_user` is that. Pure.
 * @throws {Fail} `not-permitted` when none is installed
 */
export function psqlProgram({ cluster, database, role }: Shell, args: readonly string[]): Program {
  const { argv, options } = clientProgram(cluster, 'psql', database, args)
  const env = { ...options.env, ...(role !== undefined && { PGOPTIONS: `-c role=${optionWord(role)}` }) }
  return { argv, options: { ...options, env, keepEnvironment: true } }
}

/** In PGOPTIONS a space or a backslash ends or begins something, unless a backslash is before it (libpq, `options`). Pure. */
export function optionWord(text: string): string {
  return text.replaceAll(/[\\\s]/g, String.raw`\$&`)
}
