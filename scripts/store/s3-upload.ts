import { type CompletedPart, type S3Client } from '@aws-sdk/client-s3'
import type * as Sdk from '@aws-sdk/client-s3'
import { messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'

/** The SDK, loaded, and a client of it. */
export interface S3 {
  readonly client: S3Client
  readonly sdk: typeof Sdk
}

/** Where a body goes. */
export interface Target {
  readonly Bucket: string
  readonly Key: string
}

const MB = 1024 * 1024

/** Parts on the way at once, while they are small. */
const AT_ONCE = 3

/**
 * Bytes of a part, by its number from 1. S3 takes 10,000 parts of 5 MB to 5 GB: parts of one size would
 * be too big for the memory, or too few for a big body. So they begin with 8 MB and grow slowly: 160 MB
 * after 250 GB, and all of them together hold the 5 TB that an object may have. Pure.
 */
export function partSize(number: number): number {
  return Math.floor(8 * MB * Math.exp(0.0006 * (number - 1)))
}

/**
 * Stores a body: in one request when it is small, in parts otherwise. After any failure none of it is there.
 * @returns its size in bytes
 */
export async function upload(s3: S3, at: Target, body: AsyncIterable<Uint8Array>): Promise<number> {
  const parts = partsOf(body)
  const first = await parts.next()
  if (first.done || first.value.isLast) {
    const bytes = first.done ? new Uint8Array() : first.value.bytes
    await s3.client.send(new s3.sdk.PutObjectCommand({ ...at, Body: bytes }), { abortSignal: interrupted })
    return bytes.length
  }
  const { UploadId } = await s3.client.send(new s3.sdk.CreateMultipartUploadCommand(at), {
    abortSignal: interrupted,
  })
  const target = { ...at, UploadId: UploadId! }
  try {
    return await uploadParts(s3, target, first.value, parts)
  } catch (error) {
    await parts.return(undefined).catch(() => {}) // its own failure is the one that is thrown
    await abort(s3, target)
    throw error
  }
}

interface Part {
  readonly number: number
  readonly bytes: Buffer
  readonly isLast: boolean
}

async function uploadParts(
  { client, sdk }: S3,
  target: Target & { readonly UploadId: string },
  first: Part,
  rest: AsyncIterable<Part>,
): Promise<number> {
  const done: CompletedPart[] = []
  const failed = new AbortController()
  const signal = AbortSignal.any([failed.signal, interrupted])
  const running = new Set<Promise<void>>()
  let size = 0
  const send = ({ number, bytes }: Part) => {
    size += bytes.length
    const sending = (async () => {
      const input = { ...target, PartNumber: number, Body: bytes }
      const { ETag } = await client.send(new sdk.UploadPartCommand(input), { abortSignal: signal })
      done.push({ PartNumber: number, ETag })
    })()
    const ended = sending
      .catch((error: unknown) => failed.abort(failed.signal.reason ?? error))
      .finally(() => running.delete(ended))
    running.add(ended)
  }
  try {
    send(first)
    for await (const part of rest) {
      if (failed.signal.aborted) break
      send(part)
      while (running.size >= (part.bytes.length > 32 * MB ? 1 : AT_ONCE)) await Promise.race(running)
    }
  } catch (error) {
    failed.abort(error)
  }
  await Promise.all(running)
  failed.signal.throwIfAborted()
  const Parts = done.toSorted((a, b) => a.PartNumber! - b.PartNumber!)
  // Commit point: the key has the new content.
  await client.send(new sdk.CompleteMultipartUploadCommand({ ...target, MultipartUpload: { Parts } }), {
    abortSignal: interrupted,
  })
  return size
}

/** Not ended by Ctrl-C. What cannot be aborted costs money until a lifecycle rule of the bucket removes it. */
async function abort({ client, sdk }: S3, target: Target & { readonly UploadId: string }): Promise<void> {
  try {
    await client.send(new sdk.AbortMultipartUploadCommand(target))
  } catch (error) {
    log('warning', `store: an upload of "${target.Key}" could not be aborted: ${messageOf(error)}`)
  }
}

/** Cuts a stream into parts. The last one says so, and only a body without any byte has none. */
async function* partsOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<Part, void> {
  let number = 1
  let pieces: Uint8Array[] = []
  let size = 0
  for await (const chunk of body) {
    let rest = chunk
    // A part goes off when a byte of the next one is there: so the last one is known as such.
    while (size + rest.length > partSize(number)) {
      const taken = partSize(number) - size
      yield { number, bytes: Buffer.concat([...pieces, rest.subarray(0, taken)]), isLast: false }
      rest = rest.subarray(taken)
      number += 1
      pieces = []
      size = 0
    }
    pieces.push(rest)
    size += rest.length
  }
  if (size > 0) yield { number, bytes: Buffer.concat(pieces), isLast: true }
}
