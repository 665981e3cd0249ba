import { literal } from '../cluster/sql.ts'
import type { MigrateScope } from './scope.ts'

/**
 * Tables, views and sequences that do not belong to the role of the migrations: somebody has changed that, or made
 * them by hand. None when no role is said.
 * @returns `public.telem belongs to postgres, not to xtelem`, by name
 */
export async function strangers({ cluster, database, options }: MigrateScope): Promise<string[]> {
  if (options.role === undefined) return []
  const client = await cluster.connect(database)
  try {
    const { rows } = await client.query<{ line: string }>(
      `select format('%I.%I belongs to %I, not to %I', n.nspname, c.relname, pg_get_userbyid(c.relowner), ${literal(options.role)}::name) as line
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and pg_get_userbyid(c.relowner) <> ${literal(options.role)}
          and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'howdah')
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
        order by 1`,
    )
    return rows.map(({ line }) => line)
  } finally {
    await client.end()
  }
}
