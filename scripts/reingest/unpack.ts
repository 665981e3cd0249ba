import { Readable, type Transform } from 'node:stream'
import { constants, createGunzip, createZstdDecompress } from 'node:zlib'
import { messageOf } from '../core/fail.ts'
import { cutAtFrames } from './zstd-frames.ts'

/** Bytes that are read from their beginning as often as is asked for. */
export interface Packed {
  read(): AsyncIterable<Buffer>
  again(): AsyncIterable<Buffer>
  /** The last four bytes that were read. */
  readonly last: Buffer
}

/** What is known of a stream that was read as far as it goes. */
export interface Unpacked {
  readonly isTorn: boolean
  readonly damage: string | undefined
}

type Format = 'gzip' | 'zstd'

const CHUNK_BYTES = 64 * 1024
/** The least that Node's zlib takes. */
const LEAST_BYTES = 64

/**
 * Unpacks a file. What comes before a damaged place is there; one that is still being written has no end, and what is
 * there is what there is.
 */
export async function* unpacked(format: Format, packed: Packed): AsyncGenerator<Buffer, Unpacked> {
  let bytes = 0
  const raw = format === 'zstd' ? cutAtFrames(packed.read()) : packed.read()
  try {
    for await (const chunk of piped(unpackerOf(format, CHUNK_BYTES), raw)) {
      bytes += chunk.length
      yield chunk
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !code.startsWith('Z')) throw error
    const again = format === 'zstd' ? cutAtFrames(packed.again()) : beforeTrailer(packed.again())
    yield* upToDamage(unpackerOf(format, LEAST_BYTES), again, bytes)
    // A frame of zstd that has no end.
    if (code === 'Z_BUF_ERROR') return { isTorn: true, damage: undefined }
    return { isTorn: false, damage: `what is packed is damaged: ${messageOf(error)}` }
  }
  return { isTorn: format === 'gzip' && (await isCutOff(packed, bytes)), damage: undefined }
}

function unpackerOf(format: Format, chunkSize: number): Transform {
  if (format === 'zstd') return createZstdDecompress({ chunkSize })
  return createGunzip({ chunkSize, finishFlush: constants.Z_SYNC_FLUSH })
}

/** Bytes of the check and the length at the end of a gzip stream (RFC 1952). */
const TRAILER_BYTES = 8

/** Parts a trailer from what it is of: when that is wrong, all of this was unpacked before. */
async function* beforeTrailer(raw: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  for await (const chunk of raw) {
    const end = Math.max(0, chunk.length - TRAILER_BYTES)
    if (end > 0) yield chunk.subarray(0, end)
    yield chunk.subarray(end)
  }
}

async function* piped(unpack: Transform, raw: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  const packed = Readable.from(raw)
  packed.once('error', (error) => unpack.destroy(error))
  try {
    yield* packed.pipe(unpack) as AsyncIterable<Buffer>
  } finally {
    packed.destroy()
    unpack.destroy()
  }
}

/**
 * All that can be unpacked, but for the first bytes. Node's zlib keeps to itself what it had unpacked of the chunk in
 * which it fails, and a stream that is destroyed drops what nobody has read yet: hence the least of chunks, each taken
 * as it comes.
 */
async function* upToDamage(
  unpack: Transform,
  raw: AsyncIterable<Buffer>,
  skip: number,
): AsyncGenerator<Buffer, void> {
  let out: Buffer[] = []
  let left = skip
  let isOver = false
  const take = () => {
    const all = Buffer.concat(out)
    const rest = all.subarray(Math.min(left, all.length))
    left -= all.length - rest.length
    out = []
    return rest
  }
  unpack.on('data', (chunk: Buffer) => out.push(chunk))
  unpack.once('error', () => (isOver = true))
  for await (const chunk of raw) {
    if (isOver) break
    await new Promise<void>((resolve) => {
      unpack.once('close', resolve)
      unpack.write(chunk, () => {
        unpack.off('close', resolve)
        resolve()
      })
    })
    const rest = take()
    if (rest.length > 0) yield rest
  }
  unpack.destroy()
}

async function isCutOff(packed: Packed, unpackedBytes: number): Promise<boolean> {
  // RFC 1952, ISIZE. It is that of the last one where there are several in a row.
  const { last } = packed
  if (last.length === 4 && last.readUInt32LE() === unpackedBytes % 2 ** 32 && unpackedBytes > 0) return false
  let bytes = 0
  try {
    for await (const chunk of packed.again()) bytes += chunk.length
    for await (const _ of Readable.from(packed.again()).pipe(createGunzip()));
    return bytes === 0
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'Z_BUF_ERROR') return true
    throw error
  }
}
