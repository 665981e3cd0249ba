import { type LoadedHost, loadHost } from '../cluster/open.ts'
import { askYes, canAsk } from '../core/ask.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { type Code, Fail } from '../core/fail.ts'
import { install, type InstallPlan, isInstalled, planInstall } from './install.ts'
import { showInstallPlan } from './install-show.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'lock-held',
  'command-failed',
  'hazard-refused',
  'plan-impossible',
  'change-undone',
]

/** `schedule install` */
export const installVerb: Verb = {
  name: 'install',
  summary: 'install the jobs of the host file as timers of systemd, with the program that they run',
  common: ['file', 'plan', 'allow', 'yes'],
  fails: FAILS,
  run,
}

async function run(call: Call): Promise<Outcome> {
  const loaded = await loadFile(call)
  if (call.planOnly) return outcome(await planInstall(loaded, call.allow), 'to do')
  const plan = await install(loaded, {
    allow: call.allow,
    confirm: async (plan) => call.yes || call.json || !canAsk() || askYes(`${showInstallPlan(plan)}\nDo it?`),
  })
  return plan ? outcome(plan, 'done') : { text: 'nothing was changed', result: { changes: [], findings: [] } }
}

/**
 * Reads the host file as units will.
 * @throws {Fail} `usage` for overrides: no unit would know of them
 */
export async function loadFile(call: Call): Promise<LoadedHost> {
  const [first] = call.overrides
  if (first !== undefined) {
    throw new Fail('usage', `"${first}" would not reach the units, which say what the host file says`, {
      hint: `Write it into the host file: ${call.file}`,
    })
  }
  return loadHost(call.file)
}

function outcome(plan: InstallPlan, when: 'done' | 'to do'): Outcome {
  const { program, files, actions, findings } = plan
  const isProgramNew = program !== undefined && !(program.isThere && program.isCurrent)
  const sum = isInstalled(plan)
    ? program === undefined
      ? 'nothing is scheduled'
      : 'nothing to do'
    : when === 'done'
      ? 'installed'
      : undefined
  return {
    text: [showInstallPlan(plan), ...(sum === undefined ? [] : [sum])].filter(Boolean).join('\n'),
    result: {
      program: program === undefined ? null : { path: program.path, isNew: isProgramNew },
      changes: files.map(({ action, name, path }) => ({ action, name, path })),
      started: actions.start,
      restarted: actions.restart,
      findings,
    },
  }
}
