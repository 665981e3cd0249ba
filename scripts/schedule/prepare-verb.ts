import { resolve } from 'node:path'
import { type LoadedHost, loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { messageOf } from '../core/fail.ts'
import { findJob } from './job.ts'
import { lastInstalled } from './known-host.ts'
import { leaveNote, prepareRun } from './prepare.ts'

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
    'server-unreachable',
    'server-denied',
    'cluster-mismatch',
  ],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await load(call)
  const job = findJob(host, call.args[0]!)
  await prepareRun(host, job, ['-c', resolve(call.file), ...call.overrides])
  return { text: `${job.name} can begin`, result: { job: job.name } }
}

/** A mistake in the host file keeps all jobs from running: whoever tells of that is to know why. */
async function load(call: Call): Promise<LoadedHost> {
  try {
    return await loadHost(call.file, call.overrides)
  } catch (error) {
    const known = await lastInstalled(call.file)
    if (known !== undefined) await leaveNote(known, findJob(known, call.args[0]!), messageOf(error))
    throw error
  }
}
