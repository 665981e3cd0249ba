import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Fail } from './fail.ts'
import { endingSignal } from './interrupt.ts'
import { free } from './memory.ts'

/** How a program is run. Everything is optional. */
export interface ExecOptions {
  /** OS user to run as. Root changes to it by `runuser`; anybody else must be that user already. */
  readonly as?: string | undefined
  /** Variables on top of the cleaned environment. Secrets may go here, never into argv. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Hands this process's whole environment on instead of a cleaned one. */
  readonly keepEnvironment?: boolean
  /** Ends the program with SIGTERM; the end of this process does so too. */
  readonly signal?: AbortSignal | undefined
  /** Runs it although this process was asked to end: for what clears up. */
  readonly evenInterrupted?: boolean
}

/** How a program with small output is run. */
export interface RunOptions extends ExecOptions {
  /** Text for its standard input; without it the input is empty. */
  readonly input?: string
  /** Default 600. */
  readonly timeoutSeconds?: number
  /** Exit codes that are no failure. Default `[0]`. */
  readonly okCodes?: readonly number[]
}

/** What a program left behind. */
export interface RunResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/**
 * Runs a program with small output (it is kept in memory) from the folder `/`.
 * Arguments are passed as they are: no shell of the caller's ever sees them.
 * @throws {Fail} `command-failed` with the last lines of its standard error as the hint, `not-permitted` when it is not installed
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  assertNoNul(argv)
  const { $ } = await import('zx')
  const command = $({
    ...PINNED,
    env: environment(options),
    // zx leaves an input that is empty open for ever: whoever reads it would wait as long.
    ...(options.input ? { input: options.input } : { stdio: ['ignore', 'pipe', 'pipe'] as const }),
    signal: ending(options),
    timeout: (options.timeoutSeconds ?? 600) * 1000,
  })`exec ${[...asUser(argv, options)]}`
  // A program that ends without reading has closed its input: its exit code tells the story, not our EPIPE.
  if (options.input) command.stdin.on('error', () => {})
  const done = await command
  if (ending(options).aborted) throw interruption(options)
  const code = done.exitCode ?? -1
  if (!(options.okCodes ?? [0]).includes(code)) {
    throw failure(argv, { code: done.exitCode, signal: done.signal, stderr: done.stderr })
  }
  return { code, stdout: done.stdout, stderr: done.stderr }
}

// Everything that zx would take from ZX_* in the environment: it runs ZX_PREFIX before every command,
// and with ZX_DETACHED a Ctrl-C would not reach the program.
const PINNED = {
  shell: '/bin/bash',
  prefix: 'set -euo pipefail;',
  postfix: '',
  cwd: '/',
  preferLocal: false,
  detached: false,
  timeoutSignal: 'SIGTERM',
  killSignal: 'SIGTERM',
  nothrow: true,
  quiet: true,
  verbose: false,
} as const

/** How a program with large output is run. */
export interface OutputOptions extends ExecOptions {
  /** What it reads. */
  readonly input?: AsyncIterable<Uint8Array>
  /** What errors call it, where a shell runs it. */
  readonly called?: string
  /** The reader has used a piece up when it asks for the next one: its memory is freed then. */
  readonly frees?: boolean
  /** Told the last 4096 characters of its standard error, when it ended well. */
  readonly onStderr?: (tail: string) => void
}

/**
 * Yields what a program writes to its standard output, then throws if the program failed.
 *
 * A crashed producer closes its pipe just as one that is done does, so end of data alone says
 * nothing. Whoever consumes this gets an error instead of an end, and half a backup can never be
 * stored as a whole one. With `input` the program is a filter; an error of the input is the error
 * of the whole. The reader sets the pace: nothing is kept here whatever the size (zx cannot do
 * this: it listens to the pipe by itself, which defeats back pressure, and keeps all it hears).
 *
 * @throws {Fail} `command-failed` with the last lines of its standard error as the hint
 */
export async function* output(
  argv: readonly string[],
  options: OutputOptions = {},
): AsyncGenerator<Buffer, void> {
  const name = options.called === undefined ? argv : [options.called]
  const { child, closed, stderrTail } = begin(argv, options, options.input ? 'pipe' : 'ignore')
  const fed = options.input ? feed(child, options.input) : Promise.resolve(undefined)
  let ended = false
  try {
    if (options.frees) yield* freed(child.stdout!)
    else yield* child.stdout!
    const inputError = await fed
    const [code, signal] = await closed
    ended = true
    if (inputError !== undefined) throw inputError
    if (code !== 0) throw failure(name, { code, signal, stderr: stderrTail() })
    options.onStderr?.(stderrTail())
  } catch (error) {
    if (ending(options).aborted) throw interruption(options)
    throw isMissingProgram(error) ? failure(name, { code: 127, signal: null, stderr: '' }) : error
  } finally {
    if (!ended) await stop(child, closed)
  }
}

