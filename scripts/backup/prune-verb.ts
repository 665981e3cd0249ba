import { loadHost } from '../cluster/open.ts'
import { askYes, canAsk } from '../core/ask.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { beginProgress } from '../core/progress.ts'
import { planPrune, prune } from './prune.ts'
import { isEmptyPlan, type StorePlan } from './prune-plan.ts'
import { freedBytes, jobTotals, showPruned, showPrunePlan } from './prune-show.ts'
import { waitSecondsOf, WAIT_OPTION } from './wait.ts'

/** `backup prune [job]` */
export const pruneVerb: Verb = {
  name: 'prune',
  summary: 'delete the backups that "keep" and "pitr" of their jobs do not keep, and the WAL of no use',
  args: ['[job]'],
  options: [WAIT_OPTION],
  common: ['file', 'plan', 'yes'],
  fails: [
    'host-file',
    'file-unreadable',
    'not-permitted',
    'lock-held',
    'server-unreachable',
    'server-denied',
    'cluster-mismatch',
    'store-denied',
    'store-unreachable',
    'backup-damaged',
    'no-space',
  ],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const scope = { host, job: call.args[0], waitSeconds: waitSecondsOf(call) }
  if (call.planOnly) {
    const plans = await planPrune(scope)
    return { text: showPrunePlan(plans), result: { stores: plans.map(resultOf) } }
  }
  using progress = beginProgress('prune', call.json)
  let deleted = 0
  const { plans, denied } = await prune(scope, {
    confirm: async (plans) => {
      if (call.yes || call.json || !canAsk()) return true
      return askYes(`${showPrunePlan(plans)}\nDo it?`)
    },
    onDeleted: (count) => progress.show(`${(deleted += count)} objects deleted`),
  })
  const text = isEmptyPlan(plans)
    ? `nothing to remove\n${showPruned(plans, denied)}`
    : showPruned(plans, denied)
  return { text, result: { stores: plans.map(resultOf), denied } }
}

/** What is to go and what stays in one store: stable keys for machines. Pure. */
export function resultOf(plan: StorePlan): Record<string, unknown> {
  return {
    store: plan.store,
    url: plan.url,
    freedBytes: freedBytes(plan),
    jobs: jobTotals(plan.backups),
    backups: plan.backups.map(({ label, job, kept, reasons, size }) => ({ label, job, kept, reasons, size })),
    leftovers: plan.leftovers.map(({ label, reason, size, keys }) => ({
      label,
      reason,
      size,
      files: keys.length,
    })),
    wal: plan.wal.map(({ systemIdentifier, reason, segments, size, keptSize }) => ({
      systemIdentifier,
      reason,
      segments: segments.length,
      first: segments[0] ?? null,
      last: segments.at(-1) ?? null,
      size,
      keptSize,
    })),
    staleMarkers: plan.staleMarkers.length,
    warnings: plan.warnings,
  }
}
