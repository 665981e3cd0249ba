import { ident, literal, show } from '../../cluster/sql.ts'
import type { Host } from '../../host/schema.ts'
import type { Change, Finding, Step } from '../change.ts'
import type { Context, Observe } from '../kind.ts'

/** What keeps a role from being dropped: `drop role` looks into every database for it. */
export interface Ties {
  /** Things that would have to be given to somebody else. */
  readonly owned: number
  /** Databases where it owns something, or has privileges or default privileges. */
  readonly databases: readonly { readonly name: string; readonly allowsConnections: boolean }[]
  /** Whether the role that gets what it owns is there. */
  readonly hasHeir: boolean
}

/** What is known of a role for the question whether it can be dropped. */
export interface Droppable {
  readonly name: string
  /** Actual: made by initdb, so it is always superuser and never dropped. */
  readonly isBootstrap?: boolean
  /** Actual: the role that we are connected as. Locking it out would lock us out. */
  readonly isOurs?: boolean
  /** Actual: looked up for roles that are to be dropped. */
  readonly ties?: Ties | undefined
}

interface TieRow {
  readonly role: string
  readonly database: string | null
  readonly allows_connections: boolean | null
  readonly owned: number
}

// pg_shdepend holds what every database says about a role, so one query sees them all. Default
// privileges and user mappings are owned in a way, but nobody can be given them: drop owned ends them.
const TIES = `
  select r.rolname::text as role, b.datname::text as database, b.datallowconn as allows_connections,
         (count(*) filter (where d.deptype = 'o'
           and d.classid not in ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass)))::int as owned
    from pg_roles r
    join pg_shdepend d on d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid
    left join pg_database b on b.oid = d.dbid
   where r.rolname = any($1)
   group by 1, 2, 3 order by 1, 2`

/** Whether the host file says that a role is to be absent. */
export function isDropped(host: Host, name: string): boolean {
  return Object.hasOwn(host.roles, name) && host.roles[name]!.state === 'absent'
}

/** Looks up what holds roles that are to be dropped. */
export async function observeTies(observe: Observe, names: readonly string[]): Promise<Map<string, Ties>> {
  if (names.length === 0) return new Map()
  const rows = await observe.query<TieRow>('postgres', TIES, [names])
  const heirs = names.map((name) => observe.host.roles[name]?.reassign_to ?? '')
  const known = await observe.query<{ name: string }>(
    'postgres',
    'select rolname::text as name from pg_roles where rolname = any($1)',
    [heirs],
  )
  return new Map(
    names.map((name, index) => {
      const mine = rows.filter((row) => row.role === name)
      const databases = mine.flatMap(({ database, allows_connections: allows }) =>
        database === null ? [] : [{ name: database, allowsConnections: allows ?? false }],
      )
      const owned = mine.reduce((sum, row) => sum + row.owned, 0)
      return [name, { owned, databases, hasHeir: known.some((row) => row.name === heirs[index]) }]
    }),
  )
}

/** What makes it impossible to drop a role without losing something. */
export function dropFindings(name: string, actual: Droppable, context: Context): Finding[] {
  const heir = context.host.roles[actual.name]?.reassign_to
  const closed = (actual.ties?.databases ?? []).filter(({ allowsConnections }) => !allowsConnections)
  const say = (text: string, hint: string): Finding => ({
    kind: 'role',
    name,
    level: 'impossible',
    text,
    hint,
  })
  const found: Finding[] = closed.map(({ name: database }) =>
    say(
      `it owns something or has privileges in database ${show(database)}, which takes no connections`,
      `Let it take some: alter database ${ident(database)} allow_connections true`,
    ),
  )
  if (actual.isBootstrap || actual.isOurs) {
    found.push(say('it is the superuser that everything is done as', 'Take it out of the host file.'))
  }
  const owned = actual.ties?.owned ?? 0
  if (owned > 0 && heir === undefined) {
    found.push(
      say(
        `it owns ${owned === 1 ? 'one thing' : `${owned} things`}, which would be dropped with it`,
        'Say in the host file who gets them: reassign_to = "NAME".',
      ),
    )
  }
  if (heir !== undefined && !isThere(heir, actual, context)) {
    found.push(say(`role ${show(heir)}, which is to get what it owns, is not there`, 'Name another role.'))
  }
  return found
}

/**
 * Drops a role over all databases. Nobody can log in as it from the first step on, so that nothing
 * new of it appears while its things go to somebody else.
 */
export function dropRole(name: string, actual: Droppable, context: Context): Change {
  const heir = context.host.roles[actual.name]?.reassign_to
  const names = new Set([...(actual.ties?.databases ?? []).map((database) => database.name), 'postgres'])
  const ownedBy = heir === undefined ? [] : [`reassign owned by ${ident(actual.name)} to ${ident(heir)}`]
  const owns = (actual.ties?.owned ?? 0) > 0
  return {
    kind: 'role',
    name,
    action: 'drop',
    line: owns ? `what it owns goes to ${show(heir!)}` : 'owns nothing',
    hazards: ['drops-role'],
    steps: [
      sql('postgres', `alter role ${ident(actual.name)} nologin`),
      // By itself, since only what was committed keeps others out.
      { run: 'sql', database: 'postgres', text: endSessions(actual.name), transaction: false },
      ...[...names]
        .toSorted()
        .flatMap((database) =>
          [...ownedBy, `drop owned by ${ident(actual.name)}`].map((text) => sql(database, text)),
        ),
      sql('postgres', `drop role ${ident(actual.name)}`),
    ],
  }
}

function isThere(heir: string, actual: Droppable, context: Context): boolean {
  const { roles, postgres } = context.host
  if (Object.hasOwn(roles, heir)) return roles[heir]!.state === 'present'
  return heir === postgres.superuser || actual.ties?.hasHeir === true
}

/** Ends the sessions of a role and waits, 30 s at most, until they are gone. */
function endSessions(name: string): string {
  return `do ${literal(`begin
    for attempt in 1 .. 300 loop
      perform pg_terminate_backend(pid) from pg_stat_activity where usename = ${literal(name)};
      exit when not found;
      perform pg_sleep(0.1);
      perform pg_stat_clear_snapshot();
    end loop;
  end`)}`
}

function sql(database: string, text: string): Step {
  return { run: 'sql', database, text, transaction: true }
}
