import { expect, test } from 'vitest'
import { buffersOf, partSize, partsOf } from '../../scripts/store/s3-part.ts'

const MB = 1024 * 1024

const never = new AbortController().signal

test('sizes of parts: 10,000 of them hold 5 TB, and each is one that S3 takes', () => {
  let total = 0
  for (let number = 1; number <= 10_000; number++) {
    const size = partSize(number)
    expect(size >= 5 * MB && size <= 5 * 1024 * MB).toBe(true)
    total += size
  }
  expect(total).toBeGreaterThan(5 * 1024 * 1024 * MB)
})

test.each([
  ['nothing', [], [0]],
  ['less than a part', [1, 1000], [1001]],
  ['a part to the byte', [8 * MB], [8 * MB]],
  ['a byte more than a part', [8 * MB, 1], [8 * MB, 1]],
  ['a part and a byte in one chunk', [8 * MB + 1], [8 * MB, 1]],
  ['chunks without any byte', [0, 8 * MB, 0, 0], [8 * MB]],
  ['a chunk of many parts', [20 * MB], [8 * MB, 8 * MB, 4 * MB]],
])('a body of %s: parts in order, of which the last one alone says so', async (_what, chunks, wanted) => {
  const body = Buffer.alloc(chunks.reduce((sum, size) => sum + size, 0))
  for (let at = 0; at < body.length; at += 4096) body[at] = at / 4096
  async function* source() {
    let at = 0
    for (const size of chunks) yield body.subarray(at, (at += size))
  }
  const buffers = buffersOf()
  const seen: { number: number; size: number; isLast: boolean }[] = []
  let at = 0
  for await (const { number, bytes, buffer, isLast } of partsOf(source(), buffers, never)) {
    seen.push({ number, size: bytes.length, isLast })
    expect(Buffer.compare(bytes, body.subarray(at, at + bytes.length))).toBe(0)
    at += bytes.length
    buffers.giveBack(buffer)
  }
  expect(seen).toEqual(
    wanted.map((size, index) => ({ number: index + 1, size, isLast: index === wanted.length - 1 })),
  )
})

test('a body while no part is done: held back after two small parts, and after one that is big', async () => {
  const small = buffersOf()
  for (let number = 0; number < 2; number++) await small.lend(8 * MB)
  const third = small.lend(8 * MB)
  expect(await Promise.race([third, Promise.resolve('waits')])).toBe('waits')
  const big = buffersOf()
  const first = await big.lend(100 * MB)
  const second = big.lend(100 * MB)
  expect(await Promise.race([second, Promise.resolve('waits')])).toBe('waits')
  big.giveBack(first)
  expect(await second).toBe(first)
})

test('an upload that failed: ends with its reason at the next chunk, and the body is closed', async () => {
  const failed = new AbortController()
  let isClosed = false
  async function* source() {
    try {
      while (true) yield Buffer.alloc(1024)
    } finally {
      isClosed = true
    }
  }
  const parts = partsOf(source(), buffersOf(), failed.signal)
  failed.abort(new Error('a part failed'))
  await expect(parts.next()).rejects.toThrow('a part failed')
  expect(isClosed).toBe(true)
})
