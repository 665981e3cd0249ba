import { createHash } from 'node:crypto'
import { join, resolve } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LoadedHost } from '../cluster/open.ts'
import { supervise } from '../core/exec.ts'
import { CODES, Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { takeLock } from '../core/lock.ts'
import { log } from '../core/log.ts'
import { parseDuration } from '../core/quantity.ts'
import { currentUser } from '../core/user.ts'
import type { Host } from '../host/schema.ts'
import { become } from './become.ts'
import { nextElapses } from './elapse.ts'
import { type Job, jobsOf, type Service, servicesOf } from './job.ts'
import type { ServiceEnding } from './outcome.ts'
import { CHECKOUT } from './program.ts'
import { access, changeState, type JobState, madeKnown, readState } from './state.ts'
import { serviceName } from './unit.ts'

/** What to run. */
export interface RunScope {
  readonly loaded: LoadedHost
  /** What the command line puts over the host file. */
  readonly overrides: readonly string[]
}

/** When a job runs. */
export interface PlannedRun {
  readonly job: string
  readonly user: string
  readonly paused: boolean
  /** ISO texts; the first one may be in the past: then it is made up for at once. */
  readonly times: readonly string[]
}

/**
 * When {@link runSchedule} would run what; nothing is changed.
 * @throws {Fail} `host-file`, `file-unreadable`
 */
export async function planRuns(host: Host, now: Date, count: number): Promise<PlannedRun[]> {
  return Promise.all(
    jobsOf(host).map(async (job) => {
      const recorded = await readState(host, job.name)
      const state = madeKnown(recorded, job, { now, isNew: false })
      const times = await nextElapses(job, firstFrom(job, state, now), count)
      return {
        job: job.name,
        user: job.user,
        paused: state.pausedSince !== undefined,
        times: times.map((time) => new Date(time.getTime() + delayOf(host, job)).toISOString()),
      }
    }),
  )
}

/**
 * Runs jobs at their times, and the services always, until this process is asked to end: for where there
 * is no systemd. It does what the units do, with the same programs.
 * @throws {Fail} `host-file`, `not-permitted`, `lock-held` when another one runs for this host
 */
export async function runSchedule(scope: RunScope): Promise<void> {
  const { host } = scope.loaded
  const jobs = jobsOf(host)
  const services = servicesOf(host)
  assertSomething(host, [...jobs, ...services])
  await planRuns(host, new Date(), 1) // a schedule that is wrong is told now
  const lock = join(host.host.state_dir, 'lock', `schedule-${host.schedule.unit_prefix}.lock`)
  await using _lock = await takeLock(lock, { folder: access(host) })
  log('notice', `schedule: ${jobs.length} jobs and ${services.length} services run until this ends`)
  await Promise.all([
    ...jobs.map((job) => runAtTimes(scope, job)),
    ...services.map((service) => keepRunning(scope, service)),
  ])
}

function assertSomething(host: Host, all: readonly (Job | Service)[]): void {
  if (all.length === 0) {
    throw new Fail('usage', `the host file of "${host.host.name}" schedules nothing`, {
      hint: 'Schedule a job: [backup.NAME] schedule = "0 2 * * *"',
    })
  }
  const me = currentUser()
  const other = process.getuid?.() === 0 ? undefined : all.find(({ user }) => user !== me)
  if (other === undefined) return
  throw new Fail('not-permitted', `${other.name} is to run as ${other.user}, this is ${me}`, {
    hint: `Run this as root or as ${other.user}, or set [schedule] user = "${me}".`,
  })
}

async function runAtTimes(scope: RunScope, job: Job): Promise<void> {
  const { host } = scope.loaded
  let from: Date | undefined
  while (!interrupted.aborted) {
    try {
      if (from === undefined) from = firstFrom(job, await known(host, job), new Date())
      const [elapse] = await nextElapses(job, from, 1)
      if (elapse === undefined) return
      await until(elapse.getTime() + delayOf(host, job))
      if (interrupted.aborted) return
      if (!(await isPaused(host, job))) await runOnce(scope, job)
    } catch (error) {
      if (interrupted.aborted) return
      log('error', `schedule: ${job.name}: ${messageOf(error)}`) // it concerns no other job
      await until(Date.now() + LOOK_MILLISECONDS)
    }
    from = new Date() // what elapsed while it ran is not made up for, as a timer does it
  }
}

/** From when on the first elapse counts. Pure. */
function firstFrom({ persistent }: Job, { last, installedAt }: JobState, now: Date): Date {
  const times = [last?.begun, installedAt]
    .filter((time) => time !== undefined)
    .map((time) => Date.parse(time))
  return persistent && times.length > 0 ? new Date(Math.min(now.getTime(), Math.max(...times))) : now
}

/** What is remembered of it; a job runs without that sooner than not at all. */
async function known(host: Host, job: Job): Promise<JobState> {
  try {
    const now = new Date()
    return await changeState(host, job.name, (state) => madeKnown(state, job, { now, isNew: false }))
  } catch (error) {
    log('warning', `schedule: what is remembered of ${job.name} cannot be kept: ${messageOf(error)}`)
    return { job: job.name, failures: 0 }
  }
}

async function isPaused(host: Host, { name }: Job): Promise<boolean> {
  const state = await readState(host, name).catch(() => undefined)
  return state?.pausedSince !== undefined
}

/** Milliseconds that a job begins later, always the same on one host. */
function delayOf(host: Host, { name, randomizedDelay }: Job): number {
  const digest = createHash('sha256').update(`${host.host.name}\0${name}`).digest()
  return Math.floor((digest.readUInt32BE(0) / 2 ** 32) * parseDuration(randomizedDelay)! * 1000)
}

/** Waits for a time by the clock, which may be set meanwhile; shorter when this process is to end. */
async function until(time: number): Promise<void> {
  while (!interrupted.aborted && Date.now() < time) {
    await sleep(Math.min(time - Date.now(), LOOK_MILLISECONDS), undefined, { signal: interrupted }).catch(
      () => {},
    )
  }
}

const LOOK_MILLISECONDS = 10_000

/** One run: what PREFIX-JOB.service does. */
async function runOnce(scope: RunScope, job: Job): Promise<void> {
  const { host } = scope.loaded
  const limit = AbortSignal.timeout(Math.min(parseDuration(job.runtimeLimit)! * 1000, LONGEST_MILLISECONDS))
  const child = (argv: readonly string[]) => runChild(scope, job, { argv, signal: limit })
  if (job.isAlert) {
    await child(job.argv)
    return
  }
  const prepared = await child(['schedule', 'prepare', job.name])
  const isReady = prepared.code === 0 && !interrupted.aborted && !limit.aborted
  const ended = isReady ? await child(job.argv) : prepared
  const recorded = await runChild(scope, job, {
    argv: ['schedule', 'record', job.name],
    env: endingOf(ended, { isBegun: isReady, isLate: limit.aborted }),
    evenInterrupted: true,
  })
  if (interrupted.aborted || job.onFailure.length === 0) return
  await runChild(scope, job, {
    argv: ['schedule', 'notify', '--unit', serviceName(host, job.name)],
    ...(recorded.code !== 0 && { env: { MONITOR_SERVICE_RESULT: 'exit-code' } }),
  })
}

/** Timers of Node do not go further. */
const LONGEST_MILLISECONDS = 2 ** 31 - 1

type Ended = Awaited<ReturnType<typeof supervise>>

/** What systemd would say of how it ended (systemd.exec(5)). Pure. */
function endingOf(
  { code, signal }: Ended,
  { isBegun, isLate }: { isBegun: boolean; isLate: boolean },
): Record<string, string> {
  const isSuccess = isBegun && (code === 0 || code === CODES['lock-held'][0])
  const result = isSuccess ? 'success' : isLate ? 'timeout' : signal ? 'signal' : 'exit-code'
  const ending = {
    SERVICE_RESULT: result,
    ...(isBegun && {
      EXIT_CODE: signal ? 'killed' : 'exited',
      EXIT_STATUS: signal ? signal.replace(/^SIG/, '') : String(code),
    }),
  } satisfies ServiceEnding
  return ending
}

/** What PREFIX-archive.service and the like do. */
async function keepRunning(scope: RunScope, service: Service): Promise<void> {
  for (let pause = 1; !interrupted.aborted; pause = Math.min(pause * 2, LONGEST_PAUSE_SECONDS)) {
    const begun = Date.now()
    const how = await runChild(scope, service, { argv: service.argv }).then(
      ({ code, signal }) => (signal ? `was ended by ${signal}` : `ended with exit code ${code}`),
      (error: unknown) => messageOf(error),
    )
    if (interrupted.aborted) return
    if (Date.now() - begun > LONGEST_PAUSE_SECONDS * 1000) pause = 1
    log('error', `schedule: ${service.name} ${how}; it is started again in ${pause} s`)
    await until(Date.now() + pause * 1000)
  }
}

const LONGEST_PAUSE_SECONDS = 300

interface ChildOptions {
  readonly argv: readonly string[]
  readonly signal?: AbortSignal
  readonly env?: Readonly<Record<string, string>>
  readonly evenInterrupted?: boolean
}

function runChild({ loaded, overrides }: RunScope, of: Job | Service, options: ChildOptions): Promise<Ended> {
  const { argv, env, ...rest } = options
  const launcher = join(CHECKOUT, 'scripts/howdah')
  const command = [launcher, ...argv, '-c', resolve(loaded.path), ...overrides]
  const death = ['--pdeathsig=TERM'] // it ends when this process is killed
  const as = become(of.user, death)
  return supervise([...(as.length > 0 ? as : ['setpriv', ...death, '--']), ...command], {
    ...rest,
    keepEnvironment: true, // secrets of the host file may be in there
    env: { ...env, HOWDAH_NO_INSTALL: '1', NOTIFY_SOCKET: '' },
    onLine: (line) => log('info', `${of.name}: ${line}`),
    graceSeconds: GRACE_SECONDS,
  })
}

/** As systemd's DefaultTimeoutStopSec=. */
const GRACE_SECONDS = 90
