import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { setImmediate } from 'node:timers/promises'
import { constants, createZstdCompress, createZstdDecompress, type ZstdOptions } from 'node:zlib'
import { output } from '../../core/exec.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { free } from '../../core/memory.ts'
import { requireIdentity } from '../../store/pipeline.ts'

/** How the bytes of WAL are stored. */
export interface Codec {
  /** zstd's; 1 to 19. */
  readonly level: number
  /** Public keys of age; without them nothing is encrypted. */
  readonly recipients?: readonly string[] | undefined
  /** Path of an age identity file, to read what is encrypted. */
  readonly identity?: string | undefined
}

const PIECE = 1024 * 1024

/** A file on its way into the store. */
export interface Encoded {
  /** Of the plain bytes, in hex. */
  readonly sha256: string
  /** The bytes to store; to be asked once. */
  body(): AsyncIterable<Buffer>
}

/** A file up to this size is kept in memory meanwhile: 16 MB is what segments usually have. */
const IN_MEMORY = 64 * PIECE

/**
 * A file with its hash and its stored form. zstd runs in a thread of this process meanwhile: a program
 * for each segment would cost as much again as its work.
 */
export async function encode(path: string, codec: Codec): Promise<Encoded> {
  const { size } = await stat(path)
  if (size > IN_MEMORY) return { sha256: await hashFile(path), body: () => encodeFile(path, codec) }
  const memory = take(size)
  let packed: Promise<Buffer[]> | undefined
  try {
    const bytes = await readInto(memory, path, size)
    packed = compress(bytes, codec)
    packed.catch(() => {}) // whoever asks for the body is told
    const sha256 = await hashOf(bytes)
    const pieces = packed
    return { sha256, body: () => encrypted(usedUp(pieces), codec) }
  } finally {
    const giveBack = () => give(memory)
    if (packed === undefined) giveBack()
    else packed.then(giveBack, giveBack) // the thread reads it until then
  }
}

/** Frees what was made of a segment when all of it is on its way: dozens of them would wait to be collected. */
async function* usedUp(packed: Promise<Buffer[]>): AsyncGenerator<Buffer, void> {
  const pieces = await packed
  if (pieces.length === 0) throw new Fail('bug', 'what was made of a segment is used up')
  yield* pieces
  // Those of zstd only: any other may be shared with everything in this process.
  const buffers = new Set(pieces.splice(0).map((piece) => piece.buffer))
  for (const buffer of buffers) if (buffer.byteLength === OUT) free(new Uint8Array(buffer))
}

/** In pieces: the other segments and the server need this thread too. */
async function hashOf(bytes: Buffer): Promise<string> {
  const hash = createHash('sha256')
  for (let start = 0; start < bytes.length; start += PIECE) {
    hash.update(bytes.subarray(start, start + PIECE))
    await setImmediate()
  }
  return hash.digest('hex')
}

