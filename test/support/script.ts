import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

/** The checkout. */
export const ROOT: string = join(import.meta.dirname, '../..')

/** What a script left behind. */
export interface ScriptResult {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/**
 * Runs a script as a user would, without the launcher: `runScript(['provision', 'plan', '-c', file])`.
 * @param onStart is given the process's id, to send it signals, and what it has printed so far
 */
export async function runScript(
  [name, ...args]: readonly string[],
  options: {
    env?: Record<string, string>
    input?: string
    uid?: number
    gid?: number
    onStart?: (pid: number, output: () => string) => void
  } = {},
): Promise<ScriptResult> {
  const child = spawn(process.execPath, [join(ROOT, 'scripts', `${name}.ts`), ...args], {
    env: { ...process.env, NO_COLOR: '1', ...options.env },
    ...(options.uid !== undefined && { uid: options.uid }),
    ...(options.gid !== undefined && { gid: options.gid }),
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  child.stdin.end(options.input ?? '')
  options.onStart?.(child.pid!, () => stdout)
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  return { code, signal, stdout, stderr }
}
