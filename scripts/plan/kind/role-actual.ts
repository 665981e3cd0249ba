import { show } from '../../cluster/sql.ts'
import type { Fail } from '../../core/fail.ts'
import type { Secret } from '../../core/secret.ts'
import type { Host } from '../../host/schema.ts'
import { storedSettings } from '../assignment.ts'
import type { Observe } from '../kind.ts'
import { comparePassword, readPasswords, type StoredPassword } from './password.ts'
import { isDropped, observeTies } from './role-drop.ts'
import { type Attributes, FIRST_TIME, LAST_TIME, type Role, wantedRole, withoutZeros } from './role-spec.ts'

interface Row {
  readonly name: string
  readonly attributes: Attributes
  readonly connection_limit: number
  readonly valid_until: string | null
  readonly settings: string[] | null
  readonly comment: string | null
  readonly is_bootstrap: boolean
  readonly is_ours: boolean
  readonly sees_verifiers: boolean
}

const ROLES = `
  select rolname::text as name,
         json_build_object('login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb,
           'createrole', rolcreaterole, 'inherit', rolinherit, 'replication', rolreplication,
           'bypassrls', rolbypassrls) as attributes,
         rolconnlimit as connection_limit,
         case when rolvaliduntil is null then null when rolvaliduntil = 'infinity' then 'infinity'
              else to_char(greatest(least(rolvaliduntil, '${LAST_TIME}'), '${FIRST_TIME}')
                   at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') end as valid_until,
         rolconfig as settings,
         shobj_description(oid, 'pg_authid') as comment,
         oid = 10 as is_bootstrap,
         rolname = session_user as is_ours,
         has_table_privilege('pg_authid', 'select') as sees_verifiers
    from pg_roles where rolname !~ '^pg_'`

/**
 * All roles but `pg_*`, and those whose wanted password is none.
 * @throws {Fail} `secret` when some cannot be read
 */
export async function observeRoles(observe: Observe): Promise<Map<string, Role>> {
  // First, and without a server too: a secret that is none stops everything before anything is changed.
  const { secrets, refused } = await readPasswords(observe.host)
  const missing = [...refused].map(([name, problem]) => missingRole(observe.host, name, problem))
  if (!observe.isRunning) return new Map(missing)
  const rows = await observe.query<Row>('postgres', ROLES)
  const stored = await comparePasswords(observe, secrets, rows[0]?.sees_verifiers ?? false)
  const ties = await observeTies(
    observe,
    rows.map(({ name }) => name).filter((name) => isDropped(observe.host, name)),
  )
  return new Map([
    ...missing,
    ...rows.map((row): [string, Role] => [
      show(row.name),
      {
        name: row.name,
        attributes: row.attributes,
        connectionLimit: row.connection_limit,
        validUntil: row.valid_until === null ? undefined : withoutZeros(row.valid_until),
        settings: storedSettings(row.settings),
        comment: row.comment ?? undefined,
        refused: refused.get(row.name),
        stored: stored.get(row.name),
        isBootstrap: row.is_bootstrap,
        isOurs: row.is_ours,
        ties: ties.get(row.name),
      },
    ]),
  ])
}

function missingRole(host: Host, name: string, refused: Fail): [string, Role] {
  return [show(name), { ...wantedRole(name, host.roles[name]!), refused, isMissing: true }]
}

/** Of the roles whose password the host file says something about. */
async function comparePasswords(
  observe: Observe,
  secrets: ReadonlyMap<string, Secret>,
  seesVerifiers: boolean,
): Promise<Map<string, StoredPassword>> {
  const names = Object.entries(observe.host.roles)
    .filter(([, spec]) => spec.state === 'present' && spec.password !== undefined)
    .map(([name]) => name)
  if (!seesVerifiers || names.length === 0) return new Map(names.map((name) => [name, 'unreadable']))
  const rows = await observe.query<{ name: string; verifier: string | null }>(
    'postgres',
    'select rolname::text as name, rolpassword as verifier from pg_authid where rolname = any($1)',
    [names],
  )
  return new Map(
    await Promise.all(
      rows.map(
        async ({ name, verifier }) =>
          [name, await comparePassword(secrets.get(name), verifier, name)] as const,
      ),
    ),
  )
}
