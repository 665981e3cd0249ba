import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { input, output } from '../../scripts/core/exec.ts'
import { messageOf } from '../../scripts/core/fail.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { type Expected, pack, packedEnding, type Stored, unpack } from '../../scripts/store/pipeline.ts'
import { rateLimiter } from '../../scripts/store/rate.ts'
import type { Store } from '../../scripts/store/store.ts'
import { type AgeKey, ageKey } from '../support/age.ts'
import { broken, chunks, keys } from './contract.ts'

let folder: string
let alice: AgeKey
let bob: AgeKey
let eve: AgeKey
let store: Store
let root: string
let serial = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'howdah-encryption-'))
  ;[alice, bob, eve] = await Promise.all([
    ageKey(join(folder, 'alice')),
    ageKey(join(folder, 'bob')),
    ageKey(join(folder, 'eve')),
  ])
})
afterAll(() => rm(folder, { recursive: true, force: true }))
beforeEach(() => {
  root = join(folder, `store${++serial}`)
  store = dirStore(root)
})

/** Bytes with a text that must not be found again in what is stored. */
const body = Buffer.concat([Buffer.from('a text in clear '.repeat(1000)), randomBytes(600_000)])

const packed = (recipients: readonly string[], name = 'x') =>
  pack(store, name, chunks(body.subarray(0, 1000), body.subarray(1000)), { level: 1, recipients })

const content = async (expected: Expected, identity?: string) =>
  Buffer.concat(await Array.fromAsync(unpack(store, expected, { identity })))

const plainly = <T>(promise: Promise<T>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  )

describe('encrypted file', () => {
  test('its private key reads it; what is stored tells nothing; the age and zstd programs alone read it too', async () => {
    const stored = await packed([alice.recipient])
    expect(stored.key).toBe(`x${packedEnding([alice.recipient])}`)
    expect(stored).toMatchObject({ key: 'x.zst.age', plainSize: body.length })
    const raw = await readFile(join(root, stored.key))
    expect(raw.length).toBe(stored.size)
    expect(raw.includes('a text in clear')).toBe(false)
    expect((await content(stored, alice.path)).equals(body)).toBe(true)
    const script = 'age --decrypt --identity "$1" "$2" | zstd -dc'
    const byHand = await Array.fromAsync(
      output(['sh', '-c', script, 'sh', alice.path, join(root, stored.key)]),
    )
    expect(Buffer.concat(byHand).equals(body)).toBe(true)
  })

  test('several recipients: the private key of each of them reads it, and no other', async () => {
    const stored = await packed([alice.recipient, bob.recipient])
    expect((await content(stored, alice.path)).equals(body)).toBe(true)
    expect((await content(stored, bob.path)).equals(body)).toBe(true)
    await expect(content(stored, eve.path)).rejects.toMatchObject({ code: 'wrong-key' })
  })

  test('nothing in it: an end, no error', async () => {
    const stored = await pack(store, 'empty', chunks(), { level: 1, recipients: [alice.recipient] })
    expect(await content(stored, alice.path)).toEqual(Buffer.alloc(0))
  })

  test('no key: wrong-key, and the hint names the option', async () => {
    const stored = await packed([alice.recipient])
    await expect(content(stored)).rejects.toMatchObject({
      code: 'wrong-key',
      hint: expect.stringContaining('--identity FILE'),
    })
  })

  test('a wrong key: wrong-key, the hint names the option, and no key is in the error', async () => {
    const stored = await packed([alice.recipient])
    const error = await plainly(content(stored, eve.path))
    expect(error).toMatchObject({ code: 'wrong-key', hint: expect.stringContaining('--identity FILE') })
    expect(JSON.stringify(error) + messageOf(error)).not.toContain('AGE-SECRET-KEY')
  })

  test.each([
    ['a public key', () => alice.recipient],
    ['half of a private key', () => alice.secret.slice(0, 40)],
    ['nothing', () => ''],
  ])('a key file with %s: wrong-key', async (_what, text) => {
    const stored = await packed([alice.recipient])
    const path = join(folder, `odd${serial}`)
    await writeFile(path, text())
    await expect(content(stored, path)).rejects.toMatchObject({ code: 'wrong-key' })
  })

  test('stored in clear: is read with any key, or none', async () => {
    const stored = await pack(store, 'clear', chunks(body), { level: 1 })
    expect((await content(stored, eve.path)).equals(body)).toBe(true)
    expect((await content(stored)).equals(body)).toBe(true)
  })

  test('an encrypted file under the name of one in clear: backup-damaged, not its bytes', async () => {
    const { key, ...sums } = await packed([alice.recipient])
    await store.put('y.zst', await store.get(key))
    await expect(content({ key: 'y.zst', ...sums })).rejects.toMatchObject({ code: 'backup-damaged' })
  })

  test('compressed by the server already: stored as it comes, and what is in it is not told', async () => {
    const zst = await Array.fromAsync(output(['zstd', '-c'], { input: chunks(body) }))
    for (const recipients of [undefined, [alice.recipient]]) {
      const stored = await pack(store, 'base.tar', chunks(...zst), { level: 1, compressed: true, recipients })
      expect(stored).toEqual({
        key: `base.tar${packedEnding(recipients)}`,
        size: stored.size,
        sha256: stored.sha256,
      })
      expect((await content(stored, alice.path)).equals(body)).toBe(true)
    }
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
    ['a flipped bit in its first line', flip(() => 3)],
    ['a flipped bit where it names its recipient, which looks like a wrong key', flip(() => 40)],
    ['a flipped bit in the key of its recipient', flip(() => 90)],
    ['a flipped bit in the middle', flip((length) => length >> 1)],
    ['a flipped bit in the last byte', flip((length) => length - 1)],
    ['a byte less', (path, { size }) => truncate(path, size - 1)],
    ['half of it', (path, { size }) => truncate(path, size >> 1)],
    ['no more than its header', (path) => truncate(path, 190)],
    ['nothing left', (path) => truncate(path, 0)],
  ])('%s: backup-damaged, and never all of the bytes', async (_name, damage) => {
    const stored = await packed([alice.recipient])
    await damage(join(root, stored.key), stored)
    let passed = 0
    const reading = (async () => {
      for await (const chunk of unpack(store, stored, { identity: alice.path })) passed += chunk.length
    })()
    await expect(reading).rejects.toMatchObject({ code: 'backup-damaged' })
    expect(passed).toBeLessThan(body.length)
  })

  test('another file for the same recipient in its place: backup-damaged', async () => {
    const [one, other] = [await packed([alice.recipient], 'one'), await packed([alice.recipient], 'other')]
    const swapped = { ...one, key: other.key }
    await expect(content(swapped, alice.path)).rejects.toMatchObject({ code: 'backup-damaged' })
  })
})

