import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import { ident, show } from '../cluster/sql.ts'
import { mapAtOnce } from '../core/at-once.ts'
import { Fail, messageOf } from '../core/fail.ts'
import type { Manifest } from './manifest.ts'

/** What was done about texts that are sorted by another version of libc or ICU now; names of indexes with their database. */
export interface Resorted {
  readonly verified: readonly string[]
  readonly rebuilt: readonly string[]
  /** Rows that are in the wrong partition now, or break a constraint, for people. */
  readonly broken: readonly string[]
}

/** Stands for the collation that a database has of its own. */
const DEFAULT = ''

const SETUP = 'set search_path to pg_catalog; set statement_timeout to 0; set client_min_messages to error'

/**
 * Verifies every index that was sorted by another version of a library than the one that is here, and builds
 * anew those that are wrong or that cannot be verified. Which version sorted them is what the old cluster said:
 * afterwards a catalog may name the new one although nothing was sorted again. Only then versions are noted as seen.
 * @param before manifest of the old cluster
 * @param names its databases, of which `jobs` are looked at at once
 * @throws {Fail} `verify-failed` when an index cannot be built, such as a unique one that has a text twice now
 */
export async function resort(
  cluster: Cluster,
  before: Manifest,
  { names, jobs }: { readonly names: readonly string[]; readonly jobs: number },
): Promise<Resorted> {
  const done = { verified: new Array<string>(), rebuilt: new Array<string>(), broken: new Array<string>() }
  await mapAtOnce(names, jobs, async (database) => {
    await withSession({ cluster, database, setup: SETUP }, async (client) => {
      const affected = await affectedCollations(client, cluster.major, versionsOf(before, database))
      if (affected.size === 0) return
      const here = (name: string) => `${name} in database ${show(database)}`
      await using verifier = await openVerifier(client)
      for (const { name, method } of await sortedIndexes(client, affected)) {
        const isRight = method === 'btree' && (await verifier.isRight(name))
        if (!isRight) await rebuild(client, name, here(name))
        done[isRight ? 'verified' : 'rebuilt'].push(here(name))
      }
      done.broken.push(...(await misplaced(client)).map(here))
      await refresh(client, cluster.major, database)
    })
  })
  return done
}

/** Recorded versions by name of the collation, as they were before. */
function versionsOf({ versions }: Manifest, database: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const entry of versions) {
    if (entry.kind !== 'collation version') continue
    if (entry.database === database) found.set(entry.name, entry.value)
    // As format('%I') writes it: in quotes only where it needs them.
    const isOwn = entry.name === database || entry.name === ident(database)
    if (entry.database === '' && isOwn) found.set(DEFAULT, entry.value)
  }
  return found
}

/** Collations whose library is another one than that of the record, or of which there is no record. */
async function affectedCollations(
  client: Client,
  major: number,
  recorded: ReadonlyMap<string, string>,
): Promise<Set<string>> {
  const { rows } = await client.query<{ name: string; version: string }>(actualVersions(major))
  return new Set(rows.filter(({ name, version }) => recorded.get(name) !== version).map(({ name }) => name))
}

// Before 15 a database had no version of its own: that of a collation with the same locale is it. Those of C have none.
function actualVersions(major: number): string {
  const own =
    major >= 15
      ? `select pg_database_collation_actual_version(oid) as version from pg_database where datname = current_database()`
      : `select pg_collation_actual_version(c.oid) as version from pg_collation c join pg_database d
         on d.datcollate = c.collcollate where d.datname = current_database() and c.collprovider = 'c' limit 1`
  return `
    select '${DEFAULT}' as name, version from (${own}) own where version is not null
    union all
    select format('%I.%I', n.nspname, c.collname), pg_collation_actual_version(c.oid)
    from pg_collation c join pg_namespace n on n.oid = c.collnamespace
    where pg_collation_actual_version(c.oid) is not null and exists (
      select from pg_depend d where d.refclassid = 'pg_collation'::regclass and d.refobjid = c.oid)`
}

interface SortedIndex {
  readonly name: string
  readonly method: string
  readonly collations: readonly string[]
}

