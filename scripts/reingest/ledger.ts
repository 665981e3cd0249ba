import type { Client } from 'pg'
import { copyIn } from '../cluster/copy.ts'
import { endingsOf, type Job } from './job.ts'
import { escaped, type Reject } from './rows.ts'

/** A file by where it came from. */
export interface Origin {
  readonly host: string
  readonly path: string
}

/** A file that is to be read. */
export interface Pending extends Origin {
  readonly bytes: number
}

/** What became of a file: all lines are rows; it is still being written; some are not; it was read before; nothing was stored. */
export type State = 'whole' | 'open' | 'partial' | 'same' | 'failed'

/** What is told of a file. */
export interface Entry {
  readonly state: State
  readonly reason: string | null
  readonly device: string | null
  readonly size: string | null
  readonly modified: string | null
  readonly sha256: string | null
  /** New ones in the table. */
  readonly rows: number
  /** Those that were there before, just as they are. */
  readonly known: number
  /** Those whose time another record of the device has. */
  readonly conflicts: number
  readonly rejects: number
}

// Read again, once in each run, is what failed and what was changed: also what was read from a copy that is not what
// the original was. $1: when the run began.
const NEEDED = `(i.origin_path is null or i.tried_at < $1::timestamptz and (i.state = 'failed'
  or (i.size_bytes, i.modification_time) is distinct from (o.size_bytes, o.modification_time)))`

/** The moment of the server at which a run begins. */
export async function serverNow(client: Client): Promise<string> {
  const { rows } = await client.query<{ now: string }>('select clock_timestamp()::text as now')
  return rows[0]!.now
}

/** Files of a host, its own and those of which it has a copy, that are to be read; the oldest first. */
export async function listPending(client: Client, job: Job, begun: string): Promise<Pending[]> {
  const endings = endingsOf(job).map((ending) => ending.replaceAll('.', String.raw`\.`))
  const pattern = `_([0-9]{14,23}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6,15})(${endings.join('|')})$`
  const { rows } = await client.query<{ host: string; path: string; bytes: string }>(
    `select o.origin_host as host, o.origin_path as path, coalesce(o.size_bytes, 0) as bytes
       from file_origins o left join file_ingests i using (origin_host, origin_path)
      where (o.origin_host = $2 or exists (select from file_replicas r where r.hostname = $2
              and (r.origin_host, r.origin_path) = (o.origin_host, o.origin_path)))
        and o.origin_path ~ $3 and ${NEEDED}
      order by o.creation_time, o.origin_path`,
    [begun, job.hostname, pattern],
  )
  return rows.map(({ host, path, bytes }) => ({ host, path, bytes: Number(bytes) }))
}

/** A file that this transaction has for itself. */
export interface Claimed {
  readonly size: string | null
  readonly modified: string | null
  /** It was read before. */
  readonly isAgain: boolean
  readonly modifiedSeconds: number | null
  /** Copies that this host has of it. */
  readonly replicas: readonly Replica[]
}

/** A copy as it was when it was made, or found. */
export interface Replica {
  readonly path: string
  readonly size: string | null
  readonly modifiedSeconds: number | null
}

/** SQL: the copies that a host, $4, has of the original `o`; first those that are what it was. */
const COPIES = `(select coalesce(json_agg(json_build_object('path', replica_path, 'size', r.size_bytes::text,
      'modifiedSeconds', extract(epoch from origin_modification_time)::float8)
      order by r.size_bytes is distinct from o.size_bytes, origin_modification_time desc nulls last, replica_path), '[]')
    from file_replicas r
   where r.hostname = $4 and (r.origin_host, r.origin_path) = (o.origin_host, o.origin_path))`

/**
 * Takes a file for the transaction that has begun.
 * @returns `held` while another one has it, `done` when it need not be read any more
 */