describe('pack with recipients', () => {
  test('its source fails midway: nothing is stored, although age could end its file well', async () => {
    const packing = pack(store, 'x', broken('half'), { level: 1, recipients: [alice.recipient] })
    await expect(packing).rejects.toThrow('the source broke')
    expect(await keys(store, '')).toEqual([])
  })

  test('its source, a program, crashes after good output: nothing is stored, an end is no success', async () => {
    const source = output(['sh', '-c', 'head -c 3000000 /dev/urandom; exit 3'])
    const packing = pack(store, 'x', source, { level: 1, recipients: [alice.recipient] })
    await expect(packing).rejects.toMatchObject({ code: 'command-failed' })
    expect(await keys(store, '')).toEqual([])
  })

  test('a recipient that is none: it fails with the words of age, and nothing is stored', async () => {
    const packing = pack(store, 'x', chunks(body), { level: 1, recipients: ['age1nobody'] })
    await expect(packing).rejects.toMatchObject({
      code: 'command-failed',
      hint: expect.stringContaining('recipient'),
    })
    expect(await keys(store, '')).toEqual([])
  })

  test('zstd and age at once: 1 GB takes less than 200 MB of memory', async () => {
    const script = `
      import { randomBytes } from 'node:crypto'
      import { dirStore } from '${import.meta.dirname}/../../scripts/store/dir.ts'
      import { pack, unpack } from '${import.meta.dirname}/../../scripts/store/pipeline.ts'
      const chunk = randomBytes(1024 * 1024) // more than the window of zstd -1: nothing of it compresses
      async function* source() { for (let n = 0; n < 1024; n++) yield chunk }
      const [root, recipient, identity] = process.argv.slice(2)
      const store = dirStore(root)
      const stored = await pack(store, 'x', source(), { level: 1, recipients: [recipient] })
      let size = 0
      for await (const bytes of unpack(store, stored, { identity })) size += bytes.length
      console.log(JSON.stringify({ size, stored: stored.size, peak: process.resourceUsage().maxRSS * 1024 }))`
    const file = join(folder, 'memory.ts')
    await writeFile(file, script)
    const said = await input([process.execPath, file, root, alice.recipient, alice.path], chunks())
    const { size, stored, peak } = JSON.parse(said) as Record<'size' | 'stored' | 'peak', number>
    expect(size).toBe(2 ** 30)
    expect(stored).toBeGreaterThan(2 ** 29)
    expect(peak).toBeLessThan(200 * 1024 * 1024)
  })

  test('neither key is in the arguments of any program while it is written and read', async () => {
    const seen = new Set<string>()
    const look = async () => {
      for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
        seen.add(await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''))
      }
    }
    const large = randomBytes(16 * 1024 * 1024) // more than what programs and pipes hold: they are still there
    async function* looking() {
      yield large
      await look()
      yield large
    }
    const stored = await pack(store, 'x', looking(), { level: 1, recipients: [alice.recipient] })
    const reading = unpack(store, stored, { identity: alice.path })
    await reading.next()
    await look()
    await reading.return(undefined)
    const programs = [...seen].filter((text) => text.startsWith('age\0'))
    expect(programs.some((text) => text.includes('--encrypt'))).toBe(true)
    expect(programs.some((text) => text.includes('--decrypt'))).toBe(true)
    expect([...seen].filter((text) => text.includes(alice.secret))).toEqual([])
  })
})

describe('rate limit', () => {
  const mebibyte = Buffer.alloc(1024 * 1024)

  test('a stream of two seconds takes more than one', async () => {
    const begun = performance.now()
    const source = chunks(...Array.from({ length: 16 }, () => mebibyte.subarray(0, 65_536)))
    const limiter = rateLimiter(512 * 1024)
    await pack(store, 'x', source, { level: 1, limiter })
    expect(performance.now() - begun).toBeGreaterThan(1000)
  })

  test('two streams at once share it', async () => {
    const begun = performance.now()
    const limiter = rateLimiter(1024 * 1024)
    const one = () => chunks(...Array.from({ length: 16 }, () => mebibyte.subarray(0, 65_536)))
    await Promise.all(['x', 'y'].map((name) => pack(store, name, one(), { level: 1, limiter })))
    expect(performance.now() - begun).toBeGreaterThan(1000)
  })

  test('held back for an hour, then called off: ends at once with the reason, and stores nothing', async () => {
    const controller = new AbortController()
    const packing = pack(store, 'x', chunks(mebibyte, mebibyte), {
      level: 1,
      limiter: rateLimiter(256),
      signal: controller.signal,
    })
    setTimeout(() => controller.abort(new Error('called off')), 50)
    await expect(packing).rejects.toThrow('called off')
    expect(await keys(store, '')).toEqual([])
  })
})
