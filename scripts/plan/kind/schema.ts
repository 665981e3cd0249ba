import { ident, show, showPath } from '../../cluster/sql.ts'
import type { DatabaseSpec, Host } from '../../host/schema.ts'
import { allPrivileges, parsePrivileges, type Privileges, PRIVILEGES, PUBLIC, sqlPrivileges } from '../acl.ts'
import type { Change, Finding, Step } from '../change.ts'
import type { Context, Facts, Kind, Observe } from '../kind.ts'
import {
  databasesToLookInto,
  findMissingRoles,
  initialPublicSchema,
  rolesNeverMade,
  schemaOwner,
} from '../scope.ts'

/** A schema in a database, as it is wanted or as it is. */
export interface Schema {
  readonly database: string
  readonly name: string
  /** Wanted undefined: not looked at in one that exists. */
  readonly owner: string | undefined
  /** Wanted, of schema `public`: what PUBLIC may do in it; undefined is not looked at. */
  readonly policy?: DatabaseSpec['public']
  /** Wanted: as a schema, and not only because of its policy. */
  readonly isNamed?: boolean
  /** Actual: false stands for one that is wanted and not there, to carry what is missing. */
  readonly isThere: boolean
  /** Actual: false while the database is not there or takes no connections. */
  readonly isSeen?: boolean
  /** Actual: what PUBLIC holds, and what of it can be revoked in the owner's name. */
  readonly ofPublic?: Privileges
  readonly ofPublicByOwner?: Privileges
  readonly isOfExtension?: boolean
  readonly missingRoles?: readonly string[]
}

/**
 * Schemas, and what PUBLIC may do in schema `public`. None is ever dropped. The policy is about that
 * schema only: `revoke` takes USAGE and CREATE in it from PUBLIC, and leaves CONNECT and TEMPORARY on
 * the database as they are.
 */
export const schema: Kind<Schema> = {
  name: 'schema',
  wanted: (host) =>
    new Map(wantedSchemas(host).map((one) => [showPath(one.database, one.name), one] as const)),
  actual,
  change,
  findings,
  exported: (actual, { host, facts }) => ({ databases: exportedDatabases(actual, host, facts) }),
}

function wantedSchemas(host: Host): Schema[] {
  return Object.entries(host.databases).flatMap(([database, spec]) => {
    const names = new Set(Object.keys(spec.schemas))
    if (spec.public !== 'default') names.add(PUBLIC)
    return [...names].map((name) => ({
      database,
      name,
      owner: Object.hasOwn(spec.schemas, name) ? spec.schemas[name]?.owner : undefined,
      isThere: true,
      isNamed: Object.hasOwn(spec.schemas, name),
      policy: name === PUBLIC ? spec.public : 'default',
    }))
  })
}

interface Row {
  readonly name: string
  readonly owner: string
  readonly is_of_extension: boolean
  readonly of_public: number
  readonly of_public_by_owner: number
}

// A NULL acl means the built-in default and not "nobody".
const SCHEMAS = `
  select n.nspname::text as name, pg_get_userbyid(n.nspowner)::text as owner,
         exists (select from pg_depend d where d.classid = 'pg_namespace'::regclass and d.objid = n.oid
           and d.deptype = 'e') as is_of_extension,
         a.of_public, a.of_public_by_owner
    from pg_namespace n
   cross join lateral (
     select coalesce(bit_or(bit), 0) as of_public,
            coalesce(bit_or(bit) filter (where grantor = n.nspowner), 0) as of_public_by_owner
       from (select grantor, 1 << (array_position($1::text[], privilege_type) - 1) as bit
               from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) where grantee = 0) e) a
   where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'howdah')`

async function actual(observe: Observe): Promise<Map<string, Schema>> {
  const wanted = wantedSchemas(observe.host)
  if (!observe.isRunning || (wanted.length === 0 && !observe.isExport)) return new Map()
  const databases = await databasesToLookInto(observe)
  const missing = await findMissingRoles(
    observe,
    wanted.flatMap(({ owner }) => owner ?? []),
  )
  const found = new Map<string, Schema>()
  for (const database of databases) {
    if (!observe.isExport && !wanted.some((one) => one.database === database)) continue
    for (const row of await observe.query<Row>(database, SCHEMAS, [PRIVILEGES])) {
      found.set(showPath(database, row.name), {
        database,
        name: row.name,
        owner: row.owner,
        isThere: true,
        isSeen: true,
        isOfExtension: row.is_of_extension,
        ofPublic: row.of_public,
        ofPublicByOwner: row.of_public_by_owner,
      })
    }
  }
  const seen = new Set(databases)
  for (const one of wanted) {
    const name = showPath(one.database, one.name)
    found.set(name, {
      ...(found.get(name) ?? { ...one, isThere: false, isSeen: seen.has(one.database) }),
      missingRoles: one.owner !== undefined && missing.has(one.owner) ? [one.owner] : [],
    })
  }
  return found
}

