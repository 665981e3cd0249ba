import { setTimeout as sleep } from 'node:timers/promises'

/** Lets so many bytes a second pass, of all streams that go through it together. */
export interface RateLimiter {
  through(source: AsyncIterable<Uint8Array>, signal?: AbortSignal): AsyncIterable<Uint8Array>
}

/**
 * A limit for streams. A burst is a quarter of a second's bytes, so that the rate is kept over any time that matters.
 * @param bytesPerSecond above 0
 */
export function rateLimiter(bytesPerSecond: number): RateLimiter {
  let free = performance.now() // when all bytes that have passed are paid for
  const burst = 250
  return {
    async *through(source, signal) {
      for await (const chunk of source) {
        free = Math.max(free, performance.now() - burst) + (chunk.length / bytesPerSecond) * 1000
        const wait = free - performance.now()
        if (wait > 0) {
          await sleep(wait, undefined, { signal }).catch(() => {}) // its own error says less than the reason
          signal?.throwIfAborted()
        }
        yield chunk
      }
    },
  }
}
