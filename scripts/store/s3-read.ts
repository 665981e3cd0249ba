import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import type { S3 } from './s3-client.ts'
import type { ByteRange } from './store.ts'

/** What is read, and how often a body that breaks off is taken up again without a byte of progress. */
export interface Reading {
  readonly at: { readonly Bucket: string; readonly Key: string }
  readonly range: ByteRange | undefined
  readonly attempts: number
  /** What an error of the server, or of the network, becomes. */
  readonly failOf: (error: unknown) => unknown
}

/**
 * The bytes of a key. A connection that breaks looks like an end: only the length that the server said
 * first tells whether all has come. What is missing is asked for again, of the same version of the key.
 */
export async function read(s3: S3, reading: Reading): Promise<Readable> {
  const begin = reading.range?.first ?? 0
  const first = await fetchFrom(s3, reading, begin).catch((error: unknown) => {
    if ((error as Error).name === 'InvalidRange') return undefined // it begins behind the end
    throw error
  })
  if (first === undefined) return Readable.from([], { objectMode: false })
  let { body } = first
  const { length, etag } = first
  async function* content(): AsyncGenerator<Uint8Array, void> {
    let done = 0
    let failures = 0
    while (true) {
      let failure: unknown = new Error('the connection ended')
      try {
        for await (const chunk of body as AsyncIterable<Uint8Array>) {
          done += chunk.length
          failures = 0
          if (done > length) break
          yield chunk
        }
      } catch (error) {
        failure = error
      }
      if (done === length || stream.destroyed) return
      interrupted.throwIfAborted()
      failures += 1
      if (done > length || failures >= reading.attempts) {
        throw reading.failOf(new Error(`${done} of ${length} bytes came`, { cause: failure }))
      }
      await sleep(Math.random() * 100 * 2 ** failures, undefined, { signal: interrupted })
      body.destroy()
      body = (
        await fetchFrom(s3, reading, begin + done, etag).catch((error: unknown) => {
          throw reading.failOf(error)
        })
      ).body
    }
  }
  const stream: Readable = Readable.from(content(), { objectMode: false })
  // A generator that was never asked for anything is not told of the end either.
  stream.once('close', () => body.destroy())
  return stream
}

interface Fetched {
  readonly body: Readable
  readonly length: number
  readonly etag: string | undefined
}

/** @param etag the version that it must be */
async function fetchFrom(
  { sdk, send }: S3,
  { at, range }: Reading,
  first: number,
  etag?: string,
): Promise<Fetched> {
  const isPart = range !== undefined || first > 0
  const command = new sdk.GetObjectCommand({
    ...at,
    ...(isPart && { Range: `bytes=${first}-${range?.last ?? ''}` }),
    ...(etag !== undefined && { IfMatch: etag }),
  })
  const { Body, ContentLength, ContentRange, ETag } = await send(command, { abortSignal: interrupted })
  const body = Body as Readable
  const isRight = ContentLength !== undefined && (!isPart || ContentRange?.startsWith(`bytes ${first}-`))
  if (!isRight) {
    body.destroy()
    const what = ContentLength === undefined ? 'says no length' : 'does not give ranges'
    throw new Fail('store-unreachable', `cannot read "${at.Key}": the server ${what}`, {
      hint: 'Is it an S3 server, and is there a proxy that changes what it says?',
    })
  }
  return { body, length: ContentLength, etag: ETag }
}
