import { type Acl, classFacts, type Held, type ObjectClass, PRIVILEGES } from './acl.ts'
import type { Observe } from './kind.ts'

/** An object by its name; of a function the types of its arguments too, as SQL. */
export interface ObjectName {
  readonly name: string
  readonly arguments?: string
}

/** Objects of one class that have the same schema, the same owner and the same privileges. */
export interface ObjectGroup {
  /** Empty for databases; of a schema its own name. */
  readonly schema: string
  readonly owner: string
  /** Of an extension or of the system: only grants that name it apply, and nothing is revoked. */
  readonly isProtected: boolean
  readonly objects: readonly ObjectName[]
  readonly acl: Acl
}

/** Which objects and grantees to look at. */
export interface Look {
  /** Undefined: everybody. */
  readonly grantees: readonly string[] | undefined
  /** Schemas of the system to look at besides those that are not. */
  readonly systemSchemas: readonly string[]
}

/**
 * The objects of a class in a database with who holds what on them; NULL counts as the built-in
 * default. One query; objects that are alike come as one group, so that thousands of them cost as
 * little as a few. Names come from the catalogs joined by oid: their text forms depend on search_path.
 */
export async function readGroups(
  observe: Observe,
  database: string,
  on: Exclude<ObjectClass, 'database'>,
  look: Look,
): Promise<ObjectGroup[]> {
  const text = grouped(OBJECTS[on], classFacts(on).letter)
  const values = [PRIVILEGES, look.grantees ?? null, look.systemSchemas]
  return groupsOf(await observe.query<Row>(database, text, values), on === 'functions')
}

/** The same for databases themselves, by name; asked of the database that everything is asked of. */
export async function readDatabaseGroups(
  observe: Observe,
  look: Pick<Look, 'grantees'>,
): Promise<Map<string, ObjectGroup>> {
  const text = grouped(DATABASES, classFacts('database').letter)
  const rows = await observe.query<Row>('postgres', text, [PRIVILEGES, look.grantees ?? null])
  const found = new Map<string, ObjectGroup>()
  for (const group of groupsOf(rows, false)) {
    for (const object of group.objects) found.set(object.name, { ...group, objects: [object] })
  }
  return found
}

interface Row {
  readonly schema: string
  readonly owner: string
  readonly is_protected: boolean
  readonly names: string[]
  readonly arguments: string[]
  readonly grantees: string[] | null
  readonly privileges: number[] | null
  readonly grantable: number[] | null
  readonly by_owner: number[] | null
  readonly grantable_by_owner: number[] | null
}

function groupsOf(rows: readonly Row[], hasArguments: boolean): ObjectGroup[] {
  const groups = rows.map((row) => ({
    schema: row.schema,
    owner: row.owner,
    isProtected: row.is_protected,
    objects: row.names
      .map((name, index) => (hasArguments ? { name, arguments: row.arguments[index]! } : { name }))
      .toSorted(byText((object) => `${object.name}\0${object.arguments ?? ''}`)),
    acl: aclOf(row),
  }))
  return groups.toSorted(
    byText(({ schema, objects: [first] }) => `${schema}\0${first!.name}\0${first!.arguments ?? ''}`),
  )
}

function aclOf(row: Row): Acl {
  const held = (index: number): Held => ({
    privileges: row.privileges![index]!,
    grantable: row.grantable![index]!,
    byOwner: row.by_owner![index]!,
    grantableByOwner: row.grantable_by_owner![index]!,
  })
  return new Map((row.grantees ?? []).map((grantee, index) => [grantee, held(index)]))
}

function byText<T>(text: (value: T) => string): (a: T, b: T) => number {
  return (a, b) => {
    const [left, right] = [text(a), text(b)]
    return left < right ? -1 : left > right ? 1 : 0
  }
}

