import { readFile } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { type S3Client } from '@aws-sdk/client-s3'
import { interrupted } from '../core/interrupt.ts'
import { readSecret, type SecretRef } from '../core/secret.ts'
import { type StoreSpec } from '../host/schema.ts'
import { checkKey, checkPrefix } from './key.ts'
import { isPrecondition, s3Fail } from './s3-fail.ts'
import { type S3, upload } from './s3-upload.ts'
import { type ByteRange, type Entry, type Store } from './store.ts'
import { storeUrl } from './url.ts'

/** Patience with a server. */
export interface S3Options {
  /** Tries of each request; default 5. */
  readonly attempts?: number
  /** Until a connection stands; default 10 s. */
  readonly connectMilliseconds?: number
  /** Without a byte in either direction; default 60 s. */
  readonly idleMilliseconds?: number
}

type S3Spec = Extract<StoreSpec, { type: 's3' }>

/** Keys that one request may delete (DeleteObjects). */
const DELETE_KEYS = 1000

/** How long credentials are used before their source is asked again: files and commands may have newer ones. */
const CREDENTIAL_MINUTES = 10

/**
 * A bucket as a store. Nothing is loaded and nobody is asked before the first use.
 *
 * A body whose length nobody knows goes up in parts, and a key has it when the last request, which
 * names all parts, has succeeded: the same all-or-nothing as the rename of a folder.
 */
export function s3Store(spec: S3Spec, options: S3Options = {}): Store {
  let opened: Promise<S3> | undefined
  const s3 = () => (opened ??= open(spec, options))
  const prefix = spec.prefix === undefined ? '' : `${spec.prefix}/`
  const url = storeUrl(spec)
  const place = (key: string): Place => ({
    s3,
    url,
    key: checkKey(key),
    at: { Bucket: spec.bucket, Key: prefix + key },
  })
  return {
    url,
    list: (wanted) => list(s3, { url, bucket: spec.bucket, prefix, wanted: checkPrefix(wanted) }),
    get: (key, range) => get(place(key), range, options.attempts ?? ATTEMPTS),
    async put(key, body) {
      const { at } = place(key)
      return doing(url, `store "${key}"`, async () => {
        const size = await upload(await s3(), at, body)
        return { key, size, modified: new Date() }
      })
    },
    create: (key, body) => create(place(key), body),
    async delete(keys) {
      const all = keys.map((key) => place(key).at.Key)
      for (let first = 0; first < all.length; first += DELETE_KEYS)
        await remove(s3, { url, bucket: spec.bucket, keys: all.slice(first, first + DELETE_KEYS) })
    },
  }
}

const ATTEMPTS = 5

interface Place {
  readonly s3: () => Promise<S3>
  readonly url: string
  readonly key: string
  readonly at: { readonly Bucket: string; readonly Key: string }
}

async function open(spec: S3Spec, options: S3Options): Promise<S3> {
  const sdk = await import('@aws-sdk/client-s3')
  const ca = spec.ca_file === undefined ? undefined : await readFile(spec.ca_file)
  const client: S3Client = new sdk.S3Client({
    region: spec.region,
    ...(spec.endpoint !== undefined && { endpoint: spec.endpoint }),
    forcePathStyle: spec.path_style ?? spec.endpoint !== undefined,
    ...(spec.access_key !== undefined && { credentials: () => credentialsOf(spec) }),
    maxAttempts: options.attempts ?? ATTEMPTS,
    retryMode: 'standard',
    // The default, a CRC32 in every request, is refused by servers that are only compatible.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: options.connectMilliseconds ?? 10_000,
      socketTimeout: options.idleMilliseconds ?? 60_000,
      httpsAgent: { maxSockets: 16, ...(ca && { ca }) },
    },
  })
  return { client, sdk }
}

async function credentialsOf(spec: S3Spec): Promise<{
  accessKeyId: string
  secretAccessKey: string
  sessionToken?: string
  expiration: Date
}> {
  const read = async (ref: SecretRef) => (await readSecret(ref)).reveal()
  return {
    accessKeyId: await read(spec.access_key!),
    secretAccessKey: await read(spec.secret_key!),
    ...(spec.session_token && { sessionToken: await read(spec.session_token) }),
    expiration: new Date(Date.now() + CREDENTIAL_MINUTES * 60_000),
  }
}

