import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer, type TLSSocket } from 'node:tls'
import { ListObjectVersionsCommand, PutBucketPolicyCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { s3Store } from '../../scripts/store/s3.ts'
import { nextFaults, type Proxy, startProxy } from '../support/proxy.ts'
import { type S3Server, startS3 } from '../support/s3.ts'
import { chunks, keys, text } from './contract.ts'

let s3: S3Server

beforeAll(async () => {
  s3 = await startS3()
})

/** Not patient, but a server that is busy with other tests has its time. */
const QUICK = { attempts: 3, connectMilliseconds: 1000, idleMilliseconds: 5000 }

async function withProxy(): Promise<Proxy> {
  const proxy = await startProxy(s3.endpoint)
  onTestFinished(() => proxy[Symbol.asyncDispose]())
  return proxy
}

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'howdah-s3-client-'))
  onTestFinished(() => rm(path, { recursive: true }))
  return path
}

test('a clock that goes wrong by two hours and is set right: nothing fails, neither here nor there', async () => {
  const store = s3Store(s3.spec(await s3.makeBucket()), QUICK)
  onTestFinished(() => void vi.useRealTimers())
  for (const hours of [-2, 0, 2, 0]) {
    vi.useRealTimers()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + hours * 3_600_000 })
    await store.put('x', chunks(`content ${hours}`))
    expect(await text(store, 'x')).toBe(`content ${hours}`)
  }
})

test('a server that goes on to refuse the time: store-denied, and the hint is about the clock', async () => {
  const proxy = await withProxy()
  proxy.fault = () => ({ answer: 403, code: 'RequestTimeTooSkewed' })
  const store = s3Store(s3.spec(await s3.makeBucket(), { endpoint: proxy.endpoint }), QUICK)
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject({
    code: 'store-denied',
    hint: expect.stringContaining('clock') as string,
  })
})

test('credentials that expire: read again from where they stand, once', async () => {
  const dir = await folder()
  const [access, secret] = [join(dir, 'access'), join(dir, 'secret')]
  await writeFile(access, `${s3.other.accessKey}\n`) // of somebody who may do nothing
  await writeFile(secret, `${s3.other.secretKey}\n`)
  const proxy = await withProxy()
  const spec = s3.spec(await s3.makeBucket(), {
    endpoint: proxy.endpoint,
    access_key: { file: access },
    secret_key: { file: secret },
  })
  const store = s3Store(spec, QUICK)
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject({ code: 'store-denied' })
  await writeFile(access, `${s3.owner.accessKey}\n`)
  await writeFile(secret, `${s3.owner.secretKey}\n`)
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject({ code: 'store-denied' }) // not asked at every request
  proxy.fault = nextFaults(/^PUT /, { answer: 400, code: 'ExpiredToken' })
  await store.put('x', chunks('content'))
  proxy.fault = () => ({ answer: 400, code: 'ExpiredToken' })
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject({
    code: 'store-denied',
    hint: expect.stringContaining('expired') as string,
  })
})

test('requests: no checksum that a server that is only compatible would refuse, and no waiting for a word', async () => {
  const proxy = await withProxy()
  const store = s3Store(s3.spec(await s3.makeBucket(), { endpoint: proxy.endpoint }), QUICK)
  await store.put('x', chunks('x'))
  await store.put('x', chunks(Buffer.alloc(9 * 1024 * 1024)))
  await store.create('y', Buffer.from('y'))
  expect(proxy.requests.length).toBeGreaterThan(4)
  expect(proxy.requests.filter((head) => /^(x-amz-(sdk-)?checksum|expect:)/im.test(head))).toEqual([])
})

test('an upload whose beginning was not answered: begun again, and nothing of the first one is left', async () => {
  const proxy = await withProxy()
  const bucket = await s3.makeBucket()
  const store = s3Store(s3.spec(bucket, { endpoint: proxy.endpoint }), QUICK)
  proxy.fault = nextFaults(/^POST .*[?&]uploads/, { cutAnswer: 0 })
  await store.put('x', chunks(Buffer.alloc(9 * 1024 * 1024)))
  expect(proxy.requests.filter((head) => /^POST .*[?&]uploads/.test(head))).toHaveLength(2)
  expect(await keys(store, '')).toEqual(['x'])
  expect(await s3.uploads(bucket)).toEqual([])
})

test('an upload that can never be begun: store-unreachable, and none of those that were begun unseen is left', async () => {
  const proxy = await withProxy()
  const bucket = await s3.makeBucket()
  const store = s3Store(s3.spec(bucket, { endpoint: proxy.endpoint }), QUICK)
  proxy.fault = (head) => (/^POST .*[?&]uploads/.test(head) ? { cutAnswer: 0 } : undefined)
  await expect(store.put('x', chunks(Buffer.alloc(9 * 1024 * 1024)))).rejects.toMatchObject({
    code: 'store-unreachable',
  })
  expect(await s3.uploads(bucket)).toEqual([])
})

test('create, and another has the same content: false, although the answer to the first try was lost', async () => {
  const proxy = await withProxy()
  const spec = s3.spec(await s3.makeBucket(), { endpoint: proxy.endpoint })
  const [mine, theirs] = [s3Store(spec, QUICK), s3Store(spec, QUICK)]
  expect(await theirs.create('x', Buffer.from('equal'))).toBe(true)
  proxy.fault = nextFaults(/^PUT /, { cutAnswer: 0 })
  expect(await mine.create('x', Buffer.from('equal'))).toBe(false)
})

