import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Client } from 'pg'
import { copyIn } from '../cluster/copy.ts'
import { Fail } from '../core/fail.ts'
import { reasonOf } from '../core/file.ts'
import { isBelow } from './inventory.ts'
import { connectJob, type Job } from './job.ts'
import { escaped } from './rows.ts'
import { type Skipped, walk } from './walk.ts'

/** What was found on a drive that is laid out as `<prefix>/<host>/<path>`. */
export interface Enrolled {
  readonly copies: number
  /** Hosts whose files they are. */
  readonly hosts: readonly string[]
  /** Originals of which nothing was known. */
  readonly origins: number
  /** Copies that were not known, or have another size or time now. */
  readonly changed: number
  /** Copies that are not what the original is, by its size or its time. */
  readonly differing: number
  /** Copies that were known and are gone. */
  readonly vanished: number
  readonly skipped: readonly Skipped[]
}

/**
 * Tells the database which files are copies on a drive of this host, and of originals that it does not know. Of those
 * that it knows nothing is changed. All of it is one transaction.
 * @param planOnly nothing is written
 * @param onFiles told how many files were found so far
 * @throws {Fail} `file-unreadable` when the folder cannot be read
 */
export async function enroll(
  job: Job,
  prefix: string,
  { planOnly, onFiles }: { readonly planOnly: boolean; readonly onFiles: (count: number) => void },
): Promise<Enrolled> {
  const skipped: Skipped[] = []
  const hosts = await hostsIn(prefix, skipped)
  const client = await connectJob(job)
  try {
    await client.query('begin')
    await client.query(COPIES)
    const ignore = { ...job.ignore, files: [...job.ignore.files, PART] }
    const copies = await copyIn(client, COPY, found({ prefix, hosts, ignore }, skipped, onFiles))
    await client.query('analyze pg_temp.copies')
    const counts = await store(client, job, { prefix, skipped })
    await client.query(planOnly ? 'rollback' : 'commit')
    return { copies, hosts, ...counts, skipped }
  } finally {
    await client.end().catch(() => {})
  }
}

const COPIES = `create temp table copies (host varchar(50), path varchar(1024), replica_path varchar(1024),
  size_bytes bigint, modified timestamptz, created timestamptz) on commit drop`

const COPY = 'copy pg_temp.copies (host, path, replica_path, size_bytes, modified, created) from stdin'

/** What a host may be called: hostname(7), with the underscores that are seen in the wild. */
const HOST = /^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$/
/** What is on a drive whatever is on it: of mkfs, and of desktops. */
const OF_THE_DRIVE = /^(\.|lost\+found$|System Volume Information$|\$RECYCLE\.BIN$)/i

/** What a run of `replica sync` that was killed has left. */
const PART = /^\..*\.howdah-part$/

async function hostsIn(prefix: string, skipped: Skipped[]): Promise<string[]> {
  const entries = await readdir(prefix, { withFileTypes: true }).catch((error: unknown) => {
    throw new Fail('file-unreadable', `cannot read "${prefix}": ${reasonOf(error)}`, {
      hint: 'Is the drive mounted? Below it each folder is a host: PREFIX/HOST/PATH',
      cause: error,
    })
  })
  const folders = entries.filter((entry) => entry.isDirectory() && !OF_THE_DRIVE.test(entry.name))
  const hosts: string[] = []
  for (const { name } of folders) {
    if (HOST.test(name)) hosts.push(name)
    else skipped.push({ path: join(prefix, name), reason: 'its name is not that of a host', isFolder: true })
  }
  return hosts.toSorted()
}

interface Drive {
  readonly prefix: string
  readonly hosts: readonly string[]
  readonly ignore: Job['ignore']
}

async function* found(
  { prefix, hosts, ignore }: Drive,
  skipped: Skipped[],
  onFiles: (count: number) => void,
): AsyncGenerator<Buffer, void> {
  let count = 0
  for (const host of hosts) {
    const folder = join(prefix, host)
    for await (const files of walk(folder, ignore, (one) => skipped.push(one))) {
      count += files.length
      onFiles(count)
      const lines = files.map(({ path, size, modified, created }) => {
        const names = [host, path.slice(folder.length), path].map((text) => escaped(text))
        return `${[...names, size, modified, created].join('\t')}\n`
      })
      if (lines.length > 0) yield Buffer.from(lines.join(''))
    }
  }
}

const ORIGINS = `insert into file_origins (origin_host, origin_path, modification_time, creation_time, size_bytes)
  select host, path, modified, created, size_bytes from pg_temp.copies on conflict do nothing`

const REPLICAS = `insert into file_replicas as r
    (hostname, replica_path, origin_modification_time, size_bytes, origin_host, origin_path)
  select $1, replica_path, modified, size_bytes, host, path from pg_temp.copies
  on conflict (hostname, replica_path) do update
     set origin_modification_time = excluded.origin_modification_time, size_bytes = excluded.size_bytes,
         origin_host = excluded.origin_host, origin_path = excluded.origin_path
   where (r.origin_modification_time, r.size_bytes, r.origin_host, r.origin_path) is distinct from
         (excluded.origin_modification_time, excluded.size_bytes, excluded.origin_host, excluded.origin_path)`

const DIFFERING = `select count(*)::int as differing from pg_temp.copies c join file_origins o
  on (o.origin_host, o.origin_path) = (c.host, c.path)
  where (o.size_bytes, o.modification_time) is distinct from (c.size_bytes, c.modified)`

const VANISHED = `delete from file_replicas
  where hostname = $1 and starts_with(replica_path, $2 || '/') and not ${isBelow('replica_path', '$3')}
    and not exists (select from pg_temp.copies c where c.replica_path = file_replicas.replica_path)`

async function store(
  client: Client,
  { hostname }: Job,
  { prefix, skipped }: { prefix: string; skipped: readonly Skipped[] },
): Promise<Pick<Enrolled, 'origins' | 'changed' | 'differing' | 'vanished'>> {
  const { rowCount: origins } = await client.query(ORIGINS)
  const { rowCount: changed } = await client.query(REPLICAS, [hostname])
  // Of what is in a folder that could not be read nobody knows.
  const unread = skipped.filter(({ isFolder }) => isFolder).map(({ path }) => path)
  const { rowCount: vanished } = await client.query(VANISHED, [hostname, prefix, unread])
  const { rows } = await client.query<{ differing: number }>(DIFFERING)
  return {
    origins: origins ?? 0,
    changed: changed ?? 0,
    vanished: vanished ?? 0,
    differing: rows[0]!.differing,
  }
}
