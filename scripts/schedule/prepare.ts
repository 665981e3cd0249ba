import { lstat, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { requireCluster } from '../cluster/open.ts'
import { waitUntilReady } from '../cluster/ready.ts'
import { run } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { parseDuration } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import type { Job } from './job.ts'
import { CHECKOUT } from './program.ts'
import { changeState, jobsFolder } from './state.ts'

/**
 * Gets ready what a job needs: notes that it begins, waits for the server, and cleans up what a run that
 * was killed has left. Cleaning that fails keeps no job from running.
 * @param arguments_ that name the host file to a child program
 * @throws {Fail} `server-unreachable` when no server answers in time, and what a connection throws
 */
export async function prepareRun(host: Host, job: Job, arguments_: readonly string[]): Promise<void> {
  await changeState(host, job.name, ({ note: _note, ...state }) => ({
    ...state,
    begun: new Date().toISOString(),
  })).catch((error: unknown) => {
    // A backup is worth more than the note; that its end cannot be recorded, either, makes it a failure then.
    log('warning', `schedule: it cannot be noted that ${job.name} begins: ${messageOf(error)}`)
  })
  if (needsServer(job)) {
    try {
      await waitForServer(host, job)
    } catch (error) {
      await leaveNote(host, job, messageOf(error))
      throw error
    }
  }
  if (job.argv[0] === 'backup') await cleanUp(host, job, arguments_)
}

/** Says why a run is not begun, to whoever records its end. */
export async function leaveNote(host: Host, { name }: Job, why: string): Promise<void> {
  await changeState(host, name, (state) => ({ ...state, note: `before it began: ${why}` })).catch(
    (error: unknown) => {
      log('warning', `schedule: it cannot be noted why ${name} does not begin: ${messageOf(error)}`)
    },
  )
}

/** What only reads a store, or tells of failures, does without. */
function needsServer({ isAlert, argv }: Job): boolean {
  return !isAlert && argv[1] !== 'verify'
}

async function waitForServer(host: Host, { name }: Job): Promise<void> {
  const { server_wait: wait } = host.schedule
  const begun = Date.now()
  const left = () => parseDuration(wait)! - (Date.now() - begun) / 1000
  const probe = async (seconds: number) => waitUntilReady(await requireCluster(host), seconds)
  try {
    try {
      await probe(QUIET_SECONDS)
      return
    } catch (error) {
      if (!isUnreachable(error) || left() <= 0) throw error
      log('notice', `schedule: ${name} waits for the server, ${wait} at most: ${messageOf(error)}`)
    }
    // Each time anew: where it listens may have changed when it comes up.
    for (;;) {
      try {
        await probe(Math.min(left(), 5))
        log('notice', `schedule: the server answers`)
        return
      } catch (error) {
        if (!isUnreachable(error) || left() <= 0) throw error
        await sleep(500, undefined, { signal: interrupted })
      }
    }
  } catch (cause) {
    if (!isUnreachable(cause)) throw cause
    throw new Fail('server-unreachable', `no server answered within ${wait}: ${messageOf(cause)}`, {
      hint: cause.hint,
      cause,
    })
  }
}

/** Most servers that do not answer are just about to. */
const QUIET_SECONDS = 1

function isUnreachable(error: unknown): error is Fail {
  return error instanceof Fail && error.code === 'server-unreachable'
}

/**
 * What restores have left is known to `restore clean`, which also knows the locks of those that live; it is
 * run as a program, as that part of the code is none of ours, and its trouble stays its own. What takes
 * have left in a store goes with the prune after a take.
 */
async function cleanUp(host: Host, { name }: Job, arguments_: readonly string[]): Promise<void> {
  try {
    await sweepFiles(host)
    const launcher = join(CHECKOUT, 'scripts/howdah')
    const { stdout } = await run([launcher, 'restore', 'clean', '--json', ...arguments_], {
      okCodes: [0, 1],
      keepEnvironment: true, // secrets of the host file may be in there
      env: { HOWDAH_NO_INSTALL: '1' },
    })
    const { result } = JSON.parse(stdout) as { result?: { leftovers: readonly Leftover[] } }
    for (const { path, left, isLive } of result?.leftovers ?? []) {
      if (left === null) log('notice', `schedule: what a killed restore had left was cleaned up: "${path}"`)
      else if (!isLive) log('warning', `schedule: what a killed restore has left in "${path}" stays: ${left}`)
    }
  } catch (error) {
    log('warning', `schedule: before ${name} not all could be cleaned up: ${messageOf(error)}`)
  }
}

interface Leftover {
  readonly path: string
  readonly left: string | null
  readonly isLive: boolean
}

/** Nobody needs seconds for one of them; whoever lives has renamed it long ago. */
const UNFINISHED_MILLISECONDS = 3_600_000
const TEMPORARY_MILLISECONDS = 86_400_000

/** Removes files of killed runs that nobody else knows: half-written ones, and folders for a moment. */
export async function sweepFiles(host: Host, now: number = Date.now()): Promise<string[]> {
  const state = host.host.state_dir
  const folders = [state, join(state, 'journal'), jobsFolder(host), host.schedule.metrics_dir]
  const gone: string[] = []
  for (const folder of folders.filter((folder) => folder !== undefined))
    gone.push(...(await sweep(folder, /^\.[0-9a-f]{12}\.howdah-tmp$/, now - UNFINISHED_MILLISECONDS)))
  gone.push(...(await sweep(tmpdir(), /^howdah-(wal|diff|units)-\w{6}$/, now - TEMPORARY_MILLISECONDS)))
  return gone
}

async function sweep(folder: string, name: RegExp, before: number): Promise<string[]> {
  const names = await readdir(folder).catch(() => [])
  const gone: string[] = []
  for (const path of names.filter((entry) => name.test(entry)).map((entry) => join(folder, entry))) {
    const found = await lstat(path).catch(() => undefined) // somebody was quicker
    if (found === undefined || found.uid !== process.getuid?.() || found.mtimeMs > before) continue
    await rm(path, { recursive: true, force: true })
    gone.push(path)
  }
  return gone
}
