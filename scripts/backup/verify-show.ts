import { formatCount, formatSize } from '../core/quantity.ts'
import { isSound, type Verified } from './verify.ts'

/** What was found, for people. Pure. */
export function showVerified(verified: Verified): string {
  const { backups, wal, problems, notes, restorable } = verified
  const width = Math.max(0, ...backups.map(({ label }) => label.length))
  const lines = backups.flatMap(({ label, files, size, deep, problems }) => [
    `${label.padEnd(width)}  ${files} files, ${formatSize(size)}${deep ? ', contents too' : ''}: ${problems.length === 0 ? 'good' : 'DAMAGED'}`,
    ...problems.map((problem) => `  ! ${problem}`),
  ])
  for (const { systemIdentifier, segments, first, last, deep, problems } of wal) {
    const range = first === null ? '' : `, ${first} to ${last}`
    lines.push(
      `WAL of ${systemIdentifier}: ${formatCount(segments)} segments${range}${deep ? ', contents too' : ''}: ${problems.length === 0 ? 'whole' : 'NOT WHOLE'}`,
      ...problems.map((problem) => `  ! ${problem}`),
    )
  }
  lines.push(...problems.map((problem) => `! ${problem}`), ...notes)
  if (backups.length === 0) lines.push('no backups')
  else if (isSound(verified)) lines.push('everything is as it was written')
  else lines.push(`restorable: ${restorable.length === 0 ? 'NONE' : restorable.join(', ')}`)
  return lines.join('\n')
}
