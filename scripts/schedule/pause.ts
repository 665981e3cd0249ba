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
 * Pauses every job of a host that is not paused yet, ends those that run, and stops its services.
 * @returns what {@link resumeAll} is to be told
 */
export async function pauseAll(host: Host): Promise<string[]> {
  const stopped: string[] = []
  for (const { name } of jobsOf(host)) {
    if ((await readState(host, name)).pausedSince !== undefined) continue
    await pauseJob(host, name)
    stopped.push(name)
  }
  const units = (await hasUnits(host)) ? unitsOf(host) : []
  for (const [unit, { isActive }] of await unitStates(units)) {
    if (!isActive) continue
    await systemctl(['stop', '--', unit])
    if (isService(host, unit)) stopped.push(unit)
  }
  return stopped
}

/** Lets what {@link pauseAll} has stopped go on: services first, since jobs may need them. */
export async function resumeAll(host: Host, stopped: readonly string[]): Promise<void> {
  const services = stopped.filter((name) => name.endsWith('.service'))
  if (services.length > 0) await systemctl(['start', '--', ...services])
  for (const name of stopped) if (!services.includes(name)) await resumeJob(host, name)
}

/** Units that run now, or could: those of jobs and of services. */
function unitsOf(host: Host): string[] {
  const names = [...jobsOf(host), ...servicesOf(host)].map(({ name }) => name)
  return names.map((name) => `${host.schedule.unit_prefix}-${name}.service`)
}

function isService(host: Host, unit: string): boolean {
  return servicesOf(host).some(({ name }) => unit === `${host.schedule.unit_prefix}-${name}.service`)
}

async function hasUnits({ postgres }: Host): Promise<boolean> {
  return postgres.kind !== 'private' && process.getuid?.() === 0 && isBooted()
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
