import type { Client } from 'pg'
import type { Cluster } from '../../cluster/cluster.ts'
import { messageOf } from '../../core/fail.ts'
import { log } from '../../core/log.ts'
import type { Physical } from '../manifest.ts'
import { withClient } from '../session.ts'

/** What a base backup says of a cluster before its first byte is read. */
export interface PhysicalSurvey extends Pick<
  Physical,
  'walSegmentSize' | 'blockSize' | 'dataChecksums' | 'build' | 'isFromStandby' | 'databases' | 'settings'
> {
  /** Names and places of the tablespaces, by oid. */
  readonly tablespaces: readonly { readonly oid: string; readonly name: string; readonly location: string }[]
  /** Bytes of all databases. */
  readonly dataSize: number
}

// A standby, which a recovery is, must not have less of these than its primary had
// (the manual's "Hot Standby", "Administrator's Overview"); the others decide whether a server starts at all.
const SETTINGS = [
  'max_connections',
  'max_worker_processes',
  'max_wal_senders',
  'max_prepared_transactions',
  'max_locks_per_transaction',
  'shared_preload_libraries',
  'wal_level',
  'full_page_writes',
  'summarize_wal',
]

// What pg_control is compared with when a server starts (src/backend/access/transam/xlog.c, ReadControlFile).
const BUILD = [
  'block_size',
  'wal_block_size',
  'segment_size',
  'max_identifier_length',
  'max_index_keys',
  'integer_datetimes',
]

/** Looks at a whole cluster. */
export async function surveyPhysical(cluster: Cluster): Promise<PhysicalSurvey> {
  const survey = await withClient(cluster, 'postgres', queryCluster)
  const databases: Physical['databases'] = []
  for (const { allowsConnections, ...database } of survey.databases) {
    const extensions = allowsConnections
      ? await withClient(cluster, database.name, queryExtensions).catch((error: unknown) => {
          // Dropped meanwhile, or full: the backup has its files all the same.
          log('warning', `backup: the extensions of "${database.name}" are not noted: ${messageOf(error)}`)
          return []
        })
      : []
    databases.push({ ...database, extensions })
  }
  return { ...survey, databases }
}

type Row = Omit<PhysicalSurvey, 'databases'> & {
  readonly databases: readonly (Omit<Physical['databases'][number], 'extensions'> & {
    readonly allowsConnections: boolean
  })[]
}

async function queryCluster(client: Client): Promise<Row> {
  const { rows } = await client.query<{ survey: Row }>(
    `select json_build_object(
      'walSegmentSize', (select bytes_per_wal_segment from pg_control_init()),
      'blockSize', current_setting('block_size')::int,
      'dataChecksums', current_setting('data_checksums') = 'on',
      'build', (select json_object_agg(name, setting order by name) from (
          select name, setting from pg_settings where name = any($2)
          union all select 'machine', substring(version() from ' on ([^ ,-]+)')) built where setting is not null),
      'isFromStandby', pg_is_in_recovery(),
      'dataSize', (select sum(pg_database_size(oid)) from pg_database),
      'tablespaces', (select coalesce(json_agg(json_build_object(
          'oid', oid::text, 'name', spcname, 'location', pg_tablespace_location(oid)) order by oid), '[]')
        from pg_tablespace where spcname not in ('pg_default', 'pg_global')),
      'databases', (select json_agg(json_build_object(
          'name', datname, 'oid', d.oid::text, 'size', pg_database_size(d.oid), 'allowsConnections', datallowconn,
          'localeProvider', case to_jsonb(d) ->> 'datlocprovider' when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
          'collate', datcollate, 'ctype', datctype,
          'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
          'collationVersion', to_jsonb(d) ->> 'datcollversion') order by datname)
        from pg_database d),
      'settings', (select json_object_agg(name, setting order by name) from pg_settings where name = any($1))
    ) as survey`,
    [SETTINGS, BUILD],
  )
  return rows[0]!.survey
}

async function queryExtensions(client: Client): Promise<{ name: string; version: string }[]> {
  const { rows } = await client.query<{ name: string; version: string }>(
    'select extname::text as name, extversion as version from pg_extension order by 1',
  )
  return rows
}
