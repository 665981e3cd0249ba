import type { Client } from 'pg'
import type { Way } from './databases.ts'
import { type Finding, spring, type Trap } from './finding.ts'

// What pg_upgrade refuses is what src/bin/pg_upgrade/check.c looks for. It names it in files, and stops the
// upgrade; here it is asked for while there is time, and with what to do.

/** What a database holds that is in the way of an upgrade or does not come along. */
export async function objectFindings(client: Client, database: string, way: Way): Promise<Finding[]> {
  const traps = [...EVERYWHERE, ...goneTraps(way), ...(way.isDump ? [] : typeTraps(way))]
  return spring(client, database, traps)
}

const EVERYWHERE: readonly Trap[] = [
  {
    // pg_dump leaves those of plain tables out (getIndexes).
    severity: 'warning',
    code: 'invalid-index',
    text: `select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid
      join pg_class t on t.oid = i.indrelid
      where not i.indisvalid and c.relkind = 'i' and t.relpersistence <> 't' order by 1`,
    message: (names) => `indexes that are not valid are left out: ${names}`,
    hint: 'Build it or drop it: reindex index concurrently NAME; drop index NAME',
  },
  {
    severity: 'note',
    code: 'large-objects',
    text: `select to_char(count(*), 'FM999,999,999,999') from pg_largeobject_metadata having count(*) > 100000`,
    message: (count) =>
      `${count} large objects: before 19 each is made by a statement of its own while nobody can connect`,
    hint: 'Remove those that nobody refers to: vacuumlo DATABASE',
  },
]

// Names are those of src/bin/pg_upgrade/check.c, check_for_incompatible_polymorphics.
const POLYMORPHIC = `array['array_append(anyarray,anyelement)', 'array_cat(anyarray,anyarray)',
  'array_prepend(anyelement,anyarray)', 'array_remove(anyarray,anyelement)',
  'array_replace(anyarray,anyelement,anyelement)', 'array_position(anyarray,anyelement)',
  'array_position(anyarray,anyelement,integer)', 'array_positions(anyarray,anyelement)',
  'width_bucket(anyelement,anyarray)']::regprocedure[]`

function goneTraps({ from, to }: Way): Trap[] {
  const traps: Trap[] = []
  if (from < 14 && to >= 14) traps.push(...GONE_IN_14)
  if (from < 18 && to >= 18) traps.push(INHERITED_NOT_NULL)
  return traps
}

const GONE_IN_14: readonly Trap[] = [
  {
    severity: 'error',
    code: 'postfix-operator',
    text: `select oid::regoperator::text from pg_operator where oprright = 0 and oid >= 16384 order by 1`,
    message: (names) => `postfix operators: ${names}: there are none since 14`,
    hint: 'drop operator NAME (TYPE, none), and call its function instead',
  },
  {
    severity: 'error',
    code: 'polymorphic-function',
    text: `select format('aggregate %s', p.oid::regprocedure) from pg_proc p join pg_aggregate a on a.aggfnoid = p.oid
      where p.oid >= 16384 and (a.aggtransfn = any (${POLYMORPHIC}) or a.aggfinalfn = any (${POLYMORPHIC}))
        and a.aggtranstype in ('anyarray'::regtype, 'anyelement'::regtype)
      union all
      select format('operator %s', oid::regoperator) from pg_operator
      where oid >= 16384 and oprcode = any (${POLYMORPHIC}) and oprleft in ('anyarray'::regtype, 'anyelement'::regtype)`,
    message: (names) => `made of functions whose arguments are anycompatible since 14: ${names}`,
    hint: 'Drop each before, and make it anew afterwards with anycompatiblearray and anycompatible.',
  },
  {
    severity: 'error',
    code: 'encoding-conversion',
    text: `select format('%I.%I', n.nspname, conname) from pg_conversion c join pg_namespace n on n.oid = c.connamespace
      where c.oid >= 16384 order by 1`,
    message: (names) => `encoding conversions: ${names}: their functions have other arguments since 14`,
    hint: 'drop conversion NAME, and make it anew afterwards',
  },
]

const INHERITED_NOT_NULL: Trap = {
  severity: 'error',
  code: 'inherited-not-null',
  text: `select format('%s.%I', i.inhrelid::regclass, c.attname) from pg_inherits i
    join pg_attribute p on p.attrelid = i.inhparent and p.attnum > 0 and p.attnotnull
    join pg_attribute c on c.attrelid = i.inhrelid and c.attname = p.attname and not c.attnotnull order by 1`,
  message: (names) =>
    `columns that may be null, though those of the parent may not: ${names}: 18 refuses that`,
  hint: 'alter table NAME alter column COLUMN set not null',
}

function typeTraps({ from, to }: Way): Trap[] {
  return [
    {
      severity: 'error',
      code: 'reg-column',
      text: columnsOf(`select oid from pg_type where typnamespace = 'pg_catalog'::regnamespace and typname in (
        'regcollation', 'regconfig', 'regdictionary', 'regnamespace', 'regoper', 'regoperator', 'regproc', 'regprocedure')`),
      message: (names) =>
        `columns of reg* types hold numbers that mean something else afterwards: ${names}: pg_upgrade refuses them`,
      hint: 'Make it a text: alter table NAME alter column COLUMN type text; or use --method dump.',
    },
    {
      severity: 'error',
      code: 'catalog-row-column',
      text: columnsOf(`select t.oid from pg_type t where t.typtype = 'c'
        and (t.oid < 16384 or t.typnamespace = 'information_schema'::regnamespace)`),
      message: (names) =>
        `columns whose type is the row of a system catalog: ${names}: pg_upgrade refuses them`,
      hint: 'Drop the column or give it a type of its own; or use --method dump.',
    },
    ...(from < 16 && to >= 16
      ? [
          {
            severity: 'error' as const,
            code: 'aclitem-column',
            text: columnsOf(`select 'aclitem'::regtype::oid`),
            message: (names: string) =>
              `columns of type aclitem, which is another one since 16: ${names}: pg_upgrade refuses them`,
            hint: 'Make it a text: alter table NAME alter column COLUMN type text; or use --method dump.',
          },
        ]
      : []),
  ]
}

/** Stored columns of some types, or of what is made of them: domains, arrays, rows and ranges. */
function columnsOf(types: string): string {
  return `
    with recursive found(oid) as (
      ${types}
      union
      select t.oid from found f, lateral (
        select oid from pg_type where typbasetype = f.oid and typtype = 'd'
        union all select oid from pg_type where typelem = f.oid and typtype = 'b'
        union all select r.rngtypid from pg_range r where r.rngsubtype = f.oid
        union all select c.reltype from pg_class c join pg_attribute a on a.attrelid = c.oid
          where c.relkind = 'c' and not a.attisdropped and a.atttypid = f.oid) t)
    select distinct format('%s.%I', c.oid::regclass, a.attname)
    from pg_class c join pg_attribute a on a.attrelid = c.oid join pg_namespace n on n.oid = c.relnamespace
    where a.atttypid in (select oid from found) and a.attnum > 0 and not a.attisdropped
      and c.relkind in ('r', 'm', 'i') and n.nspname not in ('pg_catalog', 'information_schema')
      and n.nspname !~ '^pg_(toast_)?temp_' and n.nspname <> 'pg_toast' order by 1`
}
