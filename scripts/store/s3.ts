import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { interrupted } from '../core/interrupt.ts'
import { checkKey, checkPrefix } from './key.ts'
import { type Conditions, create } from './s3-create.ts'
import { around, PATIENCE, type S3, s3Client, type S3Options, type S3Spec } from './s3-client.ts'
import { isRetryable, s3Fail } from './s3-fail.ts'
import { read } from './s3-read.ts'
import { type Place, upload } from './s3-upload.ts'
import type { ByteRange, Entry, Store } from './store.ts'
import { storeUrl } from './url.ts'

/** Keys that one request may delete (DeleteObjects). */
const DELETE_KEYS = 1000

/**
 * A long upload is worth more patience than one request: pauses, as shares of the idle time, after each
 * of which all tries of a request are made again. By default 5, 15 and 40 s.
 */
const UPLOAD_PAUSES = [1 / 12, 1 / 4, 2 / 3]

/**
 * A bucket as a store. Nothing is loaded and nobody is asked before the first use.
 *
 * A body whose length nobody knows goes up in parts, and a key has it when the last request, which
 * names all parts, has succeeded: the same all-or-nothing as the rename of a folder.
 */
export function s3Store(spec: S3Spec, options: S3Options = {}): Store {
  let opened: Promise<S3> | undefined
  const open = async () => s3Client(await import('@aws-sdk/client-s3'), spec, options)
  const bucket: Bucket = {
    url: storeUrl(spec),
    name: spec.bucket,
    prefix: spec.prefix === undefined ? '' : `${spec.prefix}/`,
    patience: { ...PATIENCE, ...options },
    s3: () => (opened ??= open()),
  }
  const { attempts } = bucket.patience
  const conditions: Conditions = { known: undefined }
  return {
    url: bucket.url,
    list: (wanted) => list(bucket, checkPrefix(wanted)),
    get: (key, range) => get(bucket, checkKey(key), range),
    put: (key, body) => put(bucket, checkKey(key), body),
    create: (key, body) =>
      doing(bucket, `create "${checkKey(key)}"`, async () =>
        create(
          { s3: await bucket.s3(), at: placeOf(bucket, key), attempts, conditions, url: bucket.url },
          body,
        ),
      ),
    async delete(keys) {
      const all = keys.map((key) => bucket.prefix + checkKey(key))
      for (let first = 0; first < all.length; first += DELETE_KEYS)
        await remove(bucket, all.slice(first, first + DELETE_KEYS))
    },
  }
}

interface Bucket {
  readonly url: string
  readonly name: string
  /** Put before every key. */
  readonly prefix: string
  readonly patience: Required<S3Options>
  readonly s3: () => Promise<S3>
}

function placeOf({ name, prefix }: Bucket, key: string): Place {
  return { Bucket: name, Key: prefix + key }
}

async function put(bucket: Bucket, key: string, body: AsyncIterable<Uint8Array>): Promise<Entry> {
  // What the body throws is thrown as it is: only what is sent can fail as a store does.
  const s3 = await doing(bucket, `store "${key}"`, bucket.s3)
  const send = around(s3.send, (request) => doing(bucket, `store "${key}"`, request))
  const at = placeOf(bucket, key)
  const { idleMilliseconds } = bucket.patience
  const pauses = UPLOAD_PAUSES.map((share) => share * idleMilliseconds)
  const size = await upload({ s3: { ...s3, send }, at, pauses }, body)
  return { key, size, modified: new Date() }
}

async function get(bucket: Bucket, key: string, range: ByteRange | undefined): Promise<Readable> {
  const what = `read "${key}"`
  return doing(bucket, what, async () =>
    read(await bucket.s3(), {
      at: placeOf(bucket, key),
      range,
      attempts: bucket.patience.attempts,
      failOf: (error) => s3Fail(error, bucket.url, what),
    }),
  )
}

async function* list(bucket: Bucket, wanted: string): AsyncGenerator<Entry, void> {
  const { prefix } = bucket
  let token: string | undefined
  do {
    const page = await doing(bucket, `list "${wanted}"`, async () => {
      const { sdk, send } = await bucket.s3()
      const input = { Bucket: bucket.name, Prefix: prefix + wanted, ContinuationToken: token }
      return send(new sdk.ListObjectsV2Command(input), { abortSignal: interrupted })
    })
    for (const { Key = '', Size, LastModified } of page.Contents ?? []) {
      // What ends so is how other programs show an empty folder; no key does.
      if (Key.endsWith('/')) continue
      yield { key: Key.slice(prefix.length), size: Size ?? 0, modified: LastModified ?? new Date(0) }
    }
    token = page.IsTruncated ? page.NextContinuationToken : undefined
  } while (token !== undefined)
}

/** Not ended by Ctrl-C: what clears up after it needs this. */
async function remove(bucket: Bucket, keys: readonly string[]): Promise<void> {
  const what = `delete ${keys.length === 1 ? `"${keys[0]!.slice(bucket.prefix.length)}"` : `${keys.length} keys`}`
  await doing(bucket, what, async () => {
    const { sdk, send } = await bucket.s3()
    let left = keys
    for (let attempt = 1; ; attempt++) {
      const Delete = { Objects: left.map((Key) => ({ Key })), Quiet: true }
      const { Errors = [] } = await send(new sdk.DeleteObjectsCommand({ Bucket: bucket.name, Delete }))
      const errors = Errors.filter(({ Code }) => Code !== 'NoSuchKey')
      if (errors.length === 0) return
      // A request that succeeds says of each key whether that did: one may be locked.
      const final = errors.find(({ Code }) => !isRetryable(Code))
      if (final || attempt === bucket.patience.attempts) {
        const { Key, Code = '', Message } = final ?? errors[0]!
        throw Object.assign(new Error(`"${Key}": ${Code} ${Message ?? ''}`.trim()), { name: Code })
      }
      await sleep(Math.random() * 100 * 2 ** attempt)
      left = errors.map(({ Key }) => Key!)
    }
  })
}

async function doing<T>({ url }: Bucket, what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    interrupted.throwIfAborted()
    throw s3Fail(error, url, what)
  }
}
