import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import type { Host, Postgres } from '../host/schema.ts'
import { clusterFindings, type Way } from './check/databases.ts'
import { type Finding, SETUP } from './check/finding.ts'
import { objectFindings } from './check/objects.ts'

export type { Finding } from './check/finding.ts'

/** Where an upgrade is to go. */
export interface CheckTarget {
  readonly host: Host
  /** The cluster that is to be made. */
  readonly spec: Postgres
  readonly method: 'auto' | 'copy' | 'clone' | 'link' | 'swap' | 'dump'
  /** The Debian package that most likely brings an extension. */
  readonly packageOf: (extension: string, major: number) => string
}

/**
 * Looks for all that is in the way of an upgrade while the old cluster serves, and changes nothing of it.
 * @returns errors first; an upgrade without any goes well as far as can be told beforehand
 * @throws {Fail} `server-unreachable`, `server-denied`, `server-failed`
 */
export async function checkUpgrade(old: Cluster, target: CheckTarget): Promise<Finding[]> {
  const way: Way = { from: old.major, to: target.spec.major!, isDump: target.method === 'dump' }
  const findings: Finding[] = []
  const databases = await withSession(
    { cluster: old, database: 'postgres', setup: SETUP },
    async (client) => {
      findings.push(...(await clusterFindings(client, way)))
      const { rows } = await client.query<{ name: string }>(CONNECTABLE)
      return rows.map(({ name }) => name)
    },
  )
  for (const database of databases) {
    await withSession({ cluster: old, database, setup: SETUP }, async (client) => {
      findings.push(...(await objectFindings(client, database, way)))
    })
  }
  return findings.toSorted((a, b) => RANK[a.severity] - RANK[b.severity])
}

const RANK = { error: 0, warning: 1, note: 2 } as const

const CONNECTABLE = `select datname as name from pg_database
  where datallowconn and datname <> 'template0' and datconnlimit <> -2 order by 1`
