import type { Cluster } from '../../cluster/cluster.ts'
import { ident, show } from '../../cluster/sql.ts'
import { Fail } from '../../core/fail.ts'
import { withClient } from '../session.ts'
import type { RecoverFinding } from './findings.ts'

interface Sorted {
  /** As a statement names it. */
  readonly name: string
  /** Version of the library that it was sorted by, and of the one that is here. */
  readonly was: string
  readonly is: string
}

interface Database extends Sorted {
  /** Whether its own version is another one here. */
  readonly isOther: boolean
}

/**
 * Databases whose texts were sorted by another version of libc or ICU than the one here: their indexes
 * give wrong answers without an error, until they are built anew. The server compares only what it
 * noted itself, and warns those who connect.
 * @returns a finding for each of them, and for each of which that could not be found out
 */
export async function collationFindings(cluster: Cluster): Promise<RecoverFinding[]> {
  const databases = await known(() =>
    withClient(cluster, 'postgres', async (client) => {
      const { rows } = await client.query<Database>(DATABASES)
      return rows
    }),
  )
  if (!Array.isArray(databases)) return [databases]
  const findings: RecoverFinding[] = []
  for (const database of databases) {
    const collations = await known(() => otherCollations(cluster, database.name))
    if (!Array.isArray(collations)) findings.push(collations)
    const others = Array.isArray(collations) ? collations : []
    if (database.isOther || others.length > 0) findings.push(findingOf(database, others))
  }
  return findings
}

async function otherCollations(cluster: Cluster, database: string): Promise<Sorted[]> {
  return withClient(cluster, database, async (client) => {
    const { rows } = await client.query<Sorted & { schema: string }>(COLLATIONS)
    return rows.map((row) => ({ ...row, name: `${ident(row.schema)}.${ident(row.name)}` }))
  })
}

/** The cluster is restored: that something is not known makes it no failure, and hides nothing else. */
async function known<T>(look: () => Promise<T[]>): Promise<T[] | RecoverFinding> {
  try {
    return await look()
  } catch (error) {
    if (!(error instanceof Fail)) throw error
    return {
      level: 'warning',
      text: `whether texts are sorted as before could not be seen: ${error.message}`,
    }
  }
}

function findingOf(database: Database, collations: readonly Sorted[]): RecoverFinding {
  const { name, was, is } = database
  const others = collations.map((each) => `${each.name}: ${each.was}, here ${each.is}`)
  const how = database.isOther ? [`its own: ${was}, here ${is}`, ...others] : others
  const refresh = collations.map((each) => `ALTER COLLATION ${each.name} REFRESH VERSION;`)
  if (database.isOther) refresh.unshift(`ALTER DATABASE ${ident(name)} REFRESH COLLATION VERSION;`)
  return {
    level: 'warning',
    text: `texts in database ${show(name)} were sorted by other versions of the libraries (${how.join('; ')}): its indexes may give wrong answers`,
    hint: `In that database: REINDEX DATABASE ${ident(name)}; ${refresh.join(' ')}`,
  }
}

const DATABASES = `
  select datname as name, datcollversion as was, pg_database_collation_actual_version(oid) as is,
    coalesce(datcollversion <> pg_database_collation_actual_version(oid), false) as "isOther"
  from pg_database where datallowconn order by datname`

/** Collations that something uses; those that nothing does are wrong in nothing. */
const COLLATIONS = `
  with used as materialized (
    select c.oid, n.nspname, c.collname, c.collversion from pg_collation c
    join pg_namespace n on n.oid = c.collnamespace
    where c.collversion is not null and exists (
      select from pg_depend d where d.refclassid = 'pg_collation'::regclass and d.refobjid = c.oid))
  select nspname as schema, collname as name, collversion as was, pg_collation_actual_version(oid) as is
  from used where collversion <> pg_collation_actual_version(oid) order by 1, 2`