export async function claim(
  client: Client,
  { host, path }: Origin,
  { begun, hostname }: { begun: string; hostname: string },
): Promise<Claimed | 'held' | 'done'> {
  const { rowCount } = await client.query(
    'select from file_origins where (origin_host, origin_path) = ($1, $2) for update skip locked',
    [host, path],
  )
  if (rowCount === 0) return 'held'
  // What whoever had the lock before wrote is seen by a statement that begins after it only.
  const { rows } = await client.query<Claimed>(
    `select o.size_bytes as size, o.modification_time as modified,
            i.origin_path is not null and i.state <> 'failed' as "isAgain",
            extract(epoch from o.modification_time)::float8 as "modifiedSeconds", ${COPIES} as replicas
       from file_origins o left join file_ingests i using (origin_host, origin_path)
      where (o.origin_host, o.origin_path) = ($2, $3) and ${NEEDED}`,
    [begun, host, path, hostname],
  )
  return rows[0] ?? 'done'
}

/** Another file of the same device and time that has the same bytes. */
export async function findSame(
  client: Client,
  { host, path }: Origin,
  file: { device: string; time: string; hash: () => Promise<string> },
): Promise<string | undefined> {
  const { rows } = await client.query<{ path: string; sha256: string }>(
    `select i.origin_host || ':' || i.origin_path as path, i.sha256
       from file_ingest_times t join file_ingests i using (origin_host, origin_path)
      where t.ts = $1::timestamptz and t.device = $2 and i.state in ('whole', 'open', 'partial')
        and (i.origin_host, i.origin_path) is distinct from ($3::text, $4::text)`,
    [file.time, file.device, host, path],
  )
  if (rows.length === 0) return undefined
  const sha256 = await file.hash()
  return rows.find((row) => row.sha256 === sha256)?.path
}

/** Writes what became of a file. */
export async function writeEntry(
  client: Client,
  { host, path }: Origin,
  entry: Entry,
  by: string,
): Promise<void> {
  await client.query(
    `insert into file_ingests values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, clock_timestamp(), $13)
     on conflict (origin_host, origin_path) do update set (state, reason, device, size_bytes, modification_time, sha256,
       rows, known, conflicts, rejects, tried_at, tried_by) = (excluded.state, excluded.reason, excluded.device,
       excluded.size_bytes, excluded.modification_time, excluded.sha256, excluded.rows, excluded.known,
       excluded.conflicts, excluded.rejects, excluded.tried_at, excluded.tried_by)`,
    [
      host,
      path,
      entry.state,
      entry.reason,
      entry.device,
      entry.size,
      entry.modified,
      entry.sha256,
      entry.rows,
      entry.known,
      entry.conflicts,
      entry.rejects,
      by,
    ],
  )
}

/** Tells the tables of `xtelemdb` of a file that was read: its own programs look there. */
export async function writeIngestTime(
  client: Client,
  { host, path }: Origin,
  { device, time }: { device: string; time: string },
): Promise<void> {
  await client.query(
    `insert into file_ingest_times (ts, device, ingested_at, origin_host, origin_path)
     values ($1, $2, clock_timestamp(), $3, $4)
     on conflict (ts, device) do update set ingested_at = excluded.ingested_at`,
    [time, device, host, path],
  )
}

/** What the disk says of an original now. */
export async function writeOrigin(
  client: Client,
  { host, path }: Origin,
  { size, modified }: { size: bigint; modified: string },
): Promise<void> {
  await client.query(
    `update file_origins set size_bytes = $3, modification_time = $4 where (origin_host, origin_path) = ($1, $2)
        and (size_bytes, modification_time) is distinct from ($3::bigint, $4::timestamptz)`,
    [host, path, size.toString(), modified],
  )
}

/** Puts the rejects of a file in the place of those of an earlier time. */
export async function writeRejects(
  client: Client,
  { host, path }: Origin,
  rejects: readonly Reject[],
): Promise<void> {
  await client.query('delete from file_rejects where (origin_host, origin_path) = ($1, $2)', [host, path])
  if (rejects.length === 0) return
  const lines = rejects.map(({ line, reason, content }) =>
    [host, path, String(line), reason, content].map((text) => escaped(text)).join('\t'),
  )
  const source = [Buffer.from(`${lines.join('\n')}\n`)]
  await copyIn(
    client,
    'copy file_rejects (origin_host, origin_path, line, reason, content) from stdin',
    (async function* () {
      yield* source
    })(),
  )
}
