import { uptime } from 'node:os'
import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { countsFrom, healthOf, type Watch } from './due.ts'
import { nextElapses } from './elapse.ts'
import { type Job, jobsOf, type Service, servicesOf } from './job.ts'
import { writeMetrics } from './metrics.ts'
import { stateAfter } from './outcome.ts'
import { assertNoLink, changeState, type JobState, readState } from './state.ts'
import { isBooted, type UnitState, unitStates } from './systemd.ts'
import { serviceName } from './unit.ts'
import { toldMeanwhile } from './unkept.ts'

/** What people are told of. */
export type Watched = Job | Service

/** A job or service with all that is known of it, and with what names it. */
export interface WatchedJob extends Watch {
  readonly of: Watched
}

/** The jobs that do the work: all but those that tell of failures. Pure. */
export function workOf(host: Host): Job[] {
  return jobsOf(host).filter(({ isAlert }) => !isAlert)
}

/** All of which people are told. Pure. */
export function watchedOf(host: Host): Watched[] {
  return [...workOf(host), ...servicesOf(host)]
}

/** For whom a job is looked at: for people who are told of it. */
export interface Telling {
  /** Remembers a job that was not known yet: from then on a missed success counts. */
  readonly notedAt: Date
  /** What is known of it and could not be written. */
  readonly unkept: JobState | undefined
}

/**
 * Looks at a job.
 * @param telling one whose state cannot be read or written has failed then: nobody would hear of its failures
 * @throws {Fail} `host-file`, and without `telling` `file-unreadable`
 */
export async function watchJob(host: Host, of: Watched, telling?: Telling): Promise<WatchedJob> {
  const now = telling?.notedAt ?? new Date()
  const { state: recorded, isLost } = await known(host, of, telling)
  const kept = await toldMeanwhile(host, of.name)
  const watch = isJob(of)
    ? await watchOfJob(of, withoutDead(recorded))
    : { of, job: { ...of, ...NO_TIMES }, state: wellSince(recorded, now), elapse: undefined }
  const told = isLost ? latest(watch.state.told, kept) : toldOf(watch, kept, now)
  return { ...watch, state: { ...watch.state, told } }
}

/** Whether it runs at times. */
export function isJob(of: Watched): of is Job {
  return 'schedule' in of
}

async function watchOfJob(of: Job, state: JobState): Promise<WatchedJob> {
  const from = countsFrom(state)
  const [elapse] = from === undefined ? [] : await nextElapses(of, from, 1)
  return { of, job: of, state, elapse }
}

/** A service has no times at which it would be missed. */
const NO_TIMES = { randomizedDelay: '0s', runtimeLimit: '0s', grace: '0s' } as const

/** A service that has not failed is well: nobody records that it succeeds. */
function wellSince(state: JobState, now: Date): JobState {
  return { ...state, lastSuccess: state.lastSuccess ?? now.toISOString() }
}

/**
 * What people know of a job, for whom it was kept meanwhile while its state could not be written. As long as no end of
 * a run was recorded since, that the state says nothing of the failure is no recovery, and that it says no success is
 * no news; what has failed since is. Pure.
 */
function toldOf(watch: WatchedJob, kept: JobState['told'], now: Date): JobState['told'] {
  const { last, failingSince, told } = watch.state
  if (kept?.state !== 'failed') return latest(told, kept)
  const since = (time: string | undefined) => time !== undefined && Date.parse(time) > Date.parse(kept.at)
  const health = healthOf(watch, now)
  if (health === 'failed') return since(failingSince) ? told : latest(told, kept)
  if (!isJob(watch.of) || since(last?.ended)) return latest(told, kept)
  return health === 'stale' ? { ...kept, state: 'stale' } : undefined
}

interface Known {
  readonly state: JobState
  /** It is not what its file says, which cannot be read or written. */
  readonly isLost: boolean
}

/** What is remembered of it; for who tells of it, that it cannot be read, or noted, is a failure of its own. */
async function known(host: Host, of: Watched, telling: Telling | undefined): Promise<Known> {
  if (telling === undefined) return { state: await readState(host, of.name), isLost: false }
  if (telling.unkept !== undefined) return { state: telling.unkept, isLost: true }
  try {
    await assertNoLink(host)
    const state = isJob(of) ? await noted(host, of.name, telling.notedAt) : await readState(host, of.name)
    return { state, isLost: false }
  } catch (error) {
    const reason = `what is remembered of it cannot be kept: ${messageOf(error)}`
    return { state: await lostState(host, of.name, reason), isLost: true }
  }
}

/** A failure on top of what can be read of a state, if anything can. */
async function lostState(host: Host, job: string, reason: string): Promise<JobState> {
  const now = new Date().toISOString()
  const state = await readState(host, job).catch((): JobState => ({ job, failures: 0 }))
  const last = { begun: now, ended: now, result: 'failed', reason } as const
  return { ...state, failures: 1, failingSince: state.failingSince ?? now, last }
}

function latest(one: JobState['told'], other: JobState['told']): JobState['told'] {
  if (one === undefined || other === undefined) return one ?? other
  return Date.parse(one.at) > Date.parse(other.at) ? one : other
}

/**
 * Records what systemd itself knows only: a unit that failed before any of its programs could run, for want of a
 * credential or of its user, has called nobody who would have recorded it, and a service that is down neither.
 * @param result how a run of the one that is watched has ended, if somebody says so: nobody may have recorded it
 * @returns by its name, what could not be recorded
 */
