import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { AddressSpec } from '../host/schema.ts'
import { send } from './http.ts'

/** Asks the address of a dead-man switch after a success of a job; that it does not answer is a warning only. */
export async function pingAfter(job: string, address: AddressSpec | undefined): Promise<void> {
  if (address === undefined) return
  await send('the address of "ping"', address, { method: 'GET' }).catch((error: unknown) => {
    log('warning', `schedule: ${job}: ${messageOf(error)}`)
  })
}
