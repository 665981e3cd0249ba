import {
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  PutObjectLockConfigurationCommand,
} from '@aws-sdk/client-s3'
import { randomBytes } from 'node:crypto'
import process from 'node:process'
import { beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { s3Store } from '../../scripts/store/s3.ts'
import { startProxy } from '../support/proxy.ts'
import { type S3Server, startS3 } from '../support/s3.ts'
import { chunks, keys, text } from './contract.ts'

let s3: S3Server

beforeAll(async () => {
  s3 = await startS3()
})

async function versionedBucket(): Promise<string> {
  const Bucket = await s3.makeBucket()
  await s3.client.send(
    new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: 'Enabled' } }),
  )
  return Bucket
}

type Mode = 'GOVERNANCE' | 'COMPLIANCE'

/** Locks each version for a day as soon as it is written. */
async function lockedBucket(Mode: Mode): Promise<string> {
  const Bucket = await s3.makeBucket({ objectLock: true })
  const ObjectLockConfiguration = {
    ObjectLockEnabled: 'Enabled' as const,
    Rule: { DefaultRetention: { Mode, Days: 1 } },
  }
  await s3.client.send(new PutObjectLockConfigurationCommand({ Bucket, ObjectLockConfiguration }))
  return Bucket
}

const MB = 1024 * 1024

describe.each([
  ['keeps versions', versionedBucket],
  ['locks what is written, for governance', () => lockedBucket('GOVERNANCE')],
  ['locks what is written, for compliance', () => lockedBucket('COMPLIANCE')],
])('a bucket that %s', (_how, makeBucket) => {
  test('put, get, list, delete and list again: as in any other bucket', async () => {
    const store = s3Store(s3.spec(await makeBucket(), { prefix: 'some/where' }))
    for (const key of ['a/1', 'a/2', 'b']) await store.put(key, chunks(`first ${key}`))
    await store.put('a/1', chunks('second'))
    expect(await keys(store, '')).toEqual(['a/1', 'a/2', 'b'])
    expect(await text(store, 'a/1')).toBe('second')
    await store.delete(['a/2', 'no/such'])
    expect(await keys(store, 'a/')).toEqual(['a/1'])
    await store.delete(['a/1'])
    expect(await keys(store, 'a/')).toEqual([])
    await store.delete(['a/1'])
    await expect(store.get('a/1')).rejects.toMatchObject({ code: 'store-missing' })
  })

  test('create of a key that is there, by this or by another process: false, and the first content stays', async () => {
    const spec = s3.spec(await makeBucket())
    const [mine, theirs, third] = [s3Store(spec), s3Store(spec), s3Store(spec)]
    expect(await mine.create('x', Buffer.from('first'))).toBe(true)
    expect(await mine.create('x', Buffer.from('second'))).toBe(false)
    expect(await theirs.create('x', Buffer.from('third'))).toBe(false)
    expect(await theirs.create('y', Buffer.from('y'))).toBe(true)
    expect(await third.create('y', Buffer.from('z'))).toBe(false)
    expect([await text(mine, 'x'), await text(mine, 'y')]).toEqual(['first', 'y'])
  })

  test('put in parts, replaced, deleted: only the newest is seen, and after the delete nothing', async () => {
    const bucket = await makeBucket()
    const store = s3Store(s3.spec(bucket))
    await store.put('x', chunks(Buffer.alloc(9 * MB, 1)))
    await store.put('x', chunks(Buffer.alloc(10 * MB, 2)))
    expect(await Array.fromAsync(store.list(''))).toMatchObject([{ key: 'x', size: 10 * MB }])
    await store.delete(['x'])
    expect(await keys(store, '')).toEqual([])
    await expect(store.get('x')).rejects.toMatchObject({ code: 'store-missing' })
    expect(await store.create('x', Buffer.from('again'))).toBe(true)
    expect(await store.create('x', Buffer.from('and again'))).toBe(false)
    expect(await text(store, 'x')).toBe('again')
    const { Versions, DeleteMarkers } = await s3.client.send(
      new ListObjectVersionsCommand({ Bucket: bucket }),
    )
    // What was replaced and deleted stays: space comes back by the bucket's own rules only.
    expect(Versions!.length).toBeGreaterThanOrEqual(3)
    expect(DeleteMarkers).toHaveLength(1)
  })
})

