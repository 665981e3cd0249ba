import { uptime } from 'node:os'
import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { countsFrom, type Watch } from './due.ts'
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
  const known = telling ? (telling.unkept ?? (await stateOf(host, of, telling.notedAt))) : undefined
  const state = withoutDead(known ?? (await readState(host, of.name)))
  const told = latest(state.told, await meanwhile(host, of, state))
  const job = 'schedule' in of ? of : { ...of, ...NO_TIMES }
  const from = countsFrom(state)
  const [elapse] = 'schedule' in of && from !== undefined ? await nextElapses(of, from, 1) : []
  return { of, job, state: { ...state, told }, elapse }
}

/** A service has no times at which it would be missed. */
const NO_TIMES = { randomizedDelay: '0s', runtimeLimit: '0s', grace: '0s' } as const

/** What is remembered of it; that it cannot be read, or noted, is a failure of its own. */
async function stateOf(host: Host, of: Watched, notedAt: Date): Promise<JobState> {
  try {
    await assertNoLink(host)
    return 'schedule' in of ? await noted(host, of.name, notedAt) : await readState(host, of.name)
  } catch (error) {
    return lostState(of.name, `what is remembered of it cannot be kept: ${messageOf(error)}`)
  }
}

/**
 * What people were told while the state could not be written. As long as no end of a run was recorded since, what the
 * state says is older than that: it is no recovery.
 */
async function meanwhile(host: Host, of: Watched, { failures, last }: JobState): Promise<JobState['told']> {
  const told = await toldMeanwhile(host, of.name)
  if (told === undefined || failures > 0 || !('schedule' in of)) return told
  return last !== undefined && Date.parse(last.ended) > Date.parse(told.at) ? told : undefined
}

function lostState(job: string, reason: string): JobState {
  const now = new Date().toISOString()
  return {
    job,
    failures: 1,
    failingSince: now,
    last: { begun: now, ended: now, result: 'failed', reason },
  }
}

function latest(one: JobState['told'], other: JobState['told']): JobState['told'] {
  if (one === undefined || other === undefined) return one ?? other
  return Date.parse(one.at) > Date.parse(other.at) ? one : other
}

/**
 * Records what systemd itself knows only: a unit that failed before any of its programs could run, for want of a
 * credential or of its user, has called nobody who would have recorded it, and a service that is down neither.
 * @returns by its name, what could not be recorded
 */
export async function recordUnseen(
  host: Host,
  watched: readonly Watched[],
  now: Date,
): Promise<Map<string, JobState>> {
  const unkept = new Map<string, JobState>()
  for (const { of, trouble } of await unseen(host, watched)) {
    try {
      const state = await changeState(host, of.name, (state) => stateUnder(trouble, state, now))
      if ('schedule' in of) await writeMetrics(host, state).catch((error: unknown) => warn(of, error))
    } catch (error) {
      if (trouble === undefined) continue // it is well, and is told so when that can be written
      const reason = `${trouble}; what is remembered of it cannot be kept: ${messageOf(error)}`
      unkept.set(of.name, lostState(of.name, reason))
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
}

/** Jobs and services of which systemd knows something else than what was recorded last; none where it does not run. */
export async function unseen(host: Host, watched: readonly Watched[]): Promise<Unseen[]> {
  const states = await statesIfAny(host, watched)
  const found: Unseen[] = []
  for (const of of watched) {
    const unit = states.get(serviceName(host, of.name))
    if (unit === undefined) continue
    const failures = await readState(host, of.name).then(
      ({ failures }) => failures,
      () => undefined, // whoever looks at it is told why
    )
    if (failures === undefined) continue
    if ('schedule' in of) {
      if (unit.activeState === 'failed' && failures === 0)
        found.push({ of, trouble: `${unit.result}: systemd could not begin it` })
      continue
    }
    const trouble = troubleOf(unit, { now: new Date(), uptimeSeconds: uptime() })
    const isOver = trouble === undefined && unit.activeState === 'active'
    if (trouble === undefined ? isOver && failures > 0 : failures === 0) found.push({ of, trouble })
  }
  return found
}

async function statesIfAny(host: Host, watched: readonly Watched[]): Promise<Map<string, UnitState>> {
  if (host.postgres.kind === 'private' || !(await isBooted())) return new Map()
  return unitStates(watched.map(({ name }) => serviceName(host, name))).catch((error: unknown) => {
    log('warning', `schedule: systemd does not say how its units are: ${messageOf(error)}`)
    return new Map<string, UnitState>()
  })
}

/** A restart takes a moment, and a boot some minutes. */
const MOMENT_SECONDS = 60
const BOOT_SECONDS = 600

/** One that ends as often is of no use, although it is started again each time. */
const RESTARTS = 3

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
