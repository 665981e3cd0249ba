import { formatCount, formatSize } from '../core/quantity.ts'
import type { PlannedBackup, PlannedWal, StorePlan } from './prune-plan.ts'

/** What one job keeps and gives up in one store. */
export interface JobTotals {
  readonly job: string
  readonly kept: number
  readonly keptSize: number
  readonly removed: number
  readonly removedSize: number
}

/** Sums of a plan by job, in the order of their names. Pure. */
export function jobTotals(backups: readonly PlannedBackup[]): JobTotals[] {
  const jobs = [...Map.groupBy(backups, ({ job }) => job)].toSorted(([a], [b]) => (a < b ? -1 : 1))
  return jobs.map(([job, own]) => {
    const stay = own.filter(({ kept }) => kept)
    const go = own.filter(({ kept }) => !kept)
    return {
      job,
      kept: stay.length,
      keptSize: sum(stay),
      removed: go.length,
      removedSize: sum(go),
    }
  })
}

/** Bytes that a plan frees in a store. Pure. */
export function freedBytes({ backups, leftovers, wal }: StorePlan): number {
  return sum(backups.filter(({ kept }) => !kept)) + sum(leftovers) + sum(wal)
}

/** What would go and what stays, each with its reason. Pure. */
export function showPrunePlan(plans: readonly StorePlan[]): string {
  return plans.flatMap((plan) => storeLines(plan, true)).join('\n') || 'no stores'
}

/** What has gone. Pure. */
export function showPruned(plans: readonly StorePlan[], denied: readonly string[]): string {
  const lines = plans.flatMap((plan) => storeLines(plan, false))
  for (const what of denied) lines.push(`! the store would not delete ${what}: it is kept`)
  return lines.join('\n') || 'no stores'
}

function storeLines(plan: StorePlan, isPlan: boolean): string[] {
  const [does, frees] = isPlan ? ['would remove', 'would free'] : ['removed', 'freed']
  const width = Math.max(0, ...plan.backups.map(({ label }) => label.length))
  const shown = isPlan ? plan.backups : plan.backups.filter(({ kept }) => !kept)
  return [
    `store ${plan.store}, ${plan.url}: ${frees} ${formatSize(freedBytes(plan))}`,
    ...jobTotals(plan.backups).map(
      ({ job, kept, keptSize, removed, removedSize }) =>
        `  job ${job}: keeps ${count(kept, 'backup')} (${formatSize(keptSize)}), ${does} ${formatCount(removed)} (${formatSize(removedSize)})`,
    ),
    ...shown.map(
      ({ label, kept, size, reasons }) =>
        `  ${kept ? ' ' : '-'} ${label.padEnd(width)}  ${formatSize(size).padStart(7)}  ${reasons.join(', ')}`,
    ),
    ...plan.leftovers.map(
      ({ label, size, keys, reason }) =>
        `  - ${count(keys.length, 'file')} of ${label} (${formatSize(size)}): ${reason}`,
    ),
    ...plan.wal.flatMap((wal) => walLines(wal, isPlan)),
    ...(plan.staleMarkers.length === 0
      ? []
      : [`  - ${count(plan.staleMarkers.length, 'mark')} of dead takes`]),
    ...plan.warnings.map((text) => `  ! ${text}`),
  ]
}

function walLines(wal: PlannedWal, isPlan: boolean): string[] {
  const { systemIdentifier, segments, keys, size, keptSize, reason } = wal
  const stays = `    WAL of ${systemIdentifier}: keeps ${formatSize(keptSize)}`
  if (segments.length === 0) {
    const rest =
      keys.length === 0
        ? []
        : [`  - ${count(keys.length, 'file')} of the WAL of ${systemIdentifier} (${formatSize(size)})`]
    return [...rest, ...(isPlan ? [`${stays}${isReason(wal) ? `: ${reason}` : ''}`] : [])]
  }
  const range = segments.length === 1 ? segments[0]! : `${segments[0]} to ${segments.at(-1)}`
  const goes = `  - ${count(segments.length, 'segment')} of the WAL of ${systemIdentifier}, ${range} (${formatSize(size)}): ${reason}`
  return isPlan && keptSize > 0 ? [goes, stays] : [goes]
}

/** Whether the reason says why it stays. */
function isReason({ reason }: PlannedWal): boolean {
  return !reason.startsWith('older than') && !reason.startsWith('of a system')
}

function sum(items: readonly { readonly size: number }[]): number {
  return items.reduce((total, { size }) => total + size, 0)
}

function count(number: number, noun: string): string {
  return `${formatCount(number)} ${noun}${number === 1 ? '' : 's'}`
}
