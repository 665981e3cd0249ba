import { AsyncLocalStorage } from 'node:async_hooks'

const controller = new AbortController()

/** Aborted once, when this process is asked to end (Ctrl-C, `systemctl stop`). Everything that waits listens to it. */
export const interrupted: AbortSignal = controller.signal

/** Ends what is going on as Ctrl-C does. Called by core/cli.ts from its signal handlers only. */
export function interrupt(reason: Error): void {
  controller.abort(reason)
}

const protection = new AsyncLocalStorage<true>()

/** Never aborted. */
const NEVER = new AbortController().signal

/** Does something to its end although this process was, or is then, asked to end: half of it would be worse. */
export function protect<T>(body: () => Promise<T>): Promise<T> {
  return protection.run(true, body)
}

/** What is to be listened to here: {@link interrupted}, or nothing in what is protected. */
export function endingSignal(): AbortSignal {
  return protection.getStore() === undefined ? interrupted : NEVER
}