/** Groups objects by schema, owner and acl, and explodes each acl once. */
function grouped(objects: string, letter: string): string {
  return `
    with objects as (${objects}),
    alike as (
      select schema, is_system or is_of_extension as is_protected, owner, coalesce(acl, acldefault('${letter}', owner)) as acl,
             array_agg(name) as names, array_agg(arguments) as arguments
        from objects group by 1, 2, 3, 4)
    select g.schema, pg_get_userbyid(g.owner)::text as owner, g.is_protected, g.names, g.arguments, e.*
      from alike g
     cross join lateral (
       select array_agg(grantee) as grantees, array_agg(privileges) as privileges,
              array_agg(grantable) as grantable, array_agg(by_owner) as by_owner,
              array_agg(grantable_by_owner) as grantable_by_owner
         from (select grantee, bit_or(bit) as privileges,
                      coalesce(bit_or(bit) filter (where is_grantable), 0) as grantable,
                      coalesce(bit_or(bit) filter (where grantor = g.owner), 0) as by_owner,
                      coalesce(bit_or(bit) filter (where grantor = g.owner and is_grantable), 0)
                        as grantable_by_owner
                 from (select case grantee when 0 then 'public' else pg_get_userbyid(grantee)::text end as grantee,
                              grantor, is_grantable,
                              1 << (array_position($1::text[], privilege_type) - 1) as bit
                         from aclexplode(g.acl)) a
                where bit is not null and ($2::text[] is null or grantee = any($2))
                group by grantee) h) e`
}

// Schema howdah has the ledger of migrations, which is in no grant.
const IS_SYSTEM = `(n.nspname ~ '^pg_' or n.nspname in ('information_schema', 'howdah'))`
const IS_LOOKED_AT = `(not ${IS_SYSTEM} or n.nspname = any($3))`

function isOfExtension(catalog: string, oid: string): string {
  return `exists (select from pg_depend d where d.classid = '${catalog}'::regclass and d.objid = ${oid} and d.deptype = 'e')`
}

function relations(kinds: string): string {
  return `
    select n.nspname::text as schema, c.relname::text as name, '' as arguments, c.relowner as owner,
           c.relacl as acl, ${IS_SYSTEM} as is_system, ${isOfExtension('pg_class', 'c.oid')} as is_of_extension
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = any('{${kinds}}') and ${IS_LOOKED_AT}`
}

const OBJECTS: Readonly<Record<Exclude<ObjectClass, 'database'>, string>> = {
  // Partitions have privileges of their own, and so have partitioned tables.
  tables: relations('r,p,v,m,f'),
  sequences: relations('S'),
  // The types of input arguments name a function, a procedure and an aggregate of any sort.
  functions: `
    select n.nspname::text as schema, p.proname::text as name,
           coalesce((select string_agg(format_type(t.oid, null), ', ' order by t.place)
                       from unnest(p.proargtypes) with ordinality as t(oid, place)), '') as arguments,
           p.proowner as owner, p.proacl as acl, ${IS_SYSTEM} as is_system,
           ${isOfExtension('pg_proc', 'p.oid')} as is_of_extension
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where ${IS_LOOKED_AT}`,
  // Not those that come with a table, an array or a range: they have no privileges of their own.
  types: `
    select n.nspname::text as schema, t.typname::text as name, '' as arguments, t.typowner as owner,
           t.typacl as acl, ${IS_SYSTEM} as is_system, ${isOfExtension('pg_type', 't.oid')} as is_of_extension
      from pg_type t join pg_namespace n on n.oid = t.typnamespace
      left join pg_class c on c.oid = t.typrelid
     where ${IS_LOOKED_AT} and t.typtype <> 'm' and (t.typrelid = 0 or c.relkind = 'c')
       and not exists (select from pg_type e where e.typarray = t.oid)`,
  schema: `
    select n.nspname::text as schema, n.nspname::text as name, '' as arguments, n.nspowner as owner,
           n.nspacl as acl, ${IS_SYSTEM} as is_system,
           ${isOfExtension('pg_namespace', 'n.oid')} as is_of_extension
      from pg_namespace n where ${IS_LOOKED_AT}`,
}

const DATABASES = `
  select '' as schema, d.datname::text as name, '' as arguments, d.datdba as owner, d.datacl as acl,
         d.datname = 'template0' as is_system, false as is_of_extension
    from pg_database d`

/** Of some tables, whose columns have privileges of their own: a REVOKE on the table takes those too. */
export async function readColumnGrants(
  observe: Observe,
  database: string,
  grantees: readonly string[],
): Promise<{ schema: string; table: string; grantee: string }[]> {
  return observe.query(
    database,
    `select distinct n.nspname::text as schema, c.relname::text as table,
            case e.grantee when 0 then 'public' else pg_get_userbyid(e.grantee)::text end as grantee
       from pg_attribute a
       join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
      cross join lateral aclexplode(a.attacl) e
      where a.attacl is not null and a.attnum > 0 and not a.attisdropped and not ${IS_SYSTEM}
        and case e.grantee when 0 then 'public' else pg_get_userbyid(e.grantee)::text end = any($1)
      order by 1, 2, 3`,
    [grantees],
  )
}
