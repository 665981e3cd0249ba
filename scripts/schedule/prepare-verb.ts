import { resolve } from 'node:path'
import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { findJob } from './job.ts'
import { prepareRun } from './prepare.ts'

/** `schedule prepare JOB` */
export const prepareVerb: Verb = {
  name: 'prepare',
  summary: 'wait for the server, clean up after a killed run: for units, as ExecStartPre=',
  args: ['<job>'],
  common: ['file'],
  fails: [
    'host-file',
    'file-unreadable',
    'not-permitted',
    'lock-held',
    'server-unreachable',
    'server-denied',
    'cluster-mismatch',
  ],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const job = findJob(host, call.args[0]!)
  await prepareRun(host, job, ['-c', resolve(call.file), ...call.overrides])
  return { text: `${job.name} can begin`, result: { job: job.name } }
}
