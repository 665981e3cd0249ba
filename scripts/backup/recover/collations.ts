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

/**
 * Databases whose texts were sorted by another version of libc or ICU than the one here: their indexes
 * give wrong answers without an error, until they are built anew. The server compares only what it
 * noted itself, and warns those who connect.
 * @returns a finding for each of them, and one when that could not be found out
 */
export async function collationFindings(cluster: Cluster): Promise<RecoverFinding[]> {
  try {
    const databases = await withClient(cluster, 'postgres', async (client) => {
      const { rows } = await client.query<Sorted & { isOther: boolean }>(DATABASES)
      return rows
    })
    const findings: RecoverFinding[] = []
    for (const database of databases) {
      const collations = await withClient(cluster, database.name, async (client) => {
        const { rows } = await client.query<Sorted & { schema: string }>(COLLATIONS)
        return rows.map((row) => ({ ...row, name: `${ident(row.schema)}.${ident(row.name)}` }))
      })
      if (database.isOther || collations.length > 0) findings.push(findingOf(database, collations))
    }
    return findings
  } catch (error) {
    if (!(error instanceof Fail)) throw error
    // The cluster is restored: that this is not known makes it no failure.
    return [
      { level: 'warning', text: `whether texts are sorted as before could not be seen: ${error.message}` },
    ]
  }
}

function findingOf(
  database: Sorted & { readonly isOther: boolean },
  collations: readonly Sorted[],
): RecoverFinding {
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
