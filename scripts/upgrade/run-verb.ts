import { resolve } from 'node:path'
import { type LoadedHost, loadHost } from '../cluster/open.ts'
import { askYes, canAsk } from '../core/ask.ts'
import type { Call, OptionSpec, Outcome, Verb } from '../core/cli.ts'
import { type Code, Fail } from '../core/fail.ts'
import { beginProgress } from '../core/progress.ts'
import { currentUser } from '../core/user.ts'
import type { Host } from '../host/schema.ts'
import type { Manifest } from './manifest.ts'
import { planUpgrade } from './plan.ts'
import { type Asked, type Pair, pairOf } from './place.ts'
import { resumeUpgrade, runUpgrade, type Surroundings, type Upgraded, type UpgradeRequest } from './run.ts'
import { nameOf, nextOf, PHASE_TEXT, showPlan, showUpgraded } from './show.ts'
import { isDone, type Method, upgradeLog } from './state.ts'

/** Makes what an upgrade needs of other capabilities. */
export type MakeSurroundings = (loaded: LoadedHost, call: Call) => Surroundings

const METHODS = ['auto', 'copy', 'clone', 'link', 'swap', 'dump'] as const
const VERIFIES = ['catalog', 'counts', 'content'] as const

/** Ways to fail that every verb of an upgrade has. */
export const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'lock-held',
  'command-failed',
  'server-unreachable',
  'server-denied',
  'server-failed',
  'cluster-mismatch',
]

/** Options that say which clusters an upgrade is about, and how it is to be done. */
export const CHOICE: readonly OptionSpec[] = [
  { flags: '--to <major>', help: 'the major to go to; default: the one that the host file names' },
  {
    flags: '--from <major>',
    help: 'the major of the cluster that is there, if the host file names the new one',
  },
  { flags: '--method <method>', help: 'how the data goes over; default: [upgrade] method', choices: METHODS },
  { flags: '--bindir <dir>', help: "of a private cluster: the new major's programs" },
  { flags: '--data-dir <dir>', help: 'where the new data goes' },
]

/** `upgrade run` */
export function runVerb(surroundingsOf: MakeSurroundings): Verb {
  return {
    name: 'run',
    summary:
      'make the cluster of the new major, bring everything over, prove it, and let it take the place of the old one',
    options: [
      ...CHOICE,
      { flags: '--verify <depth>', help: 'what is compared; default: [upgrade] verify', choices: VERIFIES },
      { flags: '--jobs <count>', help: 'processes at once; default: one for each CPU' },
      { flags: '--no-backup', help: 'take no backup of the new cluster' },
    ],
    common: ['file', 'plan', 'yes', 'allow'],
    fails: [...FAILS, 'plan-impossible', 'target-not-empty', 'no-space', 'verify-failed'],
    run: (call) => run(call, surroundingsOf),
  }
}

/** `upgrade resume` */
export function resumeVerb(surroundingsOf: MakeSurroundings): Verb {
  return {
    name: 'resume',
    summary: 'finish or undo what a run that was cut off has left, and begin nothing',
    common: ['file'],
    fails: [...FAILS, 'plan-impossible', 'verify-failed'],
    run: (call) => resume(call, surroundingsOf),
  }
}

async function resume(call: Call, surroundingsOf: MakeSurroundings): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const state = await upgradeLog(loaded.host, currentUser()).read()
  if (state === undefined) return { text: 'no upgrade is under way', result: null }
  if (isDone(state) || state.phase === 'prepared') {
    return { text: `there is nothing to finish; ${nextOf(state)}`, result: null }
  }
  const upgraded = await resumeUpgrade(await requestOf(loaded, call), surroundingsOf(loaded, call))
  if (upgraded !== undefined) return outcomeOf(upgraded)
  return { text: 'what was begun is undone: the old cluster serves', result: null }
}

async function run(call: Call, surroundingsOf: MakeSurroundings): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const request = await requestOf(loaded, call)
  const plan = await planUpgrade(request)
  if (call.planOnly) return { text: showPlan(plan), result: plan }
  if (!call.yes && !call.json && canAsk() && !(await askYes(`${showPlan(plan)}\nDo it?`))) {
    throw new Fail('interrupted', 'nothing was changed', { hint: 'Answer y, or give --yes.' })
  }
  using progress = beginProgress(`upgrade to ${nameOf(request.pair.new)}`, call.json)
  const upgraded = await runUpgrade(
    { ...request, onPhase: (phase) => progress.show(PHASE_TEXT[phase]) },
    surroundingsOf(loaded, call),
  )
  return outcomeOf(upgraded)
}

function outcomeOf(upgraded: Upgraded): Outcome {
  const { state, finished } = upgraded
  const problems = finished?.problems ?? []
  return {
    text: showUpgraded(upgraded),
    result: { ...upgraded, state: { ...state, old: nameOf(state.old), new: nameOf(state.new) } },
    ...(problems.length > 0 && {
      fail: new Fail(
        'verify-failed',
        `the new cluster serves, and is not what the old one was: ${problems.length} differences`,
        {
          hint: 'There is no way back by this method. The newest backup has what was before: howdah backup list',
        },
      ),
    }),
  }
}

/** What the command line and the host file ask for, together. */
export async function requestOf(loaded: LoadedHost, call: Call): Promise<UpgradeRequest> {
  const { host } = loaded
  const { method, verify } = call.options
  const asked: Asked = {
    to: numberOf(call, 'to'),
    from: numberOf(call, 'from'),
    bindir: textOf(call, 'bindir'),
    dataDir: textOf(call, 'dataDir'),
  }
  return {
    host,
    file: resolve(call.file),
    overrides: call.overrides,
    pair: (await begunPair(host, asked)) ?? (await pairOf(host, asked)),
    method: METHODS.find((each): each is Method | 'auto' => each === method) ?? host.upgrade.method,
    verify: VERIFIES.find((each): each is Manifest['verify'] => each === verify) ?? host.upgrade.verify,
    jobs: numberOf(call, 'jobs'),
    mayInstall: call.allow.has('install'),
  }
}

/** Of an upgrade that was begun before, or is done: the host file may name the new cluster by now. */
async function begunPair(host: Host, { to }: Asked): Promise<Pair | undefined> {
  const state = await upgradeLog(host, currentUser()).read()
  if (state === undefined) return undefined
  if (to === undefined || to === state.new.major) return state
  throw new Fail(
    'plan-impossible',
    `an upgrade to ${state.new.major} is not over yet, so none to ${to} can begin`,
    {
      hint: `${nextOf(state)}.`,
    },
  )
}

function textOf({ options }: Call, name: string): string | undefined {
  const value = options[name]
  return typeof value === 'string' ? value : undefined
}

function numberOf(call: Call, name: string): number | undefined {
  const text = textOf(call, name)
  if (text === undefined) return undefined
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text)
  throw new Fail('usage', `--${name} wants a number, and "${text}" is none`)
}
