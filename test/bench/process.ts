import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm } from 'node:fs/promises'
import { cpus, loadavg, release } from 'node:os'
import process from 'node:process'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { interrupted } from '../../scripts/core/interrupt.ts'
import { log } from '../../scripts/core/log.ts'
import { watchTree } from './tree.ts'

/** What a run of a program took. */
export interface ProcessRun {
  /** From before the program was started until it had ended. */
  readonly seconds: number
  /** Resident memory of the largest single process that it consisted of, as GNU time reports it. */
  readonly peakBytes: number
  /** Memory of all its processes together at the worst moment; 0 unless that was asked for. */
  readonly treePeakBytes: number
  /** Seconds of CPU of all its processes. */
  readonly cpuSeconds: number
  readonly stdout: string
}

/** How a program is run and measured. */
export interface ProcessOptions {
  readonly env: Readonly<Record<string, string>>
  /** Switches to this user; root only. */
  readonly user?: { readonly uid: number; readonly gid: number }
  /** A new file that this user may write; it is removed again. */
  readonly scratch: string
  /** Watches the memory of all its processes. */
  readonly tree?: boolean
  /** Asked again and again: whether what is measured is done before the program ends. */
  readonly until?: () => Promise<boolean>
  /** With `until`: it is not told to end then, as a service is. */
  readonly goesOn?: boolean
}

/** What reads the peak memory: rusage of the children, which Node does not give. */
const GNU_TIME = '/usr/bin/time'

/**
 * Runs a program and measures it from outside, so that every program is measured in the same way.
 * @throws {Fail} `command-failed` with the end of its output as the hint
 */
export async function measureProcess(argv: readonly string[], options: ProcessOptions): Promise<ProcessRun> {
  interrupted.throwIfAborted()
  const begun = performance.now()
  // A group of its own: ending GNU time alone would leave the program behind.
  const child = spawn(GNU_TIME, ['--quiet', '--format=%M %U %S', `--output=${options.scratch}`, ...argv], {
    cwd: '/',
    env: options.env,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    ...options.user,
  })
  using watch = options.tree ? watchTree(child.pid!) : undefined
  const endGroup = () => process.kill(-child.pid!, 'SIGTERM')
  interrupted.addEventListener('abort', endGroup)
  let seconds = 0
  const done = () => (seconds ||= (performance.now() - begun) / 1000)
  child.once('exit', done)
  const ended = options.until && waitUntil(child, options.until, done, options.goesOn)
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const [code] = (await once(child, 'close')) as [number | null]
  await ended
  interrupted.removeEventListener('abort', endGroup)
  interrupted.throwIfAborted()
  if (code !== 0) {
    const hint = `${stdout}\n${stderr}`.trim().split('\n').slice(-20).join('\n')
    throw new Fail('command-failed', `${argv.join(' ')} ended with exit code ${code}`, { hint })
  }
  const [kilobytes, user, system] = (await readFile(options.scratch, 'utf8')).split(' ').map(Number)
  await rm(options.scratch)
  return {
    seconds,
    peakBytes: kilobytes! * 1024,
    treePeakBytes: watch?.peakBytes ?? 0,
    cpuSeconds: user! + system!,
    stdout,
  }
}

async function waitUntil(
  child: ChildProcess,
  isDone: () => Promise<boolean>,
  done: () => void,
  goesOn = false,
): Promise<void> {
  while (child.exitCode === null && child.signalCode === null && !interrupted.aborted) {
    if (await isDone()) {
      done()
      if (!goesOn) await endBelow(child)
      return
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** Tells the program below GNU time to end, which itself would then report nothing. */
async function endBelow({ pid }: ChildProcess): Promise<void> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
  for (const below of children.trim().split(' ')) process.kill(Number(below), 'SIGTERM')
}

/**
 * Versions of Debian packages.
 * @throws {Fail} `not-permitted` that says what to install, when one is missing
 */
export async function packageVersions(names: readonly string[]): Promise<Record<string, string>> {
  const versions = await installedVersions(names)
  const missing = names.filter((name) => !Object.hasOwn(versions, name))
  if (missing.length === 0) return versions
  throw new Fail('not-permitted', `not installed: ${missing.join(' ')}`, {
    hint: `Run as root: apt-get install --no-install-recommends ${missing.join(' ')}`,
  })
}

/**
 * Installs Debian packages that are missing.
 * @returns the versions of all of them
 */
export async function installPackages(names: readonly string[]): Promise<Record<string, string>> {
  const versions = await installedVersions(names)
  const missing = names.filter((name) => !Object.hasOwn(versions, name))
  if (missing.length === 0) return versions
  log('info', `bench: installing ${missing.join(' ')}`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  await run(['apt-get', '-qy', 'update'], { env })
  await run(['apt-get', '-qy', '--no-install-recommends', 'install', ...missing], { env })
  return packageVersions(names)
}

async function installedVersions(names: readonly string[]): Promise<Record<string, string>> {
  const query = ['dpkg-query', '--show', '--showformat=${Package} ${db:Status-Status} ${Version}\n', ...names]
  const { stdout } = await run(query, { okCodes: [0, 1] })
  const versions: Record<string, string> = {}
  for (const line of stdout.split('\n')) {
    const [name, status, version] = line.split(' ')
    if (status === 'installed') versions[name!] = version!
  }
  return versions
}

/**
 * The other sides run as the user postgres.
 * @throws {Fail} `not-permitted`
 */
export function assertRoot(): void {
  if (process.getuid?.() === 0) return
  throw new Fail('not-permitted', 'the bench runs programs as the user postgres: this needs root', {
    hint: 'Run it with sudo.',
  })
}

/** What a login shell has: nothing of npm, vitest or Node's options. */
export function environment(): Record<string, string> {
  return {
    PATH: process.env['PATH'] ?? '/usr/bin:/bin',
    HOME: process.env['HOME'] ?? '/root',
    LANG: 'C.UTF-8',
  }
}

/** This machine in words: `2 x Intel Xeon, Linux 6.1`. */
export function machine(): string {
  const all = cpus()
  return `${all.length} x ${all[0]?.model.trim() ?? 'unknown CPU'}, Linux ${release()}`
}

/** Load averages of the last 1, 5 and 15 minutes. */
export function load(): string {
  return loadavg()
    .map((value) => value.toFixed(2))
    .join(' ')
}
