import { join } from 'node:path'
import { input, run } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { takeLock } from '../core/lock.ts'
import { log, maskUrls } from '../core/log.ts'
import { readSecret } from '../core/secret.ts'
import type { Host } from '../host/schema.ts'
import type { NotifySpec } from '../host/schedule-schema.ts'
import { type Due, dueOf, toldAfter } from './due.ts'
import { nextElapses } from './elapse.ts'
import { send } from './http.ts'
import { type Job, servicesOf } from './job.ts'
import { documentOf, environmentOf, mailOf, type Story } from './message.ts'
import { access, assertNoLink, changeState, jobsFolder } from './state.ts'
import { serviceName } from './unit.ts'
import { recordUnbegun, type WatchedJob, watchJob, workOf } from './watch.ts'

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

/**
 * Tells what is due to those whom it concerns. Whoever cannot be told keeps nobody else from it.
 * @param unit of this unit only; one that is no job has failed, or nobody would ask; {@link TRIAL} is none
 * @throws {Fail} `host-file`, `file-unreadable`, `lock-held`
 */
export async function notify(host: Host, unit: string | undefined): Promise<Told[]> {
  if (unit === TRIAL) return [await tellTrial(host)]
  const name = unit === undefined ? undefined : jobOfUnit(host, unit)
  if (unit !== undefined && name === undefined) return [await tellOfUnit(host, unit)]
  const jobs = workOf(host).filter((job) => name === undefined || job.name === name)
  await recordUnbegun(host, jobs, new Date())
  // All at once: who does not answer puts off nobody else.
  const told = await Promise.allSettled(jobs.map((job) => tellOfJob(host, job)))
  for (const [index, one] of told.entries()) {
    if (one.status === 'fulfilled') continue
    const why = messageOf(one.reason)
    log('error', `schedule: ${jobs[index]!.name}: it is not known how it stands with it: ${why}`)
  }
  const failed = told.find((one) => one.status === 'rejected')
  if (failed) throw failed.reason
  return told.flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
}

async function tellOfJob(host: Host, job: Job): Promise<Told[]> {
  // Two at once would tell everything twice.
  await assertNoLink(host)
  const lock = join(jobsFolder(host), `.${job.name}.notify.lock`)
  await using _lock = await takeLock(lock, { waitSeconds: WAIT_SECONDS, folder: access(host) })
  const now = new Date()
  const watch = await watchJob(host, job, now)
  const [due] = dueOf([watch], { now, remind: host.schedule.remind })
  if (due === undefined) return []
  const missed = await deliver(host, due.to, await storyOf(host, watch, due))
  await changeState(host, job.name, ({ told: before, ...state }) => {
    const told = toldAfter(due, missed, { now, before })
    return told === undefined ? state : { ...state, told }
  })
  return [{ job: job.name, state: due.state, to: due.to, missed }]
}

/** The job of a unit; undefined when it is none of a job that is watched. Pure. */
export function jobOfUnit(host: Host, unit: string): string | undefined {
  return workOf(host).find(({ name }) => unit === serviceName(host, name))?.name
}

async function tellOfUnit(host: Host, unit: string): Promise<Told> {
  const service = servicesOf(host).find(({ name }) => unit === serviceName(host, name))
  const to = service?.onFailure ?? host.schedule.on_failure
  const missed = await deliver(host, to, {
    host: host.host.name,
    job: service?.name ?? unit,
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
  return { job: service?.name ?? unit, state: 'failed', to, missed }
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

async function storyOf(host: Host, { job, state }: WatchedJob, due: Due): Promise<Story> {
  const unit = serviceName(host, job.name)
  const [next] = await nextElapses(job, new Date(), 1)
  return {
    ...due,
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

/** @returns names of those who could not be told */
async function deliver(host: Host, to: readonly string[], story: Story): Promise<string[]> {
  const results = await Promise.all(
    to.map(async (name) => {
      try {
        await tell(name, host.notify[name], story)
        return []
      } catch (error) {
        log('error', `schedule: ${story.job} ${story.state}: cannot tell "${name}": ${messageOf(error)}`)
        return [name]
      }
    }),
  )
  return results.flat()
}

async function tell(name: string, spec: NotifySpec | undefined, story: Story): Promise<void> {
  if (spec === undefined) throw new Fail('host-file', `there is no [notify.${name}] in the host file`)
  if (spec.command !== undefined) {
    const env = environmentOf(story)
    const mail = Buffer.from(mailOf(story, spec.to))
    // Fed, for one that ends without reading it all must say so by its exit code.
    await input(spec.command, once(mail), { env, signal: AbortSignal.timeout(PROGRAM_MILLISECONDS) })
    return
  }
  const authorization = spec.authorization && (await readSecret(spec.authorization)).reveal()
  await send(`the webhook of [notify.${name}]`, spec.webhook!, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(authorization !== undefined && { authorization }),
    },
    body: documentOf(story),
  })
}

const PROGRAM_MILLISECONDS = 60_000

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield bytes
}
