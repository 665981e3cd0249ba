import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'

/** Databases that an upgrade looks into: those that let somebody connect, but template0. */
export const CONNECTABLE = `select datname as name from pg_database where datallowconn and datname <> 'template0' order by 1`

/** Names of the databases of {@link CONNECTABLE}. @throws what a connection throws */
export async function databasesOf(cluster: Cluster): Promise<string[]> {
  const setup = 'set search_path to pg_catalog; set statement_timeout to 0'
  return withSession({ cluster, database: 'postgres', setup }, async (client) => {
    const { rows } = await client.query<{ name: string }>(CONNECTABLE)
    return rows.map(({ name }) => name)
  })
}
