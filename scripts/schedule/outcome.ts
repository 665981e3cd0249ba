import { CODES, Fail } from '../core/fail.ts'
import type { Job } from './job.ts'
import type { JobState, LastRun } from './state.ts'

/** How a run ended. */
export type Ending = Pick<LastRun, 'result' | 'reason'>

/** What systemd tells an ExecStopPost= of how its service ended (systemd.exec(5)). */
export interface ServiceEnding {
  readonly SERVICE_RESULT?: string | undefined
  readonly EXIT_CODE?: string | undefined
  readonly EXIT_STATUS?: string | undefined
}

/**
 * How a run ended, for people. Pure.
 * @param note why it was not begun, if whoever prepared it has left word
 * @throws {Fail} `usage` when nothing says how it ended
 */
export function endingOf(
  ending: ServiceEnding,
  job: Pick<Job, 'runtimeLimit'>,
  note: string | undefined,
): Ending {
  const { SERVICE_RESULT: result, EXIT_CODE: code, EXIT_STATUS: status } = ending
  if (result === undefined || result === '') {
    throw new Fail('usage', 'nothing says how the run ended: $SERVICE_RESULT is not set', {
      hint: 'Units call this as ExecStopPost=: see systemd.exec(5).',
    })
  }
  const how = code === 'exited' ? `exit code ${status}${textOf(status)}` : `signal ${status}`
  // SuccessExitStatus= makes a success of it, too.
  if (code === 'exited' && status === String(CODES['lock-held'][0])) return { result: 'skipped', reason: how }
  if (result === 'success') return { result: 'success', reason: 'exit code 0' }
  return {
    result: 'failed',
    reason: reasonOf(result, { how: code === undefined ? undefined : how, job, note }),
  }
}

interface Circumstances {
  /** Of the main process; undefined when there was none. */
  readonly how: string | undefined
  readonly job: Pick<Job, 'runtimeLimit'>
  readonly note: string | undefined
}

function reasonOf(result: string, { how, job, note }: Circumstances): string {
  switch (result) {
    case 'exit-code':
      return how ?? note ?? 'exit code: it could not be begun'
    case 'signal':
    case 'core-dump':
      return how ?? result
    case 'timeout':
      return `timeout: it ran longer than ${job.runtimeLimit}`
    case 'oom-kill':
      return 'oom-kill: the kernel ended it for want of memory'
    default:
      return how === undefined ? result : `${result}: ${how}`
  }
}

function textOf(status: string | undefined): string {
  const known = Object.values(CODES).find(([number]) => String(number) === status)
  if (known) return `: ${known[1]}`
  return status === '1' ? ': the check says no' : ''
}

/** What is remembered of a job after a run. Pure. */
export function stateAfter(state: JobState, { result, reason }: Ending, now: Date): JobState {
  const ended = now.toISOString()
  const { begun = ended, note: _note, ...rest } = state
  const after = { ...rest, last: { begun, ended, result, reason }, installedAt: state.installedAt ?? begun }
  if (result === 'skipped') return after
  if (result === 'failed')
    return { ...after, failures: state.failures + 1, failingSince: state.failingSince ?? begun }
  const { failingSince: _failingSince, ...well } = after
  return { ...well, lastSuccess: begun, failures: 0 }
}
