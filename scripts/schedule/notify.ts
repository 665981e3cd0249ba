import { join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { takeLock } from '../core/lock.ts'
import { log, maskUrls } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { deliver } from './deliver.ts'
import { type Due, dueOf, toldAfter } from './due.ts'
import { nextElapses } from './elapse.ts'
import { jobsOf, servicesOf } from './job.ts'
import type { Story } from './message.ts'
import { access, assertNoLink, changeState, jobsFolder, type JobState } from './state.ts'
import { isBooted, unitStates } from './systemd.ts'
import { serviceName } from './unit.ts'
import { forgetMeanwhile, keepMeanwhile } from './unkept.ts'
import { isJob, recordUnseen, type Watched, watchedOf, type WatchedJob, watchJob } from './watch.ts'

/** In place of a unit's name: all are told, of nothing. */
export const TRIAL = 'test'

/** What was told. */
export interface Told {
  readonly job: string
  readonly state: Story['state']
  readonly to: readonly string[]
  /** Names of those who could not be told; the check tries again. */
  readonly missed: readonly string[]
}

/** Longer than all attempts to tell somebody, shorter than an alert may run. */
const WAIT_SECONDS = 150

/** Of whom it is told. */
export interface NotifyScope {
  /** This unit only; one that is no job has failed, or nobody would ask; {@link TRIAL} is none. */
  readonly unit?: string | undefined
  /** How its run ended (systemd.exec(5), MONITOR_SERVICE_RESULT); undefined when nobody says so. */
  readonly result?: string | undefined
  /** The host file as it was installed last: of a job that is no longer in it that one says whom it concerns. */
  readonly installed?: Host | undefined
}

/**
 * Tells what is due to those whom it concerns. Whoever cannot be told keeps nobody else from it.
 * @throws {Fail} `host-file`, `lock-held`
 */
export async function notify(host: Host, { unit, result, installed }: NotifyScope): Promise<Told[]> {
  if (unit === TRIAL) return [await tellTrial(host)]
  const name = unit === undefined ? undefined : watchedUnit(host, unit)
  if (unit !== undefined && name === undefined)
    return (await isWell(unit)) ? [] : [await tellOfUnit(host, unit, installed)]
  const watched = watchedOf(host).filter((one) => name === undefined || one.name === name)
  const unkept = await recordUnseen(host, watched, { now: new Date(), result })
  // All at once: who does not answer puts off nobody else.
  const told = await Promise.allSettled(watched.map((one) => tellOf(host, one, unkept.get(one.name))))
  for (const [index, one] of told.entries()) {
    if (one.status === 'fulfilled') continue
    const why = messageOf(one.reason)
    log('error', `schedule: ${watched[index]!.name}: it is not known how it stands with it: ${why}`)
  }
  const failed = told.find((one) => one.status === 'rejected')
  if (failed) throw failed.reason
  return told.flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
}

async function tellOf(host: Host, of: Watched, unkept: JobState | undefined): Promise<Told[]> {
  await using _lock = await holdTelling(host, of)
  const now = new Date()
  const watch = await watchJob(host, of, { notedAt: now, unkept })
  const [due] = dueOf([watch], { now, remind: host.schedule.remind })
  if (due === undefined) return []
  const missed = await deliver(host, due.to, await storyOf(host, watch, due))
  await remember(host, { due, missed, before: watch.state.told, now })
  return [{ job: of.name, state: due.state, to: due.to, missed }]
}

/** Two at once would tell everything twice; that is still better than nobody, where there can be no lock. */
async function holdTelling(host: Host, { name }: Watched): Promise<AsyncDisposable | undefined> {
  try {
    await assertNoLink(host)
    const lock = join(jobsFolder(host), `.${name}.notify.lock`)
    return await takeLock(lock, { waitSeconds: WAIT_SECONDS, folder: access(host) })
  } catch (error) {
    if (error instanceof Fail && error.code === 'lock-held') throw error
    return undefined
  }
}

interface Delivery {
  readonly due: Due
  readonly missed: readonly string[]
  readonly before: JobState['told']
  readonly now: Date
}

/** Remembers what was told: in the job's state, and while that cannot be, until the next boot. */
async function remember(host: Host, { due, missed, before, now }: Delivery): Promise<void> {
  const told = toldAfter(due, missed, { now, before })
  try {
    await changeState(host, due.job, ({ told: _told, ...state }) =>
      told === undefined ? state : { ...state, told },
    )
    await forgetMeanwhile(host, due.job)
  } catch (error) {
    log('warning', `schedule: ${due.job}: what was told of it cannot be remembered: ${messageOf(error)}`)
    await keepMeanwhile(host, due.job, told ?? { state: due.state, at: now.toISOString() }).catch(
      (second: unknown) => {
        log('warning', `schedule: ${due.job}: it may be told once more: ${messageOf(second)}`)
      },
    )
  }
}

/** The name of a unit's job or service; undefined when it is none that is watched. Pure. */
export function watchedUnit(host: Host, unit: string): string | undefined {
  return watchedOf(host).find(({ name }) => unit === serviceName(host, name))?.name
}

/** One that is no job (any more) calls whoever tells of its successes, too. */
async function isWell(unit: string): Promise<boolean> {
  if (!(await isBooted())) return false
  const state = (await unitStates([unit]).catch(() => undefined))?.get(unit)
  return (
    state !== undefined && state.isInstalled && state.activeState !== 'failed' && state.result === 'success'
  )
}

async function tellOfUnit(host: Host, unit: string, installed: Host | undefined): Promise<Told> {
  const { to, notify } = whomOfUnit(host, unit, installed)
  const missed = await deliver({ ...host, notify }, to, {
    host: host.host.name,
    job: unit,
    unit,
    state: 'failed',
    isReminder: false,
    since: new Date().toISOString(),
    reason: 'its unit failed',
    lastSuccess: undefined,
    next: undefined,
    journal: await journalOf(unit),
    command: `systemctl status ${unit}`,
  })
  return { job: unit, state: 'failed', to, missed }
}

/** Whom a unit concerns that the host file does not know (any more): of it everybody is told sooner than nobody. Pure. */
function whomOfUnit(
  host: Host,
  unit: string,
  installed: Host | undefined,
): { to: readonly string[]; notify: Host['notify'] } {
  const all = installed === undefined ? [] : [...jobsOf(installed), ...servicesOf(installed)]
  const before = all.find(({ name }) => unit === serviceName(installed!, name))?.onFailure ?? []
  const notify = { ...installed?.notify, ...host.notify }
  const to = [before, host.schedule.on_failure].find(({ length }) => length > 0)
  return { to: to ?? Object.keys(notify), notify }
}

/** Tells everybody whom the host file names, as if something had failed. */
async function tellTrial(host: Host): Promise<Told> {
  const to = Object.keys(host.notify)
  const missed = await deliver(host, to, {
    host: host.host.name,
    job: TRIAL,
    unit: TRIAL,
    state: 'trial',
    isReminder: false,
    since: new Date().toISOString(),
    reason: 'nothing has failed',
    lastSuccess: undefined,
    next: undefined,
    journal: [],
    command: 'howdah schedule list',
  })
  return { job: TRIAL, state: 'trial', to, missed }
}

async function storyOf(host: Host, { of, state }: WatchedJob, due: Due): Promise<Story> {
  const unit = serviceName(host, of.name)
  const [next] = isJob(of) ? await nextElapses(of, new Date(), 1) : []
  return {
    ...due,
    ...(due.state === 'recovered' && !isJob(of) && { reason: 'it runs' }),
    host: host.host.name,
    unit,
    lastSuccess: state.lastSuccess,
    next: next?.toISOString(),
    journal: due.state === 'recovered' ? [] : await journalOf(unit),
    command: `journalctl --unit=${unit} --lines=100`,
  }
}

/** The last lines of a unit's journal; none where there is no journal, or it may not be read. */
async function journalOf(unit: string): Promise<string[]> {
  const argv = ['journalctl', `--unit=${unit}`, '--lines=20', '--no-pager', '--quiet', '--output=short-iso']
  const stdout = await run(argv, { timeoutSeconds: 20 })
    .then(({ stdout }) => stdout)
    .catch(() => '')
  return maskUrls(stdout).split('\n').filter(Boolean)
}
