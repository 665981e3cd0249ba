import type { Cluster } from '../cluster/cluster.ts'
import { closedFolder } from '../cluster/closed-folder.ts'
import { startClosed, stopServer } from '../cluster/restricted.ts'
import { withSession } from '../cluster/session.ts'
import { ident, show } from '../cluster/sql.ts'
import { mapAtOnce } from '../core/at-once.ts'
import { type Resorted, resort } from './collation.ts'
import { compareManifests } from './compare.ts'
import { databasesOf } from './databases.ts'
import { type Manifest, takeManifest } from './manifest.ts'
import type { Method } from './state.ts'
import { sketchStatistics } from './statistics.ts'

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
 * Makes a new cluster ready behind closed doors: its order of texts, its extensions, first statistics; and proves
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
    const names = await databasesOf(closed)
    // What came by a dump was sorted here.
    const resorted = method === 'dump' ? UNTOUCHED : await resort(closed, before, { names, jobs })
    const extensions = await updateExtensions(closed, names)
    const after = await sketchedAndTaken(closed, before, { names, jobs })
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

interface Databases {
  /** Those that let somebody connect. */
  readonly names: readonly string[]
  /** How many at once. */
  readonly jobs: number
}

/** Neither changes what the other one sees. */
async function sketchedAndTaken(
  cluster: Cluster,
  before: Manifest,
  { names, jobs }: Databases,
): Promise<Manifest> {
  const [sketched, taken] = await Promise.allSettled([
    mapAtOnce(names, jobs, (name) => sketchStatistics(cluster, name)),
    takeManifest(cluster, { verify: before.verify, jobs }),
  ])
  if (sketched.status === 'rejected') throw sketched.reason
  if (taken.status === 'rejected') throw taken.reason
  return taken.value
}

const SETUP = 'set search_path to pg_catalog; set statement_timeout to 0; set client_min_messages to error'

// pg_upgrade only writes a script that would do so.
async function updateExtensions(cluster: Cluster, names: readonly string[]): Promise<string[]> {
  const updated: string[] = []
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
