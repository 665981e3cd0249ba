import { type LoadedHost, loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { plain } from '../core/plain.ts'
import { beginProgress } from '../core/progress.ts'
import { formatCount, formatDuration, formatSize } from '../core/quantity.ts'
import { originOf } from './origin.ts'
import { openSpec } from './place.ts'
import { rehearse } from './rehearse.ts'
import {
  type BackupRehearsalPlan,
  type BackupRehearsed,
  type Backups,
  planBackupRehearsal,
  rehearseBackup,
} from './rehearse-backup.ts'
import { CHOICE, FAILS, requestOf } from './run-verb.ts'
import type { UpgradeRequest } from './run.ts'
import { nameOf } from './show.ts'

/** Which backup, as the command line says it. */
export interface BackupChoice {
  /** Undefined: the newest. */
  readonly label: string | undefined
  /** File of the private key. */
  readonly identity: string | undefined
  readonly onBytes: (count: number) => void
}

/** Makes what a rehearsal needs of backups. */
export type MakeBackups = (loaded: LoadedHost, choice: BackupChoice) => Backups

/** `upgrade rehearse` */
export function rehearseVerb(backupsOf: MakeBackups): Verb {
  return {
    name: 'rehearse',
    summary:
      'bring every definition, or all of a backup, into a cluster of the new major that is thrown away',
    options: [
      ...CHOICE,
      { flags: '--from-backup [label]', help: 'with the data of a backup; default: the newest' },
      { flags: '--identity <file>', help: "age's private key; default: [encryption] identity" },
    ],
    common: ['file', 'plan'],
    fails: [
      ...FAILS,
      'plan-impossible',
      'no-space',
      'verify-failed',
      'secret',
      'wrong-key',
      'store-denied',
      'store-unreachable',
      'backup-missing',
      'backup-damaged',
      'wal-missing',
      'target-unreached',
      'target-not-empty',
    ],
    run: (call) => rehearsal(call, backupsOf),
  }
}

async function rehearsal(call: Call, backupsOf: MakeBackups): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const request = await requestOf(loaded, call)
  if (call.options['fromBackup'] !== undefined) return withBackup(call, { loaded, request, backupsOf })
  if (call.options['identity'] !== undefined)
    throw new Fail('usage', '--identity is for --from-backup', { hint: 'Add: --from-backup' })
  return ofDefinitions(call, request)
}

async function ofDefinitions(call: Call, request: UpgradeRequest): Promise<Outcome> {
  const { pair, host } = request
  const old = await openSpec(host, pair.old)
  const about = { from: nameOf(pair.old), to: nameOf(pair.new) }
  if (call.planOnly) {
    return {
      text: `every definition of ${about.from} would go into a cluster of ${pair.new.major} in a temporary folder, which is removed; no row would`,
      result: about,
    }
  }
  using progress = beginProgress(`rehearsal with ${pair.new.major}`, call.json)
  progress.show('every definition goes into a cluster that is thrown away')
  const { databases, seconds } = await rehearse(old, pair.new, await originOf(old))
  return {
    text: `${pair.new.major} takes every definition of ${databases.length} databases, in ${formatDuration(seconds)}. ${nextOf(request)}`,
    result: { ...about, databases, seconds },
  }
}

interface Wanted {
  readonly loaded: LoadedHost
  readonly request: UpgradeRequest
  readonly backupsOf: MakeBackups
}

async function withBackup(call: Call, { loaded, request, backupsOf }: Wanted): Promise<Outcome> {
  const text = (name: string) => {
    const value = call.options[name]
    return typeof value === 'string' ? value : undefined
  }
  using progress = beginProgress(`rehearsal with ${request.pair.new.major}`, call.json)
  let bytes = 0
  const backups = backupsOf(loaded, {
    label: text('fromBackup'),
    identity: text('identity'),
    onBytes: (count) => progress.show(`${formatSize((bytes += count))} of the backup`),
  })
  if (call.planOnly) {
    const plan = await planBackupRehearsal(request, backups)
    return { text: showPlan(plan, request), result: resultOf(plan, request) }
  }
  const done = await rehearseBackup(request, backups, (step) => progress.show(step))
  return outcomeOf(done, request)
}

/** What is done with a backup, for people. */
const WAY_TEXT = {
  pg_upgrade: 'by pg_upgrade, with linked files: both are thrown away',
  dump: 'by the method dump',
  restore: 'by a restore of its dumps',
} as const

function showPlan({ source, way, needs }: BackupRehearsalPlan, { pair }: UpgradeRequest): string {
  const { label, kind, ended, databases, bytes, folder, free } = source
  return [
    `backup ${label}: kind ${kind}, ended ${ended}, ${formatSize(bytes)} in ${databases.length} databases`,
    ...(kind === 'dump'
      ? []
      : [`+ scratch cluster of ${pair.old.major} in ${folder}, recovered to the newest WAL`]),
    `+ scratch cluster of ${pair.new.major} in ${folder}, ${WAY_TEXT[way]}`,
    `  space: ${formatSize(needs)} of ${formatSize(free)} that are free`,
    `- both in the end, and the folder; nothing of ${nameOf(pair.old)} is touched`,
  ].join('\n')
}

function outcomeOf(done: BackupRehearsed, request: UpgradeRequest): Outcome {
  const { source, way, compared, differences, seconds } = done
  const { new: target } = request.pair
  const shown = differences.slice(0, 20).map(({ what }) => `! ${plain(what)} is not what it was`)
  const how =
    compared === undefined
      ? 'each database has as many objects of each kind as when it was dumped'
      : `${formatCount(compared)} things compared by ${request.verify}: ${differences.length === 0 ? 'all equal' : `${differences.length} differ`}`
  const lines = [
    `${target.major} takes all of backup ${source.label} (ended ${source.ended}), ${WAY_TEXT[way]}, in ${formatDuration(seconds)}: ${source.databases.map(plain).join(', ')}`,
    how,
    ...shown,
    nextOf(request),
  ]
  return {
    text: lines.join('\n'),
    result: { ...resultOf(done, request), compared: compared ?? null, differences, seconds },
    ...(differences.length > 0 && {
      fail: new Fail(
        'verify-failed',
        `${differences.length} things of backup ${source.label} come out otherwise`,
        {
          hint: `The first: ${plain(differences[0]!.what)}. Nothing of the old cluster was touched.`,
        },
      ),
    }),
  }
}

function resultOf(
  { source, way, needs }: BackupRehearsalPlan,
  { pair }: UpgradeRequest,
): Record<string, unknown> {
  const { label, kind, ended, databases, folder, bytes, free } = source
  const about = { from: nameOf(pair.old), to: nameOf(pair.new), way }
  return { ...about, backup: { label, kind, ended, bytes }, databases, folder, needs, free }
}

function nextOf({ pair }: UpgradeRequest): string {
  return `Next: howdah upgrade run --to ${pair.new.major} --plan`
}
