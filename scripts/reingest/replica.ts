import type { Client } from 'pg'
import { unmountedPoint } from '../core/mounts.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { connectJob, type Job } from './job.ts'

/** A folder of this host to which files are copied, as `<prefix>/<host>/<path>`. */
export interface ReplicaFolder {
  readonly prefix: string
  readonly copies: number
  readonly bytes: number
  /** Files of this host of which it has no copy, or one of another size or time. */
  readonly missing: number
}

/**
 * Makes a folder one to which `sync` copies.
 * @throws {Fail} `file-unreadable` when its drive is not there
 */
export async function addReplica(
  job: Job,
  prefix: string,
  { planOnly }: { planOnly: boolean },
): Promise<void> {
  await assertThere(prefix)
  await withClient(job, async (client) => {
    await client.query('begin')
    await client.query('insert into replicas (hostname, prefix) values ($1, $2) on conflict do nothing', [
      job.hostname,
      prefix,
    ])
    await client.query(planOnly ? 'rollback' : 'commit')
  })
}

/** All folders to which this host copies. */
export async function listReplicas(job: Job): Promise<ReplicaFolder[]> {
  return withClient(job, async (client) => {
    const { rows } = await client.query<ReplicaFolder>(LIST, [job.hostname])
    return rows
  })
}

const LIST = `select p.prefix, c.copies, c.bytes, m.missing from replicas p,
  lateral (select count(*)::int as copies, coalesce(sum(size_bytes), 0)::float8 as bytes from file_replicas r
            where r.hostname = p.hostname and starts_with(r.replica_path, p.prefix || '/')) c,
  lateral (select count(*)::int as missing from file_origins o
             left join file_replicas r on r.hostname = p.hostname
                  and r.replica_path = p.prefix || '/' || o.origin_host || o.origin_path
            where o.origin_host = p.hostname
              and (r.size_bytes, r.origin_modification_time) is distinct from (o.size_bytes, o.modification_time)) m
  where p.hostname = $1 order by 1`

/**
 * The folders to which this host copies: all of them, or the one that is asked for.
 * @throws {Fail} `usage` when there is none
 */
export async function replicasOf(
  client: Client,
  { hostname }: Job,
  wanted: string | undefined,
): Promise<string[]> {
  const { rows } = await client.query<{ prefix: string }>(
    'select prefix from replicas where hostname = $1 and prefix = coalesce($2, prefix) order by 1',
    [hostname, wanted ?? null],
  )
  if (rows.length > 0) return rows.map(({ prefix }) => prefix)
  throw new Fail(
    'usage',
    wanted === undefined ? 'nothing is copied anywhere' : `nothing is copied to "${wanted}"`,
    {
      hint: `Begin it with: howdah reingest replica add ${wanted ?? '/mnt/backup'}`,
    },
  )
}

/**
 * That a drive is there: what is written to its mount point else would fill another one.
 * @throws {Fail} `file-unreadable`
 */
export async function assertThere(prefix: string): Promise<void> {
  const point = await unmountedPoint(prefix)
  const is = point === undefined ? 'is not there' : `is to be on "${point}", on which nothing is mounted`
  if (point === undefined && (await exists(prefix))) return
  throw new Fail('file-unreadable', `the folder "${prefix}" ${is}`, {
    hint: point === undefined ? `If it is new: mkdir ${prefix}` : `Mount it first: mount ${point}`,
  })
}

/** A session of a job for something, which ends with it. */
export async function withClient<T>(job: Job, use: (client: Client) => Promise<T>): Promise<T> {
  const client = await connectJob(job)
  try {
    return await use(client)
  } finally {
    await client.end().catch(() => {})
  }
}
