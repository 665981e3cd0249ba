import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import type { Store } from '../../scripts/store/store.ts'

/** An empty store for one test. */
export interface Opened extends AsyncDisposable {
  readonly store: Store
}

export async function* chunks(...parts: readonly (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield typeof part === 'string' ? Buffer.from(part) : part
}

export async function* broken(...parts: readonly string[]): AsyncGenerator<Uint8Array> {
  yield* chunks(...parts)
  throw new Error('the source broke')
}

export async function text(store: Store, key: string): Promise<string> {
  return Buffer.concat(await Array.fromAsync(await store.get(key))).toString('utf8')
}

export async function keys(store: Store, prefix: string): Promise<string[]> {
  return (await Array.fromAsync(store.list(prefix))).map(({ key }) => key)
}

/** Pieces of 256 kB which all stand in the same memory: each is overwritten when the next one is asked for. */
export async function* reused(bytes: Buffer): AsyncGenerator<Uint8Array> {
  const size = 256 * 1024
  const memory = Buffer.alloc(size)
  for (let at = 0; at < bytes.length; at += size) {
    yield memory.subarray(0, bytes.copy(memory, 0, at))
    memory.fill(0)
  }
}

/** What every store must do. `open` gives an empty one. */
export function storeContract(open: () => Promise<Opened>): void {
  test('put, then get: the same bytes, and the size and time of the entry', async () => {
    await using opened = await open()
    const { store } = opened
    const body = randomBytes(700_000)
    const before = Date.now()
    const entry = await store.put(
      'a/b/c',
      chunks(body.subarray(0, 1), body.subarray(1, 500_000), body.subarray(500_000)),
    )
    expect(entry).toMatchObject({ key: 'a/b/c', size: body.length })
    expect(Math.abs(entry.modified.getTime() - before)).toBeLessThan(60_000)
    expect(Buffer.concat(await Array.fromAsync(await store.get('a/b/c'))).equals(body)).toBe(true)
  })

  test('put of a body whose pieces stand in the same memory: every one of them is stored', async () => {
    await using opened = await open()
    const { store } = opened
    const body = randomBytes(9_000_000) // more than a part
    await store.put('a', reused(body))
    expect(Buffer.concat(await Array.fromAsync(await store.get('a'))).equals(body)).toBe(true)
  })

  test('put of nothing: an entry of 0 bytes', async () => {
    await using opened = await open()
    const { store } = opened
    expect((await store.put('empty', chunks())).size).toBe(0)
    expect(await text(store, 'empty')).toBe('')
  })

  test('put over a key: replaced', async () => {
    await using opened = await open()
    const { store } = opened
    await store.put('x', chunks('long old content'))
    await store.put('x', chunks('new'))
    expect(await text(store, 'x')).toBe('new')
  })

  test('put whose source fails: nothing of it is seen', async () => {
    await using opened = await open()
    const { store } = opened
    await expect(store.put('x/y', broken('half'))).rejects.toThrow('the source broke')
    expect(await keys(store, '')).toEqual([])
    await expect(store.get('x/y')).rejects.toMatchObject({ code: 'store-missing' })
  })

  test('put over a key whose source fails: the old content stays', async () => {
    await using opened = await open()
    const { store } = opened
    await store.put('x', chunks('old'))
    await expect(store.put('x', broken('half'))).rejects.toThrow('the source broke')
    expect(await text(store, 'x')).toBe('old')
    expect(await keys(store, '')).toEqual(['x'])
  })

  test('put while it is under way: not seen before its end', async () => {
    await using opened = await open()
    const { store } = opened
    const seen: string[][] = []
    async function* slow() {
      yield Buffer.from('one')
      seen.push(await keys(store, ''))
      yield Buffer.from('two')
    }
    await store.put('x', slow())
    expect(seen).toEqual([[]])
    expect(await keys(store, '')).toEqual(['x'])
  })

  test('create: true once, false afterwards, and the first content stays', async () => {
    await using opened = await open()
    const { store } = opened
    expect(await store.create('a/x', Buffer.from('first'))).toBe(true)
    expect(await store.create('a/x', Buffer.from('second'))).toBe(false)
    expect(await text(store, 'a/x')).toBe('first')
  })

  test('create by many at once: one of them wins, and its content is there', async () => {
    await using opened = await open()
    const { store } = opened
    const bodies = Array.from({ length: 20 }, (_, index) => `${index}`.repeat(5000))
    const won = await Promise.all(bodies.map((body) => store.create('x', Buffer.from(body))))
    expect(won.filter(Boolean)).toHaveLength(1)
    expect(await text(store, 'x')).toBe(bodies[won.indexOf(true)])
    expect(await keys(store, '')).toEqual(['x'])
  })

  test('create of a key that put made: false', async () => {
    await using opened = await open()
    const { store } = opened
    await store.put('x', chunks('put'))
    expect(await store.create('x', Buffer.from('created'))).toBe(false)
    expect(await text(store, 'x')).toBe('put')
  })

  test('list: in the order of the bytes of the whole keys', async () => {
    await using opened = await open()
    const { store } = opened
    const wanted = ['a-b', 'a.b', 'a/b', 'a/c/d', 'aB', 'ab', 'b', 'b/a']
      .filter((key) => key !== 'b/a')
      .concat(['z\u{ff5e}', 'z\u{1f418}'])
    for (const key of wanted.toReversed()) await store.put(key, chunks(key))
    expect(await keys(store, '')).toEqual(wanted)
  })

  test('list of a prefix: what begins with it, also in the middle of a name', async () => {
    await using opened = await open()
    const { store } = opened
    for (const key of ['x/2026-a', 'x/2026-b/c', 'x/2027', 'xy', 'y/2026']) await store.put(key, chunks(key))
    expect(await keys(store, 'x/')).toEqual(['x/2026-a', 'x/2026-b/c', 'x/2027'])
    expect(await keys(store, 'x/2026')).toEqual(['x/2026-a', 'x/2026-b/c'])
    expect(await keys(store, 'x')).toEqual(['x/2026-a', 'x/2026-b/c', 'x/2027', 'xy'])
  })

  test('list of a prefix that is not there: nothing', async () => {
    await using opened = await open()
    const { store } = opened
    expect(await keys(store, 'no/such/')).toEqual([])
    expect(await keys(store, '')).toEqual([])
  })

  test.each([
    ['the first byte', 0, 0, '0'],
    ['the middle', 3, 5, '345'],
    ['to the end', 7, 9, '789'],
    ['beyond the end', 7, 100, '789'],
  ])('get of a range: %s: these bytes only', async (_name, first, last, wanted) => {
    await using opened = await open()
    const { store } = opened
    await store.put('x', chunks('0123', '456789'))
    expect(Buffer.concat(await Array.fromAsync(await store.get('x', { first, last }))).toString()).toBe(
      wanted,
    )
  })

  test('get of a missing key: store-missing, which is not store-denied', async () => {
    await using opened = await open()
    const { store } = opened
    await store.put('a/b', chunks('x'))
    for (const key of ['c', 'a/c', 'a']) {
      await expect(store.get(key)).rejects.toMatchObject({
        code: 'store-missing',
        message: `the store has no "${key}"`,
      })
    }
  })

  test('delete: these keys are gone, others stay, missing ones are no error', async () => {
    await using opened = await open()
    const { store } = opened
    for (const key of ['a/1', 'a/2', 'b/1']) await store.put(key, chunks(key))
    await store.delete(['a/1', 'no/such', 'b/1', 'a'])
    expect(await keys(store, '')).toEqual(['a/2'])
    expect(await store.create('b/1', Buffer.from('again'))).toBe(true)
  })

  test.each([
    '',
    '/etc/passwd',
    '../x',
    'a/../../x',
    'a/..',
    './x',
    'a//b',
    'a/',
    'a\0b',
    '.hidden',
    'a/.x',
    'a\nb',
  ])('key %j: refused', async (key) => {
    await using opened = await open()
    const { store } = opened
    await expect((async () => store.put(key, chunks('x')))()).rejects.toThrow(/a key must not have/)
    await expect((async () => store.get(key))()).rejects.toThrow(/a key must not have/)
    await expect((async () => store.create(key, Buffer.from('x')))()).rejects.toThrow(/a key must not have/)
    await expect((async () => store.delete([key]))()).rejects.toThrow(/a key must not have/)
    expect(await keys(store, '')).toEqual([])
  })

  test.each([
    'Ünï cødé',
    'with space',
    'a"b',
    `'; drop table x; --`,
    '%41',
    'a\\b',
    '\u{1f418}',
    'a'.repeat(200),
  ])('key %j: kept as it is', async (key) => {
    await using opened = await open()
    const { store } = opened
    await store.put(`x/${key}`, chunks('content'))
    expect(await keys(store, 'x/')).toEqual([`x/${key}`])
    expect(await text(store, `x/${key}`)).toBe('content')
  })
}