function change(
  name: string,
  wanted: Schema,
  actual: Schema | undefined,
  { host, facts }: Context,
): Change | undefined {
  const before = actual?.isThere ? actual : expected(wanted, actual, host, facts)
  // Nobody can do anything in a schema that is not there.
  if (!before && !wanted.isNamed && wanted.policy === 'revoke') return undefined
  const lines: string[] = []
  const steps: Step[] = []
  const sql = (line: string, text: string) => {
    lines.push(line)
    steps.push({ run: 'sql', database: wanted.database, text, transaction: true })
  }
  if (!before) {
    const owner = schemaOwner(host, wanted.database, wanted.name)
    // An extension may have made its own schema in the same apply.
    sql(
      `owner ${show(owner)}`,
      `create schema if not exists ${ident(wanted.name)} authorization ${ident(owner)}`,
    )
  } else if (wanted.owner !== undefined && wanted.owner !== before.owner) {
    sql(
      `owner ${show(before.owner!)} -> ${show(wanted.owner)}`,
      `alter schema ${ident(wanted.name)} owner to ${ident(wanted.owner)}`,
    )
  }
  const ofPublic = policyChange(wanted, before, host, facts)
  if (ofPublic) sql(ofPublic.line, ofPublic.text)
  if (steps.length === 0) return undefined
  return {
    kind: 'schema',
    name,
    action: before ? 'alter' : 'create',
    line: lines.join(', '),
    hazards: [],
    steps,
  }
}

/** Schema `public` is in every new database. */
function expected(wanted: Schema, actual: Schema | undefined, host: Host, facts: Facts): Schema | undefined {
  if (wanted.name !== PUBLIC || actual?.isSeen) return undefined
  const { owner, ofPublic } = initialPublicSchema(host, facts)
  return { ...wanted, owner, ofPublic, ofPublicByOwner: ofPublic }
}

function policyChange(
  wanted: Schema,
  before: Schema | undefined,
  host: Host,
  { major }: Facts,
): { line: string; text: string } | undefined {
  const all = allPrivileges('schema', major)
  if (wanted.policy === 'legacy') {
    const lacking = all & ~(before?.ofPublic ?? 0)
    if (!lacking) return undefined
    const line = `grant ${sqlPrivileges(lacking)} to public`
    return { line, text: `grant ${sqlPrivileges(lacking)} on schema ${ident(wanted.name)} to public` }
  }
  if (wanted.policy !== 'revoke') return undefined
  // What a grant of the same host file gives to PUBLIC stays, or the two would undo each other for ever.
  const extra = (before?.ofPublicByOwner ?? 0) & ~grantedToPublic(host, wanted.database, major)
  if (!extra) return undefined
  const line = `revoke ${sqlPrivileges(extra)} from public`
  return { line, text: `revoke ${sqlPrivileges(extra)} on schema ${ident(wanted.name)} from public` }
}

function grantedToPublic(host: Host, database: string, major: number): Privileges {
  return host.databases[database]!.grants.filter(
    ({ on, to, schema }) =>
      on === 'schema' && to.includes(PUBLIC) && (schema.includes('*') || schema.includes(PUBLIC)),
  ).reduce((mask, { privileges }) => mask | parsePrivileges(privileges, 'schema', major).privileges, 0)
}

function findings(name: string, wanted: Schema, actual: Schema | undefined, { host }: Context): Finding[] {
  const owners = wanted.owner === undefined ? [] : [wanted.owner]
  return (actual?.missingRoles ?? rolesNeverMade(host, owners)).map((role) => ({
    kind: 'schema',
    name,
    level: 'impossible',
    text: `there is no role ${show(role)} to own it`,
    hint: `Add [roles.${show(role)}] to the host file.`,
  }))
}

function exportedDatabases(
  actual: ReadonlyMap<string, Schema>,
  host: Host,
  facts: Facts,
): Record<string, unknown> {
  const own = [...actual.values()].filter(({ isThere, isOfExtension }) => isThere && !isOfExtension)
  const words = [...Map.groupBy(own, ({ database }) => database)].map(
    ([database, schemas]) => [database, databaseWords(schemas, host, facts)] as const,
  )
  return Object.fromEntries(words.filter(([, one]) => Object.keys(one).length > 0))
}

function databaseWords(schemas: readonly Schema[], host: Host, facts: Facts): Record<string, unknown> {
  const initial = initialPublicSchema(host, facts)
  const ofPublic = schemas.find(({ name }) => name === PUBLIC)?.ofPublic
  const all = allPrivileges('schema', facts.major)
  const policy = ofPublic === 0 ? 'revoke' : ofPublic === all ? 'legacy' : 'default'
  const isInitial = ofPublic === undefined || ofPublic === initial.ofPublic
  const named = schemas
    .filter(({ name, owner }) => name !== PUBLIC || owner !== initial.owner)
    .map(({ name, owner }) => [name, { owner }] as const)
  return {
    ...(!isInitial && policy !== 'default' && { public: policy }),
    ...(named.length > 0 && { schemas: Object.fromEntries(named) }),
  }
}
