import { parseDuration } from '../core/quantity.ts'
import type { Job } from './job.ts'
import type { JobState, Told } from './state.ts'

/** A job, and all that is known of it. */
export interface Watch {
  readonly job: Pick<Job, 'name' | 'randomizedDelay' | 'runtimeLimit' | 'grace' | 'onFailure'>
  readonly state: JobState
  /** The first elapse after {@link countsFrom}; undefined when there is none. */
  readonly elapse: Date | undefined
}

/** How it stands with a job. */
export type Health = 'ok' | 'failed' | 'stale' | 'paused' | 'never ran'

/** What people are to be told of a job. */
export interface Due {
  readonly job: string
  readonly state: Told['state']
  /** Names of those who are to be told. */
  readonly to: readonly string[]
  /** They know it already: it lasts. */
  readonly isReminder: boolean
  /** Since when it is so. */
  readonly since: string
  readonly reason: string
}

/** From when on a missed success counts: the last one, or when the job was made known. Pure. */
export function countsFrom({ lastSuccess, installedAt }: JobState): Date | undefined {
  const times = [lastSuccess, installedAt]
    .filter((time) => time !== undefined)
    .map((time) => Date.parse(time))
  return times.length === 0 ? undefined : new Date(Math.max(...times))
}

/** How it stands with a job. Pure. */
export function healthOf(watch: Watch, now: Date): Health {
  const { state } = watch
  if (state.pausedSince !== undefined) return 'paused'
  if (state.failures > 0) return 'failed'
  if (isStale(watch, now)) return 'stale'
  return state.lastSuccess === undefined ? 'never ran' : 'ok'
}

function isStale({ job, state, elapse }: Watch, now: Date): boolean {
  if (elapse === undefined) return false
  // A run that goes on may still be the success that is waited for; one beyond its limit is dead.
  if (state.begun !== undefined && now.getTime() < Date.parse(state.begun) + ms(job.runtimeLimit))
    return false
  return now.getTime() > elapse.getTime() + ms(job.randomizedDelay) + usualRuntime(state) + ms(job.grace)
}

/** Milliseconds that the last run took, if it succeeded. */
function usualRuntime({ last }: JobState): number {
  return last?.result === 'success' ? Math.max(0, Date.parse(last.ended) - Date.parse(last.begun)) : 0
}

/** What is to be told of jobs. A job of which nobody wants to hear is never due. Pure. */
export function dueOf(watches: readonly Watch[], { now, remind }: { now: Date; remind: string }): Due[] {
  return watches.flatMap((watch) => {
    const due = dueOfOne(watch, { now, remind })
    return due === undefined || due.to.length === 0 ? [] : [due]
  })
}

function dueOfOne(watch: Watch, { now, remind }: { now: Date; remind: string }): Due | undefined {
  const { job, state } = watch
  const { told } = state
  const missed = job.onFailure.filter((name) => told?.missed?.includes(name))
  const health = healthOf(watch, now)
  const due = { job: job.name, isReminder: false, ...storyOf(watch, health) }
  if (health === 'failed' || health === 'stale') {
    if (told?.state !== health) return { ...due, state: health, to: job.onFailure }
    if (now.getTime() - Date.parse(told.at) >= ms(remind))
      return { ...due, state: health, to: job.onFailure, isReminder: true }
    return { ...due, state: health, to: missed }
  }
  if (health !== 'ok' || told === undefined) return undefined
  return { ...due, state: 'recovered', to: told.state === 'recovered' ? missed : job.onFailure }
}

function storyOf({ state, elapse }: Watch, health: Health): Pick<Due, 'since' | 'reason'> {
  const { last, failures, failingSince, lastSuccess } = state
  if (health === 'failed') {
    const more = failures === 1 ? '' : ` (the last of ${failures} failures in a row)`
    return { since: failingSince ?? last?.begun ?? '', reason: `${last?.reason ?? 'it failed'}${more}` }
  }
  if (health !== 'stale') return { since: lastSuccess ?? '', reason: 'it succeeded' }
  const since = elapse!.toISOString()
  const skipped = last?.result === 'skipped' ? `; the last run was skipped: ${last.reason}` : ''
  return { since, reason: `no success since it was to run at ${since}${skipped}` }
}

/**
 * What is remembered after a delivery. Pure.
 * @param missed names of those who could not be told
 */
export function toldAfter(
  due: Due,
  missed: readonly string[],
  { now, before }: AfterOptions,
): Told | undefined {
  if (due.state === 'recovered' && missed.length === 0) return undefined
  // Who is told later than the others does not put off the reminder.
  const isLate = before?.state === due.state && !due.isReminder
  return {
    state: due.state,
    at: isLate ? before.at : now.toISOString(),
    ...(missed.length > 0 && { missed }),
  }
}

interface AfterOptions {
  readonly now: Date
  readonly before: Told | undefined
}

function ms(duration: string): number {
  return parseDuration(duration)! * 1000
}