async function readInto(memory: Buffer, path: string, size: number): Promise<Buffer> {
  const file = await open(path, 'r')
  try {
    let length = 0
    while (length < size) {
      const { bytesRead } = await file.read(memory, length, size - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return memory.subarray(0, length)
  } finally {
    await file.close()
  }
}

/** Memory for files: used again while one follows the other, let go when there is nothing to do. */
const spare: Buffer[] = []
let taken = 0

function take(size: number): Buffer {
  taken++
  const index = spare.findIndex(({ length }) => length >= size)
  return index < 0 ? Buffer.allocUnsafeSlow(size) : spare.splice(index, 1)[0]!
}

function give(memory: Buffer): void {
  taken--
  if (taken === 0) spare.length = 0
  else spare.push(memory)
}

/** What zstd fills at a time: one piece of 16 MB would keep as much memory as it could need at the worst. */
const OUT = 4 * PIECE

/** zstd reads where the bytes are; what it makes of them is kept as it comes. */
async function compress(bytes: Buffer, codec: Codec): Promise<Buffer[]> {
  const zstd = createZstdCompress({ ...parametersOf(codec), chunkSize: OUT, pledgedSrcSize: bytes.length })
  zstd.end(bytes)
  return Array.fromAsync(zstd as AsyncIterable<Buffer>)
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: PIECE })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/**
 * The stored form of a file's bytes, piece by piece.
 * @param bytes of the file's beginning; default: all
 */
export function encodeFile(path: string, codec: Codec, bytes?: number): AsyncIterable<Buffer> {
  return encrypted(through(readOnce(path, bytes), createZstdCompress(parametersOf(codec))), codec)
}

/** Opened only by who reads it: an error before that would be nobody's, and end the process. */
async function* readOnce(path: string, bytes: number | undefined): AsyncGenerator<Buffer, void> {
  yield* createReadStream(path, {
    highWaterMark: PIECE,
    ...(bytes !== undefined && { end: bytes - 1 }), // it is included
  })
}

function parametersOf({ level }: Codec): ZstdOptions {
  return {
    chunkSize: PIECE,
    params: { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 },
  }
}

function encrypted(packed: AsyncIterable<Buffer>, { recipients }: Codec): AsyncIterable<Buffer> {
  if (!recipients?.length) return packed
  const to = recipients.flatMap((recipient) => ['--recipient', recipient])
  // Who ships decides when to stop: what is begun is finished, also while this process is asked to end.
  return output(['age', '--encrypt', ...to], { input: packed, evenInterrupted: true })
}

/**
 * The plain bytes of a stored file; the last ones come after the proof that all are right: by zstd's own
 * checksum, and by the hash where it is known.
 * @param key names it, and says by its ending whether it is encrypted
 * @throws {Fail} `backup-damaged`, `wrong-key`
 */
export async function* decode(
  stored: Readable,
  key: string,
  codec: Codec,
  sha256?: string,
): AsyncGenerator<Buffer, void> {
  const packed = key.endsWith('.age') ? decrypt(stored, key, codec.identity) : stored
  const hash = createHash('sha256')
  let held: Buffer | undefined
  try {
    for await (const chunk of through(packed, createZstdDecompress({ chunkSize: PIECE }))) {
      hash.update(chunk)
      if (held !== undefined) yield held
      held = chunk
    }
  } catch (error) {
    if (error instanceof Fail || !isZstdError(error)) throw error
    throw damaged(key, `cannot be unpacked: ${messageOf(error)}`, error)
  } finally {
    stored.destroy() // also when nothing was read of it
  }
  const found = hash.digest('hex')
  if (sha256 !== undefined && found !== sha256)
    throw damaged(key, `has content with the SHA-256 ${found}, ${sha256} was written`)
  if (held !== undefined) yield held
}

async function* decrypt(
  stored: AsyncIterable<Uint8Array>,
  key: string,
  identity: string | undefined,
): AsyncGenerator<Buffer, void> {
  requireIdentity(key, identity)
  try {
    yield* output(['age', '--decrypt', '--identity', identity], { input: stored })
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    const isKey = /no identity matched|malformed secret key|unknown identity|failed to read.*identit/i.test(
      error.hint ?? '',
    )
    if (!isKey) throw damaged(key, `cannot be decrypted: ${error.hint ?? error.message}`, error)
    throw new Fail('wrong-key', `stored file "${key}" is encrypted for other keys than this identity`, {
      hint: 'Name the age identity that belongs to one of its recipients.',
      cause: error,
    })
  }
}

/** Bytes through one of zlib's streams; an error of the source is the error of the whole. */
async function* through(
  source: AsyncIterable<Uint8Array>,
  zstd: ReturnType<typeof createZstdCompress> | ReturnType<typeof createZstdDecompress>,
): AsyncGenerator<Buffer, void> {
  const readable = Readable.from(source, { objectMode: false })
  readable.once('error', (error) => zstd.destroy(error))
  readable.pipe(zstd)
  try {
    for await (const chunk of zstd) yield chunk as Buffer
  } finally {
    readable.destroy()
    zstd.destroy()
  }
}

/** Codes of zlib, such as ZSTD_error_corruption_detected; a stream that ends too early is Z_BUF_ERROR. */
function isZstdError(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code !== undefined && /^(ZSTD_|Z_|ERR_)/.test(code)
}

function damaged(key: string, how: string, cause?: unknown): Fail {
  return new Fail('backup-damaged', `stored file "${key}" ${how}`, {
    hint: 'A backup that was taken after it does not need it: howdah backup list',
    cause,
  })
}
