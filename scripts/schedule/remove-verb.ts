import { askYes, canAsk } from '../core/ask.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { loadFile } from './install-verb.ts'
import { planRemove, remove, type RemovePlan } from './remove.ts'

/** `schedule remove` */
export const removeVerb: Verb = {
  name: 'remove',
  summary: 'remove all units of the host file; what the jobs recorded stays',
  common: ['file', 'plan', 'yes'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'lock-held', 'command-failed'],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const loaded = await loadFile(call)
  if (call.planOnly) return outcome(await planRemove(loaded))
  const plan = await remove(
    loaded,
    async (plan) => call.yes || call.json || !canAsk() || askYes(`${show(plan)}\nDo it?`),
  )
  return plan ? outcome(plan) : { text: 'nothing was changed', result: { removed: [], program: false } }
}

function outcome(plan: RemovePlan): Outcome {
  return {
    text: plan.files.length === 0 ? 'nothing is installed' : show(plan),
    result: { removed: plan.files, ended: plan.running, program: plan.program },
  }
}

function show({ files, running, program }: RemovePlan): string {
  return [
    ...files.map((path) => `- ${path}`),
    ...running.map((name) => `! ${name} runs, and is ended`),
    ...(program ? ['- the program in /opt/howdah: nothing needs it any more'] : []),
  ].join('\n')
}
