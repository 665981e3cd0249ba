import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { CompletedPart } from '@aws-sdk/client-s3'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { formatDuration } from '../core/quantity.ts'
import type { S3 } from './s3-client.ts'
import { type Part, partsOf, type Buffers, buffersOf } from './s3-part.ts'

/** A key of a bucket. */
export interface Place {
  readonly Bucket: string
  readonly Key: string
}

/** How a body is stored. */
export interface Uploading {
  /** What it sends with throws failures. */
  readonly s3: S3
  readonly at: Place
  /** Milliseconds before each further round of tries of a request. */
  readonly pauses: readonly number[]
}

/** Says of a stored object which writer it is of: an answer may be lost, and then only this tells. */
export const TOKEN = 'howdah-writer'

/** How far the clocks of this host and of the server may be apart: S3 refuses what is over it. */
const SKEW_MILLISECONDS = 15 * 60_000

/**
 * Stores a body: in one request when it is small, in parts otherwise. After any failure none of it is
 * there, and no part either.
 * @returns its size in bytes
 */
export async function upload(uploading: Uploading, body: AsyncIterable<Uint8Array>): Promise<number> {
  const { s3, at } = uploading
  const failed = new AbortController()
  const signal = AbortSignal.any([failed.signal, interrupted])
  const buffers = buffersOf()
  const parts = partsOf(body, buffers, signal)
  const first = (await parts.next()).value!
  if (first.isLast) {
    const put = new s3.sdk.PutObjectCommand({ ...at, Body: first.bytes })
    await s3.send(put, { abortSignal: signal })
    return first.bytes.length
  }
  let id: string | undefined
  try {
    const token = randomUUID()
    id = await begin(uploading, token)
    return await uploadParts({ ...uploading, id, token, failed, signal, buffers }, first, parts)
  } catch (error) {
    failed.abort(error)
    await parts.return(undefined).catch(() => {}) // its own failure is the one that is thrown
    if (id !== undefined) await abort(uploading, id)
    throw error
  }
}

/** An upload in parts that is under way. */
interface Running extends Uploading {
  readonly id: string
  readonly token: string
  readonly failed: AbortController
  readonly signal: AbortSignal
  readonly buffers: Buffers
}

async function uploadParts(running: Running, first: Part, rest: AsyncIterable<Part>): Promise<number> {
  const { failed, signal } = running
  const done: CompletedPart[] = []
  const sending = new Set<Promise<void>>()
  let size = 0
  const start = (part: Part) => {
    size += part.bytes.length
    const sent: Promise<void> = sendPart(running, part)
      .then((part) => void done.push(part))
      .catch((error: unknown) => failed.abort(error))
      .finally(() => sending.delete(sent))
    sending.add(sent)
  }
  try {
    start(first)
    for await (const part of rest) start(part) // waits for a free buffer
  } catch (error) {
    failed.abort(error) // those on the way are ended
  }
  await Promise.all(sending)
  signal.throwIfAborted()
  await complete(running, done, size)
  return size
}

async function sendPart(running: Running, { number, bytes, buffer }: Part): Promise<CompletedPart> {
  const { s3, at, id, signal, buffers } = running
  const part = new s3.sdk.UploadPartCommand({ ...at, UploadId: id, PartNumber: number, Body: bytes })
  try {
    const { ETag } = await steadily(running, signal, () => s3.send(part, { abortSignal: signal }))
    return { PartNumber: number, ETag }
  } finally {
    buffers.giveBack(buffer)
  }
}

async function begin(uploading: Uploading, token: string): Promise<string> {
  const { s3, at } = uploading
  const since = Date.now() - SKEW_MILLISECONDS
  let tries = 0
  const create = new s3.sdk.CreateMultipartUploadCommand({ ...at, Metadata: { [TOKEN]: token } })
  const begun = await steadily(uploading, interrupted, async () => {
    tries += 1
    return s3.send(create, { abortSignal: interrupted })
  }).catch(async (error: unknown) => {
    await abortLost(uploading, since).catch(() => {}) // the server may be gone for good
    throw error
  })
  const id = begun.UploadId!
  if (tries > 1 || (begun.$metadata.attempts ?? 1) > 1) {
    await abortLost(uploading, since, id).catch((error: unknown) => warnOfRest(at, error))
  }
  return id
}

/**
 * Aborts uploads of this key that were begun just now. Where the answer to a beginning was lost,
 * nobody knows its id, and its rest would cost money for ever.
 * @param except the one that is wanted
 */
async function abortLost({ s3, at }: Uploading, since: number, except?: string): Promise<void> {
  const list = new s3.sdk.ListMultipartUploadsCommand({ Bucket: at.Bucket, Prefix: at.Key })
  const { Uploads } = await s3.send(list)
  for (const { Key, UploadId, Initiated } of Uploads ?? []) {
    if (Key !== at.Key || UploadId === except || Number(Initiated ?? 0) < since) continue
    await s3.send(new s3.sdk.AbortMultipartUploadCommand({ ...at, UploadId }))
  }
}

async function complete(running: Running, done: readonly CompletedPart[], size: number): Promise<void> {
  const { s3, at, id, token } = running
  const Parts = done.toSorted((a, b) => a.PartNumber! - b.PartNumber!)
  // Commit point: the key has the new content.
  const commit = new s3.sdk.CompleteMultipartUploadCommand({
    ...at,
    UploadId: id,
    MultipartUpload: { Parts },
  })
  try {
    await steadily(running, interrupted, () => s3.send(commit, { abortSignal: interrupted }))
  } catch (error) {
    // The answer to an earlier try may have been lost: then there is nothing left to complete.
    const found = await s3.send(new s3.sdk.HeadObjectCommand(at)).catch(() => undefined)
    if (found?.Metadata?.[TOKEN] === token && found.ContentLength === size) return
    throw error
  }
}

/** Not ended by Ctrl-C. What cannot be aborted costs money until a lifecycle rule of the bucket removes it. */
async function abort({ s3, at }: Uploading, id: string): Promise<void> {
  const command = new s3.sdk.AbortMultipartUploadCommand({ ...at, UploadId: id })
  await s3.send(command).catch((error: unknown) => warnOfRest(at, error))
}

function warnOfRest({ Key }: Place, error: unknown): void {
  // Nothing is left of an upload that the server does not know.
  if (error instanceof Fail && (error.cause as Error | undefined)?.name === 'NoSuchUpload') return
  log('warning', `store: parts of "${Key}" may be left: ${messageOf(error)}`)
}

/** Tries it for as long as the server cannot be reached and there are pauses left. */
async function steadily<T>(
  { at, pauses }: Uploading,
  signal: AbortSignal,
  action: () => Promise<T>,
): Promise<T> {
  for (const pause of pauses) {
    try {
      return await action()
    } catch (error) {
      if (!(error instanceof Fail && error.code === 'store-unreachable') || signal.aborted) throw error
      log(
        'warning',
        `store: "${at.Key}": ${error.message}; it is tried again in ${formatDuration(pause / 1000)}`,
      )
      await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal })
    }
  }
  return action()
}
