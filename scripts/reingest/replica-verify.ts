import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import type { Client } from 'pg'
import { isMissing, reasonOf } from '../core/file.ts'
import { interrupted } from '../core/interrupt.ts'
import type { Job } from './job.ts'
import { assertThere, withClient } from './replica.ts'
import { microseconds } from './source.ts'

/** Whether copies are what they are to be. */
export interface VerifiedCopies {
  copies: number
  bytes: number
  /** Those whose bytes were compared, with the ledger or with the original; of others size and time only. */
  hashed: number
  /** The first thousand. */
  readonly differing: { readonly path: string; readonly reason: string }[]
}

interface Copy {
  readonly path: string
  readonly size: string | null
  readonly modifiedSeconds: number | null
  readonly host: string
  readonly origin: string
  /** Of the original as it was then, if it was read. */
  readonly sha256: string | null
}

const DIFFERING = 1000
const CLOCK_SECONDS = 2

/**
 * Reads all copies that this host has, or those below a folder. Nothing is changed.
 * @param onFile told how many of all copies are done
 * @throws {Fail} `file-unreadable` when the drive is not there
 */
export async function verifyCopies(
  job: Job,
  prefix: string | undefined,
  onFile: (done: number, all: number) => void,
): Promise<VerifiedCopies> {
  if (prefix !== undefined) await assertThere(prefix)
  const copies = await withClient(job, (client) => copiesOf(client, job, prefix))
  const verified: VerifiedCopies = { copies: copies.length, bytes: 0, hashed: 0, differing: [] }
  for (const [index, copy] of copies.entries()) {
    interrupted.throwIfAborted()
    const reason = await check(job, copy, verified).catch((error: unknown) => reasonOf(error))
    if (reason !== undefined && verified.differing.length < DIFFERING) {
      verified.differing.push({ path: copy.path, reason })
    }
    onFile(index + 1, copies.length)
  }
  return verified
}

async function copiesOf(client: Client, { hostname }: Job, prefix: string | undefined): Promise<Copy[]> {
  const { rows } = await client.query<Copy>(
    `select r.replica_path as path, r.size_bytes as size, r.origin_host as host, r.origin_path as origin,
            extract(epoch from r.origin_modification_time)::float8 as "modifiedSeconds", i.sha256
       from file_replicas r left join file_ingests i on (i.origin_host, i.origin_path, i.size_bytes, i.modification_time)
          = (r.origin_host, r.origin_path, r.size_bytes, r.origin_modification_time)
      where r.hostname = $1 and ($2::text is null or starts_with(r.replica_path, $2 || '/'))
      order by 1`,
    [hostname, prefix ?? null],
  )
  return rows
}

/** @returns what is wrong with it */
async function check(job: Job, copy: Copy, verified: VerifiedCopies): Promise<string | undefined> {
  const found = await statIfAny(copy.path)
  if (!found) return 'it is not there'
  if (copy.size !== null && copy.size !== String(found.size))
    return `it has ${found.size} bytes, not ${copy.size}`
  const wanted = copy.sha256 ?? (await hashOfOriginal(job, copy))
  const hash = await hashOf(copy.path)
  verified.bytes += Number(found.size)
  if (wanted !== undefined) {
    verified.hashed += 1
    return hash === wanted ? undefined : 'it has other bytes than the original had'
  }
  const isTime = copy.modifiedSeconds === null || isNear(found.mtimeNs, copy.modifiedSeconds)
  return isTime ? undefined : `it was written to at ${microseconds(found.mtimeNs)}`
}

async function hashOfOriginal({ hostname }: Job, copy: Copy): Promise<string | undefined> {
  if (copy.host !== hostname || copy.modifiedSeconds === null) return undefined
  const found = await statIfAny(copy.origin)
  const isAsThen = found && String(found.size) === copy.size && isNear(found.mtimeNs, copy.modifiedSeconds)
  return isAsThen ? hashOf(copy.origin) : undefined
}

async function statIfAny(path: string): Promise<{ size: bigint; mtimeNs: bigint } | undefined> {
  return stat(path, { bigint: true }).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
}

function isNear(mtimeNs: bigint, seconds: number): boolean {
  return Math.abs(Number(mtimeNs / 1_000_000n) / 1000 - seconds) <= CLOCK_SECONDS
}

async function hashOf(path: string): Promise<string> {
  const digest = createHash('sha256')
  for await (const chunk of createReadStream(path)) digest.update(chunk)
  return digest.digest('hex')
}
