import { formatDuration, formatSize } from '../../core/quantity.ts'
import { formatLsn } from '../wal/segment.ts'
import type { RecoverFinding } from './findings.ts'
import { showWay } from './history.ts'
import type { RecoverPlan } from './plan.ts'
import type { RecoverResult } from './run.ts'
import { showTarget } from './target.ts'

/** A plan for people. Pure. */
export function showRecoverPlan(plan: RecoverPlan): string {
  const { chain, route, place, way, request, tablespaces, spaces } = plan
  const { manifest } = chain.at(-1)!
  const { segments, goal } = route
  const lines = plan.findings.map(showFinding)
  lines.push(
    `restore cluster of ${manifest.label}: kind ${manifest.kind}, PostgreSQL ${manifest.postgres.version}, ended ${manifest.ended}`,
  )
  if (chain.length > 1)
    lines.push(
      `  on top of ${chain
        .slice(0, -1)
        .map((each) => each.manifest.label)
        .join(', ')}`,
    )
  lines.push(
    `  target      ${showTarget(request.target)}${goal.kind === 'lsn' ? ` (LSN ${formatLsn(goal.lsn)})` : ''}`,
  )
  if (request.target.kind === 'xid' || request.target.kind === 'name') {
    const others = plan.older.length === 0 ? '' : `: if it is before, --backup ${plan.older[0]}`
    lines.push(
      `  assumes     that it is after the end of this backup, the newest one that may lead there${others}`,
    )
  }
  if (way) lines.push(`  timeline    ${showWay(way)}`)
  lines.push(
    segments.length === 0
      ? '  WAL         only that of the backup'
      : `  WAL         ${segments.length} segments, ${segments[0]} to ${segments.at(-1)}: all are in the store`,
    `  fetches     ${formatSize(plan.bytes)} of backup, taken in ${formatDuration(takenSeconds(plan))}, and ${formatSize(plan.walBytes)} of WAL before compression`,
    `  data        ${place.dataDir}, for OS user ${place.osUser}`,
  )
  for (const { name, from, to } of tablespaces)
    lines.push(`  tablespace  ${name}: ${to}${from === to ? '' : `, was in ${from}`}`)
  for (const { path, needs, free } of spaces)
    lines.push(`  space       ${path}: ${formatSize(needs)} of ${formatSize(free)} that are free`)
  if (place.before !== null) lines.push(`  keeps       what is there, as ${place.before}`)
  return lines.join('\n')
}

function showFinding({ level, text, hint }: RecoverFinding): string {
  const how = hint === undefined ? '' : ` (${hint})`
  return level === 'impossible' ? `x the run would refuse: ${text}${how}` : `! ${text}${how}`
}

/** How a restore went. */
export interface RecoverReport {
  readonly seconds: number
  /** Its parts, for people. */
  readonly times: string
}

/** How long the backup and those that it stands on were taken: nothing else is known of how fast the store is. */
function takenSeconds({ chain }: RecoverPlan): number {
  return chain.reduce((sum, { manifest }) => {
    const took = Date.parse(manifest.ended) - Date.parse(manifest.begun)
    return sum + Math.max(0, took) / 1000
  }, 0)
}

/** What was done, for people. */
export function showRecovered(
  { plan, recovered, cluster }: RecoverResult,
  { seconds, times }: RecoverReport,
): string {
  const { place, chain, archived, request } = plan
  const lines = plan.findings.map(showFinding)
  const commit = recovered.lastCommit === null ? '' : `, its last transaction of ${recovered.lastCommit}`
  lines.push(
    `cluster in ${place.dataDir} is that of ${chain.at(-1)!.manifest.label}, recovered to LSN ${recovered.lsn}${commit}, on timeline ${recovered.timeline}`,
    `restored in ${formatDuration(seconds)}: ${times}`,
    cluster === undefined ? 'it is not started' : `it runs: psql -h ${cluster.socketDir} -p ${cluster.port}`,
  )
  if (request.target.kind === 'latest' && archived !== undefined)
    lines.push(`the store had all until ${archived.time}: what was written after that is lost`)
  if (place.before !== null) lines.push(`what was there is kept as ${place.before}`)
  if (place.kind === 'copy') lines.push('it listens on its socket only, and archives nothing')
  else lines.push('it is on a new timeline: take a new base backup now: howdah backup take JOB')
  return lines.join('\n')
}

/** Stable keys for machines. */
export function recoverResult(plan: RecoverPlan): Record<string, unknown> {
  const { chain, route, place, way, request } = plan
  const { goal } = route
  return {
    label: chain.at(-1)!.manifest.label,
    older: plan.older,
    chain: chain.map(({ manifest }) => manifest.label),
    target: showTarget(request.target),
    goal: goal.kind === 'lsn' ? { kind: 'lsn', lsn: formatLsn(goal.lsn) } : goal,
    timeline: way?.timeline ?? null,
    segments: route.segments,
    bytes: plan.bytes,
    takenSeconds: takenSeconds(plan),
    walBytes: plan.walBytes,
    dataDir: place.dataDir,
    before: place.before,
    tablespaces: plan.tablespaces.map(({ name, from, to }) => ({ name, from, to })),
    spaces: plan.spaces,
    findings: plan.findings,
  }
}