export async function recordUnseen(
  host: Host,
  watched: readonly Watched[],
  { now, result: ended }: { readonly now: Date; readonly result?: string | undefined },
): Promise<Map<string, JobState>> {
  const unkept = new Map<string, JobState>()
  for (const { of, trouble, result } of await unseen(host, watched, ended)) {
    try {
      const state = await changeState(host, of.name, (state) => stateUnder(trouble, state, now))
      if (isJob(of)) await writeMetrics(host, state).catch((error: unknown) => warn(of, error))
    } catch (error) {
      if (trouble === undefined) continue // it is well, and is told so when that can be written
      const how = isJob(of) ? `how its run ended (${result})` : `that it is down (${result})`
      const reason = `${how} cannot be recorded: ${messageOf(error)}`
      unkept.set(of.name, await lostState(host, of.name, reason))
    }
  }
  return unkept
}

/** The state of what has this trouble, or none any more. Pure. */
function stateUnder(trouble: string | undefined, state: JobState, now: Date): JobState {
  if ((trouble !== undefined) === state.failures > 0) return state
  const ending = trouble === undefined ? ('success' as const) : ('failed' as const)
  return stateAfter(state, { result: ending, reason: trouble ?? 'it runs' }, now)
}

function warn({ name }: Watched, error: unknown): void {
  log('warning', `schedule: ${name}: ${messageOf(error)}`)
}

/** What systemd knows of something, and nobody has recorded. */
interface Unseen {
  readonly of: Watched
  /** Undefined when it is over. */
  readonly trouble: string | undefined
  /** What systemd says: `exit-code`. */
  readonly result: string
}

/**
 * Jobs and services of which systemd knows something else than what was recorded last; none where it does not run.
 * @param ended how a run of each has ended, if somebody says so
 */
export async function unseen(host: Host, watched: readonly Watched[], ended?: string): Promise<Unseen[]> {
  const states = await statesIfAny(host, watched)
  const found: Unseen[] = []
  for (const of of watched) {
    const unit = states.get(serviceName(host, of.name))
    const state = await readState(host, of.name).catch(() => undefined) // whoever looks at it is told why
    if (state === undefined) continue
    const one = isJob(of) ? unseenRun(of, unit, ended) : unseenService(of, unit)
    if (one !== undefined && (one.trouble === undefined) === state.failures > 0) found.push(one)
  }
  return found
}

function unseenRun(of: Job, unit: UnitState | undefined, ended: string | undefined): Unseen | undefined {
  const result = unit?.activeState === 'failed' ? unit.result : ended
  if (result === undefined || result === 'success') return undefined
  return { of, trouble: `${result}: it could not be begun`, result }
}

function unseenService(of: Service, unit: UnitState | undefined): Unseen | undefined {
  if (unit === undefined) return undefined
  const now = new Date()
  const trouble = troubleOf(unit, { now, uptimeSeconds: uptime() })
  return trouble !== undefined || isLasting(unit, now) ? { of, trouble, result: unit.result } : undefined
}

async function statesIfAny(host: Host, watched: readonly Watched[]): Promise<Map<string, UnitState>> {
  if (host.postgres.kind === 'private' || !(await isBooted())) return new Map()
  return unitStates(watched.map(({ name }) => serviceName(host, name))).catch((error: unknown) => {
    log('warning', `schedule: systemd does not say how its units are: ${messageOf(error)}`)
    return new Map<string, UnitState>()
  })
}

/** A restart takes a moment, and a boot some minutes. */
const MOMENT_SECONDS = 30
const BOOT_SECONDS = 600

/** One that ends as often is of no use, although it is started again each time. */
const RESTARTS = 3

/** Whether a service runs, and not only until it ends the next time. Pure. */
function isLasting({ activeState, activeSince }: UnitState, now: Date): boolean {
  const seconds = (now.getTime() - (activeSince?.getTime() ?? 0)) / 1000
  return activeState === 'active' && seconds >= MOMENT_SECONDS
}

/** What is wrong with a service that should run; undefined when nothing is, or it is not installed. Pure. */
export function troubleOf(
  { isInstalled, activeState, subState, result, restarts, inactiveSince }: UnitState,
  { now, uptimeSeconds }: { now: Date; uptimeSeconds: number },
): string | undefined {
  if (!isInstalled) return undefined
  if (activeState === 'failed') return `${result}: it has ended, and is not started again`
  if (subState.startsWith('auto-restart'))
    return restarts < RESTARTS ? undefined : `${result}: it was started again ${restarts} times, and ended`
  if (activeState !== 'inactive') return undefined
  const seconds = inactiveSince ? (now.getTime() - inactiveSince.getTime()) / 1000 : uptimeSeconds
  if (seconds < (inactiveSince ? MOMENT_SECONDS : BOOT_SECONDS)) return undefined
  return inactiveSince ? 'it was stopped' : 'it was not started'
}

/** A run that began before this host was started went down with it, and nobody has recorded its end. */
function withoutDead(state: JobState): JobState {
  const booted = Date.now() - uptime() * 1000
  const isDead = state.begun !== undefined && Date.parse(state.begun) < booted
  return isDead ? { ...state, begun: undefined } : state
}

async function noted(host: Host, name: string, now: Date): Promise<JobState> {
  const state = await readState(host, name)
  if (countsFrom(state) !== undefined) return state
  return changeState(host, name, (state) => ({
    ...state,
    installedAt: state.installedAt ?? now.toISOString(),
  }))
}
