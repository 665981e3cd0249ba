import { spawn } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { s3Store } from '../../scripts/store/s3.ts'
import type { Store } from '../../scripts/store/store.ts'
import { type Fault, nextFaults, type Proxy, startProxy } from '../support/proxy.ts'
import { type S3Server, startS3 } from '../support/s3.ts'
import { broken, chunks, keys, storeContract, text } from './contract.ts'

let s3: S3Server

beforeAll(async () => {
  s3 = await startS3()
})

/** Not patient: what never answers is given up within seconds. */
const QUICK = { attempts: 3, connectMilliseconds: 1000, idleMilliseconds: 1000 }

describe('store s3', () => {
  storeContract(async () => {
    return {
      store: s3Store(s3.spec(await s3.makeBucket(), { prefix: 'some/where' })),
      [Symbol.asyncDispose]: async () => {},
    }
  })
})

describe('store s3 behind a bad network', () => {
  const seed = randomInt(2 ** 31)
  console.info(`seed of the faults: ${seed}`)
  const faults = randomFaults(seed)
  storeContract(async () => {
    const proxy = await startProxy(s3.endpoint)
    proxy.fault = faults
    const spec = s3.spec(await s3.makeBucket(), { endpoint: proxy.endpoint })
    return {
      store: s3Store(spec, { ...QUICK, attempts: 8 }),
      [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
    }
  })
})

/** Harms every eighth request. */
function randomFaults(seed: number): () => Fault | undefined {
  let state = seed
  const next = (below: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31
    return Math.floor((state / 2 ** 31) * below)
  }
  return () => {
    if (next(8) > 0) return undefined
    const kinds: readonly Fault[] = [
      { answer: 500, code: 'InternalError' },
      { answer: 503, code: 'SlowDown' },
      { cutAnswer: next(400) },
      { cutAnswer: 0 },
      { cutRequest: next(2000) },
    ]
    return kinds[next(kinds.length)]
  }
}

interface Behind {
  readonly store: Store
  readonly bucket: string
  readonly proxy: Proxy
}

async function behindProxy(): Promise<Behind> {
  const proxy = await startProxy(s3.endpoint)
  onTestFinished(() => proxy[Symbol.asyncDispose]())
  const bucket = await s3.makeBucket()
  return { bucket, proxy, store: s3Store(s3.spec(bucket, { endpoint: proxy.endpoint }), QUICK) }
}

const MB = 1024 * 1024

async function* megabytes(count: number): AsyncGenerator<Uint8Array> {
  const piece = randomBytes(MB)
  for (let number = 0; number < count; number++) {
    piece.writeUInt32BE(number)
    yield Buffer.from(piece)
  }
}

const read = async (store: Store, key: string) => Buffer.concat(await Array.fromAsync(await store.get(key)))

const PART = /^PUT .*partNumber=/
const COMPLETE = /^POST .*uploadId=/

test('put of 600 MB of unknown length: in parts, and never more than 200 MB of memory', async () => {
  const bucket = await s3.makeBucket()
  const script = `
    import { s3Store } from ${JSON.stringify(join(import.meta.dirname, '../../scripts/store/s3.ts'))}
    async function* source() { const piece = Buffer.alloc(1024 * 1024, 7); for (let n = 0; n < 600; n++) yield piece }
    const { size } = await s3Store(${JSON.stringify(s3.spec(bucket))}).put('big', source())
    console.log(JSON.stringify({ size, peak: process.resourceUsage().maxRSS * 1024 }))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output += chunk))
  await once(child, 'close')
  const { size, peak } = JSON.parse(output) as { size: number; peak: number }
  expect(size).toBe(600 * MB)
  expect(peak).toBeLessThan(200 * MB)
  const store = s3Store(s3.spec(bucket))
  expect(await Array.fromAsync(store.list(''))).toMatchObject([{ key: 'big', size: 600 * MB }])
  expect(await s3.uploads(bucket)).toEqual([])
  await store.delete(['big'])
})

test('put in parts, whose source fails: nothing is stored, and no upload is left that costs money', async () => {
  const bucket = await s3.makeBucket()
  const store = s3Store(s3.spec(bucket))
  async function* source() {
    yield* megabytes(20)
    yield* broken('half')
  }
  await expect(store.put('x', source())).rejects.toThrow('the source broke')
  expect(await keys(store, '')).toEqual([])
  expect(await s3.uploads(bucket)).toEqual([])
})

test('put in parts, and no part gets through: store-unreachable, the source is closed, and no upload is left', async () => {
  const { store, proxy, bucket } = await behindProxy()
  proxy.fault = (head) => (PART.test(head) ? { cutRequest: 100_000 } : undefined)
  let isClosed = false
  async function* source() {
    try {
      yield* megabytes(30)
    } finally {
      isClosed = true
    }
  }
  await expect(store.put('x', source())).rejects.toMatchObject({ code: 'store-unreachable' })
  expect(isClosed).toBe(true)
  expect(await s3.uploads(bucket)).toEqual([])
})

test('put in parts, and the server goes away for good: store-unreachable, nothing is seen', async () => {
  const { store, proxy, bucket } = await behindProxy()
  async function* source() {
    yield* megabytes(12)
    await proxy.refuse()
    yield* megabytes(12)
  }
  await expect(store.put('x', source())).rejects.toMatchObject({ code: 'store-unreachable' })
  expect(await keys(s3Store(s3.spec(bucket)), '')).toEqual([])
})

test('put in parts, and a part stalls: tried again, and whole', async () => {
  const { store, proxy } = await behindProxy()
  proxy.fault = nextFaults(PART, 'stall')
  const body = Buffer.concat(await Array.fromAsync(megabytes(10)))
  expect(await store.put('x', chunks(body))).toMatchObject({ size: body.length })
  expect(body.equals(await read(store, 'x'))).toBe(true)
})

test('put in parts, and every part stalls: store-unreachable and no hanging', async () => {
  const { store, proxy, bucket } = await behindProxy()
  proxy.fault = (head) => (PART.test(head) ? 'stall' : undefined)
  await expect(store.put('x', megabytes(10))).rejects.toMatchObject({ code: 'store-unreachable' })
  expect(await s3.uploads(bucket)).toEqual([])
})

test('put in parts, and the answer that it is complete is lost: stored, and known as ours', async () => {
  const { store, proxy, bucket } = await behindProxy()
  proxy.fault = nextFaults(COMPLETE, { cutAnswer: 0 })
  expect(await store.put('x', megabytes(10))).toMatchObject({ size: 10 * MB })
  expect((await read(store, 'x')).length).toBe(10 * MB)
  expect(await s3.uploads(bucket)).toEqual([])
})

test('put in parts over a key, and it cannot be completed: the old content stays', async () => {
  const { store, proxy, bucket } = await behindProxy()
  await store.put('x', megabytes(9))
  proxy.fault = (head) => (COMPLETE.test(head) ? { answer: 503, code: 'SlowDown' } : undefined)
  await expect(store.put('x', megabytes(10))).rejects.toMatchObject({ code: 'store-unreachable' })
  expect((await read(store, 'x')).length).toBe(9 * MB)
  expect(await s3.uploads(bucket)).toEqual([])
})

test.each<[string, Fault]>([
  ['cut', { cutAnswer: 3_000_000 }],
  ['stalled', { stallAnswer: 3_000_000 }],
])('get that is %s in the middle: goes on where it was, and is whole', async (_how, fault) => {
  const { store, proxy } = await behindProxy()
  const body = Buffer.concat(await Array.fromAsync(megabytes(6)))
  await store.put('x', chunks(body))
  proxy.fault = nextFaults(/^GET /, fault, fault)
  expect(body.equals(await read(store, 'x'))).toBe(true)
  expect(proxy.requests.filter((head) => head.startsWith('GET')).length).toBeGreaterThan(1)
})

test('get that is cut, and the server does not come back: fails, and never looks like a short end', async () => {
  const { store, proxy } = await behindProxy()
  await store.put('x', megabytes(6))
  proxy.fault = (head) => {
    if (head.startsWith('GET')) queueMicrotask(() => (proxy.fault = () => ({ cutAnswer: 0 })))
    return { cutAnswer: 3_000_000 }
  }
  await expect(read(store, 'x')).rejects.toMatchObject({ code: 'store-unreachable' })
})

test('get that is cut, and the key is replaced before it goes on: fails, and the two are not mixed', async () => {
  const { store, proxy, bucket } = await behindProxy()
  await store.put('x', megabytes(6))
  proxy.fault = nextFaults(/^GET /, { cutAnswer: 3_000_000 })
  const stream = await store.get('x')
  await s3Store(s3.spec(bucket)).put('x', megabytes(6))
  await expect(Array.fromAsync(stream)).rejects.toThrow('cannot read "x"')
})

test('a server that is busy twice: waited for', async () => {
  const { store, proxy } = await behindProxy()
  const busy: Fault = { answer: 503, code: 'SlowDown' }
  proxy.fault = nextFaults(/^PUT /, busy, { answer: 500, code: 'InternalError' })
  await store.put('x', chunks('content'))
  proxy.fault = nextFaults(/^GET /, busy, busy)
  expect(await text(store, 'x')).toBe('content')
})

test('a server that is busy for ever: store-unreachable, whatever is asked', async () => {
  const { store, proxy } = await behindProxy()
  proxy.fault = () => ({ answer: 503, code: 'SlowDown' })
  const failed = { code: 'store-unreachable', message: expect.stringContaining('SlowDown') as string }
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject(failed)
  await expect(store.create('x', Buffer.from('x'))).rejects.toMatchObject({ code: 'store-unreachable' })
  await expect(read(store, 'x')).rejects.toMatchObject(failed)
  await expect(keys(store, '')).rejects.toMatchObject(failed)
  await expect(store.delete(['x'])).rejects.toMatchObject(failed)
})

test('nobody listens: store-unreachable, whatever is asked', async () => {
  const { store, proxy } = await behindProxy()
  await proxy.refuse()
  const failed = { code: 'store-unreachable', message: expect.stringContaining('ECONNREFUSED') as string }
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject(failed)
  await expect(read(store, 'x')).rejects.toMatchObject(failed)
  await expect(keys(store, '')).rejects.toMatchObject(failed)
})

test('create, and the answer is cut after the server did it: true, as it is our own content', async () => {
  const { store, proxy } = await behindProxy()
  proxy.fault = nextFaults(/^PUT /, { cutAnswer: 0 })
  expect(await store.create('x', Buffer.from('mine'))).toBe(true)
  proxy.fault = nextFaults(/^PUT /, { cutAnswer: 0 })
  expect(await store.create('x', Buffer.from('yours'))).toBe(false)
  expect(await text(store, 'x')).toBe('mine')
})

test('create, and no answer ever comes although the server did it: true', async () => {
  const { store, proxy } = await behindProxy()
  proxy.fault = (head) => (head.startsWith('PUT') ? { cutAnswer: 0 } : undefined)
  expect(await store.create('x', Buffer.from('mine'))).toBe(true)
})

test('create, and the server says that others write the key: asked again, not taken for a free or a lost key', async () => {
  const { store, proxy } = await behindProxy()
  proxy.fault = nextFaults(/^PUT /, { answer: 409, code: 'ConditionalRequestConflict' })
  expect(await store.create('x', Buffer.from('mine'))).toBe(true)
  expect(await text(store, 'x')).toBe('mine')
})

test('a user who may only read: what may not be is store-denied, what is not there is store-missing', async () => {
  const bucket = await s3.makeBucket()
  await s3Store(s3.spec(bucket)).put('x', chunks('content'))
  await s3.allow(bucket, ['s3:GetObject', 's3:ListBucket'])
  const store = s3Store(s3.spec(bucket, {}, s3.other))
  expect(await text(store, 'x')).toBe('content')
  const denied = { code: 'store-denied', message: expect.stringContaining('AccessDenied') as string }
  await expect(store.put('y', chunks('y'))).rejects.toMatchObject(denied)
  await expect(store.put('y', megabytes(10))).rejects.toMatchObject(denied)
  await expect(store.create('y', Buffer.from('y'))).rejects.toMatchObject(denied)
  await expect(store.delete(['x'])).rejects.toMatchObject(denied)
  await expect(store.get('y')).rejects.toMatchObject({ code: 'store-missing' })
  expect(await keys(store, '')).toEqual(['x'])
})

test('a user who may do nothing: store-denied, not an empty store', async () => {
  const store = s3Store(s3.spec(await s3.makeBucket(), {}, s3.other))
  await expect(keys(store, '')).rejects.toMatchObject({ code: 'store-denied' })
  await expect(store.get('x')).rejects.toMatchObject({ code: 'store-denied' })
})

test('a bucket that is missing: an error, not an empty list and not a missing key', async () => {
  const store = s3Store(s3.spec('no-such-bucket'))
  const denied = { code: 'store-denied', hint: expect.stringContaining('no such bucket') as string }
  await expect(keys(store, '')).rejects.toMatchObject(denied)
  await expect(store.get('x')).rejects.toMatchObject(denied)
  await expect(store.put('x', chunks('x'))).rejects.toMatchObject(denied)
  await expect(store.create('x', Buffer.from('x'))).rejects.toMatchObject(denied)
})

test('a wrong secret key, or a wrong access key: store-denied, and no key is in what is said', async () => {
  const bucket = await s3.makeBucket()
  process.env['S3_TEST_WRONG'] = 'wrong-secret-3f9a'
  process.env['S3_TEST_NOBODY'] = 'nobodykey'
  const secret = process.env[`S3_SECRET_${s3.owner.id}`]!
  const wrong = s3Store(s3.spec(bucket, { secret_key: { env: 'S3_TEST_WRONG' } }))
  const unknown = s3Store(s3.spec(bucket, { access_key: { env: 'S3_TEST_NOBODY' } }))
  for (const [store, hint] of [
    [wrong, 'not that of the access key'],
    [unknown, 'does not know this access key'],
  ] as const) {
    const error = await store.put('x', chunks('x')).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'store-denied', hint: expect.stringContaining(hint) as string })
    const all = inspect(error, { depth: 10, showHidden: true }) + store.url
    expect(all).not.toContain('wrong-secret-3f9a')
    expect(all).not.toContain(secret)
    await expect(keys(store, '')).rejects.toMatchObject({ code: 'store-denied' })
  }
})

test('a secret in a file that is not there: says which, before anything is sent', async () => {
  const store = s3Store(s3.spec(await s3.makeBucket(), { secret_key: { file: '/no/such/secret' } }))
  await expect(store.put('x', chunks('x'))).rejects.toThrow('/no/such/secret')
})

test('more than 1000 keys: all are listed in order, and all are deleted with the checksum that every server takes', async () => {
  const { proxy, bucket } = await behindProxy()
  // Patient: to delete so many takes a server seconds, and minutes while the machine is busy.
  const store = s3Store(s3.spec(bucket, { endpoint: proxy.endpoint }), { idleMilliseconds: 180_000 })
  const direct = s3Store(s3.spec(bucket))
  const all = Array.from({ length: 1005 }, (_, index) => `many/${String(index).padStart(5, '0')}`)
  for (let first = 0; first < all.length; first += 16)
    await Promise.all(all.slice(first, first + 16).map((key) => direct.put(key, chunks('x'))))
  await direct.put('other', chunks('x'))
  expect(await keys(store, 'many/')).toEqual(all)
  await store.delete(all)
  expect(await keys(store, '')).toEqual(['other'])
  const deletions = proxy.requests.filter((head) => head.startsWith('POST'))
  expect(deletions).toHaveLength(2)
  for (const head of deletions) {
    expect(head).toMatch(/^content-md5: /im)
    expect(head).not.toMatch(/^x-amz-checksum/im)
  }
}, 300_000)