async function create({ s3, url, key, at }: Place, body: Uint8Array): Promise<boolean> {
  return doing(url, `create "${key}"`, async () => {
    const { client, sdk } = await s3()
    const isOurs = async () => {
      const found = await client.send(new sdk.GetObjectCommand(at))
      return Buffer.compare(await found.Body!.transformToByteArray(), body) === 0
    }
    try {
      await client.send(new sdk.PutObjectCommand({ ...at, Body: body, IfNoneMatch: '*' }), {
        abortSignal: interrupted,
      })
      return true
    } catch (error) {
      const { $metadata, name } = error as { $metadata?: { attempts?: number }; name?: string }
      // The answer to a first try may have been lost: then it is our own content that is in the way.
      const isAmbiguous = ($metadata?.attempts ?? 2) > 1 && name !== 'NoSuchBucket'
      if (isAmbiguous && (await isOurs().catch(() => false))) return true
      if (isPrecondition(error)) return false
      throw error
    }
  })
}

async function get(
  { s3, url, key, at }: Place,
  range: ByteRange | undefined,
  attempts: number,
): Promise<Readable> {
  const what = `read "${key}"`
  return doing(url, what, async () => {
    const { client, sdk } = await s3()
    const fetch = (first: number, etag?: string) =>
      client.send(
        new sdk.GetObjectCommand({
          ...at,
          ...((range !== undefined || first > 0) && { Range: `bytes=${first}-${range?.last ?? ''}` }),
          ...(etag !== undefined && { IfMatch: etag }),
        }),
        { abortSignal: interrupted },
      )
    const begin = range?.first ?? 0
    const first = await fetch(begin).catch((error: unknown) => {
      if ((error as { name?: string }).name === 'InvalidRange') return undefined // it begins behind the end
      throw error
    })
    if (first === undefined) return Readable.from([])
    const length = first.ContentLength ?? 0
    const etag = first.ETag
    // A connection that breaks looks like an end: only the length says that all has come.
    async function* content() {
      let done = 0
      let body = first!.Body as AsyncIterable<Uint8Array> | undefined
      for (let attempt = 1; ; attempt++) {
        let failure: unknown = new Error(`the connection ended after ${done} of ${length} bytes`)
        try {
          body ??= (await fetch(begin + done, etag)).Body as unknown as AsyncIterable<Uint8Array>
          for await (const chunk of body) {
            done += chunk.length
            attempt = 1
            yield chunk
          }
        } catch (error) {
          failure = error
        }
        if (done === length) return
        interrupted.throwIfAborted()
        if (attempt >= attempts || isPrecondition(failure)) throw s3Fail(failure, url, what)
        body = undefined
      }
    }
    return Readable.from(content(), { objectMode: false })
  })
}

interface Listing {
  readonly url: string
  readonly bucket: string
  readonly prefix: string
  readonly wanted: string
}

async function* list(
  s3: () => Promise<S3>,
  { url, bucket, prefix, wanted }: Listing,
): AsyncGenerator<Entry, void> {
  let token: string | undefined
  do {
    const page = await doing(url, `list "${wanted}"`, async () => {
      const { client, sdk } = await s3()
      const input = { Bucket: bucket, Prefix: prefix + wanted, ContinuationToken: token }
      return client.send(new sdk.ListObjectsV2Command(input), { abortSignal: interrupted })
    })
    for (const { Key, Size, LastModified } of page.Contents ?? [])
      yield { key: Key!.slice(prefix.length), size: Size ?? 0, modified: LastModified ?? new Date(0) }
    token = page.IsTruncated ? page.NextContinuationToken : undefined
  } while (token !== undefined)
}

interface Removal {
  readonly url: string
  readonly bucket: string
  readonly keys: readonly string[]
}

/** Not ended by Ctrl-C: what clears up after it needs this. */
async function remove(s3: () => Promise<S3>, { url, bucket, keys }: Removal): Promise<void> {
  await doing(url, `delete ${keys.length === 1 ? `"${keys[0]}"` : `${keys.length} keys`}`, async () => {
    const { client, sdk } = await s3()
    const Objects = keys.map((Key) => ({ Key }))
    const { Errors } = await client.send(
      new sdk.DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects, Quiet: true } }),
    )
    const first = Errors?.find(({ Code }) => Code !== 'NoSuchKey')
    if (first)
      throw Object.assign(new Error(`${first.Key}: ${first.Message ?? first.Code}`), {
        name: first.Code ?? '',
      })
  })
}

async function doing<T>(url: string, what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    interrupted.throwIfAborted()
    throw s3Fail(error, url, what)
  }
}
