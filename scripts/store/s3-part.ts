const MB = 1024 * 1024

/** Parts of one size, before they grow. */
const STEP_PARTS = 500

/**
 * Memory for parts. Two at most: one is on the way while the next is filled. With two more, a process
 * that stores what a pipe gives it comes over 200 MB, as V8 collects the pieces of the pipe late.
 */
const BUFFERS = 2
const BUFFER_BYTES = 96 * MB

/** A piece of a body. */
export interface Part {
  /** From 1. */
  readonly number: number
  readonly bytes: Uint8Array
  /** Where the bytes stand: to be given back. */
  readonly buffer: Buffer
  readonly isLast: boolean
}

/**
 * Bytes of a part, by its number from 1. S3 takes 10,000 parts of 5 MB to 5 GB: parts of one size would
 * be too big for the memory, or too few for a big body. So they begin with 8 MB and grow by steps: those
 * of a body of 50 GB are at most 53 MB, and 10,000 of them hold the 5 TB that an object may have. Pure.
 */
export function partSize(number: number): number {
  return Math.floor(8 * MB * 1.37 ** Math.floor((number - 1) / STEP_PARTS))
}

/** Buffers for parts, used again and again: what is thrown away is not free before somebody collects it. */
export interface Buffers {
  /** Waits until there may be one more. */
  lend(size: number): Promise<Buffer>
  giveBack(buffer: Buffer): void
}

/** Buffers of one upload. */
export function buffersOf(): Buffers {
  const free: Buffer[] = []
  const waiting: (() => void)[] = []
  let lent = 0
  return {
    async lend(size) {
      const limit = Math.min(BUFFERS, Math.max(1, Math.floor(BUFFER_BYTES / size)))
      while (lent >= limit) await new Promise<void>((resolve) => waiting.push(resolve))
      lent += 1
      const used = free.pop()
      return used?.length === size ? used : Buffer.allocUnsafeSlow(size)
    },
    giveBack(buffer) {
      lent -= 1
      free.push(buffer)
      waiting.shift()?.()
    },
  }
}

/**
 * Cuts a stream into parts. The last one says so; a body without any byte is one part without any.
 * @param signal ends it with the signal's reason
 */
export async function* partsOf(
  body: AsyncIterable<Uint8Array>,
  buffers: Buffers,
  signal: AbortSignal,
): AsyncGenerator<Part, void> {
  let number = 1
  let size = 0
  let buffer = await buffers.lend(partSize(number))
  for await (const chunk of body) {
    let rest = chunk
    while (rest.length > 0) {
      signal.throwIfAborted()
      // A part goes off when a byte of the next one is there: so the last one is known as such.
      if (size === buffer.length) {
        yield { number, bytes: buffer, buffer, isLast: false }
        number += 1
        size = 0
        buffer = await buffers.lend(partSize(number))
      }
      const taken = rest.subarray(0, buffer.length - size)
      buffer.set(taken, size)
      size += taken.length
      rest = rest.subarray(taken.length)
    }
  }
  yield { number, bytes: buffer.subarray(0, size), buffer, isLast: true }
}
