import { type Acl, classFacts, type FutureClass, heldByOwnerGrant, PRIVILEGES } from './acl.ts'
import type { Observe } from './kind.ts'

/** One row of pg_default_acl: what is granted on objects that a role will make. */
export interface DefaultAcl {
  readonly creator: string
  readonly on: FutureClass
  /** Undefined: wherever the object is made. One of a schema adds to that, it cannot take away. */
  readonly schema: string | undefined
  /** Global ones hold everything, the built-in privileges too; those of a schema only what they add. */
  readonly acl: Acl
}

interface Row {
  readonly creator: string
  readonly schema: string | null
  readonly letter: string
  readonly grantees: string[] | null
  readonly privileges: number[] | null
  readonly grantable: number[] | null
}

const DEFAULT_ACLS = `
  select pg_get_userbyid(d.defaclrole)::text as creator, n.nspname::text as schema,
         d.defaclobjtype::text as letter, e.grantees, e.privileges, e.grantable
    from pg_default_acl d
    left join pg_namespace n on n.oid = d.defaclnamespace
   cross join lateral (
     select array_agg(grantee) as grantees, array_agg(privileges) as privileges,
            array_agg(grantable) as grantable
       from (select grantee, bit_or(bit) as privileges,
                    coalesce(bit_or(bit) filter (where is_grantable), 0) as grantable
               from (select case grantee when 0 then 'public' else pg_get_userbyid(grantee)::text end as grantee,
                            is_grantable, 1 << (array_position($1::text[], privilege_type) - 1) as bit
                       from aclexplode(d.defaclacl)) a
              where bit is not null and ($2::text[] is null or grantee = any($2))
              group by grantee) g) e
   where d.defaclobjtype = any('{r,S,f,T}')
   order by 1, 2 nulls first, 3`

/** The default privileges of a database; of all grantees, or of some. */
export async function readDefaultAcls(
  observe: Observe,
  database: string,
  grantees: readonly string[] | undefined,
): Promise<DefaultAcl[]> {
  const rows = await observe.query<Row>(database, DEFAULT_ACLS, [PRIVILEGES, grantees ?? null])
  return rows.map(({ creator, schema, letter, ...row }) => ({
    creator,
    on: FUTURE_CLASSES.find((on) => classFacts(on).defaultLetter === letter)!,
    schema: schema ?? undefined,
    acl: new Map(
      (row.grantees ?? []).map((grantee, index) => [
        grantee,
        heldByOwnerGrant(row.privileges![index]!, row.grantable![index]),
      ]),
    ),
  }))
}

const FUTURE_CLASSES = ['tables', 'sequences', 'functions', 'types'] as const satisfies FutureClass[]