// That a hash index needs nothing is true only of collations under which equal texts are equal bytes. The keys of a
// GIN index are in the order of their own type, which for trigrams is a number (pg_opclass.opckeytype).
async function sortedIndexes(client: Client, affected: ReadonlySet<string>): Promise<SortedIndex[]> {
  const { rows } = await client.query<SortedIndex>(`
    select i.indexrelid::regclass::text as name, m.amname as method, array(
      select distinct case k when 100 then '${DEFAULT}' else format('%I.%I', n.nspname, o.collname) end
      from unnest(i.indcollation, i.indclass) u (k, class) join pg_collation o on o.oid = k
      join pg_namespace n on n.oid = o.collnamespace join pg_opclass p on p.oid = class
      left join pg_type t on t.oid = p.opckeytype
      where (m.amname <> 'hash' or not o.collisdeterministic)
        and (m.amname <> 'gin' or t.oid is null or t.typtype = 'p' or t.typcollation <> 0)) as collations
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
    where c.relkind = 'i' and i.indisvalid and 0 <> any (i.indcollation) order by 1`)
  return rows.filter(({ collations }) => collations.some((name) => affected.has(name)))
}

interface Verifier extends AsyncDisposable {
  /** Whether the entries of a btree are in order; false where that cannot be seen. */
  isRight(index: string): Promise<boolean>
}

const SCHEMA = 'howdah_amcheck'

/** amcheck, in a schema that goes with it unless the database has it already. */
async function openVerifier(client: Client): Promise<Verifier> {
  const { rows } = await client.query<{ schema: string | null; isThere: boolean }>(
    `select (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'amcheck') as schema,
      exists (select from pg_available_extensions where name = 'amcheck') as "isThere"`,
  )
  const { schema, isThere } = rows[0]!
  if (schema === null && isThere) {
    await client.query(`create schema ${SCHEMA}`)
    await client.query(`create extension amcheck schema ${SCHEMA}`)
  }
  return {
    async isRight(index) {
      if (schema === null && !isThere) return false
      try {
        await client.query(`select ${ident(schema ?? SCHEMA)}.bt_index_check($1::regclass, false)`, [index])
        return true
      } catch {
        return false
      }
    },
    async [Symbol.asyncDispose]() {
      if (schema === null && isThere) await client.query(`drop extension amcheck; drop schema ${SCHEMA}`)
    },
  }
}

async function rebuild(client: Client, index: string, what: string): Promise<void> {
  try {
    await client.query(`reindex index ${index}`)
  } catch (cause) {
    const { detail } = cause as { detail?: string }
    throw new Fail(
      'verify-failed',
      `the index ${what} cannot be built in the order of this system: ${messageOf(cause)}`,
      {
        hint: detail === undefined ? undefined : `${detail} Remove one of the rows in the old cluster.`,
        cause,
      },
    )
  }
}

/** Rows that are not where their text belongs by the order of this system: partitions, and constraints that compare. */
async function misplaced(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ name: string; what: string; condition: string }>(`
    select c.oid::regclass::text as name, 'are in the wrong partition' as what, pg_get_partition_constraintdef(c.oid) as condition
    from pg_class c where c.relispartition and c.relkind = 'r' and exists (
      select from pg_partition_ancestors(c.oid) a join pg_partitioned_table p on p.partrelid = a.relid
      where p.partstrat = 'r' and 0 <> any (p.partcollation))
    union all
    select c.conrelid::regclass::text, format('break the constraint %I', c.conname), pg_get_expr(c.conbin, c.conrelid)
    from pg_constraint c where c.contype = 'c' and c.convalidated and c.conrelid <> 0
      and pg_get_expr(c.conbin, c.conrelid) ~ '[<>]' and exists (
        select from pg_attribute a where a.attrelid = c.conrelid and a.attnum = any (c.conkey) and a.attcollation <> 0)`)
  const found: string[] = []
  for (const { name, what, condition } of rows) {
    const { rows: counted } = await client.query<{ count: string }>(
      `select count(*) from only ${name} where not (${condition})`,
    )
    if (counted[0]!.count !== '0') found.push(`${counted[0]!.count} rows of ${name} ${what}`)
  }
  return found
}

async function refresh(client: Client, major: number, database: string): Promise<void> {
  if (major >= 15) await client.query(`alter database ${ident(database)} refresh collation version`)
  const { rows } = await client.query<{ name: string }>(`
    select format('%I.%I', n.nspname, c.collname) as name from pg_collation c join pg_namespace n on n.oid = c.collnamespace
    where c.collversion <> pg_collation_actual_version(c.oid)`)
  for (const { name } of rows) await client.query(`alter collation ${name} refresh version`)
}
