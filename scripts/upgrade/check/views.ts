import type { Client } from 'pg'
import { ident, literal } from '../../cluster/sql.ts'
import { messageOf } from '../../core/fail.ts'
import { type Finding, listed } from './finding.ts'

/** A view, and what of a system view it is made of. */
export interface Use {
  readonly database: string
  readonly view: string
  readonly of: string
  /** Null for the row as a whole. */
  readonly column: string | null
}

/** Views of a database that are made of system views: of those PostgreSQL notes it, of system tables it does not. */
export async function usesOf(client: Client, database: string): Promise<Use[]> {
  const { rows } = await client.query<Omit<Use, 'database'>>(USES)
  return rows.map((row) => ({ database, ...row }))
}

const USES = `
  select distinct v.oid::regclass::text as view, s.relname as of, a.attname as column
  from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    join pg_class v on v.oid = r.ev_class
    join pg_class s on d.refclassid = 'pg_class'::regclass and s.oid = d.refobjid
    left join pg_attribute a on a.attrelid = s.oid and a.attnum = d.refobjsubid and a.attnum > 0
  where s.relnamespace = 'pg_catalog'::regnamespace
    and v.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) order by 1, 2, 3`

/** Views that the new server would refuse, since what they show is not there any more. */
export async function viewFindings(server: Client, major: number, uses: readonly Use[]): Promise<Finding[]> {
  const { rows } = await server.query<{ of: string; columns: string[] }>(
    `select c.relname as of, array_agg(a.attname::text) as columns from pg_class c join pg_attribute a on a.attrelid = c.oid
      where c.relnamespace = 'pg_catalog'::regnamespace and a.attnum > 0 and not a.attisdropped group by 1`,
  )
  const there = new Map(rows.map(({ of, columns }) => [of, new Set(columns)]))
  const isThere = ({ of, column }: Use) => there.has(of) && (column === null || there.get(of)!.has(column))
  const gone = Map.groupBy(
    uses.filter((use) => !isThere(use)),
    ({ database, view }) => JSON.stringify([database, view]),
  )
  return [...gone.values()].map((each) => {
    const { database, view } = each[0]!
    const parts = each.map(({ of, column }) => (column === null ? of : `${of}.${column}`))
    return {
      severity: 'error',
      code: 'view',
      database,
      message: `view ${view} shows what ${major} does not have: ${listed(parts)}`,
      hint: `Drop it, or define it without that, and make it anew afterwards: select pg_get_viewdef('${view}')`,
    }
  })
}

/** Options of columns, such as `n_distinct=5`, with the first column of each. */
export interface ColumnOption {
  readonly database: string
  readonly column: string
  readonly name: string
  readonly value: string
}

/** Asks a database of the old cluster. */
export async function columnOptionsOf(client: Client, database: string): Promise<ColumnOption[]> {
  const { rows } = await client.query<Omit<ColumnOption, 'database'>>(
    `select min(format('%s.%I', a.attrelid::regclass, a.attname)) as column, split_part(o, '=', 1) as name,
        min(substr(o, strpos(o, '=') + 1)) as value
      from pg_attribute a, unnest(a.attoptions) o where a.attrelid >= 16384 and not a.attisdropped group by 2 order by 2`,
  )
  return rows.map((row) => ({ database, ...row }))
}

/** Options of columns that the new server does not know: it would refuse the table. */
export async function columnOptionFindings(
  server: Client,
  major: number,
  options: readonly ColumnOption[],
): Promise<Finding[]> {
  const findings: Finding[] = []
  await server.query('create temp table tried (c int)')
  for (const { database, column, name, value } of options) {
    const refusal = await server
      .query(`alter table tried alter c set (${ident(name)} = ${literal(value)})`)
      .catch((error: unknown) => messageOf(error))
    if (typeof refusal !== 'string') continue
    findings.push({
      severity: 'error',
      code: 'column-option',
      database,
      message: `columns such as ${column} have the option ${name}, which ${major} does not take: ${refusal}`,
      hint: `Reset it on each: alter table NAME alter column COLUMN reset (${name}). ${unresettable(name, major)}`,
    })
  }
  return findings
}

/** Debian's 17.12 marks each column that it makes with pg_attver, and its own RESET leaves that (tried). */
function unresettable(name: string, major: number): string {
  const others = `array(select o from unnest(attoptions) o where split_part(o, '=', 1) <> ${literal(name)})`
  const update = `update pg_attribute set attoptions = nullif(${others}, '{}') where attoptions::text ~ ${literal(`[{,]${name}=`)}`
  return `If it stays, the server sets it by itself: a newer minor release of ${major} may know it; else, as superuser after a backup: ${update}`
}
