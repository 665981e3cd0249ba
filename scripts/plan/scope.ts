import type { DatabaseSpec, Host } from '../host/schema.ts'
import { allPrivileges, type Privileges } from './acl.ts'
import type { Facts, Observe } from './kind.ts'

// What the kinds of things in databases share: where to look, and who owns what.

/** The database that statements on whole databases run in; not in the database that they are about. */
export function besides(database: string): string {
  return database === 'postgres' ? 'template1' : 'postgres'
}

/** Databases to look into: those that the host file names, or for an export all that can be connected to. */
export async function databasesToLookInto(observe: Observe): Promise<readonly string[]> {
  const open = await observe.databases()
  return observe.isExport ? open : open.filter((name) => Object.hasOwn(observe.host.databases, name))
}

/** What the host file says on a database, if it does. */
export function databaseSpec(host: Host, database: string): DatabaseSpec | undefined {
  return Object.hasOwn(host.databases, database) ? host.databases[database] : undefined
}

/** The role that everything is done as, and that owns what has no other owner. */
export function superuserOf({ postgres }: Host): string {
  if (postgres.kind !== 'remote' || postgres.url === undefined) return postgres.superuser
  return decodeURIComponent(new URL(postgres.url).username) || postgres.superuser
}

/** Who owns a database that is made by the host file. */
export function databaseOwner(host: Host, database: string): string {
  return databaseSpec(host, database)?.owner ?? superuserOf(host)
}

/** Who owns a schema that is made by the host file: the database's owner unless it says otherwise. */
export function schemaOwner(host: Host, database: string, schema: string): string {
  const schemas = databaseSpec(host, database)?.schemas ?? {}
  const named = Object.hasOwn(schemas, schema) ? schemas[schema]?.owner : undefined
  return named ?? databaseOwner(host, database)
}

/** The role that stands for the owner of the database it is looked at in (PostgreSQL 14 and newer). */
export const DATABASE_OWNER = 'pg_database_owner'

/** Schema `public` of a database as template1 has it: since 15 PUBLIC may no longer create in it. */
export function initialPublicSchema(
  host: Host,
  { major }: Pick<Facts, 'major'>,
): { readonly owner: string; readonly ofPublic: Privileges } {
  const all = allPrivileges('schema', major)
  if (major < 15) return { owner: superuserOf(host), ofPublic: all }
  return { owner: DATABASE_OWNER, ofPublic: USAGE }
}

/** The privilege USAGE as a set. */
export const USAGE: Privileges = 1 << 8

/**
 * Whose future objects a grant is for when it does not say: default privileges belong to the role
 * that makes an object, so to those who own the database and its schemas.
 */
export function defaultCreators(host: Host, database: string): string[] {
  const spec = databaseSpec(host, database)
  const owners = [spec?.owner, ...Object.values(spec?.schemas ?? {}).map(({ owner }) => owner)]
  const named = owners.filter((owner) => owner !== undefined && owner !== DATABASE_OWNER)
  return named.length === 0 ? [superuserOf(host)] : [...new Set(named as string[])].toSorted()
}

/**
 * Of some roles, those that neither the host file makes nor the server has, and those that the host
 * file drops. Without a server only initdb's own roles are taken to be there.
 */
export async function findMissingRoles(observe: Observe, roles: Iterable<string>): Promise<Set<string>> {
  const names = [...new Set(roles)]
  if (names.length === 0) return new Set()
  const rows = await observe.query<{ name: string }>(
    'postgres',
    'select rolname::text as name from pg_roles where rolname = any($1)',
    [names],
  )
  const existing = new Set(rows.map(({ name }) => name))
  return new Set(names.filter((name) => isMissing(observe.host, name, existing)))
}

/** The same for a server that does not answer yet. */
export function rolesNeverMade(host: Host, roles: Iterable<string>): string[] {
  return [...new Set(roles)].filter(
    (name) => !name.startsWith('pg_') && name !== superuserOf(host) && isMissing(host, name, new Set()),
  )
}

function isMissing(host: Host, name: string, existing: ReadonlySet<string>): boolean {
  const spec = Object.hasOwn(host.roles, name) ? host.roles[name] : undefined
  return spec === undefined ? !existing.has(name) : spec.state === 'absent'
}

/** Whether a schema will be there once the host file is applied, migrations left aside. */
export function isSchemaPlanned(host: Host, database: string, schema: string): boolean {
  const spec = databaseSpec(host, database)
  if (spec === undefined) return false
  const ofExtensions = spec.extensions.map((one) => ('schema' in one ? one.schema : undefined))
  return Object.hasOwn(spec.schemas, schema) || ofExtensions.includes(schema)
}
