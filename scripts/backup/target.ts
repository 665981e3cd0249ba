import { statfs } from 'node:fs/promises'
import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import type { Found } from './catalog.ts'
import {
  namesOf,
  type RestoreFinding,
  type RestoreRequest,
  targetFindings,
  type TargetFacts,
} from './restore-plan.ts'
import { withClient } from './session.ts'

interface Row {
  readonly databases: { name: string; sessions: number }[]
  readonly roles: string[]
  readonly tablespaces: { name: string; location: string }[]
  readonly extensions: { name: string; versions: string[] }[]
  readonly lockSlots: number
  readonly prepared: string[]
  readonly slots: string[]
}

/** Looks whether the name that a database is to get is free, before there is anything to restore. */
export async function nameFindings(cluster: Cluster, request: RestoreRequest): Promise<RestoreFinding[]> {
  const row = await withClient(cluster, 'postgres', queryTarget)
  const facts = { prepared: new Set(row.prepared), slots: new Set(row.slots) }
  return targetFindings(request, namesOf(request, row, { now: new Date() }), facts)
}

/** Looks at the cluster that a database is to be restored into, and at the files of its backup. */
export async function targetFacts(
  cluster: Cluster,
  source: Found,
  request: RestoreRequest,
): Promise<TargetFacts> {
  const row = await withClient(cluster, 'postgres', queryTarget)
  const entry = source.manifest.databases.find(({ name }) => name === request.database)!
  const location = row.tablespaces.find(({ name }) => name === entry.tablespace)?.location
  return {
    label: cluster.label,
    major: cluster.major,
    databases: row.databases,
    roles: new Set(row.roles),
    tablespaces: new Set(row.tablespaces.map(({ name }) => name)),
    extensions: new Map(row.extensions.map(({ name, versions }) => [name, versions])),
    lockSlots: row.lockSlots,
    prepared: new Set(row.prepared),
    slots: new Set(row.slots),
    freeBytes: await freeBytes(location === '' || location === undefined ? cluster.dataDir : location),
    stored: await storedSizes(source),
  }
}

async function queryTarget(client: Client): Promise<Row> {
  // Half of all locks are left to everybody else. Sizes: see max_locks_per_transaction in the manual.
  const { rows } = await client.query<{ facts: Row }>(`
    select json_build_object(
      'databases', (select json_agg(json_build_object('name', d.datname, 'sessions', (
        select count(*) from pg_stat_activity a where a.datid = d.oid))) from pg_database d),
      'roles', (select json_agg(rolname) from pg_roles),
      'tablespaces', (select json_agg(json_build_object('name', spcname, 'location', pg_tablespace_location(oid))) from pg_tablespace),
      'extensions', (select json_agg(json_build_object('name', name, 'versions', versions)) from (
        select name, json_agg(version) as versions from pg_available_extension_versions group by name) v),
      'lockSlots', current_setting('max_locks_per_transaction')::int
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) / 2,
      'prepared', (select coalesce(json_agg(distinct database), '[]') from pg_prepared_xacts),
      'slots', (select coalesce(json_agg(distinct database), '[]') from pg_replication_slots where database is not null)
    ) as facts`)
  return rows[0]!.facts
}

async function freeBytes(folder: string): Promise<number | undefined> {
  if (folder === '') return undefined
  return statfs(folder).then(
    ({ bavail, bsize }) => bavail * bsize,
    () => undefined, // not ours to look at: the server finds out
  )
}

async function storedSizes({ store, manifest }: Found): Promise<Map<string, number>> {
  const prefix = `${manifest.cluster}/backup/${manifest.label}/`
  const sizes = new Map<string, number>()
  for await (const { key, size } of store.list(prefix)) sizes.set(key.slice(prefix.length), size)
  return sizes
}
