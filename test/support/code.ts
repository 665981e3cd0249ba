import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { ROOT, type ScriptResult } from './script.ts'

/** How a piece of code is run. */
export interface CodeOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly uid?: number
  readonly gid?: number
  /** Leads a process group of its own, to be ended with everything that it started. */
  readonly isGroup?: boolean
}

/**
 * Starts a Node process of its own that runs a module, given as text; `scripts/` in an import is the
 * checkout's. For what must not happen to the process of the tests: a signal, another user, much memory.
 */
export function startCode(code: string, options: CodeOptions = {}): ChildProcess {
  const text = code.replaceAll(/(from '|import\(')scripts\//g, `$1${ROOT}/scripts/`)
  return spawn(process.execPath, ['--input-type=module-typescript', '--eval', text], {
    cwd: '/',
    env: { ...process.env, NO_COLOR: '1', NODE_COMPILE_CACHE: join(ROOT, '.cache'), ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: options.isGroup ?? false,
    ...(options.uid !== undefined && { uid: options.uid }),
    ...(options.gid !== undefined && { gid: options.gid }),
  })
}

/** Runs a module, given as text, to its end. */
export async function runCode(code: string, options: CodeOptions = {}): Promise<ScriptResult> {
  const child = startCode(code, options)
  child.stdin!.end()
  return ended(child)
}

/** Waits for the end of a process that was just started, and gives what it wrote. */
export async function ended(child: ChildProcess): Promise<ScriptResult> {
  let stdout = ''
  let stderr = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  return { code: child.exitCode, signal: child.signalCode, stdout, stderr }
}

/** Waits until a process has written a text to its standard output. */
export async function saidBy(child: ChildProcess, text: string): Promise<void> {
  let heard = ''
  for await (const chunk of child.stdout!.iterator({ destroyOnReturn: false })) {
    heard += String(chunk)
    if (heard.includes(text)) return
  }
  throw new Error(`the process ended without saying "${text}": ${heard}`)
}
