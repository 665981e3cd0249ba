import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm } from 'node:fs/promises'
import { cpus, loadavg, release } from 'node:os'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { interrupted } from '../../scripts/core/interrupt.ts'

/** What a run of a program took. */
export interface ProcessRun {
  /** From before the program was started until it had ended. */
  readonly seconds: number
  /** Resident memory of the largest single process that it consisted of, as GNU time reports it. */
  readonly peakBytes: number
  readonly stdout: string
}

/** How a program is run and measured. */
export interface ProcessOptions {
  readonly env: Readonly<Record<string, string>>
  /** Switches to this user; root only. */
  readonly user?: { readonly uid: number; readonly gid: number }
  /** A new file that this user may write; it is removed again. */
  readonly scratch: string
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
  const child = spawn(GNU_TIME, ['--quiet', '--format=%M', `--output=${options.scratch}`, ...argv], {
    cwd: '/',
    env: options.env,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    ...options.user,
  })
  const endGroup = () => process.kill(-child.pid!, 'SIGTERM')
  interrupted.addEventListener('abort', endGroup)
  let seconds = 0
  child.once('exit', () => (seconds = (performance.now() - begun) / 1000))
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const [code] = (await once(child, 'close')) as [number | null]
  interrupted.removeEventListener('abort', endGroup)
  interrupted.throwIfAborted()
  if (code !== 0) {
    const hint = `${stdout}\n${stderr}`.trim().split('\n').slice(-20).join('\n')
    throw new Fail('command-failed', `${argv.join(' ')} ended with exit code ${code}`, { hint })
  }
  const peakBytes = Number(await readFile(options.scratch, 'utf8')) * 1024
  await rm(options.scratch)
  return { seconds, peakBytes, stdout }
}

/**
 * Versions of Debian packages.
 * @throws {Fail} `not-permitted` that says what to install, when one is missing
 */
export async function packageVersions(names: readonly string[]): Promise<Record<string, string>> {
  const query = ['dpkg-query', '--show', '--showformat=${Package} ${db:Status-Status} ${Version}\n', ...names]
  const { stdout } = await run(query, { okCodes: [0, 1] })
  const versions: Record<string, string> = {}
  for (const line of stdout.split('\n')) {
    const [name, status, version] = line.split(' ')
    if (status === 'installed') versions[name!] = version!
  }
  const missing = names.filter((name) => !Object.hasOwn(versions, name))
  if (missing.length > 0) {
    throw new Fail('not-permitted', `not installed: ${missing.join(' ')}`, {
      hint: `Run as root: apt-get install --no-install-recommends ${missing.join(' ')}`,
    })
  }
  return versions
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
