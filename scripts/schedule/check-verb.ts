import { uptime } from 'node:os'
import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { table } from '../core/table.ts'
import type { Host } from '../host/schema.ts'
import { type Health, healthOf } from './due.ts'
import { jobsOf, servicesOf } from './job.ts'
import { showTime } from './show.ts'
import { isBooted, unitStates } from './systemd.ts'
import { troubleOf, unseen, watchJob, workOf } from './watch.ts'

/** `schedule check` */
export const checkVerb: Verb = {
  name: 'check',
  summary: 'say whether the jobs succeed when they should, for people and monitoring',
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'command-failed'],
  run,
}

interface Checked {
  readonly job: string
  readonly state: Health
  readonly lastSuccess: string | null
  readonly failures: number
  /** How the last run ended; null when there was none. */
  readonly reason: string | null
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const now = new Date()
  const watches = await Promise.all(workOf(host).map((job) => watchJob(host, job)))
  const jobs = watches.map((watch): Checked => {
    const { lastSuccess, failures, last } = watch.state
    return {
      job: watch.job.name,
      state: healthOf(watch, now),
      lastSuccess: lastSuccess ?? null,
      failures,
      reason: last?.reason ?? null,
    }
  })
  const paused = new Set(jobs.flatMap(({ job, state }) => (state === 'paused' ? [job] : [])))
  const failed = await unseen(host, workOf(host))
  const problems = [
    ...(await inactiveUnits(host, paused)),
    ...failed.map(({ of, trouble }) => `${of.name}: ${trouble}`),
  ]
  const ok = problems.length === 0 && jobs.every(({ state }) => state !== 'failed' && state !== 'stale')
  return { text: show(jobs, problems), result: { jobs, problems }, ok }
}

/** Units that should be active, where systemd runs. */
async function inactiveUnits(host: Host, paused: ReadonlySet<string>): Promise<string[]> {
  if (host.postgres.kind === 'private' || !(await isBooted())) return []
  const prefix = host.schedule.unit_prefix
  const timers = jobsOf(host).filter(({ name }) => !paused.has(name))
  const units = [
    ...timers.map(({ name }) => `${prefix}-${name}.timer`),
    ...servicesOf(host).map(({ name }) => `${prefix}-${name}.service`),
  ]
  const states = await unitStates(units)
  return units.flatMap((unit) => {
    const state = states.get(unit)
    const trouble =
      state && unit.endsWith('.service')
        ? troubleOf(state, { now: new Date(), uptimeSeconds: uptime() })
        : undefined
    if (state?.isActive && trouble !== undefined) return [`${unit}: ${trouble}`]
    return state?.isActive ? [] : [`${unit} is not active: ${state?.activeState || 'it is not installed'}`]
  })
}

function show(jobs: readonly Checked[], problems: readonly string[]): string {
  const rows = jobs.map(({ job, state, lastSuccess, failures, reason }) => [
    job,
    state,
    lastSuccess === null ? '-' : showTime(lastSuccess),
    failures === 0 ? '' : (reason ?? ''),
  ])
  const lines =
    jobs.length === 0 ? 'no job is scheduled' : table([['JOB', 'STATE', 'LAST SUCCESS', ''], ...rows])
  return [lines, ...problems.map((text) => `! ${text}`)].join('\n')
}
