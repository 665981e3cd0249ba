import { constants, lstat, open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { z } from 'zod'
import { stateAccess } from '../cluster/lock.ts'
import { Fail } from '../core/fail.ts'
import { readTextIfAny } from '../core/file.ts'
import { writeJournal } from '../core/journal.ts'
import { takeLock } from '../core/lock.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { defaultUser, type Job } from './job.ts'

const time = z.iso.datetime()

/** {@link Told}, read from a file. */
export const toldSchema = z.object({
  state: z.enum(['failed', 'stale', 'recovered']),
  at: time,
  missed: z.array(z.string()).optional(),
})

const schema = z.object({
  job: z.string(),
  begun: time.optional(),
  note: z.string().optional(),
  last: z
    .object({
      begun: time,
      ended: time,
      result: z.enum(['success', 'failed', 'skipped']),
      reason: z.string(),
    })
    .optional(),
  lastSuccess: time.optional(),
  failures: z.int().nonnegative(),
  failingSince: time.optional(),
  pausedSince: time.optional(),
  installedAt: time.optional(),
  times: z.string().optional(),
  told: toldSchema.optional(),
})

/** One run of a job that ended. */
export interface LastRun {
  readonly begun: string
  readonly ended: string
  readonly result: 'success' | 'failed' | 'skipped'
  /** For people: `exit code 55: a backup could not be completed`, `timeout`, `oom-kill`. */
  readonly reason: string
}

/** What people were told last. */
export interface Told {
  /** `recovered` stays only while somebody does not know it. */
  readonly state: 'failed' | 'stale' | 'recovered'
  readonly at: string
  /** Names of those who could not be told. */
  readonly missed?: readonly string[] | undefined
}

/** What is remembered of a job between its runs. Times are ISO texts in UTC. */
export interface JobState {
  readonly job: string
  /** Of the run that goes on, or of one that was killed together with whoever would have recorded it. */
  readonly begun?: string | undefined
  /** Why that run could not be begun. */
  readonly note?: string | undefined
  /** The last run that ended. */
  readonly last?: LastRun | undefined
  /** When the last successful run began. */
  readonly lastSuccess?: string | undefined
  /** Since the last success. */
  readonly failures: number
  /** When the first of them began. */
  readonly failingSince?: string | undefined
  readonly pausedSince?: string | undefined
  /** From when on a missed success counts. */
  readonly installedAt?: string | undefined
  /** The schedule that it was known with then. */
  readonly times?: string | undefined
  /** Undefined when people know that it is well. */
  readonly told?: Told | undefined
}

/**
 * What is remembered of a job; an empty state when nothing is.
 * @throws {Fail} `file-unreadable` when it cannot be read, or is of a newer format
 */
export async function readState(host: Host, name: string): Promise<JobState> {
  const path = statePath(host, name)
  const text = await readTextIfAny(path)
  return text === undefined ? { job: name, failures: 0 } : parse(text, { path, name })
}

/** How long somebody else may take to write a small file. */
const WAIT_SECONDS = 30

/**
 * Changes what is remembered of a job; whoever does so at the same time waits.
 * @param change is given what is there now; when it gives the same object nothing is written
 * @returns what is there afterwards
 * @throws {Fail} `file-unreadable`, `not-permitted`, `lock-held`
 */
export async function changeState(
  host: Host,
  name: string,
  change: (state: JobState) => JobState,
): Promise<JobState> {
  await assertNoLink(host)
  await using _lock = await holdState(host, name)
  const before = await readState(host, name)
  const after = change(before)
  if (after !== before) await writeJournal(statePath(host, name), after, access(host))
  return after
}

/**
 * What is remembered of a job that is made known to whoever runs it: with other times than before it begins anew, since
 * what it had not done by those was nothing that it missed. Pure.
 * @param isNew it was not there just now, whatever is remembered of it
 */
export function madeKnown(
  state: JobState,
  { schedule, timezone }: Pick<Job, 'schedule' | 'timezone'>,
  { now, isNew }: { now: Date; isNew: boolean },
): JobState {
  const times = `${schedule} ${timezone}`
  const isOther = state.times !== undefined && state.times !== times
  if (!isNew && !isOther && state.installedAt !== undefined)
    return state.times === times ? state : { ...state, times }
  return { ...state, times, installedAt: now.toISOString() }
}

/** Keeps everybody else from changing a job's state; {@link changeState} does so by itself. */
async function holdState(host: Host, name: string): Promise<AsyncDisposable> {
  const path = join(jobsFolder(host), `.${name}.lock`)
  return takeLock(path, { waitSeconds: WAIT_SECONDS, folder: access(host) })
}

/**
 * Root would write where the owner of the state folder wants it to.
 * @throws {Fail} `not-permitted` when the folder of the states is none
 */
export async function assertNoLink(host: Host): Promise<void> {
  const folder = jobsFolder(host)
  if (process.getuid?.() !== 0) return
  const found = await lstat(folder).catch(() => undefined) // it will be made
  if (found === undefined || found.isDirectory()) return
  throw new Fail('not-permitted', `"${folder}" is to be a folder, and it is something else, such as a link`, {
    hint: `Look at it, and remove it: ls -ld ${folder}`,
  })
}

/**
 * Gives the states to the user of the jobs, who may have been another one before. To be called as root.
 * @throws {Fail} `not-permitted` when the folder of the states is none
 */
export async function giveStates(host: Host): Promise<void> {
  await assertNoLink(host)
  const { uid, gid } = access(host)
  const folder = jobsFolder(host)
  const names = await readdir(folder).catch(() => undefined)
  if (names === undefined || uid === undefined || gid === undefined) return
  for (const path of [folder, ...names.map((name) => join(folder, name))]) {
    // No link is followed, and no other name of a file that is elsewhere.
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
      () => undefined,
    )
    const found = await file?.stat()
    if (found?.isDirectory() || (found?.isFile() && found.nlink === 1)) await file!.chown(uid, gid)
    await file?.close()
  }
}

/** The folder of the states. */
export function jobsFolder(host: Host): string {
  return join(host.host.state_dir, 'jobs')
}

/** Who owns what the jobs of a host share: the user that they run as. */
export function access(host: Host): ReturnType<typeof stateAccess> {
  return stateAccess(defaultUser(host))
}

function statePath(host: Host, name: string): string {
  return join(jobsFolder(host), `${name}.json`)
}

const FORMAT = 1

function parse(text: string, { path, name }: { path: string; name: string }): JobState {
  const value = json(text)
  const { format } = (value ?? {}) as { format?: unknown }
  if (typeof format === 'number' && format > FORMAT) {
    throw new Fail('file-unreadable', `"${path}" has format ${format}, this version knows ${FORMAT}`, {
      hint: 'Run the version of Howdah that wrote it.',
    })
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  // Nothing that could not be lost: without it a failure is told once more, with it nobody would be told.
  log('warning', `schedule: "${path}" is damaged: what was known of ${name} is forgotten`)
  return { job: name, failures: 0 }
}

function json(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
