import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import { mapAtOnce } from '../core/at-once.ts'
import { CONNECTABLE } from './databases.ts'
import { globalQueries } from './manifest-globals.ts'
import { objectQueries } from './manifest-objects.ts'
import { rowEntries } from './manifest-rows.ts'

/** How far a manifest looks: at definitions, at numbers of rows as well, or at what the rows hold. */
export type Verify = 'catalog' | 'counts' | 'content'

/** One thing of a cluster, named as SQL names it, and what there is to say of it. */
export interface Entry {
  /** Empty for what belongs to the whole cluster. */
  readonly database: string
  readonly kind: string
  readonly name: string
  readonly value: string
}

/** What a cluster holds, as plain data that goes into a file and comes back equal. */
export interface Manifest {
  readonly major: number
  readonly verify: Verify
  /** Sorted by database, kind and name. */
  readonly entries: readonly Entry[]
  /** Versions of collations and extensions: an upgrade is to change them, and needs to know what they were. */
  readonly versions: readonly Entry[]
}

/** How a manifest is taken. */
export interface ManifestOptions {
  readonly verify: Verify
  /** Databases at once; default: one after another. */
  readonly jobs?: number
}

/**
 * Takes down what a running cluster holds: what belongs to all of it, and each database that lets somebody
 * connect, but template0. Each database is seen at one moment; that nobody writes is up to the caller. No
 * password is in it.
 * @throws {Fail} `server-unreachable`, `server-denied`, `server-failed`
 */
export async function takeManifest(
  cluster: Cluster,
  { verify, jobs = 1 }: ManifestOptions,
): Promise<Manifest> {
  const entries: Entry[] = []
  const versions: Entry[] = []
  const databases = await withSession({ cluster, database: 'postgres', setup: SETUP }, async (client) => {
    const major = await majorOf(client)
    for (const text of globalQueries(major)) entries.push(...(await ask(client, '', text)))
    if (major >= 15) versions.push(...(await ask(client, '', DATABASE_VERSIONS)))
    const { rows } = await client.query<{ name: string }>(CONNECTABLE)
    return { major, names: rows.map(({ name }) => name) }
  })
  await mapAtOnce(databases.names, jobs, async (database) => {
    await withSession({ cluster, database, setup: SETUP }, async (client) => {
      for (const text of objectQueries(databases.major)) entries.push(...(await ask(client, database, text)))
      versions.push(...(await ask(client, database, VERSIONS)))
      if (verify !== 'catalog') {
        for (const entry of await rowEntries(client, verify)) entries.push({ database, ...entry })
      }
    })
  })
  return { major: databases.major, verify, entries: entries.sort(byName), versions: versions.sort(byName) }
}

async function majorOf(client: Client): Promise<number> {
  const { rows } = await client.query<{ version: number }>(
    `select current_setting('server_version_num')::int as version`,
  )
  return Math.floor(rows[0]!.version / 10_000)
}

async function ask(client: Client, database: string, text: string): Promise<Entry[]> {
  const { rows } = await client.query<[string, string | null, string | null]>({ text, rowMode: 'array' })
  return rows.map(([kind, name, value]) => ({ database, kind, name: name ?? '', value: value ?? '' }))
}

function byName(a: Entry, b: Entry): number {
  return compare(a.database, b.database) || compare(a.kind, b.kind) || compare(a.name, b.name)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b)
}

// What a role or a database sets for itself must bend neither names nor the text of values. Names are
// qualified where they are not in the path.
const SETUP = `
  set search_path to pg_catalog; set datestyle to 'ISO, YMD'; set intervalstyle to postgres; set timezone to 'UTC';
  set extra_float_digits to 3; set bytea_output to hex; set quote_all_identifiers to off; set row_security to off;
  set xmloption to content; set lc_monetary to 'C'; set statement_timeout to 0; set lock_timeout to '60s';
  set idle_in_transaction_session_timeout to 0; begin isolation level repeatable read read only`

const DATABASE_VERSIONS = `
  select 'collation version', format('%I', datname), datcollversion from pg_database where datcollversion is not null`

const VERSIONS = `
  select 'extension version', format('%I', extname), extversion from pg_extension
  union all
  select 'collation version', format('%I.%I', n.nspname, c.collname), c.collversion
  from pg_collation c join pg_namespace n on n.oid = c.collnamespace where c.collversion is not null`
