import { formatDuration } from '../core/quantity.ts'
import { table } from '../core/table.ts'
import type { JobStatus, ServiceStatus } from './list.ts'

/** The jobs and services of a host file. Pure. */
export function showList(jobs: readonly JobStatus[], services: readonly ServiceStatus[], now: Date): string {
  if (jobs.length === 0 && services.length === 0) return 'nothing is scheduled'
  const rows = jobs.map((job) => [
    job.name,
    job.timezone === 'UTC' ? job.schedule : `${job.schedule} ${job.timezone}`,
    job.last ? showTime(job.last.begun) : '-',
    resultOf(job),
    job.lastSuccess ? `${ago(job.lastSuccess, now)} ago` : '-',
    nextOf(job),
  ])
  const always = services.map(({ name, state, since }) => [
    name,
    'always',
    since ? showTime(since) : '-',
    state,
    '-',
    '-',
  ])
  return table([['JOB', 'SCHEDULE', 'LAST RUN', 'RESULT', 'LAST SUCCESS', 'NEXT RUN'], ...rows, ...always])
}

function resultOf({ isRunning, last, failures }: JobStatus): string {
  if (isRunning) return 'runs'
  if (!last) return 'never ran'
  const times = failures > 1 ? `, ${failures} times` : ''
  return last.result === 'success' ? 'success' : `${last.result}: ${last.reason}${times}`
}

function nextOf({ pausedSince, next, isInstalled }: JobStatus): string {
  if (pausedSince !== null) return `paused since ${showTime(pausedSince)}`
  if (isInstalled === false) return 'not installed'
  return next === null ? '-' : showTime(next)
}

function ago(time: string, now: Date): string {
  const seconds = Math.max(0, (now.getTime() - Date.parse(time)) / 1000)
  return seconds < 60 ? `${Math.round(seconds)} s` : formatDuration(seconds)
}

/** `2026-11-23 02:00:00 UTC`. Pure. */
export function showTime(time: string | Date): string {
  return `${new Date(time).toISOString().slice(0, 19).replace('T', ' ')} UTC`
}

/** `Mon 2026-11-23 02:00:00 Europe/Vienna`, as clocks show it there. Pure. */
export function showTimeIn(time: Date, timezone: string): string {
  const format = new Intl.DateTimeFormat('en-GB', {
    timeZone: timezone,
    weekday: 'short',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hourCycle: 'h23',
  })
  const parts = Object.fromEntries(format.formatToParts(time).map(({ type, value }) => [type, value]))
  return `${parts['weekday']} ${parts['year']}-${parts['month']}-${parts['day']} ${parts['hour']}:${parts['minute']}:${parts['second']} ${timezone}`
}
