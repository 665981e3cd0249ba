import type { Client } from 'pg'
import { copyIn } from '../cluster/copy.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { connectJob, type Job, recipeOf } from './job.ts'
import { nothingFound, rowsOf } from './rows.ts'
import { openSource } from './source.ts'

/** Whether a table is what its files say. */
export interface Checked {
  readonly files: number
  readonly rows: number
  /** Rows of the devices of these files that none of them has. */
  readonly extra: number
  /** Files of which something differs; the first thousand. */
  readonly differing: readonly { readonly host: string; readonly path: string; readonly reason: string }[]
}

interface Stored {
  readonly host: string
  readonly path: string
  readonly sha256: string
  readonly conflicts: string
  readonly replicas: readonly string[]
}

interface Listed extends Stored {
  /** Its place among all of them. */
  readonly index: number
}

const DIFFERING = 1000

/**
 * Reads all files again that were stored from this host, and compares each with the ledger and row by row with the
 * table. Nothing is changed.
 * @param onFile told how many of all files are done
 */
export async function verify(job: Job, onFile: (done: number, all: number) => void): Promise<Checked> {
  const client = await connectJob(job)
  try {
    await client.query(SEEN)
    const files = await storedFiles(client, job)
    const differing: { host: string; path: string; reason: string }[] = []
    let rows = 0
    for (const [index, file] of files.entries()) {
      const checked = await checkFile(client, job, { ...file, index })
      rows += checked.rows
      if (checked.reason !== undefined && differing.length < DIFFERING)
        differing.push({ host: file.host, path: file.path, reason: checked.reason })
      onFile(index + 1, files.length)
    }
    differing.push(...(await findChanged(client, files, differing)))
    differing.sort((a, b) => (`${a.host}:${a.path}` < `${b.host}:${b.path}` ? -1 : 1))
    const { rows: counted } = await client.query<{ extra: string }>(EXTRA)
    return { files: files.length, rows, extra: Number(counted[0]!.extra), differing }
  } finally {
    await client.end().catch(() => {})
  }
}

const SEEN = `create temp table staged (ts timestamptz, device varchar(50), ec varchar(20), msg jsonb,
    line bigint generated always as identity);
  create temp table seen (file int, ts timestamptz, device varchar(50), content bigint, is_other boolean)`

/** SQL: what a row holds, beside its key. */
const contentOf = (row: string) => `hashtextextended(row(${row}.ec, ${row}.msg)::text, 0)`

// Of two records with one time the first one of the file counts.
const SEE = `insert into pg_temp.seen select $1, s.ts, s.device, ${contentOf('s')},
    t.ts is not null and (s.ec, s.msg) is distinct from (t.ec, t.msg)
  from (select distinct on (ts, device) * from pg_temp.staged order by ts, device, line) s
  left join telem t using (ts, device)`

const COMPARE = `select count(*) filter (where t.ts is null) as missing
  from pg_temp.staged s left join telem t using (ts, device)`

// A row that is otherwise in the table is to be that of another file, for the same time.
const CHANGED = `select s.file, count(*)::int as changed
  from pg_temp.seen s join telem t using (ts, device)
  where s.is_other and not exists (select from pg_temp.seen o
    where (o.ts, o.device, o.content) = (s.ts, s.device, ${contentOf('t')}))
  group by 1`

const EXTRA = `select count(*) as extra from telem t where device in (select distinct device from pg_temp.seen)
  and not exists (select from pg_temp.seen s where (s.ts, s.device) = (t.ts, t.device))`

type Differing = Checked['differing']

/** Files whose rows are otherwise in the table, beside those that are told already. */
async function findChanged(client: Client, files: readonly Stored[], told: Differing): Promise<Differing> {
  await client.query('analyze pg_temp.seen')
  const { rows: all } = await client.query<{ count: number }>(
    `select count(*)::int as count from file_ingests where state in ('whole', 'open', 'partial')`,
  )
  // Of files that could not be read here nobody knows which rows they have: conflicts may be with those.
  const isAllSeen = all[0]!.count === files.length && told.length === 0
  const { rows } = await client.query<{ file: number; changed: number }>(CHANGED)
  return rows
    .flatMap(({ file, changed }) => {
      const { host, path, conflicts } = files[file]!
      const isTold = told.some((one) => one.host === host && one.path === path)
      if (isTold || changed <= (isAllSeen ? 0 : Number(conflicts))) return []
      return [{ host, path, reason: `${changed} of its rows are otherwise in the table` }]
    })
    .slice(0, DIFFERING - told.length)
}

async function storedFiles(client: Client, { hostname }: Job): Promise<Stored[]> {
  const { rows } = await client.query<Stored>(
    `select o.origin_host as host, o.origin_path as path, sha256, conflicts, replicas
       from file_ingests i join file_origins o using (origin_host, origin_path),
            lateral (select array(select replica_path::text from file_replicas r where r.hostname = $1
              and (r.origin_host, r.origin_path) = (o.origin_host, o.origin_path)
              order by origin_modification_time desc nulls last, replica_path) as replicas) r
      where state in ('whole', 'open', 'partial') and (o.origin_host = $1 or cardinality(replicas) > 0)
      order by o.origin_host, o.origin_path`,
    [hostname],
  )
  return rows
}

async function checkFile(
  client: Client,
  job: Job,
  file: Listed,
): Promise<{ readonly rows: number; readonly reason?: string }> {
  try {
    return await compare(client, job, file)
  } catch (error) {
    if (!(error instanceof Fail)) throw error
    return { rows: 0, reason: error.message }
  }
}

async function compare(client: Client, job: Job, file: Listed): Promise<{ rows: number; reason?: string }> {
  const recipe = recipeOf(job, file.path)
  for (const path of file.host === job.hostname ? [file.path, ...file.replicas] : file.replicas) {
    await using source = await openSource(path, recipe.ending, recipe.decoder)
    if (source === undefined) continue
    await client.query('truncate pg_temp.staged')
    const found = nothingFound()
    const rows = await copyIn(client, COPY, rowsOf(source.blocks(), recipe, found)).catch(
      (error: unknown) => {
        throw new Fail('file-unreadable', messageOf(error), { cause: error })
      },
    )
    await client.query(SEE, [file.index])
    const { rows: compared } = await client.query<{ missing: string }>(COMPARE)
    const { missing } = compared[0]!
    const { sha256 } = await source.end()
    if (sha256 !== file.sha256) return { rows, reason: 'it is not the file that was stored: run ingest' }
    if (missing !== '0') return { rows, reason: `${missing} of its ${rows} rows are not in the table` }
    return { rows }
  }
  return { rows: 0, reason: 'it is not there any more, and no copy of it is here' }
}

const COPY = 'copy pg_temp.staged (ts, device, ec, msg) from stdin'
