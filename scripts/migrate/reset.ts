import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import { ident, literal, show } from '../cluster/sql.ts'
import { parseDuration } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import type { Migration } from './file.ts'
import { LEDGER } from './ledger.ts'

/** How far a database is set back: `1` no rows, `2` none of what migrations make, `3` no database and none of its roles. */
export type ResetLevel = '1' | '2' | '3'

/** What a reset does before what is missing then is made anew. */
export interface Reset {
  readonly database: string
  readonly level: ResetLevel
  /** False when an earlier run has dropped it already. */
  readonly isThere: boolean
  readonly steps: readonly ResetStep[]
  /** What stays, and why, for people. */
  readonly stays: readonly string[]
}

/** Statements in one transaction, or one that cannot be in any. */
export interface ResetStep {
  readonly database: string
  readonly texts: readonly string[]
  readonly isTransaction: boolean
}

/** What is set back, how far, and what its migrations are. */
export interface ResetScope extends Pick<Reset, 'database' | 'level'> {
  readonly migrations: readonly Migration[]
}

/**
 * What a reset of a database would do; nothing is written. All tables are named: a TRUNCATE or a DROP that reaches
 * others by CASCADE only leaves those that have lost their foreign key, with rows that keep the same files from being
 * read again.
 * @throws {Fail} what a connection throws
 */
export async function planReset(
  cluster: Cluster,
  host: Host,
  { database, level, migrations }: ResetScope,
): Promise<Reset> {
  const isThere = await hasDatabase(cluster, database)
  const base = { database, level, isThere, stays: [] }
  if (level === '3') return { ...base, ...(await dropping(cluster, host, database)) }
  if (!isThere) return { ...base, steps: [] }
  const { schemas, migrations: spec } = host.databases[database]!
  const { mirror_table: mirror, lock_timeout: timeout } = spec!
  const own = await inDatabase(cluster, database, (client) =>
    level === '1'
      ? emptying(client, mirror)
      : unmaking(client, { mirror, migrations, schemas: ['public', ...Object.keys(schemas)] }),
  )
  if (own.length === 0) return { ...base, steps: [] }
  const patience = `set local lock_timeout = ${Math.round(parseDuration(timeout)! * 1000)}`
  return { ...base, steps: [{ database, texts: [patience, ...own], isTransaction: true }] }
}

/**
 * Runs a reset. Ended at any moment, the next one goes on.
 * @throws {Fail} `server-failed`, what a connection throws
 */
export async function runReset(cluster: Cluster, { steps }: Reset): Promise<void> {
  for (const { database, texts, isTransaction } of steps) {
    await inDatabase(cluster, database, async (client) => {
      if (isTransaction) await client.query('begin')
      for (const text of texts) await client.query(text)
      if (isTransaction) await client.query('commit')
    })
  }
}

/** What a reset would do, for people. Pure. */
export function showReset({ steps, stays, database, isThere }: Reset): string {
  const lines = steps.flatMap((step) => step.texts.map((text) => `  ${show(step.database)}: ${text};`))
  const gone = isThere ? [] : [`database ${show(database)} is not there`]
  return [...gone, ...lines, ...stays].join('\n')
}

function inDatabase<T>(cluster: Cluster, database: string, body: (client: Client) => Promise<T>): Promise<T> {
  return withSession(
    { cluster, database, setup: 'set statement_timeout = 0; set search_path = pg_catalog' },
    body,
  )
}

async function hasDatabase(cluster: Cluster, database: string): Promise<boolean> {
  const { rowCount } = await inDatabase(cluster, 'postgres', (client) =>
    client.query('select from pg_database where datname = $1', [database]),
  )
  return rowCount === 1
}

const OWN_SCHEMA = `n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'howdah')`
const NO_EXTENSION = (catalog: string, oid: string) =>
  `not exists (select from pg_depend d where d.classid = '${catalog}'::regclass and d.objid = ${oid} and d.deptype = 'e')`