test('a bucket with locked versions: what is deleted is seen no more, and its version stays', async () => {
  const bucket = await s3.makeBucket({ objectLock: true })
  const store = s3Store(s3.spec(bucket), QUICK)
  await s3.client.send(
    new PutObjectCommand({
      Bucket: bucket,
      Key: 'locked',
      Body: 'content',
      ObjectLockMode: 'COMPLIANCE',
      ObjectLockRetainUntilDate: new Date(Date.now() + 60_000),
    }),
  )
  await store.put('free', chunks('x'))
  await store.delete(['free', 'locked'])
  expect(await keys(store, '')).toEqual([])
  await expect(store.get('locked')).rejects.toMatchObject({ code: 'store-missing' })
  const { Versions } = await s3.client.send(new ListObjectVersionsCommand({ Bucket: bucket }))
  expect(Versions?.map(({ Key }) => Key)).toEqual(['free', 'locked'])
})

test('a user who may delete some keys only: store-denied names the one that stays', async () => {
  const bucket = await s3.makeBucket()
  for (const key of ['mine/x', 'theirs/x']) await s3Store(s3.spec(bucket), QUICK).put(key, chunks('x'))
  const statement = {
    Effect: 'Allow',
    Principal: { AWS: [`arn:aws:iam:::user/${s3.other.id}`] },
    Action: ['s3:DeleteObject'],
    Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/mine/*`],
  }
  const Policy = JSON.stringify({ Version: '2012-10-17', Statement: [statement] })
  await s3.client.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy }))
  const store = s3Store(s3.spec(bucket, {}, s3.other), QUICK)
  await expect(store.delete(['mine/x', 'theirs/x'])).rejects.toMatchObject({
    code: 'store-denied',
    message: expect.stringContaining('AccessDenied') as string,
  })
  expect(await keys(s3Store(s3.spec(bucket), QUICK), 'theirs/')).toEqual(['theirs/x'])
})

test('what other programs show as an empty folder: no entry', async () => {
  const bucket = await s3.makeBucket()
  for (const Key of ['where/', 'where/a/', 'where/a/x'])
    await s3.client.send(new PutObjectCommand({ Bucket: bucket, Key, Body: '' }))
  expect(await keys(s3Store(s3.spec(bucket, { prefix: 'where' }), QUICK), '')).toEqual(['a/x'])
})

test('stores with different prefixes in one bucket: neither sees what the other has', async () => {
  const bucket = await s3.makeBucket()
  const [one, two] = ['one', 'one-two'].map((prefix) => s3Store(s3.spec(bucket, { prefix }), QUICK))
  await one!.put('x', chunks('1'))
  await two!.put('x', chunks('2'))
  await two!.delete(['x'])
  expect(await keys(two!, '')).toEqual([])
  expect(await text(one!, 'x')).toBe('1')
})

test('a body that is not read to its end: its connection is closed, and the store goes on', async () => {
  const proxy = await withProxy()
  const store = s3Store(s3.spec(await s3.makeBucket(), { endpoint: proxy.endpoint }), QUICK)
  await store.put('x', chunks(Buffer.alloc(6_000_000)))
  const before = proxy.requests.length
  const unread = await store.get('x')
  unread.destroy()
  const broken = await store.get('x')
  await once(broken, 'readable')
  broken.read(10)
  broken.on('error', () => {}).destroy(new Error('the reader failed'))
  await new Promise((resolve) => broken.once('close', resolve))
  expect(await keys(store, '')).toEqual(['x'])
  expect(proxy.requests.length).toBe(before + 3) // nothing was asked for again
})

test('TLS: a server whose authority is in ca_file is trusted, any other is not', async () => {
  const dir = await folder()
  const [key, cert] = [join(dir, 'key'), join(dir, 'cert')]
  const who = '-days 1 -subj /CN=s3 -addext subjectAltName=IP:127.0.0.1'
  const openssl = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes ${who}`
  await run([...openssl.split(' '), '-keyout', key, '-out', cert])
  const sockets = new Set<TLSSocket>()
  const server = createServer({ key: await readFile(key), cert: await readFile(cert) }, (socket) => {
    sockets.add(socket)
    const inner = createConnection(Number(new URL(s3.endpoint).port), '127.0.0.1')
    socket.on('error', () => inner.destroy()).pipe(inner)
    inner.on('error', () => socket.destroy()).pipe(socket)
  }).on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const endpoint = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
  const bucket = await s3.makeBucket()
  const trusted = s3Store(s3.spec(bucket, { endpoint, ca_file: cert }), QUICK)
  await trusted.put('x', chunks('content'))
  expect(await text(trusted, 'x')).toBe('content')
  await expect(s3Store(s3.spec(bucket, { endpoint }), QUICK).get('x')).rejects.toMatchObject({
    code: 'store-unreachable',
    hint: expect.stringContaining('ca_file') as string,
  })
  const missing = s3Store(s3.spec(bucket, { endpoint, ca_file: join(dir, 'none') }), QUICK)
  await expect(missing.get('x')).rejects.toMatchObject({ code: 'file-unreadable' })
})
