import process from 'node:process'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { findJob } from './job.ts'
import { loadKnownHost } from './known-host.ts'
import { recordRun } from './record.ts'

/** `schedule record JOB` */
export const recordVerb: Verb = {
  name: 'record',
  summary: 'remember how a run of a job ended: for units, as ExecStopPost=',
  args: ['<job>'],
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'lock-held'],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const host = await loadKnownHost(call.file, call.overrides)
  const { SERVICE_RESULT, EXIT_CODE, EXIT_STATUS } = process.env
  const state = await recordRun(host, findJob(host, call.args[0]!), {
    SERVICE_RESULT,
    EXIT_CODE,
    EXIT_STATUS,
  })
  const { result, reason } = state.last!
  return { text: `${state.job}: ${result}: ${reason}`, result: state }
}
