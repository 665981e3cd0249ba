import process from 'node:process'
import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { type Code, Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { findJob } from './job.ts'
import { showTime } from './show.ts'
import { changeState } from './state.ts'
import { forgetMissed, isBooted, systemctl, UNIT_FOLDER } from './systemd.ts'

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
  const timer = await installedTimer(host, name)
  let was: string | undefined
  const { pausedSince } = await changeState(host, name, (state) => {
    was = state.pausedSince
    return was === undefined ? { ...state, pausedSince: new Date().toISOString() } : state
  })
  if (timer !== undefined) await systemctl(['disable', '--now', '--', timer])
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
  const timer = await installedTimer(host, name)
  let was: string | undefined
  await changeState(host, name, (state) => {
    was = state.pausedSince
    if (was === undefined) return state
    const { pausedSince: _pausedSince, ...rest } = state
    // What was not run meanwhile is not missed.
    return { ...rest, installedAt: new Date().toISOString() }
  })
  if (timer !== undefined) {
    if (was !== undefined) await forgetMissed(timer)
    await systemctl(['enable', '--now', '--', timer])
  }
  const text = was === undefined ? `${name} is not paused` : `${name} is resumed, after ${showTime(was)}`
  return { text, result: { job: name, wasPausedSince: was ?? null } }
}

/** The timer of a job, where it is installed; whoever changes it must be root. */
async function installedTimer(host: Host, name: string): Promise<string | undefined> {
  const timer = `${host.schedule.unit_prefix}-${name}.timer`
  if (host.postgres.kind === 'private' || !(await isBooted()) || !(await exists(`${UNIT_FOLDER}/${timer}`)))
    return undefined
  if (process.getuid?.() === 0) return timer
  throw new Fail('not-permitted', `cannot change the timer ${timer}: this is not root`, {
    hint: 'Run the same command as root.',
  })
}
