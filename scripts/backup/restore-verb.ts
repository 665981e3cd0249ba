import { loadHost } from '../cluster/open.ts'
import { askYes, canAsk } from '../core/ask.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { beginProgress } from '../core/progress.ts'
import { formatCount, formatDuration, formatSize } from '../core/quantity.ts'
import { isInBase, planFromBase, restoreFromBase } from './recover/database.ts'
import { isRecoverable } from './recover/plan.ts'
import { recoverResult, showRecoverPlan } from './recover/show.ts'
import { parseTarget, type Target } from './recover/target.ts'
import { clusterClock, databaseClock } from './recover/times.ts'
import { CLUSTER_FAILS } from './recover/verb.ts'
import { planDatabaseRestore, restoreDatabase, type RestoreOptions, type RestoreScope } from './restore.ts'
import { type RestorePlan, showRestorePlan } from './restore-plan.ts'

/** `howdah restore database`. */
export const databaseVerb: Verb = {
  name: 'database',
  summary: 'restore one database into a new one, check it, and give it its name',
  args: ['<database>'],
  options: [
    { flags: '--backup <label>', help: 'the backup to take it from', default: 'latest' },
    { flags: '--job <name>', help: 'the latest of this job' },
    {
      flags: '--at <time>',
      help: 'out of a backup of the whole cluster, as it was then: "2026-11-22 10:00:00+01"',
    },
    { flags: '--lsn <lsn>', help: 'the same, at this position' },
    { flags: '--xid <number>', help: 'the same, at the end of this transaction' },
    { flags: '--name <name>', help: 'the same, at this restore point' },
    { flags: '--as <name>', help: 'the name to restore it under' },
    {
      flags: '--swap',
      help: 'put it in the place of the one that exists, which is kept as NAME_before_TIME',
    },
    {
      flags: '--identity <file>',
      help: "age's private key, for a backup that is encrypted; default: [encryption] identity",
    },
    { flags: '--drop-old', help: 'with --swap: drop that one afterwards (needs --allow deletes-data)' },
  ],
  common: ['file', 'plan', 'yes', 'allow'],
  fails: [...CLUSTER_FAILS, 'verify-failed'],
  run: restore,
}

async function restore(call: Call): Promise<Outcome> {
  const scope = await scopeOf(call)
  const target = targetOf(call)
  const isBase = target.kind !== 'latest' || (await isInBase(scope))
  if (call.planOnly) {
    if (isBase) return planOfBase(scope, target)
    const plan = await planDatabaseRestore(scope)
    const isPossible = !plan.findings.some(({ level }) => level === 'impossible')
    return { text: showRestorePlan(plan, new Date()), result: resultOf(plan), ok: isPossible }
  }
  const begun = performance.now()
  using progress = beginProgress('restore', call.json)
  let bytes = 0
  const [clock, clusters] = [databaseClock(), clusterClock()]
  const options: RestoreOptions = {
    onBytes: (count) => progress.show(formatSize((bytes += count))),
    onPhase: (phase) => {
      clock.onPhase(phase)
      progress.show(phase)
    },
    confirm: async (plan) => {
      if (plan.before === null || call.yes || call.json || !canAsk()) return true
      return askYes(`${showRestorePlan(plan, new Date())}\nDo it?`)
    },
  }
  const plan = isBase
    ? await restoreFromBase(scope, target, { ...options, onRecoverPhase: clusters.onPhase })
    : await restoreDatabase(scope, options)
  const seconds = (performance.now() - begun) / 1000
  const milliseconds = { ...clusters.times(), ...clock.times() }
  return { text: showRestored(plan, seconds), result: { ...resultOf(plan), seconds, milliseconds } }
}

/** Out of a backup of the whole cluster: what is recovered first, beside the cluster. */
async function planOfBase(scope: RestoreScope, target: Target): Promise<Outcome> {
  const plan = await planFromBase(scope, target)
  const text = `database ${scope.request.database} out of a scratch cluster:\n${showRecoverPlan(plan)}`
  return { text, result: recoverResult(plan), ok: isRecoverable(plan) }
}

function targetOf({ options }: Call): Target {
  const text = (name: string) => {
    const value = options[name]
    return typeof value === 'string' ? value : undefined
  }
  return parseTarget({ at: text('at'), lsn: text('lsn'), xid: text('xid'), name: text('name') })
}

async function scopeOf(call: Call): Promise<RestoreScope> {
  const { host } = await loadHost(call.file, call.overrides)
  const option = (name: string) => {
    const value = call.options[name]
    return typeof value === 'string' ? value : undefined
  }
  const [database = ''] = call.args
  const dropOld = call.options['dropOld'] === true
  const swap = call.options['swap'] === true
  assertConsent(call, dropOld, swap)
  return {
    host,
    identity: option('identity'),
    request: { database, as: option('as'), swap, dropOld },
    choice: { label: option('backup') ?? 'latest', job: option('job'), database },
  }
}

function assertConsent({ allow, options, planOnly }: Call, dropOld: boolean, swap: boolean): void {
  for (const hazard of allow) {
    if (hazard === 'deletes-data') continue
    throw new Fail('usage', `there is no hazard "${hazard}" here`, { hint: 'The only one is: deletes-data.' })
  }
  if (swap && options['as'] !== undefined) {
    throw new Fail('usage', '--swap and --as exclude each other', {
      hint: "A name of its own takes nobody's place.",
    })
  }
  if (dropOld && !swap) throw new Fail('usage', '--drop-old is for --swap')
  if (!dropOld || planOnly || allow.has('deletes-data')) return
  throw new Fail('hazard-refused', 'nothing was changed: --drop-old needs consent for deletes-data', {
    hint: 'Look at it with --plan. Then add: --allow deletes-data',
  })
}

function showCount(kinds: string, count: number): string {
  return `${formatCount(count)} ${count === 1 ? kinds.replace(/(x)es$|s$/, '$1') : kinds}`
}

/** Stable keys for machines. */
function resultOf(plan: RestorePlan): Record<string, unknown> {
  const { manifest, entry, file, target, before, dropsBefore, sessions, freeBytes, findings } = plan
  return {
    label: manifest.label,
    job: manifest.job,
    database: entry.name,
    target,
    before,
    dropsBefore,
    sessions,
    size: file.size,
    plainSize: file.plainSize,
    objects: entry.objects,
    freeBytes: freeBytes ?? null,
    findings,
  }
}

function showRestored(
  { manifest, entry, file, target, before, dropsBefore, findings }: RestorePlan,
  seconds: number,
): string {
  const objects = Object.entries(entry.objects).map(([kind, count]) => showCount(kind, count))
  const lines = findings.map(({ text }) => `! ${text}`)
  lines.push(
    `database ${target} is that of ${manifest.label}: ${objects.join(', ') || 'no objects'}, ${formatSize(file.plainSize ?? file.size)}, in ${formatDuration(seconds)}`,
  )
  if (before !== null) {
    lines.push(
      dropsBefore
        ? `${before}, which was in its place, was dropped`
        : `what was in its place is kept as ${before}`,
    )
  }
  return lines.join('\n')
}
