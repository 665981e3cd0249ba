import { setTimeout as sleep } from 'node:timers/promises'
import { Fail } from '../core/fail.ts'
import { readSecret } from '../core/secret.ts'
import type { AddressSpec } from '../host/schedule-schema.ts'

/** What is sent. */
export interface Message {
  readonly method: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

const TIMEOUT_MILLISECONDS = 10_000
/** Before each further attempt. */
const PAUSES_MILLISECONDS = [1000, 3000] as const

/**
 * Sends something to an address, three times at most. Addresses hold tokens: no error says one.
 * @param what names the address for errors
 * @throws {Fail} `command-failed` when it does not answer with success, `secret` when the address cannot be had
 */
export async function send(
  what: string,
  address: AddressSpec,
  message: Message,
  pauses: readonly number[] = PAUSES_MILLISECONDS,
): Promise<void> {
  const url = typeof address === 'string' ? address : (await readSecret(address)).reveal().trim()
  for (let attempt = 0; ; attempt++) {
    const trouble = await attemptTo(url, message)
    if (trouble === undefined) return
    const pause = pauses[attempt]
    if (pause === undefined)
      throw new Fail('command-failed', `${what} cannot be reached after ${attempt + 1} attempts: ${trouble}`)
    await sleep(pause)
  }
}

/** @returns what is wrong, without the address */
async function attemptTo(url: string, message: Message): Promise<string | undefined> {
  try {
    const response = await fetch(url, { ...message, signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) })
    await response.body?.cancel()
    return response.ok ? undefined : `it answers with HTTP ${response.status}`
  } catch (error) {
    // Messages of fetch quote the address.
    if (error instanceof Error && error.name === 'TimeoutError') return 'it does not answer in time'
    const { code } = ((error as Error).cause ?? error) as NodeJS.ErrnoException
    return typeof code === 'string' ? code : 'its address is wrong, or it does not answer'
  }
}
