import type { Client } from 'pg'
import type { Job } from './job.ts'
import { type FoundFile, lookAt } from './walk.ts'

const NOTE = `insert into file_origins as o (origin_host, origin_path, modification_time, creation_time, size_bytes)
  select $1, path, modified, created, size
    from unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[]) f (path, modified, created, size)
  on conflict (origin_host, origin_path) do update
     set modification_time = excluded.modification_time, size_bytes = excluded.size_bytes
   where (o.modification_time, o.size_bytes) is distinct from (excluded.modification_time, excluded.size_bytes)`

/** Tells the database of files as they are now. @returns those that are there; of what cannot be looked at an inventory tells */
export async function noteFiles(client: Client, job: Job, paths: readonly string[]): Promise<FoundFile[]> {
  const looked = await Promise.all(paths.map((path) => lookAt(path, { isLink: false, onSkipped: () => {} })))
  const found = looked.filter((file) => file !== undefined)
  if (found.length === 0) return []
  await client.query(NOTE, [
    job.hostname,
    found.map(({ path }) => path),
    found.map(({ modified }) => modified),
    found.map(({ created }) => created),
    found.map(({ size }) => size),
  ])
  return found
}