async function emptying(client: Client, mirror: string | undefined): Promise<string[]> {
  const tables = await names(
    client,
    `select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relispartition and ${OWN_SCHEMA} and ${NO_EXTENSION('pg_class', 'c.oid')} order by 1`,
    mirror,
  )
  return tables.length === 0 ? [] : [`truncate ${tables.join(', ')} restart identity`]
}

interface Unmade {
  readonly mirror: string | undefined
  readonly migrations: readonly Migration[]
  /** Those that provisioning makes, which stay. */
  readonly schemas: readonly string[]
}

/** Functions and types after the tables that use them; by CASCADE, for what is left of a reset by hand may be in any order. */
async function unmaking(client: Client, { mirror, migrations, schemas }: Unmade): Promise<string[]> {
  const staying = [...schemas, ...(mirror === undefined ? [] : [mirrorSchema(mirror)])]
  const made = await names(
    client,
    `select format('drop schema if exists %I cascade', n.nspname) as name from pg_namespace n
      where ${OWN_SCHEMA} and n.nspname not in (${staying.map(literal).join(', ')}) and ${NO_EXTENSION('pg_namespace', 'n.oid')} order by 1`,
  )
  const others = await names(client, OTHERS)
  const drops = await names(
    client,
    `select format('drop %s if exists %I.%I cascade', case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
              when 'S' then 'sequence' when 'f' then 'foreign table' else 'table' end, n.nspname, c.relname) as name,
            format('%I.%I', n.nspname, c.relname) as bare
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and not c.relispartition and ${OWN_SCHEMA} and ${NO_EXTENSION('pg_class', 'c.oid')}
      order by c.relkind in ('v', 'm') desc, c.relkind = 'S', 1`,
    mirror,
  )
  const routines = await names(
    client,
    `select format('drop routine if exists %s cascade', p.oid::regprocedure) as name
       from pg_proc p join pg_namespace n on n.oid = p.pronamespace where ${OWN_SCHEMA} and ${NO_EXTENSION('pg_proc', 'p.oid')} order by 1`,
  )
  const types = await names(
    client,
    `select format('drop type if exists %I.%I cascade', n.nspname, t.typname) as name
       from pg_type t join pg_namespace n on n.oid = t.typnamespace left join pg_class c on c.oid = t.typrelid
      where (t.typtype in ('e', 'd', 'r') or c.relkind = 'c') and ${OWN_SCHEMA} and ${NO_EXTENSION('pg_type', 't.oid')} order by 1`,
  )
  const ledger = await names(
    client,
    `select 'delete from ${LEDGER}' as name where to_regclass('${LEDGER}') is not null`,
  )
  const mirrored = mirror === undefined ? [] : await names(client, mirrorSql(mirror))
  return [
    ...drops,
    ...routines,
    ...types,
    ...others,
    ...made,
    ...ofNoSchema(migrations),
    ...ledger,
    ...mirrored,
  ]
}

/** What else can be in a schema; pg_identify_object() has the words by which each of them is dropped. */
const OTHERS = `
  select format('drop %s if exists %s cascade', o.type, o.identity) as name
    from (select 'pg_collation' as catalog, oid, collnamespace as nsp from pg_collation
          union all select 'pg_operator', oid, oprnamespace from pg_operator
          union all select 'pg_opclass', oid, opcnamespace from pg_opclass
          union all select 'pg_opfamily', oid, opfnamespace from pg_opfamily
          union all select 'pg_conversion', oid, connamespace from pg_conversion
          union all select 'pg_ts_config', oid, cfgnamespace from pg_ts_config
          union all select 'pg_ts_dict', oid, dictnamespace from pg_ts_dict
          union all select 'pg_ts_template', oid, tmplnamespace from pg_ts_template
          union all select 'pg_ts_parser', oid, prsnamespace from pg_ts_parser) x
    join pg_namespace n on n.oid = x.nsp
    cross join lateral pg_identify_object(x.catalog::regclass, x.oid, 0) o
   where ${OWN_SCHEMA}
     and not exists (select from pg_depend d where d.classid = x.catalog::regclass and d.objid = x.oid and d.deptype = 'e')
   order by 1`

