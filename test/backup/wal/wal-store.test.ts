import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openWalStore, type WalPosition, type WalStore } from '../../../scripts/backup/wal/wal-store.ts'
import { run } from '../../../scripts/core/exec.ts'
import { dirStore } from '../../../scripts/store/dir.ts'
import type { Store } from '../../../scripts/store/store.ts'

const SIZE = 1024 * 1024
const FIRST = '000000010000000000000001'
const SECOND = '000000010000000000000002'

interface Opened {
  readonly wal: WalStore
  readonly store: Store
  readonly dir: string
  /** A file with this content; its path. */
  readonly file: (content: Buffer | string) => Promise<string>
}

async function open(keys: { recipients?: readonly string[]; identity?: string } = {}): Promise<Opened> {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-wal-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  const store = dirStore(join(dir, 'store'))
  let count = 0
  return {
    wal: openWalStore({ store, prefix: 'test/main/wal/7/', level: 1, ...keys }),
    store,
    dir,
    async file(content) {
      const path = join(dir, `file-${count++}`)
      await writeFile(path, content)
      return path
    },
  }
}

const read = (bytes: AsyncIterable<Buffer>) => buffer(bytes)
const stored = async (dir: string) =>
  (await readdir(join(dir, 'store'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name)
    .sort()

describe('put', () => {
  test('a segment: comes back byte for byte, under the documented keys', async () => {
    const { wal, file, store } = await open()
    const content = randomBytes(SIZE)
    await wal.put(FIRST, await file(content))
    expect((await read(wal.get(FIRST))).equals(content)).toBe(true)
    const keys = (await Array.fromAsync(store.list(''))).map(({ key }) => key)
    expect(keys).toEqual([
      `test/main/wal/7/00000001/${FIRST}.sha256`,
      `test/main/wal/7/00000001/${FIRST}.zst`,
    ])
  })

  test('the same segment again, as after a crash: no error, nothing is replaced', async () => {
    const { wal, file, store } = await open()
    const path = await file(randomBytes(SIZE))
    await wal.put(FIRST, path)
    const before = await Array.fromAsync(store.list(''))
    await wal.put(FIRST, path)
    expect(await Array.fromAsync(store.list(''))).toEqual(before)
  })

  test('another segment of the same name: refused, the first one stays', async () => {
    const { wal, file } = await open()
    const content = randomBytes(SIZE)
    await wal.put(FIRST, await file(content))
    await expect(wal.put(FIRST, await file(randomBytes(SIZE)))).rejects.toMatchObject({ code: 'wal-differs' })
    expect((await read(wal.get(FIRST))).equals(content)).toBe(true)
  })

  test('two machines at the same moment with different content: one of them wins, whole', async () => {
    const { wal, file } = await open()
    const contents = [randomBytes(SIZE), randomBytes(SIZE)]
    const results = await Promise.allSettled(
      contents.map(async (content) => wal.put(FIRST, await file(content))),
    )
    const winners = results.flatMap(({ status }, index) => (status === 'fulfilled' ? [index] : []))
    expect(winners).toHaveLength(1)
    expect((await read(wal.get(FIRST))).equals(contents[winners[0]!]!)).toBe(true)
  })

  test('a history: never replaced by another one', async () => {
    const { wal, file } = await open()
    await wal.put('00000002.history', await file('1\t0/3000158\tno recovery target specified\n'))
    await expect(wal.put('00000002.history', await file('1\t0/4000000\tother\n'))).rejects.toMatchObject({
      code: 'wal-differs',
    })
    expect((await wal.list()).histories).toEqual(['00000002.history'])
    expect(String(await read(wal.get('00000002.history')))).toContain('0/3000158')
  })

  test.each([
    '../../etc/passwd',
    `${FIRST}.partial`,
    `${FIRST}.00000028.backup`,
    '00000001.history/x',
    FIRST.toLowerCase().replace('1', 'a'),
    '',
  ])('%j: no name of a segment or a history: refused', async (name) => {
    const { wal, file, dir } = await open()
    await expect((async () => wal.put(name, await file('x')))()).rejects.toMatchObject({ code: 'bug' })
    expect(await readdir(dir)).not.toContain('store')
  })

  test('the hash is there and the body is not, as after a crash: no whole segment, the next put makes it one', async () => {
    const { wal, file, store } = await open()
    const path = await file(randomBytes(SIZE))
    await wal.put(FIRST, path)
    await store.delete([`test/main/wal/7/00000001/${FIRST}.zst`])
    expect((await wal.list()).segments).toEqual([])
    await expect(read(wal.get(FIRST))).rejects.toMatchObject({ code: 'store-missing' })
    await wal.put(FIRST, path)
    expect((await wal.list()).segments).toEqual([FIRST])
  })
})

describe('get', () => {
  test('damaged bytes: an error before the end', async () => {
    const { wal, file, store } = await open()
    await wal.put(FIRST, await file(randomBytes(SIZE)))
    const key = `test/main/wal/7/00000001/${FIRST}.zst`
    const bytes = await buffer(await store.get(key))
    for (const wrong of [
      bytes.subarray(0, bytes.length - 9),
      bytes.subarray(0, 0),
      Buffer.concat([bytes.subarray(0, 5000), Buffer.from('x'), bytes.subarray(5001)]),
    ]) {
      await store.put(key, oneChunk(wrong))
      await expect(read(wal.get(FIRST))).rejects.toMatchObject({ code: 'backup-damaged' })
    }
  })

  test('a whole, but other content: an error, and never all of it', async () => {
    const { wal, file, store } = await open()
    await wal.put(FIRST, await file(randomBytes(SIZE)))
    await wal.put(SECOND, await file(randomBytes(SIZE)))
    const other = await buffer(await store.get(`test/main/wal/7/00000001/${SECOND}.zst`))
    await store.put(`test/main/wal/7/00000001/${FIRST}.zst`, oneChunk(other))
    let size = 0
    await expect(
      (async () => {
        for await (const chunk of wal.get(FIRST)) size += chunk.length
      })(),
    ).rejects.toMatchObject({ code: 'backup-damaged' })
    expect(size).toBeLessThan(SIZE)
  })
})

describe('partial', () => {
  test('a beginning whose file is gone, as when it has become whole: an error for who puts it, nothing is stored', async () => {
    const { wal, dir } = await open()
    await expect(wal.putPartial(FIRST, join(dir, 'gone'))).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await wal.has(FIRST)).toBeUndefined()
  })

  test('a beginning: replaced by a longer one, never a whole segment, deleted', async () => {
    const { wal, file, dir } = await open()
    const content = randomBytes(SIZE)
    const path = await file(content)
    await wal.putPartial(FIRST, path, 8192)
    expect((await read(wal.getPartial(FIRST))).equals(content.subarray(0, 8192))).toBe(true)
    await wal.putPartial(FIRST, path, 16384)
    expect((await read(wal.getPartial(FIRST))).equals(content.subarray(0, 16384))).toBe(true)
    expect(await wal.list()).toMatchObject({ segments: [], partials: [FIRST] })
    await wal.put(FIRST, path)
    expect(await wal.list()).toMatchObject({ segments: [FIRST], partials: [] })
    await wal.deletePartial(FIRST)
    await wal.deletePartial(FIRST)
    expect(await stored(dir)).toEqual([`${FIRST}.sha256`, `${FIRST}.zst`])
  })
})

describe('list', () => {
  test('two timelines: in order, of one or of all; foreign names are no segments', async () => {
    const { wal, file, store } = await open()
    const path = await file('x')
    const third = '000000020000000000000003'
    await wal.put(third, path)
    await wal.put(SECOND, path)
    await wal.put(FIRST, path)
    await store.put('test/main/wal/7/00000001/notes.txt', oneChunk(Buffer.from('x')))
    await store.put('test/main/wal/70/00000001/x.zst', oneChunk(Buffer.from('x')))
    expect((await wal.list()).segments).toEqual([FIRST, SECOND, third])
    expect((await wal.list(1)).segments).toEqual([FIRST, SECOND])
    expect((await wal.list(3)).segments).toEqual([])
    expect((await wal.list()).size).toBeGreaterThan(0)
  })

  test('delete: a segment goes with its hash and its beginning; a missing one is no error', async () => {
    const { wal, file, dir } = await open()
    const path = await file('x')
    await wal.put(FIRST, path)
    await wal.putPartial(FIRST, path)
    await wal.put(SECOND, path)
    await wal.delete([FIRST, FIRST, '000000010000000000000009'])
    expect(await stored(dir)).toEqual([`${SECOND}.sha256`, `${SECOND}.zst`])
  })
})

describe('position', () => {
  const position: WalPosition = {
    format: 1,
    systemIdentifier: '7',
    timeline: 1,
    lsn: '0/3000028',
    time: '2026-11-22T10:00:00.123Z',
    segmentSize: SIZE,
  }

  test('none yet: undefined; then the last one', async () => {
    const { wal } = await open()
    expect(await wal.readPosition()).toBeUndefined()
    await wal.writePosition(position)
    await wal.writePosition({ ...position, lsn: '0/4000028' })
    expect(await wal.readPosition()).toEqual({ ...position, lsn: '0/4000028' })
  })

  test.each(['', '{}', '{"format":2}', JSON.stringify({ ...position, lsn: 'x' })])(
    '%j: no position',
    async (content) => {
      const { wal, store } = await open()
      await store.put('test/main/wal/7/position.json', oneChunk(Buffer.from(content)))
      await expect(wal.readPosition()).rejects.toMatchObject({ code: 'backup-damaged' })
    },
  )
})

describe('encrypted', () => {
  let keys: string
  let own: { recipients: string[]; identity: string }
  let other: string
  beforeAll(async () => {
    keys = await mkdtemp(join(tmpdir(), 'howdah-keys-'))
    const make = async (name: string) => {
      await run(['age-keygen', '-o', join(keys, name)])
      return /public key: (\S+)/.exec(await readFile(join(keys, name), 'utf8'))![1]!
    }
    own = { recipients: [await make('own')], identity: join(keys, 'own') }
    await make('other')
    other = join(keys, 'other')
    return () => rm(keys, { recursive: true, force: true })
  })

  test('with a recipient: only the identity reads it; the hash is of the plain bytes', async () => {
    const { wal, file, store, dir } = await open(own)
    const content = randomBytes(SIZE)
    const path = await file(content)
    await wal.put(FIRST, path)
    await wal.putPartial(SECOND, path, 4096)
    expect((await read(wal.get(FIRST))).equals(content)).toBe(true)
    expect((await read(wal.getPartial(SECOND))).equals(content.subarray(0, 4096))).toBe(true)
    expect(await stored(dir)).toEqual([`${FIRST}.sha256`, `${FIRST}.zst.age`, `${SECOND}.partial.zst.age`])
    const prefix = 'test/main/wal/7/'
    const without = openWalStore({ store, prefix, level: 1 })
    await expect(read(without.get(FIRST))).rejects.toMatchObject({ code: 'wrong-key' })
    const wrong = openWalStore({ store, prefix, level: 1, identity: other })
    await expect(read(wrong.get(FIRST))).rejects.toMatchObject({ code: 'wrong-key' })
  })

  test('encryption that began later: the same segment put again is equal, the old one is still read', async () => {
    const { wal, file, store, dir } = await open()
    const path = await file(randomBytes(SIZE))
    await wal.put(FIRST, path)
    const later = openWalStore({ store, prefix: 'test/main/wal/7/', level: 1, ...own })
    await later.put(FIRST, path)
    expect(await stored(dir)).toEqual([`${FIRST}.sha256`, `${FIRST}.zst`])
    expect(await read(later.get(FIRST))).toHaveLength(SIZE)
  })
})

async function* oneChunk(bytes: Buffer): AsyncGenerator<Buffer, void> {
  yield bytes
}
