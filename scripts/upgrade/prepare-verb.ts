import { holdResource } from '../cluster/lock.ts'
import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { beginProgress } from '../core/progress.ts'
import { type AptForecast, aptForecast, showForecast } from './apt.ts'
import { hostWith, openSpec } from './place.ts'
import { CHOICE, FAILS, type MakeSurroundings, requestOf } from './run-verb.ts'
import { nameOf, nextOf } from './show.ts'
import { upgradeLog, type UpgradeState } from './state.ts'

/** `upgrade prepare-os` */
export function prepareVerb(surroundingsOf: MakeSurroundings): Verb {
  return {
    name: 'prepare-os',
    summary:
      'before the operating system is upgraded: take a backup, pause the jobs, look at what apt would do',
    options: [...CHOICE, { flags: '--no-backup', help: 'take no backup' }],
    common: ['file', 'plan'],
    fails: [...FAILS, 'plan-impossible'],
    run: (call) => prepare(call, surroundingsOf),
  }
}

async function prepare(call: Call, surroundingsOf: MakeSurroundings): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const { host } = loaded
  const request = await requestOf(loaded, call)
  const { pair } = request
  const old = await openSpec(host, pair.old)
  const asks = await asksToUpgrade()
  const apt = { asks, forecast: await forecastShown(call.json) }
  if (call.planOnly) return outcomeOf('would be prepared', { pair, apt, backup: undefined, paused: [] })
  await using _lock = await holdResource(hostWith(host, pair.old), old, 'cluster')
  const written = upgradeLog(host, old.osUser)
  const before = await written.read()
  if (before !== undefined) {
    throw new Fail(
      'plan-impossible',
      `an upgrade to ${before.new.major} was begun and is at "${before.phase}"`,
      {
        hint: `${nextOf(before)}.`,
      },
    )
  }
  const around = surroundingsOf(loaded, call)
  const backup = await around.backup(host)
  const paused = await around.pausableJobs()
  const state: UpgradeState = {
    phase: 'prepared',
    ...pair,
    method: request.method === 'auto' ? 'copy' : request.method,
    verify: request.verify,
    spare: 0,
    file: request.file,
    begun: new Date().toISOString(),
    paused,
    notes: [],
  }
  await written.write(state)
  await around.pauseJobs(paused)
  return outcomeOf('is prepared', { pair, apt, backup, paused })
}

/** With thousands of packages apt takes its time. */
async function forecastShown(isJson: boolean): Promise<AptForecast | undefined> {
  using progress = beginProgress('preparation', isJson)
  progress.show('apt simulates the upgrade of the operating system')
  return await aptForecast()
}

interface Prepared {
  readonly pair: Pick<UpgradeState, 'old' | 'new'>
  readonly apt: {
    /** Whether it will ask if it is to upgrade clusters by itself. */
    readonly asks: boolean
    readonly forecast: AptForecast | undefined
  }
  readonly backup: string | undefined
  readonly paused: readonly string[]
}

function outcomeOf(what: string, { pair, apt, backup, paused }: Prepared): Outcome {
  const { old, new: target } = pair
  const lines = [
    `${nameOf(old)} ${what} for another operating system`,
    ...(backup === undefined ? [] : [`backup ${backup} was taken`]),
    ...(paused.length === 0 ? [] : [`paused: ${paused.join(', ')}`]),
    ...showForecast(apt.forecast, old.major!),
    ...(apt.asks && old.kind === 'debian' ? [ASKS] : []),
    `next: let apt upgrade the system (${nameOf(old)} stays, and its programs), reboot, then: howdah upgrade run --to ${target.major}`,
  ]
  return {
    text: lines.join('\n'),
    result: {
      from: nameOf(old),
      to: nameOf(target),
      backup: backup ?? null,
      paused,
      apt: apt.forecast ?? null,
      asksToUpgrade: apt.asks,
    },
  }
}

const ASKS =
  'apt may ask whether clusters are to be upgraded by itself (postgresql/auto_upgrade), which is by a dump, without proof and without a way back. The answer is no, as it is by default'

/**
 * Debian's package postgresql of 13 and newer asks whether it is to upgrade clusters by itself: by a dump, without proof
 * and without a way back (debconf postgresql/auto_upgrade; false by default).
 * @returns whether it was not answered yet
 * @throws {Fail} `plan-impossible` when the answer is yes
 */
async function asksToUpgrade(): Promise<boolean> {
  const { stdout } = await run(
    ['sh', '-c', 'command -v debconf-show >/dev/null && debconf-show postgresql postgresql-common'],
    {
      okCodes: [0, 1, 2, 127],
    },
  )
  if (!/auto_upgrade: *true/.test(stdout)) return !/\* .*auto_upgrade: *false/.test(stdout)
  throw new Fail(
    'plan-impossible',
    'apt is told to upgrade clusters by itself, by a dump and without a way back',
    {
      hint: `Tell it not to: echo 'postgresql postgresql/auto_upgrade boolean false' | debconf-set-selections`,
    },
  )
}
