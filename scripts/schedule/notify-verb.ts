import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { notify } from './notify.ts'

/** `schedule notify` */
export const notifyVerb: Verb = {
  name: 'notify',
  summary: 'tell of failures, missed successes and recoveries that nobody was told of yet',
  options: [{ flags: '--unit <unit>', help: 'of this unit only: for units, as OnFailure=' }],
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'lock-held', 'command-failed'],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const { unit } = call.options
  const told = await notify(host, typeof unit === 'string' ? unit : undefined)
  const missed = told.filter(({ missed }) => missed.length > 0)
  if (missed.length > 0) {
    const whom = missed.map(({ job, missed }) => `${missed.join(', ')} of ${job}`).join('; ')
    throw new Fail('command-failed', `not everybody could be told: ${whom}`, {
      hint: 'It stays due, and is tried again by each: howdah schedule notify',
    })
  }
  const lines = told.map(({ job, state, to }) => `told ${to.join(', ') || 'nobody'}: ${job} ${state}`)
  return { text: lines.join('\n') || 'nothing is due', result: { told } }
}
