import { createHash, type Hash } from 'node:crypto'
import { promisify } from 'node:util'
import { constants, zstdCompress, type ZstdOptions } from 'node:zlib'
import { output } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import type { RateLimiter } from './rate.ts'
import type { Store } from './store.ts'

/** What is known of the bytes of one stored file. */
export interface Stored {
  /** Key of the stored bytes, with the endings of the programs they went through: `.zst`. */
  readonly key: string
  readonly size: number
  readonly sha256: string
  /** Of what went in; unknown where that was compressed already. */
  readonly plainSize?: number
  readonly plainSha256?: string
}

/** What {@link unpack} needs to know: the hash of the plain bytes is checked where it is known. */
export type Expected = Pick<Stored, 'key' | 'size' | 'sha256'> & {
  readonly plainSize?: number | undefined
  readonly plainSha256?: string | undefined
}

/** How bytes are stored. */
export interface PackOptions {
  /** zstd's; 1 to 19. */
  readonly level: number
  /** Public keys of age: whoever has the private one of any of them can read it. Without one it is stored in clear. */
  readonly recipients?: readonly string[] | undefined
  /** The source is zstd already, made by the server: nothing is known of what is in it. */
  readonly compressed?: boolean | undefined
  /** Holds the source back. */
  readonly limiter?: RateLimiter | undefined
  /** Ends it: nothing is stored then. */
  readonly signal?: AbortSignal | undefined
  /** Called with the number of plain bytes so far. */
  readonly progress?: ((plainBytes: number) => void) | undefined
}

/** How bytes are read back. */
export interface UnpackOptions {
  readonly signal?: AbortSignal | undefined
  /** Path of a file with the private key, of what was encrypted. */
  readonly identity?: string | undefined
}

const ZSTD = '.zst'
const AGE = '.age'

// Two threads keep up with one pg_dump, and hold what zstd needs to some 60 MB on any machine.
const zstd = (level: number) => ['zstd', '--quiet', '--stdout', '--threads=2', `-${level}`]
const unzstd = ['zstd', '--quiet', '--stdout', '--decompress']
const encrypt = (recipients: readonly string[]) => [
  'age',
  '--encrypt',
  ...recipients.flatMap((recipient) => ['--recipient', recipient]),
]

/** The endings that {@link pack} gives a name. */
export function packedEnding(recipients: readonly string[] | undefined): string {
  return recipients === undefined ? ZSTD : `${ZSTD}${AGE}`
}

/**
 * Stores a stream: counted and hashed, compressed, encrypted, counted and hashed again, and put. Memory
 * does not grow with the size. When the source throws, or any program on the way fails, nothing is stored.
 * @param name the key without endings
 * @param source a piece of a stream is used up when the next one is asked for; bytes are few, and need no
 *   program to compress them
 */
export async function pack(
  store: Store,
  name: string,
  source: AsyncIterable<Uint8Array> | Uint8Array,
  options: PackOptions,
): Promise<Stored> {
  const { recipients, compressed, limiter } = options
  const signal = options.signal ? AbortSignal.any([options.signal, interrupted]) : interrupted
  const plain = meter(options.progress)
  const stored = meter()
  const key = name + packedEnding(recipients)
  const listening = whileWanted(source instanceof Uint8Array ? [source] : source, signal)
  const limited = limiter ? limiter.through(listening, signal) : listening
  let bytes: AsyncIterable<Uint8Array> = limited
  if (!compressed) {
    const input = plain.through(limited)
    bytes =
      source instanceof Uint8Array
        ? compressedHere(input, options.level)
        : output(zstd(options.level), { input, signal, frees: true })
  }
  if (recipients) bytes = output(encrypt(recipients), { input: bytes, signal, frees: true })
  const entry = await store.put(key, stored.through(gathered(bytes)))
  if (entry.size !== stored.size()) {
    throw new Fail(
      'backup-failed',
      `${store.url} holds ${entry.size} bytes of "${key}", ${stored.size()} were sent`,
    )
  }
  return {
    key,
    size: stored.size(),
    sha256: stored.sha256(),
    ...(!compressed && { plainSize: plain.size(), plainSha256: plain.sha256() }),
  }
}

const compress = promisify<Buffer, ZstdOptions, Buffer>(zstdCompress)

async function* compressedHere(
  source: AsyncIterable<Uint8Array>,
  level: number,
): AsyncGenerator<Buffer, void> {
  const params = { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 }
  yield await compress(Buffer.concat(await Array.fromAsync(source)), { params })
}

/**
 * The plain bytes of a stored file. The last ones are held back until the hashes that are known are
 * found right: whoever consumes this gets an error instead of an end, and never all of a wrong file.
 * @throws {Fail} `backup-damaged`, `wrong-key`; also `store-missing` and what else a store throws
 */
export async function* unpack(
  store: Store,
  expected: Expected,
  options: UnpackOptions = {},
): AsyncGenerator<Buffer> {
  const { key } = expected
  const isEncrypted = key.endsWith(AGE)
  if (isEncrypted) requireIdentity(key, options.identity)
  if (!key.endsWith(isEncrypted ? `${ZSTD}${AGE}` : ZSTD))
    throw new Fail('backup-damaged', `stored file "${key}" does not end in "${ZSTD}"`)
  const { signal } = options
  const stored = verified(await store.get(key), {
    what: `stored file "${key}"`,
    size: expected.size,
    sha256: expected.sha256,
  })
  try {
    yield* verified(output(unzstd, { input: decrypted(stored, options, isEncrypted), signal }), {
      what: `content of "${key}"`,
      size: expected.plainSize,
      sha256: expected.plainSha256,
    })
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    if (!isKeyFailure(error)) throw unreadable(key, error)
    await assertUndamaged(store, expected, signal)
    throw wrongKey(key, error)
  }
}

