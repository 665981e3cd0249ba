import { createHash } from 'node:crypto'
import { constants as fsConstants, type BigIntStats } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { output } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { isMissing, reasonOf } from '../core/file.ts'
import { type Unpacked, unpacked } from './unpack.ts'

/** One file that is read from its beginning to its end. */
export interface Source extends AsyncDisposable {
  readonly size: bigint
  /** When it was last written to, in UTC to the microsecond. */
  readonly modified: string
  readonly modifiedSeconds: number
  /** What is in it, unpacked or decoded; to be asked for once. @throws {Fail} `file-unreadable`, `command-failed` */
  blocks(): AsyncGenerator<Buffer, void>
  /** What is known when all of it was read. */
  end(): Promise<{
    readonly sha256: string
    /** Of what is packed there is no end. */
    readonly isTorn: boolean
    /** Why what is packed could be read up to some place only. */
    readonly damage: string | undefined
    readonly isChanged: boolean
  }>
  /** Reads all of it, as it stands on the disk. */
  hash(): Promise<string>
}

const READ_BYTES = 64 * 1024

/**
 * Opens a file.
 * @param ending of its name, such as `.ndjson.gz`
 * @param decoder a program that prints what is in it
 * @returns undefined when it is not there
 * @throws {Fail} `file-unreadable`
 */
export async function openSource(
  path: string,
  ending: string,
  decoder: readonly string[] | undefined,
): Promise<Source | undefined> {
  // A pipe of that name would be waited for.
  const handle = await open(path, fsConstants.O_RDONLY | fsConstants.O_NONBLOCK).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw new Fail('file-unreadable', `cannot read "${path}": ${reasonOf(error)}`, { cause: error })
  })
  if (!handle) return undefined
  const before = await handle.stat({ bigint: true })
  if (!before.isFile()) {
    await handle.close()
    throw new Fail('file-unreadable', `cannot read "${path}": it is no file`)
  }
  const raw = new RawFile(handle)
  let state: Unpacked = { isTorn: false, damage: undefined }
  return {
    size: before.size,
    modified: microseconds(before.mtimeNs),
    modifiedSeconds: Number(before.mtimeNs / 1_000_000_000n),
    async *blocks() {
      if (decoder) yield* decoded([...decoder, path])
      else if (ending.endsWith('.gz')) state = yield* unpacked('gzip', raw)
      else if (ending.endsWith('.zst')) state = yield* unpacked('zstd', raw)
      else yield* raw.read()
    },
    async end() {
      const after = await handle.stat({ bigint: true })
      return { sha256: await raw.sha256(), ...state, isChanged: isOther(before, after) }
    },
    hash: () => raw.sha256(),
    [Symbol.asyncDispose]: () => handle.close(),
  }
}

/** A moment in nanoseconds since 1970 as PostgreSQL reads it, cut to its microseconds. Pure. */
export function microseconds(nanoseconds: bigint): string {
  // Down, also before 1970: BigInt's division goes towards zero.
  const within = ((nanoseconds % SECOND) + SECOND) % SECOND
  const seconds = (nanoseconds - within) / SECOND
  const fraction = (within / 1000n).toString().padStart(6, '0')
  return `${new Date(Number(seconds) * 1000).toISOString().slice(0, 19)}.${fraction}Z`
}

const SECOND = 1_000_000_000n

function isOther(a: BigIntStats, b: BigIntStats): boolean {
  return a.size !== b.size || a.mtimeNs !== b.mtimeNs
}

/** The bytes of a file, which are hashed while they are read. */
class RawFile {
  private readonly handle: FileHandle
  private hashed: string | undefined
  /** The last four bytes: in a gzip file how long it is unpacked. */
  last: Buffer = Buffer.alloc(0)

  constructor(handle: FileHandle) {
    this.handle = handle
  }

  async *read(): AsyncGenerator<Buffer, void> {
    const digest = createHash('sha256')
    this.last = Buffer.alloc(0)
    for await (const chunk of this.again()) {
      digest.update(chunk)
      this.last = Buffer.concat([this.last, chunk.subarray(-4)]).subarray(-4)
      yield chunk
    }
    this.hashed = digest.digest('hex')
  }

  /** From the beginning, whatever was read. No stream: one that is left early says so to the next one. */
  async *again(): AsyncGenerator<Buffer, void> {
    for (let at = 0; ;) {
      const { bytesRead, buffer } = await this.handle.read(Buffer.allocUnsafe(READ_BYTES), 0, READ_BYTES, at)
      if (bytesRead === 0) return
      at += bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  }

  async sha256(): Promise<string> {
    if (this.hashed !== undefined) return this.hashed
    const digest = createHash('sha256')
    for await (const chunk of this.again()) digest.update(chunk)
    return digest.digest('hex')
  }
}

async function* decoded(argv: readonly string[]): AsyncGenerator<Buffer, void> {
  try {
    yield* output(argv)
  } catch (error) {
    if (!(error instanceof Fail) || error.hint === undefined) throw error
    throw new Fail(error.code, `${error.message}: ${error.hint}`, { cause: error })
  }
}
