import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'

/** What a role or a database sets for itself must not end or bend what a backup does. */
const SETUP = `
  set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
  set search_path = pg_catalog; set default_transaction_read_only = off`

/**
 * What a body does with a connection of its own. Ctrl-C cancels the statement under way.
 * @throws {Fail} `server-failed` for whatever the server refuses, besides what connecting throws
 */
export function withClient<T>(
  cluster: Cluster,
  database: string,
  body: (client: Client) => Promise<T>,
): Promise<T> {
  return withSession({ cluster, database, setup: SETUP }, body)
}
