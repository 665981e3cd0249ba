import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { input, output } from '../../scripts/core/exec.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { pack, type Stored, unpack } from '../../scripts/store/pipeline.ts'
import type { Store } from '../../scripts/store/store.ts'
import { ageKey } from '../support/age.ts'
import { broken, chunks, keys, reused } from './contract.ts'

interface Opened extends AsyncDisposable {
  readonly store: Store
  readonly path: (key: string) => string
}

async function open(): Promise<Opened> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-pipeline-'))
  return {
    store: dirStore(folder),
    path: (key) => join(folder, key),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** Bytes that compress a little, so that a stored file has many blocks. */
const body = Buffer.concat(
  Array.from({ length: 40 }, () => Buffer.concat([randomBytes(50_000), Buffer.alloc(50_000)])),
)

async function packed(store: Store): Promise<Stored> {
  return pack(store, 'a/x.dump', chunks(body.subarray(0, 1_000_000), body.subarray(1_000_000)), { level: 1 })
}

test('pack, then unpack: the same bytes; sizes and hashes of both sides are told', async () => {
  await using opened = await open()
  const stored = await packed(opened.store)
  const raw = await readFile(opened.path('a/x.dump.zst'))
  expect(stored).toEqual({
    key: 'a/x.dump.zst',
    size: raw.length,
    sha256: sha256(raw),
    plainSize: body.length,
    plainSha256: sha256(body),
  })
  expect(raw.length).toBeLessThan(body.length * 0.6)
  expect(Buffer.concat(await Array.fromAsync(unpack(opened.store, stored))).equals(body)).toBe(true)
})

test('pack of a body whose pieces stand in the same memory: every one of them goes through every program', async () => {
  await using opened = await open()
  const { path: identity, recipient } = await ageKey(opened.path('key.txt'))
  for (const recipients of [undefined, [recipient]]) {
    const stored = await pack(opened.store, 'x', reused(body), { level: 1, recipients })
    const found = await Array.fromAsync(unpack(opened.store, stored, { identity }))
    expect(Buffer.concat(found).equals(body)).toBe(true)
  }
})

test('pack of bytes: what is said of them, and what any zstd makes of them, is as of a stream', async () => {
  await using opened = await open()
  const { path: identity, recipient } = await ageKey(opened.path('key.txt'))
  for (const bytes of [Buffer.alloc(0), Buffer.from('host'), body]) {
    for (const recipients of [undefined, [recipient]]) {
      const stored = await pack(opened.store, 'x', bytes, { level: 1, recipients })
      expect(stored).toMatchObject({ plainSize: bytes.length, plainSha256: sha256(bytes) })
      const found = await Array.fromAsync(unpack(opened.store, stored, { identity }))
      expect(Buffer.concat(found).equals(bytes)).toBe(true)
    }
  }
})

test('packed file: the zstd program alone reads it', async () => {
  await using opened = await open()
  const stored = await packed(opened.store)
  const bytes = await Array.fromAsync(output(['zstd', '-dc', opened.path(stored.key)]))
  expect(sha256(Buffer.concat(bytes))).toBe(stored.plainSha256)
})

test('pack whose source fails: nothing is stored', async () => {
  await using opened = await open()
  await expect(pack(opened.store, 'x', broken('half'), { level: 1 })).rejects.toThrow('the source broke')
  expect(await keys(opened.store, '')).toEqual([])
})

test('pack of a program that fails after good output: nothing is stored, end of data is not success', async () => {
  await using opened = await open()
  const source = output(['sh', '-c', 'head -c 1000000 /dev/zero; echo "disk on fire" >&2; exit 3'])
  await expect(pack(opened.store, 'x', source, { level: 1 })).rejects.toMatchObject({
    code: 'command-failed',
    hint: 'disk on fire',
  })
  expect(await keys(opened.store, '')).toEqual([])
})

test('pack that is called off: nothing is stored, and its source is told', async () => {
  await using opened = await open()
  const controller = new AbortController()
  let isTold = false
  async function* endless() {
    try {
      for (let n = 0; ; n++) {
        if (n === 100) controller.abort(new Error('called off'))
        yield randomBytes(65_536)
      }
    } finally {
      isTold = true
    }
  }
  const packing = pack(opened.store, 'x', endless(), { level: 1, signal: controller.signal })
  await expect(packing).rejects.toThrow('called off')
  expect(await keys(opened.store, '')).toEqual([])
  await expect.poll(() => isTold).toBe(true)
})

test('pack: memory does not grow with what passes through', async () => {
  await using opened = await open()
  const peak = { bytes: 0 }
  const chunk = Buffer.alloc(1024 * 1024, 'abcdefgh')
  async function* many() {
    for (let n = 0; n < 1500; n++) {
      peak.bytes = Math.max(peak.bytes, process.memoryUsage().rss)
      yield chunk
    }
  }
  const before = process.memoryUsage().rss
  const stored = await pack(opened.store, 'x', many(), { level: 1 })
  expect(stored.plainSize).toBe(1500 * chunk.length)
  expect(peak.bytes - before).toBeLessThan(200 * 1024 * 1024)
})

type Damage = (path: string, stored: Stored) => Promise<unknown>

const flip =
  (at: (length: number) => number): Damage =>
  async (path) => {
    const bytes = await readFile(path)
    bytes[at(bytes.length)]! ^= 1
    await writeFile(path, bytes)
  }

test.each<[string, Damage]>([
  ['a flipped bit at the start', flip(() => 0)],
  ['a flipped bit in the middle', flip((length) => length >> 1)],
  ['a flipped bit in the last byte', flip((length) => length - 1)],
  ['a byte less', (path, stored) => truncate(path, stored.size - 1)],
  ['half of it', (path, stored) => truncate(path, stored.size >> 1)],
  ['nothing left', (path) => truncate(path, 0)],
  ['a byte more', async (path) => writeFile(path, Buffer.concat([await readFile(path), Buffer.alloc(1)]))],
])('unpack of a stored file with %s: backup-damaged, and never all of the bytes', async (_name, damage) => {
  await using opened = await open()
  const stored = await packed(opened.store)
  await damage(opened.path(stored.key), stored)
  let passed = 0
  const reading = (async () => {
    for await (const chunk of unpack(opened.store, stored)) passed += chunk.length
  })()
  await expect(reading).rejects.toMatchObject({ code: 'backup-damaged' })
  expect(passed).toBeLessThan(body.length)
})

test.each<[string, Partial<Stored>]>([
  ['stored hash', { sha256: '0'.repeat(64) }],
  ['stored size', { size: 17 }],
  ['plain hash', { plainSha256: '0'.repeat(64) }],
  ['plain size', { plainSize: body.length + 1 }],
])('unpack with a wrong %s: backup-damaged, and never all of the bytes', async (_name, wrong) => {
  await using opened = await open()
  const stored = await packed(opened.store)
  let passed = 0
  const reading = (async () => {
    for await (const chunk of unpack(opened.store, { ...stored, ...wrong })) passed += chunk.length
  })()
  await expect(reading).rejects.toMatchObject({ code: 'backup-damaged' })
  expect(passed).toBeLessThan(body.length)
})

test('unpack into a program: a damaged file ends the program before it sees an end', async () => {
  await using opened = await open()
  const stored = await packed(opened.store)
  const seen = opened.path('seen')
  const script = `cat >/dev/null; echo "the end" >"$0"`
  const source = unpack(opened.store, { ...stored, plainSha256: '0'.repeat(64) })
  await expect(input(['sh', '-c', script, seen], source)).rejects.toMatchObject({ code: 'backup-damaged' })
  await expect(readFile(seen)).rejects.toMatchObject({ code: 'ENOENT' })
  await input(['sh', '-c', script, seen], unpack(opened.store, stored))
  expect(await readFile(seen, 'utf8')).toBe('the end\n')
})

test('unpack of a missing file: store-missing', async () => {
  await using opened = await open()
  const stored = await packed(opened.store)
  await rm(opened.path(stored.key))
  await expect(Array.fromAsync(unpack(opened.store, stored))).rejects.toMatchObject({ code: 'store-missing' })
})
