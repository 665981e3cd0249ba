import type { Host } from '../host/schema.ts'
import { nextElapses } from './elapse.ts'
import { jobsOf, servicesOf } from './job.ts'
import { type JobState, type LastRun, readState } from './state.ts'
import { isBooted, type UnitState, unitStates } from './systemd.ts'

/** How it stands with a job. Times are ISO texts in UTC; null where there is none. */
export interface JobStatus {
  readonly name: string
  readonly title: string
  /** Its timer. */
  readonly unit: string
  readonly schedule: string
  readonly timezone: string
  readonly user: string
  /** The last run that ended. */
  readonly last: LastRun | null
  /** When the last successful run began. */
  readonly lastSuccess: string | null
  readonly lastSuccessSeconds: number | null
  /** Since the last success. */
  readonly failures: number
  readonly isRunning: boolean
  readonly pausedSince: string | null
  /** Its timer runs; null where systemd does not. */
  readonly isInstalled: boolean | null
  /** When the timer elapsed last. */
  readonly lastTrigger: string | null
  readonly next: string | null
}

/** How it stands with a service. */
export interface ServiceStatus {
  readonly name: string
  readonly unit: string
  /** What systemd says: `active`, `failed`; `unknown` where there is none. */
  readonly state: string
  /** From when on. */
  readonly since: string | null
}

/**
 * How it stands with the jobs and services of a host file: by systemd where it runs, and by what was
 * recorded.
 * @throws {Fail} `host-file`, `file-unreadable`, `command-failed`
 */
export async function statusOf(
  host: Host,
  now: Date,
): Promise<{ jobs: JobStatus[]; services: ServiceStatus[] }> {
  const unit = (name: string) => `${host.schedule.unit_prefix}-${name}`
  const jobs = jobsOf(host)
  const services = servicesOf(host)
  const states = await statesIfAny([
    ...jobs.flatMap(({ name }) => [`${unit(name)}.timer`, `${unit(name)}.service`]),
    ...services.map(({ name }) => `${unit(name)}.service`),
  ])
  const statuses: JobStatus[] = []
  for (const job of jobs) {
    const timer = states?.get(`${unit(job.name)}.timer`)
    const service = states?.get(`${unit(job.name)}.service`)
    const recorded = await readState(host, job.name)
    const record = job.isAlert ? { ...recorded, ...runOf(timer, service) } : recorded
    const [next] = timer ? [timer.next] : await nextElapses(job, now, 1)
    statuses.push({
      ...statusOfRecord(record, now),
      name: job.name,
      title: job.title,
      unit: `${unit(job.name)}.timer`,
      schedule: job.schedule,
      timezone: job.timezone,
      user: job.user,
      isRunning: service?.isActive ?? false,
      isInstalled: timer ? timer.isActive : null,
      lastTrigger: timer?.lastTrigger?.toISOString() ?? null,
      next: record.pausedSince === undefined ? (next?.toISOString() ?? null) : null,
    })
  }
  return {
    jobs: statuses,
    services: services.map(({ name }) => serviceStatus(name, `${unit(name)}.service`, states)),
  }
}

async function statesIfAny(units: readonly string[]): Promise<Map<string, UnitState> | undefined> {
  return (await isBooted()) ? unitStates(units) : undefined
}

/** The last run of what records none by itself: who looks after the jobs is looked after by systemd only. */
function runOf(
  timer: UnitState | undefined,
  service: UnitState | undefined,
): Pick<JobState, 'last' | 'lastSuccess'> {
  const time = timer?.lastTrigger?.toISOString()
  if (time === undefined || service === undefined) return {}
  const isGood = service.result === 'success'
  const last = {
    begun: time,
    ended: time,
    result: isGood ? 'success' : 'failed',
    reason: service.result,
  } as const
  return { last, ...(isGood && { lastSuccess: time }) }
}

type OfRecord = 'last' | 'lastSuccess' | 'lastSuccessSeconds' | 'failures' | 'pausedSince'

function statusOfRecord(record: JobState, now: Date): Pick<JobStatus, OfRecord> {
  const { last, lastSuccess, failures, pausedSince } = record
  const seconds = lastSuccess && Math.max(0, (now.getTime() - Date.parse(lastSuccess)) / 1000)
  return {
    last: last ?? null,
    lastSuccess: lastSuccess ?? null,
    lastSuccessSeconds: typeof seconds === 'number' ? seconds : null,
    failures,
    pausedSince: pausedSince ?? null,
  }
}

function serviceStatus(
  name: string,
  unit: string,
  states: ReadonlyMap<string, UnitState> | undefined,
): ServiceStatus {
  const state = states?.get(unit)
  const since = state?.isActive ? state.activeSince?.toISOString() : undefined
  return { name, unit, state: state?.activeState ?? 'unknown', since: since ?? null }
}
