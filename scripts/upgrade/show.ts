import { plain } from '../core/plain.ts'
import { formatCount, formatDuration } from '../core/quantity.ts'
import type { Postgres } from '../host/schema.ts'
import type { UpgradePlan } from './plan.ts'
import type { Upgraded } from './run.ts'
import type { Phase, UpgradeState } from './state.ts'

/** A cluster for people: `15/main`, or the folder and major of a private one. */
export function nameOf({ kind, major, cluster, data_dir: dataDir }: Postgres): string {
  return kind === 'debian' ? `${major}/${cluster}` : `${dataDir} (${major})`
}

/** What goes on in each phase. */
export const PHASE_TEXT: Readonly<Record<Phase, string>> = {
  prepared: 'jobs are paused until the operating system is upgraded',
  make: 'the new cluster is made and checked; the old one serves',
  close: 'nobody can connect; what the old cluster holds is taken down',
  transfer: 'the data goes over',
  start: 'the new cluster is verified behind closed doors',
  open: 'the new cluster takes the place of the old one',
  after: 'the new cluster serves; its first backup is taken',
  kept: 'done; the old cluster is kept',
  drop: 'done; the old cluster is being dropped',
  back: 'the upgrade is taken back',
}

/** Seconds between the last query of the old cluster and the first one of the new; undefined while it lasts. */
export function outageOf({ closed, opened }: UpgradeState): number | undefined {
  if (closed === undefined || opened === undefined) return undefined
  return (Date.parse(opened) - Date.parse(closed)) / 1000
}

/** Lines of a plan. */
export function showPlan(plan: UpgradePlan): string {
  const { from, to, method, verify, size, dataDir, earlier } = plan
  if (earlier === 'kept' || earlier === 'drop')
    return `${from} was upgraded to ${to} already. Next: howdah upgrade status`
  if (earlier !== undefined)
    return `an upgrade to ${to} was begun and is at "${earlier}": it is finished or undone first`
  const isOneWay = method === 'link' || method === 'swap'
  return [
    `+ cluster ${to}${to.includes(dataDir) ? '' : ` in ${dataDir}`}: like ${from}, with its settings and rules`,
    `~ data: ${size} by the method ${method}, compared by ${verify}`,
    ...plan.hostFile.map((line) => `~ host file: ${line}`),
    isOneWay
      ? `! no way back as soon as the new cluster runs: both share their files`
      : `~ cluster ${from}: is stopped, and stays as it is until: howdah upgrade finalize`,
  ].join('\n')
}

/** What an upgrade has done, for people. */
export function showUpgraded({ state, finished, backup }: Upgraded): string {
  const outage = outageOf(state)
  const lines = [
    `${nameOf(state.old)} is ${nameOf(state.new)} now, by the method ${state.method}`,
    ...(outage === undefined ? [] : [`nobody could connect for ${formatDuration(outage)}`]),
  ]
  if (finished) {
    const { compared, resorted, extensions } = finished
    lines.push(`${formatCount(compared)} things compared by ${state.verify}: ${equality(finished.problems)}`)
    const { verified, rebuilt } = resorted
    if (verified.length + rebuilt.length > 0)
      lines.push(
        `texts sort by other libraries: ${verified.length} indexes verified, ${rebuilt.length} built anew`,
      )
    for (const extension of extensions) lines.push(`extension ${plain(extension)}`)
  }
  for (const note of state.notes) lines.push(`note: ${plain(note)}`)
  if (backup !== undefined) lines.push(`backup ${backup} was taken of it`)
  lines.push(nextOf(state))
  return lines.join('\n')
}

function equality(problems: readonly string[]): string {
  return problems.length === 0 ? 'all equal' : `${problems.length} differ`
}

/** What comes next, and until when there is a way back. */
export function nextOf(state: UpgradeState): string {
  const { phase, method } = state
  switch (phase) {
    case 'kept':
      return method === 'link' || method === 'swap'
        ? 'there is no way back; the old cluster goes with: howdah upgrade finalize'
        : 'the old cluster is kept: howdah upgrade rollback goes back to it, howdah upgrade finalize drops it'
    case 'drop':
      return 'next: howdah upgrade finalize, which goes on to drop the old cluster'
    case 'after':
    case 'open':
      return 'next: howdah upgrade run, which finishes it'
    case 'start':
      return method === 'link' || method === 'swap'
        ? 'there is no way back; next: howdah upgrade run, which finishes it'
        : 'next: howdah upgrade rollback, or howdah upgrade run, which does so and begins again'
    case 'prepared':
      return `next: upgrade the operating system, reboot, then: howdah upgrade run --to ${state.new.major}`
    case 'make':
    case 'close':
    case 'transfer':
    case 'back':
      return 'next: howdah upgrade rollback, or howdah upgrade run, which does so and begins again'
  }
}