function decrypted(
  stored: AsyncIterable<Uint8Array>,
  { identity, signal }: UnpackOptions,
  isEncrypted: boolean,
): AsyncIterable<Uint8Array> {
  if (!isEncrypted) return stored
  return output(['age', '--decrypt', '--identity', identity!], { input: stored, signal })
}

/**
 * Makes sure, before anything is begun, that what is encrypted can be read.
 * @throws {Fail} `wrong-key` when there is no identity
 */
export function requireIdentity(what: string, identity: string | undefined): asserts identity is string {
  if (identity !== undefined) return
  throw new Fail('wrong-key', `"${what}" is encrypted, and no identity is given to read it with`, {
    hint: 'Give the file with the private key: --identity FILE',
  })
}

// What age 1.1 says of keys; all else that it says is of the file.
const KEY_FAILURE = /no identity matched|error: reading "|malformed secret key|unknown identity|passphrase/

function isKeyFailure(error: Fail): boolean {
  return error.message.startsWith('age ') && KEY_FAILURE.test(error.hint ?? '')
}

/** Above this, reading all of a file again is too long a wait for an error. */
const QUICKLY_READ = 64 * 1024 ** 2

/** A flipped bit among the first bytes looks like a wrong key to age. */
async function assertUndamaged(
  store: Store,
  { key, size, sha256 }: Expected,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (size > QUICKLY_READ) return
  const bytes = verified(await store.get(key), { what: `stored file "${key}"`, size, sha256 })
  for await (const _chunk of bytes) signal?.throwIfAborted()
}

function wrongKey(key: string, error: Fail): Fail {
  return new Fail('wrong-key', `"${key}" is encrypted for somebody else: this identity cannot read it`, {
    hint: 'Give the file with the private key of one of its recipients: --identity FILE',
    cause: error,
  })
}

function unreadable(key: string, error: Fail): Fail {
  return new Fail('backup-damaged', `stored file "${key}" cannot be unpacked: ${error.message}`, {
    hint: error.hint,
    cause: error,
  })
}

/** Bytes in one piece of what {@link gathered} yields: below that, each piece costs more than its bytes. */
const GATHERED = 1024 * 1024

/**
 * Makes larger pieces of small ones: a pipe gives 64 kB at a time, and each is one more hash, write and
 * promise. All of them are in the same memory: a piece is used up when the next one is asked for.
 */
async function* gathered(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  let memory: Buffer | undefined
  let filled = 0
  for await (const chunk of source) {
    if (memory !== undefined && filled + chunk.length > GATHERED) {
      if (filled > 0) yield memory.subarray(0, filled)
      filled = 0
    }
    if (chunk.length > GATHERED) {
      yield chunk
      continue
    }
    memory ??= Buffer.allocUnsafeSlow(GATHERED)
    memory.set(chunk, filled)
    filled += chunk.length
  }
  if (memory !== undefined && filled > 0) yield memory.subarray(0, filled)
}

async function* whileWanted(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of source) {
    signal.throwIfAborted()
    yield chunk
  }
}

/** Bytes as they pass by. */
interface Meter {
  through(source: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, void>
  size(): number
  /** To be asked once, at the end. */
  sha256(): string
}

function meter(progress?: (bytes: number) => void): Meter {
  const hash = createHash('sha256')
  let size = 0
  return {
    async *through(source) {
      for await (const chunk of source) {
        hash.update(chunk)
        size += chunk.length
        progress?.(size)
        yield asBuffer(chunk)
      }
    },
    size: () => size,
    sha256: () => hash.digest('hex'),
  }
}

interface Proof {
  readonly what: string
  readonly size: number | undefined
  readonly sha256: string | undefined
}

/** Yields what it gets one step late, so that the last step can wait for the proof. */
async function* verified(source: AsyncIterable<Uint8Array>, proof: Proof): AsyncGenerator<Buffer, void> {
  const hash = createHash('sha256')
  let size = 0
  let held: Buffer | undefined
  for await (const chunk of source) {
    hash.update(chunk)
    size += chunk.length
    if (proof.size !== undefined && size > proof.size)
      throw damaged(proof, `is longer than ${proof.size} bytes`)
    if (held !== undefined) yield held
    held = asBuffer(chunk)
  }
  prove(proof, size, hash)
  if (held !== undefined) yield held
}

function prove(proof: Proof, size: number, hash: Hash): void {
  if (proof.size !== undefined && size !== proof.size) {
    throw damaged(proof, `has ${size} bytes, ${proof.size} were written`)
  }
  const sha256 = hash.digest('hex')
  if (proof.sha256 !== undefined && sha256 !== proof.sha256) {
    throw damaged(proof, `has the SHA-256 ${sha256}, ${proof.sha256} was written`)
  }
}

function damaged(proof: Proof, how: string): Fail {
  return new Fail('backup-damaged', `${proof.what} ${how}`, {
    hint: 'Restore from another one with --backup LABEL: howdah backup list',
  })
}

function asBuffer(chunk: Uint8Array): Buffer {
  return Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
}
