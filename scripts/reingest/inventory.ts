import type { Client } from 'pg'
import { copyIn } from '../cluster/copy.ts'
import { connectJob, type Job } from './job.ts'
import { escaped } from './rows.ts'
import { type Skipped, walk } from './walk.ts'

/** What was found on the disk, beside what was known of it. */
export interface Inventory {
  readonly files: number
  readonly added: number
  readonly changed: number
  /** Known, and not there any more: they stay known, since a copy may be somewhere. The first hundred are told. */
  readonly vanished: number
  readonly vanishedPaths: readonly string[]
  /** New ones that look like one that vanished. */
  readonly moved: readonly { readonly from: string; readonly to: string }[]
  readonly skipped: readonly Skipped[]
}

const TOLD = 100

/**
 * Looks through the folders of a job, and tells the database of what is there. All of it is one transaction.
 * @param planOnly nothing is written
 * @param onFiles told how many files were found so far
 */
export async function takeInventory(
  job: Job,
  { planOnly, onFiles }: { readonly planOnly: boolean; readonly onFiles: (count: number) => void },
): Promise<Inventory> {
  const client = await connectJob(job)
  try {
    const skipped: Skipped[] = []
    await client.query('begin')
    await client.query(ON_DISK)
    const sent = await copyIn(client, COPY, found(job, skipped, onFiles))
    await client.query(SETTLE)
    const inventory = await compare(client, job, skipped)
    if (!planOnly) await client.query(STORE, [job.hostname])
    await client.query(planOnly ? 'rollback' : 'commit')
    return { files: sent, ...inventory, skipped }
  } finally {
    await client.end().catch(() => {})
  }
}

const ON_DISK = `create temp table on_disk (path varchar(1024), size_bytes bigint, modified timestamptz, created timestamptz)
  on commit drop;
  create temp table gone (path varchar(1024), size_bytes bigint, modified timestamptz) on commit drop`

// Nothing may be known yet of a table that was filled a moment ago, and loops would be thought cheap.
const SETTLE = `analyze pg_temp.on_disk; set local enable_nestloop = off`

const COPY = 'copy pg_temp.on_disk (path, size_bytes, modified, created) from stdin'

/** What is on the disk, each path once, beside what is known of it. */
const BESIDE = `(select distinct on (path) * from pg_temp.on_disk order by path, modified desc) d
  left join file_origins o on (o.origin_host, o.origin_path) = ($1, d.path)`

const IS_CHANGED = '(o.modification_time, o.size_bytes) is distinct from (d.modified, d.size_bytes)'

// Only what differs is sent there: a row that conflicts is locked even where nothing is to be updated, which writes.
const STORE = `insert into file_origins as known (origin_host, origin_path, modification_time, creation_time, size_bytes)
  select $1, d.path, d.modified, d.created, d.size_bytes from ${BESIDE} where o.origin_path is null or ${IS_CHANGED}
  on conflict (origin_host, origin_path) do update
     set modification_time = excluded.modification_time, size_bytes = excluded.size_bytes
   where (known.modification_time, known.size_bytes) is distinct from (excluded.modification_time, excluded.size_bytes)`

/** Rows of all files, for COPY; a folder inside another one is looked through twice. */
async function* found(
  { dataDirs, ignore }: Job,
  skipped: Skipped[],
  onFiles: (count: number) => void,
): AsyncGenerator<Buffer, void> {
  let count = 0
  for (const folder of dataDirs) {
    for await (const files of walk(folder, ignore, (one) => skipped.push(one))) {
      count += files.length
      onFiles(count)
      const lines = files.map(
        ({ path, size, modified, created }) => `${escaped(path)}\t${size}\t${modified}\t${created}\n`,
      )
      if (lines.length > 0) yield Buffer.from(lines.join(''))
    }
  }
}

/** SQL: whether a path is below one of an array of folders. */
export function isBelow(path: string, folders: string): string {
  // A folder is no table to be joined: it would make a loop of the whole.
  return `coalesce((select bool_or(starts_with(${path}, f || '/')) from unnest(${folders}::text[]) f), false)`
}

const GONE = `insert into pg_temp.gone select origin_path, size_bytes, modification_time from file_origins o
  where origin_host = $1 and ${isBelow('o.origin_path', '$2')} and not ${isBelow('o.origin_path', '$3')}
    and not exists (select from pg_temp.on_disk d where d.path = o.origin_path)`

const MOVED = `select g.path, min(n.path) as "to"
  from pg_temp.gone g
  left join (select d.* from pg_temp.on_disk d left join file_origins k on (k.origin_host, k.origin_path) = ($1, d.path)
              where k.origin_path is null) n
    on n.size_bytes = g.size_bytes and n.modified = g.modified
   and substring(n.path from '[^/]*$') = substring(g.path from '[^/]*$')
  group by 1 order by 1`

async function compare(
  client: Client,
  { hostname, dataDirs }: Job,
  skipped: readonly Skipped[],
): Promise<Omit<Inventory, 'files' | 'skipped'>> {
  const { rows: counts } = await client.query<{ added: number; changed: number }>(
    `select count(*) filter (where o.origin_path is null)::int as added,
            count(*) filter (where o.origin_path is not null and ${IS_CHANGED})::int as changed from ${BESIDE}`,
    [hostname],
  )
  // Of what is in a folder that could not be read nobody knows.
  const unread = skipped.filter(({ isFolder }) => isFolder).map(({ path }) => path)
  await client.query(GONE, [hostname, dataDirs.map((folder) => folder.replace(/\/+$/, '')), unread])
  const { rows: gone } = await client.query<{ path: string; to: string | null }>(MOVED, [hostname])
  const moved = gone.flatMap(({ path, to }) => (to === null ? [] : [{ from: path, to }]))
  return {
    ...counts[0]!,
    vanished: gone.length - moved.length,
    vanishedPaths: gone.flatMap(({ path, to }) => (to === null ? [path] : [])).slice(0, TOLD),
    moved,
  }
}
