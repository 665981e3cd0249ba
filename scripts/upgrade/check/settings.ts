import type { Client } from 'pg'
import { messageOf } from '../../core/fail.ts'
import { ident, literal } from '../../cluster/sql.ts'
import { type Finding, listed } from './finding.ts'

/** Something of the old cluster that sets a setting, and how it is taken back. */
export interface Assignment {
  readonly database: string
  /** For people: `role "x" in database "y"`; empty for a file of the server. */
  readonly where: string
  readonly name: string
  readonly value: string
  /** The statement that takes it back, for the hint. */
  readonly reset: string
}

/** What the files of a running cluster set, each name once. */
export async function fileAssignments(client: Client): Promise<Assignment[]> {
  const { rows } = await client.query<{ name: string; value: string; place: string }>(FILES, [OF_PLACE])
  return rows.map(({ name, value, place }) => ({ database: '', where: '', name, value, reset: place }))
}

// Where a cluster is, the new one says for itself.
const OF_PLACE = ['data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file']

const FILES = `
  select name, coalesce(setting, '') as value, format('%s, line %s', sourcefile, sourceline) as place
  from pg_file_settings where applied and name <> all ($1) order by seqno`

/** What roles and databases set for their sessions. */
export async function sessionAssignments(client: Client): Promise<Assignment[]> {
  const { rows } = await client.query<Omit<Assignment, 'database'>>(SESSIONS)
  return rows.map((row) => ({ database: '', ...row }))
}

const SESSIONS = `
  select case when r.oid is null then format('database %I', d.datname)
      when d.oid is null then format('role %I', r.rolname)
      else format('role %I in database %I', r.rolname, d.datname) end as where,
    split_part(c, '=', 1) as name, substr(c, strpos(c, '=') + 1) as value,
    case when r.oid is null then format('alter database %I reset %I', d.datname, split_part(c, '=', 1))
      when d.oid is null then format('alter role %I reset %I', r.rolname, split_part(c, '=', 1))
      else format('alter role %I in database %I reset %I', r.rolname, d.datname, split_part(c, '=', 1)) end as reset
  from (select case when setdatabase <> 0 then setdatabase end as database, case when setrole <> 0 then setrole end as role,
      unnest(setconfig) as c from pg_db_role_setting) s
    left join pg_database d on d.oid = s.database left join pg_roles r on r.oid = s.role order by 1, 2`

/** What functions of a database set while they run. */
export async function functionAssignments(client: Client, database: string): Promise<Assignment[]> {
  const { rows } = await client.query<Omit<Assignment, 'database'>>(FUNCTIONS)
  return rows.map((row) => ({ database, ...row }))
}

const FUNCTIONS = `
  select format('function %s', oid::regprocedure) as where, split_part(c, '=', 1) as name,
    substr(c, strpos(c, '=') + 1) as value,
    format('alter routine %s reset %I', oid::regprocedure, split_part(c, '=', 1)) as reset
  from pg_proc, unnest(proconfig) c where oid >= 16384 order by 1, 2`

/** What became of a name, where another one does its work. */
const SUCCESSORS: Readonly<Record<string, string>> = {
  db_user_namespace: 'nothing: 17 removed it',
  force_parallel_mode: 'debug_parallel_query, since 16',
  old_snapshot_threshold:
    'nothing: 17 removed it; idle_in_transaction_session_timeout ends what lasts too long',
  operator_precedence_warning: 'nothing: 14 removed it',
  promote_trigger_file: 'nothing: 16 removed it; pg_promote() does it',
  ssl_ecdh_curve: 'ssl_groups, since 18',
  stats_temp_directory: 'nothing: 15 keeps statistics in memory',
  trace_recovery_messages: 'nothing: 17 removed it',
  vacuum_cleanup_index_scale_factor: 'nothing: 14 removed it',
  vacuum_defer_cleanup_age: 'nothing: 16 removed it; hot_standby_feedback and slots hold rows back',
}

/** Lets the new server, which is thrown away afterwards, judge each of them. */
export async function settingFindings(
  server: Client,
  major: number,
  assignments: readonly Assignment[],
): Promise<Finding[]> {
  const { rows } = await server.query<{ name: string }>('select name from pg_settings')
  const known = new Set(rows.map(({ name }) => name))
  const findings: Finding[] = []
  for (const assignment of assignments) {
    const refusal = await judged(server, assignment)
    if (refusal === undefined) continue
    const { database, where, name, value, reset } = assignment
    const isGone = !known.has(name) && !name.includes('.')
    const isOfFile = where === ''
    findings.push({
      // The upgrade leaves it out of files by itself; in what pg_dump writes it is an error.
      severity: isGone && isOfFile ? 'warning' : 'error',
      code: isGone ? 'setting-gone' : 'setting-refused',
      database,
      message: `${isOfFile ? `setting ${name}` : `${where} sets ${name}`} = ${JSON.stringify(value)}: ${isGone ? `${major} has no such setting` : refusal}`,
      hint: hintOf(isGone ? (SUCCESSORS[name] ?? 'nothing that is known') : undefined, isOfFile, reset),
    })
  }
  return findings
}

function hintOf(successor: string | undefined, isOfFile: boolean, reset: string): string {
  const instead = successor === undefined ? '' : ` In its place: ${successor}.`
  return isOfFile ? `Take it out or correct it: ${reset}.${instead}` : `${reset};${instead}`
}

/** What the server says against a value; undefined when it takes it. */
async function judged(server: Client, { where, name, value }: Assignment): Promise<string | undefined> {
  const what = `${name.split('.').map(ident).join('.')} to ${literal(value)}`
  try {
    await (where === ''
      ? server.query(`alter system set ${what}`)
      : server.query(`alter role current_user set ${what}`))
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

/** Names and defaults of the settings of a server. */
export type Defaults = ReadonlyMap<string, { readonly type: string; readonly value: string }>

/** Of those settings that nobody has set. */
export async function defaultsOf(client: Client): Promise<Defaults> {
  const { rows } = await client.query<{ name: string; type: string; value: string }>(
    `select name, vartype as type, coalesce(boot_val, '') as value from pg_settings where source = 'default'
      and context <> 'internal' and category not like 'File Locations%' and name not like '%_librar%' order by 1`,
  )
  return new Map(rows.map(({ name, type, value }) => [name, { type, value }]))
}

/** Defaults of which the new major thinks otherwise: what was never set is another value afterwards. */
export function defaultFindings(before: Defaults, after: Defaults, major: number): Finding[] {
  const changed = [...before].flatMap(([name, old]) => {
    const now = after.get(name)
    // One that is of another type writes the same thing otherwise.
    if (now === undefined || now.type !== old.type || now.value === old.value) return []
    return [`${name} ${show(old.value)} -> ${show(now.value)}`]
  })
  if (changed.length === 0) return []
  return [
    {
      severity: 'note',
      code: 'default',
      database: '',
      message: `settings that nobody has set and that have another default in ${major}: ${listed(changed)}`,
      hint: 'To keep what was: name it in [settings] of the host file.',
    },
  ]
}

function show(value: string): string {
  return value === '' ? "''" : value
}
