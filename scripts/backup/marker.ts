import process from 'node:process'
import { hostname } from 'node:os'
import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { Store } from '../store/store.ts'

const RENEW_SECONDS = 60

/** What the mark of a take in progress says. */
export interface MarkerContent {
  readonly label: string
  readonly job: string
}

/**
 * Marks a take as in progress, again each minute, so that nobody sweeps its files away: what has no
 * manifest yet looks like garbage. Disposed of, the mark is gone.
 */
export async function beginMarker(
  store: Store,
  key: string,
  content: MarkerContent,
  renewSeconds: number = RENEW_SECONDS,
): Promise<AsyncDisposable> {
  const begun = new Date().toISOString()
  const put = () => {
    const mark = {
      format: 1,
      ...content,
      machine: hostname(),
      pid: process.pid,
      begun,
      renewed: new Date().toISOString(),
    }
    return store.put(key, once(Buffer.from(`${JSON.stringify(mark)}\n`)))
  }
  await put()
  let renewing: Promise<unknown> = Promise.resolve()
  const timer = setInterval(() => {
    renewing = put().catch((error: unknown) => {
      log('warning', `backup: cannot renew the mark of a take in progress: ${messageOf(error)}`)
    })
  }, renewSeconds * 1000)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await renewing
      // A take that is done is done: the mark is one of the things that prune removes.
      await store.delete([key]).catch((error: unknown) => {
        log('warning', `backup: the mark of a take in progress is left: ${messageOf(error)}`)
      })
    },
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield bytes
}
