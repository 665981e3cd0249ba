import { messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import type { Job } from './job.ts'
import { writeMetrics } from './metrics.ts'
import { endingOf, type ServiceEnding, stateAfter } from './outcome.ts'
import { pingAfter } from './ping.ts'
import { changeState, type JobState } from './state.ts'

/**
 * Remembers how a run ended, writes it down for Prometheus, and after a success asks the job's address.
 * Only that it cannot be remembered is a failure.
 * @throws {Fail} `usage`, `file-unreadable`
 */
export async function recordRun(host: Host, job: Job, ending: ServiceEnding): Promise<JobState> {
  const state = await changeState(host, job.name, (state) =>
    stateAfter(state, endingOf(ending, job, state.note), new Date()),
  )
  await writeMetrics(host, state).catch((error: unknown) => {
    log('warning', `schedule: ${job.name}: ${messageOf(error)}`)
  })
  if (state.last?.result === 'success') await pingAfter(job.name, job.ping)
  return state
}