const NO_SCHEMA =
  /^create\s+(extension|publication|event\s+trigger|server|foreign\s+data\s+wrapper)\s+(?:if\s+not\s+exists\s+)?("(?:[^"]|"")+"|[\w$]+)/i

/** What migrations make that is in no schema. Others may have made more of that kind: theirs stays. */
function ofNoSchema(migrations: readonly Migration[]): string[] {
  const found = migrations.flatMap(({ up }) => up.statements.map(({ text }) => NO_SCHEMA.exec(text)))
  const drops = found.flatMap((match) =>
    match ? [`drop ${match[1]!.toLowerCase().replaceAll(/\s+/g, ' ')} if exists ${match[2]} cascade`] : [],
  )
  return [...new Set(drops)]
}

function mirrorSchema(mirror: string): string {
  return mirror.includes('.') ? mirror.split('.')[0]! : 'public'
}

function mirrorSql(mirror: string): string {
  const name = qualified(mirror)
  return `select ${literal(`delete from ${name}`)} as name where to_regclass(${literal(name)}) is not null`
}

async function names(client: Client, sql: string, mirror?: string): Promise<string[]> {
  const { rows } = await client.query<{ name: string; bare?: string }>(sql)
  const [without] = mirror === undefined ? [] : await bareName(client, mirror)
  return rows.filter(({ name, bare }) => (bare ?? name) !== without).map(({ name }) => name)
}

/** As the queries above write it. */
async function bareName(client: Client, mirror: string): Promise<string[]> {
  const parts = qualified(mirror)
  const { rows } = await client.query<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.oid = to_regclass(${literal(parts)})`,
  )
  return rows.map(({ name }) => name)
}

/** A bare name is of schema `public`, where it is made. */
function qualified(table: string): string {
  return (table.includes('.') ? table : `public.${table}`).split('.').map(ident).join('.')
}

async function dropping(
  cluster: Cluster,
  { roles }: Host,
  database: string,
): Promise<Pick<Reset, 'steps' | 'stays'>> {
  const wanted = Object.entries(roles).flatMap(([name, { state, superuser }]) =>
    state === 'present' && !superuser && name !== cluster.superuser ? [name] : [],
  )
  const ties = await inDatabase(cluster, 'postgres', (client) => tiesOf(client, wanted, database))
  const going = ties.filter(({ elsewhere }) => elsewhere.length === 0).map(({ name }) => name)
  const stays = ties
    .filter(({ elsewhere }) => elsewhere.length > 0)
    .map(({ name, elsewhere }) => `role ${show(name)} stays: it has something in ${elsewhere.join(', ')}`)
  const texts = [
    // It ends the sessions of others, and lets nobody in meanwhile (dropdb() in src/backend/commands/dbcommands.c).
    `drop database if exists ${ident(database)} with (force)`,
    ...going.map((name) => `drop role if exists ${ident(name)}`),
  ]
  return {
    stays,
    steps: texts.map((text) => ({ database: 'postgres', texts: [text], isTransaction: false })),
  }
}

interface Tied {
  readonly name: string
  readonly elsewhere: readonly string[]
}

/** Those of the roles that are there, and where else than in the database they own or may do something. */
async function tiesOf(client: Client, roles: readonly string[], database: string): Promise<Tied[]> {
  const { rows } = await client.query<Tied>(
    `select r.rolname::text as name,
            array(select distinct coalesce('database ' || quote_ident(b.datname), d.classid::regclass::text)
                    from pg_shdepend d left join pg_database b on b.oid = d.dbid
                   where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid
                     and b.datname is distinct from $2
                     and not (d.dbid = 0 and d.classid = 'pg_database'::regclass
                              and d.objid = (select oid from pg_database where datname = $2))
                   order by 1) as elsewhere
       from pg_roles r where r.rolname = any($1) order by 1`,
    [roles, database],
  )
  return rows
}
