import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect } from 'vitest'
import { ROOT } from './script.ts'

/** How long a test waits for something that is to come. */
export const WAIT = { timeout: 20_000, interval: 100 } as const

/** An `inspect listen` that listens. */
export interface Listening {
  readonly out: () => string
  readonly log: () => string
  readonly ended: Promise<number | null>
  /** Sends it SIGTERM. */
  readonly end: () => Promise<number | null>
  /** Reads nothing more of what it prints, as head does when it has seen enough. */
  readonly stopReading: () => void
}

/** Begins to listen, and waits until it does. */
export async function startListening(file: string, args: readonly string[]): Promise<Listening> {
  const child = spawn(process.execPath, [join(ROOT, 'scripts/inspect.ts'), 'listen', ...args, '-c', file], {
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let out = ''
  let log = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const ended = once(child, 'close').then(([code]) => code as number | null)
  await expect.poll(() => log, WAIT).toContain('listens to')
  const end = () => {
    child.kill('SIGTERM')
    return ended
  }
  return { out: () => out, log: () => log, ended, end, stopReading: () => child.stdout.destroy() }
}
