import { formatCount, formatDuration, formatSize } from '../core/quantity.ts'
import type { Standing, Summary } from './ingest.ts'
import type { Inventory } from './inventory.ts'
import type { Job } from './job.ts'
import type { Checked } from './verify.ts'

/** Who a job is, for people. Pure. */
export function showJob({ name, database, role, cluster, hostname }: Job, user: string): string {
  const as = role === undefined ? 'as who connects' : `as role ${role}`
  return `${name}: files of ${hostname} into database ${database} of ${cluster.label}, by OS user ${user}, ${as}`
}

/** A run that goes on, for people: files, rate, time left. Pure. */
export function showStanding({ summary, totalFiles, totalBytes }: Standing, seconds: number): string {
  const done = Object.values(summary.files).reduce((sum, count) => sum + count, 0)
  const rows = summary.rows + summary.known
  const left = summary.bytes === 0 ? undefined : (seconds * (totalBytes - summary.bytes)) / summary.bytes
  return [
    `${formatCount(done)} of ${formatCount(totalFiles)} files`,
    `${formatCount(rows)} rows`,
    `${formatCount(Math.round(rows / seconds))} rows/s`,
    ...(left === undefined ? [] : [`${formatDuration(left)} left`]),
  ].join(', ')
}

/** What a run did, for people. Pure. */
export function showSummary(summary: Summary, seconds: number): string {
  const { files } = summary
  const counts = Object.entries(files).filter(([, count]) => count > 0)
  const done = counts.map(([state, count]) => `${formatCount(count)} ${state}`).join(', ')
  return [
    `files: ${done || 'none that need it'}`,
    `rows: ${formatCount(summary.rows)} new, ${formatCount(summary.known)} known; ` +
      `${formatCount(summary.conflicts)} conflicts, ${formatCount(summary.rejects)} rejected lines`,
    `read: ${formatSize(summary.bytes)} in ${formatDuration(seconds)}, ` +
      `${formatCount(Math.round((summary.rows + summary.known) / Math.max(seconds, 0.001)))} rows/s`,
    ...summary.problems.map(({ path, state, reason }) => `${state}: ${path}: ${reason}`),
  ].join('\n')
}

/** Whether the table is what the files say, for people. Pure. */
export function showChecked(checked: Checked): string {
  const { files, rows, extra, differing } = checked
  const ok = `${formatCount(files)} files, ${formatCount(rows)} rows`
  if (differing.length === 0 && extra === 0) return `${ok}: the table is what the files say`
  return [
    ok,
    ...(extra === 0 ? [] : [`${formatCount(extra)} rows of these devices are in no file of this host`]),
    ...differing.map(({ path, reason }) => `differs: ${path}: ${reason}`),
  ].join('\n')
}

/** What is on the disk, for people. Pure. */
export function showInventory(inventory: Inventory): string {
  const { files, added, changed, vanished, vanishedPaths, moved, skipped } = inventory
  const counts = { new: added, changed, moved: moved.length, vanished, skipped: skipped.length }
  const told = Object.entries(counts).map(([what, count]) => `${formatCount(count)} ${what}`)
  return [
    `${formatCount(files)} files: ${told.join(', ')}`,
    ...moved.slice(0, 100).map(({ from, to }) => `moved: ${from} to ${to}`),
    ...vanishedPaths.map((path) => `vanished: ${path}`),
    ...skipped.slice(0, 100).map(({ path, reason }) => `skipped: ${path}: ${reason}`),
  ].join('\n')
}
