import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Client } from 'pg'
import { Fail } from '../core/fail.ts'
import { isMissing, reasonOf, syncFolder } from '../core/file.ts'
import { interrupted } from '../core/interrupt.ts'
import type { Job } from './job.ts'
import { assertThere, replicasOf, withClient } from './replica.ts'
import { microseconds } from './source.ts'

/** What was copied. */
export interface Synced {
  copied: number
  bytes: number
  /** Originals that are not there any more, nor is a copy in this folder. */
  gone: number
  /** Files that could not be copied. */
  readonly failed: { readonly path: string; readonly reason: string }[]
}

/**
 * Copies the files of this host that are new, or have another size or time than their copy: each is there as a whole or
 * not at all, and with the time of the original.
 * @param onFile told how many of all files are done
 * @throws {Fail} `no-space` when a drive is full, `file-unreadable` when it is not there
 */
export async function syncReplicas(
  job: Job,
  wanted: string | undefined,
  { planOnly, onFile }: { planOnly: boolean; onFile: (done: number, all: number) => void },
): Promise<Synced> {
  return withClient(job, async (client) => {
    const synced: Synced = { copied: 0, bytes: 0, gone: 0, failed: [] }
    for (const prefix of await replicasOf(client, job, wanted)) {
      await assertThere(prefix)
      const paths = await missingFrom(client, job, prefix)
      for (const [index, path] of paths.entries()) {
        interrupted.throwIfAborted()
        if (planOnly) synced.copied += 1
        else await syncFile(client, { job, prefix, path, synced })
        onFile(index + 1, paths.length)
      }
    }
    return synced
  })
}

async function missingFrom(client: Client, { hostname }: Job, prefix: string): Promise<string[]> {
  const { rows } = await client.query<{ path: string }>(
    `select o.origin_path as path from file_origins o
       left join file_replicas r on r.hostname = $1 and r.replica_path = $2 || '/' || o.origin_host || o.origin_path
      where o.origin_host = $1
        and (r.size_bytes, r.origin_modification_time) is distinct from (o.size_bytes, o.modification_time)
      order by o.creation_time, o.origin_path`,
    [hostname, prefix],
  )
  return rows.map(({ path }) => path)
}

interface Task {
  readonly job: Job
  readonly prefix: string
  readonly path: string
  readonly synced: Synced
}

async function syncFile(client: Client, { job, prefix, path, synced }: Task): Promise<void> {
  const to = join(prefix, job.hostname, path)
  try {
    const copied = await copyFile(path, to)
    if (copied === undefined) {
      synced.gone += 1
      return
    }
    await client.query(RECORD, [job.hostname, to, copied.modified, String(copied.size), path])
    synced.copied += 1
    synced.bytes += copied.size
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      throw new Fail('no-space', `cannot copy "${path}" to "${prefix}": its drive is full`, {
        hint: 'What was copied stays. Make room, or add another folder: howdah reingest replica add PREFIX',
        cause: error,
      })
    }
    // What the system says of one file; anything else is about all of them.
    if (typeof code !== 'string' || !/^E[A-Z]+$/.test(code) || code.startsWith('ECONN')) throw error
    synced.failed.push({ path, reason: reasonOf(error) })
  }
}

const RECORD = `insert into file_replicas
    (hostname, replica_path, origin_modification_time, size_bytes, origin_host, origin_path)
  values ($1, $2, $3, $4, $1, $5)
  on conflict (hostname, replica_path) do update
     set origin_modification_time = excluded.origin_modification_time, size_bytes = excluded.size_bytes,
         origin_host = excluded.origin_host, origin_path = excluded.origin_path`

/** @returns undefined when the original is not there */
async function copyFile(from: string, to: string): Promise<{ size: number; modified: string } | undefined> {
  const source = await open(from, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  if (!source) return undefined
  const part = join(
    dirname(to),
    `.${createHash('sha256').update(basename(to)).digest('hex').slice(0, 16)}.howdah-part`,
  )
  try {
    const before = await source.stat({ bigint: true })
    await mkdir(dirname(to), { recursive: true })
    await writePart(source, part, before)
    await rename(part, to)
    await syncFolder(dirname(to))
    return { size: Number(before.size), modified: microseconds(before.mtimeNs) }
  } catch (error) {
    await rm(part, { force: true })
    throw error
  } finally {
    await source.close()
  }
}

/** A file that grows meanwhile is copied as far as it went when it was looked at. */
async function writePart(
  source: FileHandle,
  path: string,
  { size, mtimeNs, mode }: { size: bigint; mtimeNs: bigint; mode: bigint },
): Promise<void> {
  await using part = await open(path, 'w', Number(mode) & 0o666)
  if (size > 0n) {
    const end = Number(size) - 1
    const chunks: AsyncIterable<Buffer> = source.createReadStream({ start: 0, end, autoClose: false })
    for await (const chunk of chunks) {
      interrupted.throwIfAborted()
      await part.writeFile(chunk)
    }
  }
  // Half a microsecond more: seconds in floating point may be a little less than they are.
  const seconds = Number(mtimeNs / 1000n) / 1e6 + 5e-7
  await part.utimes(seconds, seconds)
  await part.sync()
}
