import type { Client } from 'pg'
import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import type { ManifestDatabase } from './manifest.ts'

/** What a backup says of a whole cluster. */
export interface ClusterSurvey {
  /** `15.18 (Debian 15.18-0+deb12u1)` */
  readonly version: string
  readonly major: number
  readonly systemIdentifier: string
  readonly timeline: number
  /** By the server's clock. */
  readonly now: string
  /** Whether it may read the passwords of roles. */
  readonly isSuperuser: boolean
  readonly databases: readonly DatabaseLine[]
}

/** One database, from outside. */
export interface DatabaseLine {
  readonly name: string
  /** Bytes on disk. */
  readonly size: number
  readonly allowsConnections: boolean
}

/** What a backup says of one database, and what a restore compares. */
export type DatabaseSurvey = Omit<ManifestDatabase, 'file'>

/** What else makes a database what it was. It may hold secrets (settings), so it is data, not manifest. */
export interface DatabaseProperties {
  readonly connectionLimit: number
  readonly isTemplate: boolean
  readonly comment: string | null
  /** False when somebody dropped it: a new database has one. */
  readonly hasPublicSchema: boolean
  /** Null is what the server gives a new database. */
  readonly privileges: readonly Privilege[] | null
  /** Entries `name=value` as the server stores them; role null is everybody. */
  readonly settings: readonly { readonly role: string | null; readonly entries: readonly string[] }[]
}

/** One privilege on a database, as aclexplode() gives it. */
export interface Privilege {
  /** Null is PUBLIC. */
  readonly grantee: string | null
  readonly grantor: string
  readonly privilege: string
  readonly grantable: boolean
}

/** Looks at a cluster through a connection to any of its databases. */
export async function surveyCluster(client: Client): Promise<ClusterSurvey> {
  const { rows } = await client.query<{ survey: ClusterSurvey }>(`
    select json_build_object(
      'version', current_setting('server_version'),
      'major', current_setting('server_version_num')::int / 10000,
      'systemIdentifier', (select system_identifier::text from pg_control_system()),
      -- After a promotion the control file has the old one until the next checkpoint.
      'timeline', case when pg_is_in_recovery() then (select timeline_id from pg_control_checkpoint())
        else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end,
      'now', to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'isSuperuser', (select rolsuper from pg_roles where rolname = current_user),
      'databases', (
        select json_agg(json_build_object(
          'name', datname,
          -- Where this role may not look, the size is not known.
          'size', case when has_database_privilege(oid, 'connect') then pg_database_size(oid) else 0 end,
          'allowsConnections', datallowconn and datconnlimit <> -2) order by datname)
        from pg_database)) as survey`)
  return rows[0]!.survey
}

/** Time by the server's clock, to the millisecond, in UTC. */
export async function serverTime(client: Client): Promise<string> {
  const { rows } = await client.query<{ now: string }>(
    `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as now`,
  )
  return rows[0]!.now
}

/**
 * The databases that a job dumps, biggest first, so that no long one is left for the end. Pure.
 * @param names those of the job; undefined is all that can be connected to
 * @param without scratch databases of restores, which come and go
 * @throws {Fail} `backup-failed` when one is not there or takes no connections
 */
export function databasesOf(
  survey: ClusterSurvey,
  names: readonly string[] | undefined,
  without: ReadonlySet<string>,
): DatabaseLine[] {
  const open = survey.databases.filter(
    ({ name, allowsConnections }) => allowsConnections && !without.has(name),
  )
  for (const name of names ?? []) {
    if (open.some((database) => database.name === name)) continue
    const isThere = survey.databases.some((database) => database.name === name)
    const near = didYouMean(
      name,
      open.map((database) => database.name),
    )
    throw new Fail(
      'backup-failed',
      `cannot dump database "${name}": ${isThere ? 'it allows no connections' : `there is none of that name${near}`}`,
      {
        hint: 'Correct the databases of the job in the host file.',
      },
    )
  }
  return open
    .filter(({ name }) => names === undefined || names.includes(name))
    .toSorted((a, b) => b.size - a.size || (a.name < b.name ? -1 : 1))
}

