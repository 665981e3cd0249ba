import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { closedFolder, startClosed, stopServer } from '../cluster/restricted.ts'
import { withSession } from '../cluster/session.ts'
import { ident, show } from '../cluster/sql.ts'
import { run } from '../core/exec.ts'
import { type Resorted, resort } from './collation.ts'
import { compareManifests } from './compare.ts'
import { type Manifest, takeManifest } from './manifest.ts'
import type { Method } from './state.ts'

/** What was done to a new cluster before it opened. */
export interface Finished {
  readonly resorted: Resorted
  /** `pg_trgm 1.5 -> 1.6 in database x` each. */
  readonly extensions: readonly string[]
  /** How many things were compared. */
  readonly compared: number
  /** What is not as it was, for people; empty when everything is. */
  readonly problems: readonly string[]
}

/**
 * Makes a new cluster ready behind closed doors: its order of texts, its extensions, its statistics; and proves
 * that it holds what the old one held. Stopped before and afterwards.
 * @param before manifest of the old one
 * @throws {Fail} `verify-failed`, `command-failed`, `server-failed`
 */
export async function finish(
  cluster: Cluster,
  before: Manifest,
  { method, jobs }: { readonly method: Method; readonly jobs: number },
): Promise<Finished> {
  await using folder = await closedFolder(cluster.osUser)
  const closed = await startClosed(cluster, { folder: folder.path })
  try {
    // What came by a dump was sorted here.
    const resorted = method === 'dump' ? UNTOUCHED : await resort(closed, before)
    const extensions = await updateExtensions(closed)
    const after = await analyzedAndTaken(closed, before, jobs)
    const differences = compareManifests(before, after).map(
      ({ what, before: was, after: is }) => `${what}: ${was ?? 'not there'} -> ${is ?? 'not there'}`,
    )
    return {
      resorted,
      extensions,
      compared: before.entries.length,
      problems: [...differences, ...resorted.broken],
    }
  } finally {
    await stopServer(cluster)
  }
}

const UNTOUCHED: Resorted = { verified: [], rebuilt: [], broken: [] }

/** Both read everything, and neither changes what the other one sees. */
async function analyzedAndTaken(cluster: Cluster, before: Manifest, jobs: number): Promise<Manifest> {
  const [analyzed, taken] = await Promise.allSettled([
    analyze(cluster, jobs),
    takeManifest(cluster, { verify: before.verify }),
  ])
  if (analyzed.status === 'rejected') throw analyzed.reason
  if (taken.status === 'rejected') throw taken.reason
  return taken.value
}

const SETUP = 'set search_path to pg_catalog; set statement_timeout to 0; set client_min_messages to error'

// pg_upgrade only writes a script that would do so.
async function updateExtensions(cluster: Cluster): Promise<string[]> {
  const updated: string[] = []
  const names = await withSession({ cluster, database: 'postgres', setup: SETUP }, async (client) => {
    const { rows } = await client.query<{ name: string }>(
      `select datname as name from pg_database where datallowconn and datname <> 'template0' order by 1`,
    )
    return rows.map(({ name }) => name)
  })
  for (const database of names) {
    await withSession({ cluster, database, setup: SETUP }, async (client) => {
      const { rows } = await client.query<{ name: string; was: string; is: string }>(OUTDATED)
      for (const { name, was, is } of rows) {
        await client.query(`alter extension ${ident(name)} update`)
        updated.push(`${name} ${was} -> ${is} in database ${show(database)}`)
      }
    })
  }
  return updated
}

const OUTDATED = `
  select e.extname as name, e.extversion as was, a.default_version as is
  from pg_extension e join pg_available_extensions a on a.name = e.extname
  where a.default_version <> e.extversion order by 1`

// Plans without statistics are bad ones. From 18 on pg_upgrade brings them over, and only what is missing is made.
async function analyze(cluster: Cluster, jobs: number): Promise<void> {
  const missing = cluster.major >= 18 ? ['--missing-stats-only'] : []
  const { argv, env } = cluster.clientArguments('postgres')
  const place = argv.filter((word, at) => word !== '--dbname' && argv[at - 1] !== '--dbname')
  const options = ['--all', '--analyze-only', '--quiet', '--no-password', '--jobs', String(jobs), ...missing]
  await run([join(cluster.bindir, 'vacuumdb'), ...place, ...options], {
    as: cluster.osUser,
    env,
    timeoutSeconds: 86_400,
  })
}