/**
 * Feeds a stream to the standard input of a program and waits for its end.
 * @returns what it wrote to its standard output, which must be small
 * @throws {Fail} `command-failed`; an error of the source ends the program and is thrown as it is
 */
export async function input(
  argv: readonly string[],
  source: AsyncIterable<Uint8Array>,
  options: ExecOptions = {},
): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of output(argv, { ...options, input: source })) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}

/** How a program is looked after. */
export interface SuperviseOptions extends Omit<ExecOptions, 'as'> {
  /** Told each line that it writes, to whichever of its outputs. */
  readonly onLine: (line: string) => void
  /** Seconds from SIGTERM to SIGKILL; the latter goes to everything that it started, too. */
  readonly graceSeconds: number
}

/**
 * Runs a program in a process group of its own until it ends. A Ctrl-C on the terminal does not reach
 * it: it is ended by its `signal`, or with this process. Nothing that it started is left behind.
 * @returns how it ended
 * @throws {Fail} `not-permitted` when it cannot be started
 */
export async function supervise(
  argv: readonly string[],
  options: SuperviseOptions,
): Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }> {
  const signal = ending(options)
  signal.throwIfAborted()
  assertNoNul(argv)
  const [file, ...args] = argv
  const child = spawn(file!, args, {
    cwd: '/',
    env: environment(options),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream, crlfDelay: Infinity }).on('line', options.onLine)
  let timer: NodeJS.Timeout | undefined
  const end = () => {
    child.kill('SIGTERM')
    timer = setTimeout(() => killGroup(child), options.graceSeconds * 1000)
  }
  signal.addEventListener('abort', end, { once: true })
  child.once('exit', () => killGroup(child)) // what it left would keep its outputs open
  try {
    const [code, ended] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
    return { code, signal: ended }
  } catch (cause) {
    throw new Fail('not-permitted', `cannot start ${file}: ${(cause as Error).message}`, { cause })
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', end)
  }
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // Nobody is left.
  }
}

/**
 * Takes an advisory `flock` on a descriptor of this process, which the kernel frees with it, SIGKILL
 * included. A lock belongs to the open file, so a short-lived `flock` program can take it for us.
 * @returns whether it was free
 */
export async function flock(descriptor: number): Promise<boolean> {
  const child = spawn('flock', ['--exclusive', '--nonblock', '3'], {
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
  })
  const [code] = (await once(child, 'close')) as [number | null]
  return code === 0
}

/**
 * Becomes another program: what it says, how it ends and what it is told on the terminal is its own. Returns only
 * when it cannot be begun.
 * @throws {Fail} `not-permitted` when it is not installed
 */
export function become(argv: readonly string[], options: ExecOptions): never {
  assertNoNul(argv)
  pathOf(argv[0]!)
  // Node ignores these signals, and what is ignored stays so in the next program: a reader that has seen enough,
  // such as head, would not end it.
  const words = ['env', '--default-signal=PIPE,XFSZ', ...asUser(argv, options)]
  for (const stream of [process.stdout, process.stderr] as readonly Blockable[])
    stream._handle?.setBlocking?.(true)
  return process.execve!(pathOf('env'), words, environment(options))
}

/** Node makes its pipes non-blocking, and so they are for the next program, whose output would break off when one is full. */
interface Blockable {
  readonly _handle?: { readonly setBlocking?: (isBlocking: boolean) => void } | null
}

function pathOf(program: string): string {
  const folders = program.includes('/') ? [''] : process.env['PATH']!.split(':').map((folder) => `${folder}/`)
  const path = folders.map((folder) => `${folder}${program}`).find((path) => existsSync(path))
  if (path === undefined) throw new Fail('not-permitted', `cannot run ${program}: it is not installed`)
  return path
}

type Closed = Promise<[number | null, NodeJS.Signals | null]>

function begin(
  argv: readonly string[],
  options: ExecOptions,
  stdin: 'pipe' | 'ignore',
): { child: ChildProcess; closed: Closed; stderrTail: () => string } {
  const signal = ending(options)
  signal.throwIfAborted()
  assertNoNul(argv)
  const [file, ...args] = asUser(argv, options)
  const child = spawn(file!, args, { cwd: '/', env: environment(options), stdio: [stdin, 'pipe', 'pipe'] })
  let tail = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (tail = (tail + text).slice(-4096)))
  const closed: Closed = new Promise((resolve, reject) => {
    child.once('close', (code, signal) => resolve([code, signal]))
    child.once('error', (error) => child.pid === undefined && reject(error)) // it never began
  })
  closed.catch(() => {}) // reported by whoever awaits it
  const end = () => terminate(child)
  signal.addEventListener('abort', end, { once: true })
  child.once('close', () => signal.removeEventListener('abort', end))
  return { child, closed, stderrTail: () => tail }
}