/** Looks at the database that a client is connected to, as the snapshot of its transaction has it. */
export async function surveyDatabase(client: Client): Promise<DatabaseSurvey> {
  // to_jsonb(d) has whatever columns this major has: datlocprovider, datcollversion from 15,
  // daticulocale in 15 and 16, daticurules from 16, datlocale from 17.
  const { rows } = await client.query<{ survey: Omit<DatabaseSurvey, 'objects'> }>(`
    select json_build_object(
      'name', d.datname,
      'size', pg_database_size(d.oid),
      'owner', pg_get_userbyid(d.datdba),
      'tablespace', t.spcname,
      'encoding', pg_encoding_to_char(d.encoding),
      'localeProvider', case to_jsonb(d) ->> 'datlocprovider' when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
      'collate', d.datcollate,
      'ctype', d.datctype,
      'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
      'icuRules', to_jsonb(d) ->> 'daticurules',
      'collationVersion', to_jsonb(d) ->> 'datcollversion',
      'extensions', coalesce((
        select json_agg(json_build_object('name', extname, 'version', extversion) order by extname) from pg_extension), '[]'),
      'roles', (${ROLES}),
      'tablespaces', (
        select json_agg(distinct s.spcname) from pg_tablespace s
        where s.oid = d.dattablespace or s.oid in (select reltablespace from pg_class where relisshared is false))
    ) as survey
    from pg_database d join pg_tablespace t on t.oid = d.dattablespace
    where d.datname = current_database()`)
  return { ...rows[0]!.survey, objects: await countObjects(client) }
}

// Shared dependencies name every role that something in the database needs, but for the role that
// initdb made, which is pinned (src/backend/catalog/pg_shdepend.c): that one is looked for by hand.
const ROLES = `
  select coalesce(json_agg(rolname order by rolname), '[]') from pg_roles r
  where r.oid = d.datdba
    or exists (
      select from pg_shdepend s
      where s.refclassid = 'pg_authid'::regclass and s.refobjid = r.oid
        and (s.dbid = d.oid or (s.dbid = 0 and s.classid = 'pg_database'::regclass and s.objid = d.oid)))
    or exists (select from pg_db_role_setting where setdatabase = d.oid and setrole = r.oid)
    or (r.oid = 10 and exists (
      select from (
        select 'pg_class'::regclass as class, oid, relowner as owner from pg_class
        union all select 'pg_namespace'::regclass, oid, nspowner from pg_namespace
        union all select 'pg_proc'::regclass, oid, proowner from pg_proc
        union all select 'pg_type'::regclass, oid, typowner from pg_type
      ) o
      where o.owner = 10 and o.oid >= 16384 and not exists (
        select from pg_depend where classid = o.class and objid = o.oid and deptype = 'e')))`

/**
 * Counts what a dump brings back, by kind. What it leaves out is not counted: members of extensions,
 * invalid indexes, temporary tables, and what a server makes by itself and another major may not.
 */
export async function countObjects(client: Client): Promise<Record<string, number>> {
  const { rows } = await client.query<{ kind: string; count: number }>(`
    with member as (select classid, objid from pg_depend where deptype = 'e'),
    own as (
      select c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and not exists (select from member where classid = 'pg_class'::regclass and objid = c.oid))
    select kind, count(*)::int as count from (
      select case relkind when 'r' then 'tables' when 'p' then 'tables' when 'v' then 'views'
        when 'm' then 'materialized views' when 'S' then 'sequences' when 'f' then 'foreign tables'
        when 'c' then 'composite types' end as kind
      from own where relkind not in ('i', 'I')
      union all
      select 'indexes' from own join pg_index i on i.indexrelid = own.oid
      join own as parent on parent.oid = i.indrelid
      where (i.indisvalid or parent.relkind = 'p') and i.indisready
      union all
      select 'functions' from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and not exists (
          select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype in ('e', 'i'))
      union all
      select 'triggers' from pg_trigger t join own on own.oid = t.tgrelid
      where not t.tgisinternal and t.tgparentid = 0
      union all
      select 'large objects' from pg_largeobject_metadata
    ) o where kind is not null group by kind order by kind`)
  return Object.fromEntries(rows.map(({ kind, count }) => [kind, count]))
}

/** Looks at what makes the connected database what it is besides its content. */
export async function surveyProperties(client: Client): Promise<DatabaseProperties> {
  const { rows } = await client.query<{ properties: DatabaseProperties }>(`
    select json_build_object(
      'connectionLimit', d.datconnlimit,
      'isTemplate', d.datistemplate,
      'comment', shobj_description(d.oid, 'pg_database'),
      'hasPublicSchema', exists (select from pg_namespace where nspname = 'public'),
      'privileges', case when d.datacl is not null then (
        select coalesce(json_agg(json_build_object(
          'grantee', case when a.grantee <> 0 then pg_get_userbyid(a.grantee) end,
          'grantor', pg_get_userbyid(a.grantor),
          'privilege', a.privilege_type,
          'grantable', a.is_grantable)), '[]')
        from aclexplode(d.datacl) a) end,
      'settings', (
        select coalesce(json_agg(json_build_object(
          'role', case when s.setrole <> 0 then pg_get_userbyid(s.setrole) end,
          'entries', s.setconfig) order by s.setrole), '[]')
        from pg_db_role_setting s where s.setdatabase = d.oid)
    ) as properties
    from pg_database d where d.datname = current_database()`)
  return rows[0]!.properties
}
