import { createHash } from 'node:crypto'
import { Fail } from '../core/fail.ts'
import { pack } from '../store/pipeline.ts'
import { rateLimiter } from '../store/rate.ts'
import type { Store } from '../store/store.ts'
import type { ManifestFile } from './manifest.ts'

/** The files of a backup that is being taken. */
export interface Box {
  /** What is in it so far. */
  readonly files: readonly ManifestFile[]
  /** Aborted by {@link callOff}. */
  readonly signal: AbortSignal
  /** Ends everything that goes on: the take has failed somewhere. */
  callOff(reason: unknown): void
  /**
   * Stores a stream, or a few bytes, compressed and encrypted, under a name that gets the endings of that.
   * @param compressed whether the source is zstd already
   * @param plainSize bytes of what is in a compressed source, asked after its end
   */
  add(
    name: string,
    source: AsyncIterable<Uint8Array> | Uint8Array,
    compressed?: boolean,
    plainSize?: () => number | undefined,
  ): Promise<ManifestFile>
  /** Stores bytes as they are. */
  addPlain(name: string, bytes: Uint8Array): Promise<ManifestFile>
  /** Takes everything out again. */
  empty(): Promise<void>
  /**
   * Compares what is in the store with what was put there.
   * @throws {Fail} `backup-failed`
   */
  assertComplete(): Promise<void>
}

/** How a {@link Box} is filled. */
export interface BoxOptions {
  readonly level: number
  /** Public keys of age; left out: nothing is encrypted. */
  readonly recipients?: readonly string[] | undefined
  /** Bytes a second at most, of all files together. */
  readonly rate?: number | undefined
  /** Told of each file that is stored. */
  readonly onFile?: ((file: ManifestFile) => void) | undefined
  /** Told of each piece of a stream that is read; of one that is zstd already, what it is stored as. */
  readonly onBytes?: ((count: number) => void) | undefined
}

/** Begins the files of a backup under a prefix. */
export function openBox(store: Store, prefix: string, options: BoxOptions): Box {
  const files: ManifestFile[] = []
  const controller = new AbortController()
  const { signal } = controller
  const limiter = options.rate === undefined ? undefined : rateLimiter(options.rate)
  const keep = (file: ManifestFile) => {
    files.push(file)
    options.onFile?.(file)
    return file
  }
  return {
    files,
    signal,
    callOff: (reason) => controller.abort(reason),
    async add(name, source, compressed = false, plainSize) {
      const { onBytes, level, recipients } = options
      const counting = onBytes && !(source instanceof Uint8Array) ? counted(source, onBytes) : source
      const packing = { level, recipients, limiter, compressed, signal }
      const { key, ...stored } = await pack(store, `${prefix}${name}`, counting, packing)
      const told = plainSize?.()
      return keep({
        name: key.slice(prefix.length),
        ...stored,
        ...(told !== undefined && { plainSize: told }),
      })
    },
    async addPlain(name, bytes) {
      const { size } = await store.put(`${prefix}${name}`, once(bytes))
      return keep({ name, size, sha256: createHash('sha256').update(bytes).digest('hex') })
    },
    async empty() {
      files.length = 0
      const entries = await Array.fromAsync(store.list(prefix))
      await store.delete(entries.map(({ key }) => key))
    },
    async assertComplete() {
      const sizes = new Map<string, number>()
      for await (const { key, size } of store.list(prefix)) sizes.set(key.slice(prefix.length), size)
      for (const { name, size } of files) {
        if (sizes.get(name) === size) continue
        throw new Fail(
          'backup-failed',
          `the store has ${sizes.get(name) ?? 'no'} bytes of "${name}", ${size} were put there`,
          {
            hint: `Who else writes to ${store.url}? Then take it again.`,
          },
        )
      }
    },
  }
}

/** A stream of one piece. */
export async function* once(bytes: Uint8Array | string): AsyncGenerator<Uint8Array, void> {
  yield typeof bytes === 'string' ? Buffer.from(bytes) : bytes
}

async function* counted(
  source: AsyncIterable<Uint8Array>,
  onBytes: (count: number) => void,
): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of source) {
    onBytes(chunk.length)
    yield chunk
  }
}
