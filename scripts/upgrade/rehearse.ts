import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { closedFolder } from '../cluster/closed-folder.ts'
import { startClosed, stopServer } from '../cluster/restricted.ts'
import { withSession } from '../cluster/session.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import type { Postgres } from '../host/schema.ts'
import { transferDump } from './dump.ts'
import { bindirOf } from './make.ts'
import { initdbOptions, type Origin } from './origin.ts'

/** What took a schema without an error. */
export interface Rehearsed {
  readonly databases: readonly string[]
  readonly seconds: number
}

/**
 * Brings every definition of a running cluster into one of the new major that is thrown away afterwards, and stops at
 * the first that is refused. pg_upgrade looks at none of them before it does so for real, while nobody can connect.
 * @throws {Fail} `plan-impossible` with the statement
 */
export async function rehearse(old: Cluster, spec: Postgres, origin: Origin): Promise<Rehearsed> {
  const begun = performance.now()
  await using folder = await closedFolder(old.osUser)
  const dataDir = join(folder.path, 'data')
  const bindir = bindirOf(spec)
  const own = ['--no-sync', '--auth=peer', `--username=${origin.installUser}`]
  await run([join(bindir, 'initdb'), '--pgdata', dataDir, ...own, ...initdbOptions(origin, spec.major!)], {
    as: old.osUser,
  })
  const label = `a cluster of ${spec.major} for rehearsal`
  const scratch: Cluster = { ...old, major: spec.major!, bindir, dataDir, configDir: dataDir, label }
  try {
    const settings = { fsync: 'off', shared_preload_libraries: await preloadedBy(old) }
    const closed = await startClosed(scratch, { folder: folder.path, settings })
    const { installUser } = origin
    const databases = await transferDump({ old, new: closed, installUser, jobs: 1, isRehearsal: true })
    return { databases, seconds: (performance.now() - begun) / 1000 }
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('plan-impossible', `the rehearsal ended: ${error.message}`, {
      hint: error.hint,
      cause: error,
    })
  } finally {
    await stopServer(scratch)
  }
}

async function preloadedBy(cluster: Cluster): Promise<string> {
  return withSession(
    { cluster, database: 'postgres', setup: 'set search_path to pg_catalog' },
    async (client) => {
      const { rows } = await client.query<{ libraries: string }>(
        `select current_setting('shared_preload_libraries') as libraries`,
      )
      return rows[0]!.libraries
    },
  )
}
