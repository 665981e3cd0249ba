#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Plans and applies what the host file wants of a PostgreSQL host.
 *
 *     howdah provision plan -c conf/demo.toml
 *
 * Exit codes: 0 done or nothing pending, 1 changes are pending (plan --check), 2 usage, 10 host
 * file, 13 another user is needed, 20 locked, 25 a program failed, 30-33 server, 40-43 plan.
 */
import { parse as parseToml } from 'smol-toml'
import { loadHost } from './cluster/open.ts'
import { askYes, canAsk } from './core/ask.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import { type Code, Fail } from './core/fail.ts'
import { beginProgress } from './core/progress.ts'
import { formatDuration } from './core/quantity.ts'
import { VERSION } from './core/version.ts'
import { planMigrations, runMigrations } from './migrate/provision.ts'
import type { Change } from './plan/change.ts'
import { exportHost } from './plan/export.ts'
import { applyHost, type HostPlan, planHost, type Scope } from './plan/provision.ts'
import { type DatabaseMode, modesOf, showModes } from './plan/mode.ts'
import { readPlan, savePlan } from './plan/saved.ts'
import { showChange, showFinding, showPlan } from './plan/show.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'secret',
  'not-permitted',
  'server-unreachable',
  'server-denied',
  'server-failed',
  'cluster-mismatch',
]

await main({
  name: 'provision',
  summary: 'bring a host in line with its host file',
  example: 'howdah provision plan -c conf/demo.toml',
  verbs: [
    {
      name: 'plan',
      summary: 'say what differs; write nothing',
      options: [
        { flags: '--out <file>', help: 'save the plan, to be run by: apply <file>' },
        { flags: '--check', help: 'exit with 1 when changes are pending' },
        { flags: '--steps', help: 'show the statements and commands, too' },
      ],
      common: ['file', 'only'],
      fails: FAILS,
      run: plan,
    },
    {
      name: 'apply',
      summary: 'do what plan says, or what a saved plan says',
      args: ['[plan]'],
      common: ['file', 'plan', 'only', 'allow', 'yes'],
      fails: [
        ...FAILS,
        'lock-held',
        'command-failed',
        'hazard-refused',
        'plan-stale',
        'plan-impossible',
        'change-undone',
      ],
      run: apply,
    },
    {
      name: 'export',
      summary: 'write a host file for a cluster that exists',
      options: [
        { flags: '--cluster <major/name>', help: 'a Debian cluster, without a host file' },
        { flags: '--data-dir <dir>', help: 'a private cluster, without a host file' },
        { flags: '--url <url>', help: 'a remote cluster, without a host file' },
      ],
      common: ['file'],
      fails: FAILS,
      run: exportToml,
    },
  ],
})

async function plan(call: Call): Promise<Outcome> {
  const scope = await scopeOf(call)
  using progress = beginProgress('plan', call.json)
  progress.show('looking')
  const made = await planHost(scope)
  const out = call.options['out']
  if (typeof out === 'string') await savePlan(out, made.origin, made.planned)
  return outcomeOf(made, call, modesOf(scope.loaded.host, made.planned))
}

async function apply(call: Call): Promise<Outcome> {
  const [saved] = call.args
  if (call.planOnly) return saved === undefined ? plan(call) : showSaved(saved)
  const scope = await scopeOf(call)
  const begun = performance.now()
  using progress = beginProgress('apply', call.json)
  const { changes, findings } = await applyHost(scope, {
    allow: call.allow,
    file: call.args[0],
    onDone: (change) => progress.show(`${change.kind} ${change.name}`),
    confirm: async (made) =>
      call.yes || call.json || !canAsk() || askYes(`${showPlan(made.planned)}\nDo it?`),
  })
  const seconds = (performance.now() - begun) / 1000
  const modes = modesOf(scope.loaded.host, { changes })
  const sum =
    changes.length === 0
      ? 'nothing to do'
      : `${changes.length} ${changes.length === 1 ? 'change' : 'changes'} in ${formatDuration(seconds)}${foundText(modes)}`
  return {
    text: [...changes.map(showChange), ...findings.map(showFinding), sum].join('\n'),
    result: {
      changes: changes.map(({ steps: _steps, ...change }) => change),
      findings,
      databases: modes,
      seconds,
    },
  }
}

/** What a saved plan says; whether it still holds is for apply to see. */
async function showSaved(path: string): Promise<Outcome> {
  const { changes, digest } = await readPlan(path, VERSION)
  const planned = { changes, findings: [], digest }
  return { text: showPlan(planned, true), result: planned }
}

async function exportToml(call: Call): Promise<Outcome> {
  const { cluster, dataDir, url } = call.options
  const text = await exportHost({
    file: call.file,
    overrides: call.overrides,
    ...(typeof cluster === 'string' && { cluster }),
    ...(typeof dataDir === 'string' && { dataDir }),
    ...(typeof url === 'string' && { url }),
  })
  return { text: text.trimEnd(), result: parseToml(text) }
}

/** On the line of the sum. */
function foundText(modes: readonly DatabaseMode[]): string {
  return modes.length === 0 ? '' : `; ${showModes(modes)}`
}

async function scopeOf(call: Call): Promise<Scope> {
  if (call.only?.length === 0) {
    throw new Fail('usage', '--only names no kind', { hint: 'Leave it out to look at everything.' })
  }
  const loaded = await loadHost(call.file, call.overrides)
  const migrations = {
    plan: () => planMigrations(loaded),
    run: (onDone: (change: Change) => void) => runMigrations(loaded, onDone),
  }
  return { loaded, overrides: call.overrides, only: call.only, migrations }
}

function outcomeOf({ planned, note }: HostPlan, call: Call, modes: readonly DatabaseMode[]): Outcome {
  const found = planned.changes.length === 0 ? '' : foundText(modes)
  const text = [showPlan(planned, call.options['steps'] === true, found), ...(note ? [note] : [])].join('\n')
  // Nor is it as the host file says where nothing can be done about it, or where nobody could look.
  const isAsWanted =
    planned.changes.length === 0 &&
    planned.findings.every(({ level }) => level !== 'impossible') &&
    note === undefined
  return {
    text,
    result: { ...planned, databases: modes, note },
    ok: call.options['check'] !== true || isAsWanted,
  }
}
