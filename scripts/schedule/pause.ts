import process from 'node:process'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { jobsOf, servicesOf } from './job.ts'
import { changeState, readState } from './state.ts'
import { forgetMissed, isBooted, systemctl, UNIT_FOLDER, unitStates } from './systemd.ts'

/**
 * Lets a job not run until it is resumed; one that runs goes on to its end.
 * @returns since when it was paused before, and is now; ISO times
 * @throws {Fail} `not-permitted` where its timer is root's
 */
export async function pauseJob(
  host: Host,
  name: string,
): Promise<{ was: string | undefined; pausedSince: string | undefined }> {
  const timer = await installedTimer(host, name)
  let was: string | undefined
  const { pausedSince } = await changeState(host, name, (state) => {
    was = state.pausedSince
    return was === undefined ? { ...state, pausedSince: new Date().toISOString() } : state
  })
  if (timer !== undefined) await systemctl(['disable', '--now', '--', timer])
  return { was, pausedSince }
}

/**
 * Lets a paused job run again, from its next time on: what was not run meanwhile is not missed.
 * @returns since when it was paused, if it was
 * @throws {Fail} `not-permitted` where its timer is root's
 */
export async function resumeJob(host: Host, name: string): Promise<string | undefined> {
  const timer = await installedTimer(host, name)
  let was: string | undefined
  await changeState(host, name, (state) => {
    was = state.pausedSince
    if (was === undefined) return state
    const { pausedSince: _pausedSince, ...rest } = state
    return { ...rest, installedAt: new Date().toISOString() }
  })
  if (timer !== undefined) {
    if (was !== undefined) await forgetMissed(timer)
    await systemctl(['enable', '--now', '--', timer])
  }
  return was
}

/**
 * What {@link pauseAll} would stop: jobs that are not paused yet, and services that run. Whoever stops them writes
 * this down before.
 */
export async function pausable(host: Host): Promise<string[]> {
  const names: string[] = []
  for (const { name } of jobsOf(host)) {
    if ((await readState(host, name)).pausedSince === undefined) names.push(name)
  }
  for (const [unit, { isActive }] of await unitStates(await unitsOf(host, servicesOf(host)))) {
    if (isActive) names.push(unit)
  }
  return names
}

/** Pauses jobs, ends those that run, and stops services. @param names of {@link pausable} */
export async function pauseAll(host: Host, names: readonly string[]): Promise<void> {
  for (const name of names) if (!name.endsWith('.service')) await pauseJob(host, name)
  const units = await unitsOf(host, [...jobsOf(host), ...servicesOf(host)])
  for (const [unit, { isActive }] of await unitStates(units)) {
    if (isActive) await systemctl(['stop', '--', unit])
  }
}

/** Lets what {@link pauseAll} has stopped go on: services first, since jobs may need them. */
export async function resumeAll(host: Host, stopped: readonly string[]): Promise<void> {
  const services = stopped.filter((name) => name.endsWith('.service'))
  if (services.length > 0) await systemctl(['start', '--', ...services])
  for (const name of stopped) if (!services.includes(name)) await resumeJob(host, name)
}

/** Units of jobs and services, where there can be any. */
async function unitsOf(host: Host, of: readonly { readonly name: string }[]): Promise<string[]> {
  const { postgres, schedule } = host
  if (postgres.kind === 'private' || process.getuid?.() !== 0 || !(await isBooted())) return []
  return of.map(({ name }) => `${schedule.unit_prefix}-${name}.service`)
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
