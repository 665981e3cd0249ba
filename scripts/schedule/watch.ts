import { uptime } from 'node:os'
import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { countsFrom, type Watch } from './due.ts'
import { nextElapses } from './elapse.ts'
import { type Job, jobsOf } from './job.ts'
import { writeMetrics } from './metrics.ts'
import { stateAfter } from './outcome.ts'
import { changeState, type JobState, readState } from './state.ts'
import { isBooted, unitStates } from './systemd.ts'
import { serviceName } from './unit.ts'

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

/**
 * Records what systemd itself knows only: a unit that failed before any of its programs could run, for want of a
 * credential or of its user, has called nobody who would have recorded it.
 */
export async function recordUnbegun(host: Host, jobs: readonly Job[], now: Date): Promise<void> {
  for (const { job, result } of await unbegun(host, jobs)) {
    const state = await changeState(host, job.name, (state) =>
      state.failures > 0
        ? state
        : stateAfter(state, { result: 'failed', reason: `${result}: systemd could not begin it` }, now),
    )
    await writeMetrics(host, state).catch((error: unknown) => {
      log('warning', `schedule: ${job.name}: ${messageOf(error)}`)
    })
  }
}

/** Jobs whose unit failed although that is not what was recorded last; none where systemd does not run. */
export async function unbegun(
  host: Host,
  jobs: readonly Job[],
): Promise<{ readonly job: Job; readonly result: string }[]> {
  if (host.postgres.kind === 'private' || !(await isBooted())) return []
  const states = await unitStates(jobs.map(({ name }) => serviceName(host, name)))
  const found: { job: Job; result: string }[] = []
  for (const job of jobs) {
    const unit = states.get(serviceName(host, job.name))
    if (unit?.activeState !== 'failed') continue
    if ((await readState(host, job.name)).failures === 0) found.push({ job, result: unit.result })
  }
  return found
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
