import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'

/** What initdb must be told so that the new cluster can take the old one's databases. */
export interface Origin {
  readonly encoding: string
  readonly collate: string
  readonly ctype: string
  /** `c`, `i` or `b`: pg_database.datlocprovider. */
  readonly provider: string
  /** Of the providers ICU and builtin. */
  readonly locale: string | null
  readonly icuRules: string | null
  /** lc_messages and the like: initdb would take them from its environment. */
  readonly messages: Readonly<Record<'lc-messages' | 'lc-monetary' | 'lc-numeric' | 'lc-time', string>>
  readonly checksums: boolean
  /** Bytes of a WAL segment. */
  readonly segment: number
  readonly groupAccess: boolean
  /** The role that initdb made: pg_upgrade wants it to have the same name. */
  readonly installUser: string
  /** Bytes of all databases, and of what is in the data directory, not in tablespaces elsewhere. */
  readonly bytes: number
  readonly ownBytes: number
}

/** Asks a running cluster. @throws {Fail} `server-failed`, and what connecting throws */
export async function originOf(cluster: Cluster): Promise<Origin> {
  return withSession(
    { cluster, database: 'postgres', setup: 'set search_path to pg_catalog' },
    async (client) => {
      const { rows } = await client.query<{ origin: Origin }>(query(cluster.major))
      return rows[0]!.origin
    },
  )
}

// template0 is as initdb made it, whatever became of the other databases. Its provider came with 15, rules with 16,
// and one column for the locale of every provider with 17.
function query(major: number): string {
  const provider = major >= 15 ? 'd.datlocprovider' : `'c'`
  const locale = major >= 17 ? 'd.datlocale' : major >= 15 ? 'd.daticulocale' : 'null'
  return `
    select json_build_object(
      'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
      'provider', ${provider}, 'locale', ${locale}, 'icuRules', ${major >= 16 ? 'd.daticurules' : 'null'},
      'messages', (select json_object_agg(replace(name, '_', '-'), reset_val) from pg_settings
        where name in ('lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time')),
      'checksums', current_setting('data_checksums') = 'on',
      'segment', (select setting::int from pg_settings where name = 'wal_segment_size'),
      'groupAccess', current_setting('data_directory_mode') = '0750',
      'installUser', (select rolname from pg_roles where oid = 10),
      'bytes', (select sum(pg_database_size(oid)) from pg_database),
      'ownBytes', (select sum(pg_tablespace_size(oid)) from pg_tablespace where spcname in ('pg_default', 'pg_global'))) as origin
    from pg_database d where d.datname = 'template0'`
}

/** initdb's options for a cluster of a major that is like the old one. Pure. */
export function initdbOptions(origin: Origin, major: number): string[] {
  const provider = { c: 'libc', i: 'icu', b: 'builtin' }[origin.provider] ?? 'libc'
  const locales = Object.entries(origin.messages).map(([name, value]) => `--${name}=${value}`)
  // From 18 on initdb turns checksums on by itself; before, it has no word for not doing so.
  const checksums = origin.checksums ? ['--data-checksums'] : major >= 18 ? ['--no-data-checksums'] : []
  return [
    `--encoding=${origin.encoding}`,
    `--lc-collate=${origin.collate}`,
    `--lc-ctype=${origin.ctype}`,
    ...locales,
    ...(major >= 15 ? [`--locale-provider=${provider}`] : []),
    ...(provider === 'icu' ? [`--icu-locale=${origin.locale ?? ''}`] : []),
    ...(provider === 'builtin' ? [`--builtin-locale=${origin.locale ?? ''}`] : []),
    ...(origin.icuRules === null ? [] : [`--icu-rules=${origin.icuRules}`]),
    `--wal-segsize=${origin.segment / 1024 ** 2}`,
    ...checksums,
    ...(origin.groupAccess ? ['--allow-group-access'] : []),
  ]
}