/** What a pipe gives, each piece in memory of its own. */
async function* freed(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  for await (const chunk of source) {
    yield chunk
    free(chunk)
  }
}

/** Writes a source into a program; gives the source's error, or nothing. */
async function feed(child: ChildProcess, source: AsyncIterable<Uint8Array>): Promise<unknown> {
  const stdin = child.stdin!
  let isOpen = true
  const shut = () => (isOpen = false)
  // A program that ends early closes its input: its exit code tells the story, not our EPIPE.
  stdin.on('error', shut).on('close', shut)
  try {
    for await (const chunk of source) {
      if (!isOpen) break
      // All of it: its memory may be another piece's when the next one is asked for. Also called at a failure.
      await new Promise<void>((resolve) => stdin.write(chunk, () => resolve()))
    }
    stdin.end()
    return undefined
  } catch (error) {
    terminate(child) // before its input ends: an end would tell it that this was all
    return error
  }
}

/** How long a program may take to end when it was told to. */
const GRACE_MILLISECONDS = 3000

/** Tells a program to end; one that does not listen, or waits for a child that waits for its input, is killed. */
function terminate(child: ChildProcess): void {
  if (!child.kill('SIGTERM')) return
  const timer = setTimeout(() => child.kill('SIGKILL'), GRACE_MILLISECONDS)
  child.once('close', () => clearTimeout(timer))
}

async function stop(child: ChildProcess, closed: Closed): Promise<void> {
  child.stdout?.destroy()
  terminate(child)
  await closed.catch(() => {})
}

function asUser(argv: readonly string[], options: ExecOptions): readonly string[] {
  if (options.as === undefined || process.getuid?.() !== 0 || options.as === 'root') return argv
  return ['runuser', '-u', options.as, '--', ...argv]
}

// PG* of the operator's shell would change where libpq programs connect to, so nothing of the
// environment goes on but what a program needs to run at all.
const KEPT =
  /^(PATH|LANG|LC_ALL|TZ|TMPDIR|SSL_CERT_FILE|NODE_EXTRA_CA_CERTS|SOURCE_DATE_EPOCH|HOWDAH_UPGRADE|.*_proxy)$/i

function environment(options: ExecOptions): Record<string, string> {
  const own = Object.entries(process.env).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && (options.keepEnvironment === true || KEPT.test(entry[0])),
  )
  return { HOME: '/', ...Object.fromEntries(own), ...options.env }
}

function ending(options: ExecOptions): AbortSignal {
  if (options.evenInterrupted) return options.signal ?? NEVER
  return options.signal ? AbortSignal.any([options.signal, endingSignal()]) : endingSignal()
}

const NEVER = new AbortController().signal

function interruption(options: ExecOptions): unknown {
  const told = endingSignal()
  return told.aborted && !options.evenInterrupted ? told.reason : options.signal?.reason
}

/** Bash would cut the argument off there, and run something else than what was meant. */
function assertNoNul(argv: readonly string[]): void {
  if (!argv.some((argument) => argument.includes('\0'))) return
  throw new Fail('bug', `an argument of "${argv[0]}" holds a NUL byte`)
}

function isMissingProgram(error: unknown): boolean {
  const { code, syscall } = error as NodeJS.ErrnoException
  return code === 'ENOENT' && syscall?.startsWith('spawn') === true
}

interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stderr: string
}

function failure(argv: readonly string[], { code, signal, stderr }: Ended): Fail {
  const program = argv[0] ?? ''
  const text = stderr.trim()
  const hint = text === '' ? undefined : text.split('\n').slice(-12).join('\n')
  // runuser fails with 1 whatever it is that it cannot do, and calls a missing program "permission
  // denied" when one folder of PATH is closed to that user.
  if (code === 127 || text.startsWith('runuser: failed to execute ')) {
    return new Fail('not-permitted', `program "${program}" is not installed`, { hint })
  }
  if (text.startsWith('runuser: user ')) return new Fail('not-permitted', `cannot run ${program}: ${text}`)
  const how = signal ? `was ended by ${signal}` : `ended with exit code ${code}`
  return new Fail('command-failed', `${program} ${how}`, { hint })
}
