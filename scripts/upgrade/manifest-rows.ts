import type { Client } from 'pg'

/** What one table, sequence or all large objects hold. */
export interface RowEntry {
  readonly kind: 'rows' | 'sequence value' | 'large objects'
  readonly name: string
  readonly value: string
}

/**
 * Rows of each table of the connected database, the last values of its sequences, and its large objects.
 * A table of an extension counts when a dump takes all of it along. What a materialised view holds does
 * not: it may be older than its tables, and is not any more once a dump is restored.
 *
 * A content hash is the sum of a 64-bit hash of each row as text, so that the order of rows is no matter;
 * hashtextextended gives the same for the same bytes in every major, since hash partitions rest on it. The
 * text of a row depends on settings: the session must have set them.
 */
export async function rowEntries(client: Client, verify: 'counts' | 'content'): Promise<RowEntry[]> {
  const entries: RowEntry[] = []
  const { rows } = await client.query<{ name: string; kind: string }>(HOLDERS)
  for (const { name, kind } of rows) {
    const value = await one(client, kind === 'S' ? sequence(name) : table(name, verify))
    entries.push({ kind: kind === 'S' ? 'sequence value' : 'rows', name, value })
  }
  entries.push({ kind: 'large objects', name: '', value: await one(client, LARGE_OBJECTS[verify]) })
  return entries
}

async function one(client: Client, text: string): Promise<string> {
  const { rows } = await client.query<{ value: string }>(text)
  return rows[0]!.value
}

// regclass::text quotes what needs it. ONLY: what inherits is counted by itself.
function table(name: string, verify: 'counts' | 'content'): string {
  if (verify === 'counts') return `select count(*)::text as value from only ${name}`
  return `select format('%s, hash %s', count(*), ${sumOf(`(t.*)::text collate "C"`)}) as value from only ${name} t`
}

function sumOf(text: string): string {
  return `coalesce(sum(hashtextextended(${text}, 0)), 0)`
}

function sequence(name: string): string {
  return `select format('%s, called %s', last_value, is_called) as value from ${name}`
}

const LARGE_OBJECTS = {
  counts: `select format('%s with %s bytes', (select count(*) from pg_largeobject_metadata),
    (select coalesce(sum(octet_length(data)), 0) from pg_largeobject)) as value`,
  content: `select format('%s with %s bytes, hash %s', (select count(*) from pg_largeobject_metadata),
    coalesce(sum(octet_length(data)), 0), ${sumOf(`format('%s %s %s', loid, pageno, encode(data, 'hex')) collate "C"`)}) as value
    from pg_largeobject`,
}

const HOLDERS = `
  select c.oid::regclass::text as name, c.relkind::text as kind from pg_class c
  where c.relkind in ('r', 'S') and c.relpersistence <> 't' and c.oid >= 16384
    and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid
      and e.deptype = 'e' and not exists (select from pg_extension x
        where x.oid = e.refobjid and x.extcondition[array_position(x.extconfig, c.oid)] = ''))
  order by 1`
