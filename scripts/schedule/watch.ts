import { uptime } from 'node:os'
import type { Host } from '../host/schema.ts'
import { countsFrom, type Watch } from './due.ts'
import { nextElapses } from './elapse.ts'
import { type Job, jobsOf } from './job.ts'
import { changeState, type JobState, readState } from './state.ts'

/** A job with all that is known of it, and with what names it. */
export interface WatchedJob extends Watch {
  readonly job: Job
}

/** The jobs that do the work: all but those that tell of failures. Pure. */
export function workOf(host: Host): Job[] {
  return jobsOf(host).filter(({ isAlert }) => !isAlert)
}

/**
 * Looks at a job.
 * @param notedAt remembers a job that was not known yet: from then on a missed success counts
 * @throws {Fail} `host-file`, `file-unreadable`
 */
export async function watchJob(host: Host, job: Job, notedAt?: Date): Promise<WatchedJob> {
  const state = withoutDead(notedAt ? await noted(host, job.name, notedAt) : await readState(host, job.name))
  const from = countsFrom(state)
  const [elapse] = from === undefined ? [] : await nextElapses(job, from, 1)
  return { job, state, elapse }
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
