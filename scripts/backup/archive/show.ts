import { formatDuration, formatSize } from '../../core/quantity.ts'
import type { ArchivePlan } from './plan.ts'
import type { ArchiveStatus } from './status.ts'

/** What an archive is worth now, for people. Pure. */
export function showStatus(status: ArchiveStatus): string {
  const { position, loss, server, slot, spool } = status
  const rows: [string, string][] = [
    ['loss now', loss === null ? 'not known' : showLoss(loss, status.maxLoss)],
    [
      'stored up to',
      position === null ? 'nothing' : `${position.lsn} on timeline ${position.timeline}, ${position.time}`,
    ],
    [
      'server at',
      server === null ? 'it does not answer' : `${server.lsn} on timeline ${server.timeline}, ${server.time}`,
    ],
    ['slot', slot === null ? 'not seen' : showSlot(slot)],
    ['spool', `${spool.segments} whole segments, ${formatSize(spool.size)}`],
    ['store', status.store],
  ]
  return [
    ...rows.map(([name, value]) => `${name.padEnd(12)}  ${value}`),
    ...status.problems.map((problem) => `problem: ${problem}`),
  ].join('\n')
}

/** What the service would make and use, for people. Pure. */
export function showPlan(plan: ArchivePlan): string {
  return [
    `${plan.slot.exists ? '=' : '+'} slot "${plan.slot.name}" of ${plan.cluster}`,
    `${plan.spool.exists ? '=' : '+'} spool ${plan.spool.folder}, up to ${formatSize(plan.spool.limit)}`,
    `${plan.position === null ? '+' : '='} archive ${plan.store}${plan.position === null ? '' : `, stored up to ${plan.position.lsn}`}`,
    `each segment of ${formatSize(plan.segmentSize)} when it is whole, and the one that is being written every ${formatDuration(plan.partialEvery)}${plan.isEncrypted ? ', encrypted' : ''}`,
  ].join('\n')
}

function showLoss({ seconds, bytes }: NonNullable<ArchiveStatus['loss']>, maxLoss: number): string {
  const size = bytes === null ? '' : `, ${formatSize(bytes)}`
  return `${formatDuration(seconds)}${size} (at most ${formatDuration(maxLoss)} is wanted)`
}

function showSlot({
  name,
  walStatus,
  isActive,
  heldBytes,
  safeBytes,
}: NonNullable<ArchiveStatus['slot']>): string {
  const held = heldBytes === null ? 'holds nothing' : `holds ${formatSize(heldBytes)}`
  const safe = safeBytes === null ? '' : `, ${formatSize(safeBytes)} more until it may be given up`
  return `"${name}" is ${walStatus ?? 'unused'}, ${isActive ? 'received from' : 'nobody receives'}, ${held}${safe}`
}
