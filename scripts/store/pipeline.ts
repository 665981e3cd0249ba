import { createHash, type Hash } from 'node:crypto'
import { output } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { type Store } from './store.ts'

/** What is known of the bytes of one stored file. */
export interface Stored {
  /** Key of the stored bytes, with the endings of the programs they went through: `.zst`. */
  readonly key: string
  readonly size: number
  readonly sha256: string
  readonly plainSize: number
  readonly plainSha256: string
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
  /** Ends it: nothing is stored then. */
  readonly signal?: AbortSignal
  /** Called with the number of plain bytes so far. */
  readonly progress?: (plainBytes: number) => void
}

/** A program that bytes go through on their way into the store, and the one that undoes it. */
interface Filter {
  readonly ending: string
  readonly into: readonly string[]
  readonly back: readonly string[]
}

/** In the order in which they are met on the way into the store. Encryption goes after this one. */
function filters(level: number): readonly Filter[] {
  // Two threads keep up with one pg_dump, and hold what zstd needs to some 60 MB on any machine.
  const zstd = ['zstd', '--quiet', '--stdout']
  return [{ ending: '.zst', into: [...zstd, '--threads=2', `-${level}`], back: [...zstd, '--decompress'] }]
}

/** The endings that {@link pack} gives a name. */
export function packedEnding(): string {
  return filters(1)
    .map(({ ending }) => ending)
    .join('')
}

/**
 * Stores a stream: counted and hashed, compressed, counted and hashed again, and put. Memory does
 * not grow with the size. When the source throws, or any program on the way fails, nothing is stored.
 * @param name the key without endings
 */
export async function pack(
  store: Store,
  name: string,
  source: AsyncIterable<Uint8Array>,
  options: PackOptions,
): Promise<Stored> {
  const plain = meter(options.progress)
  const stored = meter()
  const key = name + packedEnding()
  let bytes = plain.through(source)
  for (const { into } of filters(options.level))
    bytes = output(into, { input: bytes, ...signalOf(options.signal) })
  const entry = await store.put(key, stored.through(bytes))
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
    plainSize: plain.size(),
    plainSha256: plain.sha256(),
  }
}

/**
 * The plain bytes of a stored file. The last ones are held back until both hashes are known to be
 * right: whoever consumes this gets an error instead of an end, and never all of a wrong file.
 * @throws {Fail} `backup-damaged`; also `store-missing` and what else a store throws
 */
export async function* unpack(
  store: Store,
  expected: Expected,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const { key } = expected
  let bytes: AsyncIterable<Uint8Array> = verified(await store.get(key), {
    what: `stored file "${key}"`,
    size: expected.size,
    sha256: expected.sha256,
  })
  let name = key
  for (const { ending, back } of filters(1).toReversed()) {
    if (!name.endsWith(ending))
      throw new Fail('backup-damaged', `stored file "${key}" does not end in "${ending}"`)
    name = name.slice(0, -ending.length)
    bytes = output(back, { input: bytes, ...signalOf(signal) })
  }
  try {
    yield* verified(bytes, {
      what: `content of "${key}"`,
      size: expected.plainSize,
      sha256: expected.plainSha256,
    })
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('backup-damaged', `stored file "${key}" cannot be unpacked: ${error.message}`, {
      hint: error.hint,
      cause: error,
    })
  }
}

function signalOf(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal ? { signal } : {}
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