test.each<Mode>(['GOVERNANCE', 'COMPLIANCE'])(
  'what was deleted under a lock of %s: its version cannot be removed, and is back when the marker goes',
  async (mode) => {
    const Bucket = await lockedBucket(mode)
    const store = s3Store(s3.spec(Bucket))
    await store.put('x', chunks('content'))
    await store.delete(['x'])
    const { Versions, DeleteMarkers } = await s3.client.send(new ListObjectVersionsCommand({ Bucket }))
    const version = new DeleteObjectCommand({ Bucket, Key: 'x', VersionId: Versions![0]!.VersionId })
    await expect(s3.client.send(version)).rejects.toMatchObject({ name: 'AccessDenied' })
    await s3.client.send(
      new DeleteObjectCommand({ Bucket, Key: 'x', VersionId: DeleteMarkers![0]!.VersionId }),
    )
    expect(await text(store, 'x')).toBe('content')
  },
)

test('a server that takes a key twice although it must be free: known after the first one, and said', async () => {
  const proxy = await startProxy(s3.endpoint)
  onTestFinished(() => proxy[Symbol.asyncDispose]())
  const store = s3Store(s3.spec(await versionedBucket(), { endpoint: proxy.endpoint }))
  const written: string[] = []
  const spy = vi.spyOn(process.stderr, 'write').mockImplementation((line) => written.push(String(line)) > 0)
  try {
    expect(await store.create('a', Buffer.from('a'))).toBe(true)
    expect(await store.create('b', Buffer.from('b'))).toBe(true)
  } finally {
    spy.mockRestore()
  }
  expect(written.join('')).toMatch(/does not keep two writers of one key apart/)
  expect(written).toHaveLength(1)
  expect(proxy.requests.map((head) => /^\w+ \/[^/]+\/(\w)/.exec(head)![0].replace(/ .*\//, ' '))).toEqual([
    'HEAD a',
    'PUT a',
    'PUT a',
    'HEAD a',
    'HEAD b',
    'PUT b',
    'HEAD b',
  ])
})

test('a server that keeps to If-None-Match: asked twice for the first key, and once for each other one', async () => {
  const proxy = await startProxy(s3.endpoint)
  onTestFinished(() => proxy[Symbol.asyncDispose]())
  const store = s3Store(s3.spec(await s3.makeBucket(), { endpoint: proxy.endpoint }))
  for (const key of ['a', 'b', 'c']) expect(await store.create(key, Buffer.from(key))).toBe(true)
  expect(proxy.requests.map((head) => head.split(' ', 1)[0])).toEqual(['HEAD', 'PUT', 'PUT', 'PUT', 'PUT'])
})

test('a bucket with locks that wants a Content-MD5 with all that is stored: it gets it, also with each part', async () => {
  const proxy = await startProxy(s3.endpoint)
  onTestFinished(() => proxy[Symbol.asyncDispose]())
  const message = 'Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests'
  proxy.fault = (head) =>
    head.startsWith('PUT') && !/^content-md5: /im.test(head)
      ? { answer: 400, code: 'InvalidRequest', message }
      : undefined
  const store = s3Store(s3.spec(await lockedBucket('COMPLIANCE'), { endpoint: proxy.endpoint }))
  const body = randomBytes(20 * MB)
  await store.put('big', chunks(body))
  await store.put('small', chunks('content'))
  expect(await store.create('made', Buffer.from('content'))).toBe(true)
  expect(body.equals(Buffer.concat(await Array.fromAsync(await store.get('big'))))).toBe(true)
  expect(await keys(store, '')).toEqual(['big', 'made', 'small'])
})
