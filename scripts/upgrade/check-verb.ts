import { type LoadedHost, loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { plain } from '../core/plain.ts'
import { beginProgress } from '../core/progress.ts'
import { show } from '../cluster/sql.ts'
import { type CheckTarget, checkUpgrade, type Finding } from './check.ts'
import { openSpec } from './place.ts'
import { CHOICE, FAILS, requestOf } from './run-verb.ts'
import type { UpgradeRequest } from './run.ts'
import { nameOf } from './show.ts'

/** `upgrade check` */
export function checkVerb(packageOf: CheckTarget['packageOf']): Verb {
  return {
    name: 'check',
    summary: 'look for all that is in the way of an upgrade, while the cluster serves',
    options: CHOICE,
    common: ['file'],
    fails: FAILS,
    run: (call) => check(call, packageOf),
  }
}

async function check(call: Call, packageOf: CheckTarget['packageOf']): Promise<Outcome> {
  const { loaded, request } = await asked(call)
  const { pair, method } = request
  const old = await openSpec(loaded.host, pair.old)
  using progress = beginProgress(`check of ${nameOf(pair.old)} to ${nameOf(pair.new)}`, call.json)
  progress.show('looking')
  const findings = await checkUpgrade(old, { host: loaded.host, spec: pair.new, method, packageOf })
  const errors = findings.filter(({ severity }) => severity === 'error').length
  const sum =
    errors === 0
      ? `nothing is in the way. Next: howdah upgrade rehearse --to ${pair.new.major}`
      : `${errors} of these are in the way`
  return {
    text: [...findings.map(showFinding), sum].join('\n'),
    result: { from: nameOf(pair.old), to: nameOf(pair.new), findings },
    ok: errors === 0,
  }
}

/** One finding for people: what is, and what to do. */
export function showFinding({ severity, database, message, hint }: Finding): string {
  const symbol = { error: '!', warning: '~', note: '-' }[severity]
  const where = database === '' ? '' : `database ${show(database)}: `
  return `${symbol} ${where}${plain(message)}\n    ${plain(hint)}`
}

async function asked(call: Call): Promise<{ loaded: LoadedHost; request: UpgradeRequest }> {
  const loaded = await loadHost(call.file, call.overrides)
  const request = await requestOf(loaded, call)
  return { loaded, request }
}
