import { constants, zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { unpacked } from '../../scripts/reingest/unpack.ts'
import { cutAtFrames } from '../../scripts/reingest/zstd-frames.ts'

const checked = { params: { [constants.ZSTD_c_checksumFlag]: 1 } }
const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3])
const long = Array.from({ length: 30_000 }, (_, number) => `line ${number * 7919}\n`).join('')
// With a checksum, of one byte over and over, empty, passed over, of several blocks, without its length.
const FRAMES: readonly (readonly [text: string, packed: Buffer])[] = [
  ['a\n', zstdCompressSync('a\n', checked)],
  ['x'.repeat(300_000), zstdCompressSync('x'.repeat(300_000))],
  ['', zstdCompressSync('')],
  ['', skippable],
  [long, zstdCompressSync(long, checked)],
  ['end', zstdCompressSync('end', { params: { [constants.ZSTD_c_contentSizeFlag]: 0 } })],
]
const text = FRAMES.map(([part]) => part).join('')
const packed = Buffer.concat(FRAMES.map(([, frame]) => frame))

async function* blocks(bytes: Buffer, size: number): AsyncGenerator<Buffer, void> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function unpack(bytes: Buffer, size: number): Promise<[string, unknown]> {
  const source = {
    read: () => blocks(bytes, size),
    again: () => blocks(bytes, size),
    last: bytes.subarray(-4),
  }
  const parts: Buffer[] = []
  const reading = unpacked('zstd', source)
  for (;;) {
    const { done, value } = await reading.next()
    if (done) return [Buffer.concat(parts).toString(), value]
    parts.push(value)
  }
}

test('bytes in one piece: come out as one piece for each frame', async () => {
  const pieces: Buffer[] = []
  for await (const piece of cutAtFrames(blocks(packed, packed.length))) pieces.push(piece)
  expect(pieces.map((piece) => piece.toString('hex'))).toEqual(
    FRAMES.map(([, frame]) => frame.toString('hex')),
  )
})

test.each([1, 2, 3, 7, 4096, 65_536])(
  'several frames, read %i bytes at a time: all of each is there',
  async (size) => {
    expect(await unpack(packed, size)).toEqual([text, { isTorn: false, damage: undefined }])
  },
)

test('a last frame that is cut, and what is no frame: what comes before is there, and it is said', async () => {
  const [, first] = FRAMES[0]!
  const [, last] = FRAMES[4]!
  const [before, cut] = await unpack(Buffer.concat([first, last.subarray(0, last.length / 2)]), 65_536)
  expect(cut).toEqual({ isTorn: true, damage: undefined })
  expect(`a\n${long}`.startsWith(before)).toBe(true)
  expect(before.length).toBeGreaterThan(2)
  expect(await unpack(Buffer.concat([first, Buffer.from('no frame of any kind')]), 65_536)).toEqual([
    'a\n',
    { isTorn: false, damage: expect.stringMatching(/is damaged/) as string },
  ])
})
