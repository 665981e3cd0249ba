import { loadHost } from '../../cluster/open.ts'
import type { Call, Outcome, Verb } from '../../core/cli.ts'
import { cleanRestores, type Leftover } from './clean.ts'

/** `howdah restore clean`. */
export const cleanVerb: Verb = {
  name: 'clean',
  summary: 'remove what restores that were killed have left, or finish them',
  common: ['file', 'plan'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'cluster-mismatch'],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const leftovers = await cleanRestores(host, call.planOnly)
  const lines = leftovers.map((leftover) => lineOf(leftover, call.planOnly))
  return {
    text: lines.length === 0 ? 'nothing was left' : lines.join('\n'),
    result: { leftovers },
    ok: leftovers.every(({ left, isLive }) => left === null || isLive),
  }
}

/** One line for people. Pure. */
function lineOf({ kind, path, label, action, left, isLive }: Leftover, planOnly: boolean): string {
  const what = {
    cluster: label === null ? `restore of a cluster, "${path}"` : `restore of ${label} to "${path}"`,
    scratch: `scratch cluster in "${path}"`,
    identity: `identity "${path}"`,
    database: label === null ? `journals in "${path}"` : `restore of ${label} to database "${path}"`,
  }[kind]
  if (left !== null) return `${isLive ? '=' : '!'} ${what}: is left alone: ${left}`
  const is = planOnly ? 'would be' : 'was'
  if (action === 'finish') return `~ ${what}: ${is} finished`
  return action === 'undo' ? `- ${what}: what it had made ${is} removed` : `- ${what}: ${is} removed`
}
