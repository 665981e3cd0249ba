import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import type { Code } from '../core/fail.ts'
import { findJob } from './job.ts'
import { pauseJob, resumeJob } from './pause.ts'
import { showTime } from './show.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'lock-held',
  'command-failed',
]

/** `schedule pause JOB` */
export const pauseVerb: Verb = {
  name: 'pause',
  summary: 'let a job not run until it is resumed; one that runs goes on to its end',
  args: ['<job>'],
  common: ['file'],
  fails: FAILS,
  run: pause,
}

/** `schedule resume JOB` */
export const resumeVerb: Verb = {
  name: 'resume',
  summary: 'let a paused job run again, from its next time on',
  args: ['<job>'],
  common: ['file'],
  fails: FAILS,
  run: resume,
}

async function pause(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const { name } = findJob(host, call.args[0]!)
  const { was, pausedSince } = await pauseJob(host, name)
  return {
    text:
      was === undefined
        ? `${name} is paused until: howdah schedule resume ${name}`
        : `${name} is paused already, since ${showTime(was)}`,
    result: { job: name, pausedSince },
  }
}

async function resume(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const { name } = findJob(host, call.args[0]!)
  const was = await resumeJob(host, name)
  const text = was === undefined ? `${name} is not paused` : `${name} is resumed, after ${showTime(was)}`
  return { text, result: { job: name, wasPausedSince: was ?? null } }
}
