#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Restores a database, or a whole cluster, from a backup.
 *
 *     howdah restore database xtelem --plan -c conf/demo.toml
 *
 * Exit codes: 0 done, 2 usage, 10 host file, 12 secret, 13 another user is needed, 20 locked, 25 a program
 * failed, 30-33 server, 40 and 42 plan, 51-54 store and backup, 56 something is in its place, 57 no
 * space, 59 WAL is missing, 60 the restored database is not what was dumped, 61 target unreached, 62 wrong key or none.
 */
import { clusterVerb } from './backup/recover/verb.ts'
import { planDatabaseRestore, restoreDatabase, type RestoreScope } from './backup/restore.ts'
import { type RestorePlan, showRestorePlan } from './backup/restore-plan.ts'
import { loadHost } from './cluster/open.ts'
import { askYes, canAsk } from './core/ask.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import { Fail } from './core/fail.ts'
import { beginProgress } from './core/progress.ts'
import { formatCount, formatDuration, formatSize } from './core/quantity.ts'

await main({
  name: 'restore',
  summary: 'restore a database, or a whole cluster, from a backup',
  example: 'howdah restore database xtelem --plan -c conf/demo.toml',
  verbs: [
    {
      name: 'database',
      summary: 'restore one database into a new one, check it, and give it its name',
      args: ['<database>'],
      options: [
        { flags: '--backup <label>', help: 'the backup to take it from', default: 'latest' },
        { flags: '--job <name>', help: 'the latest of this job' },
        { flags: '--as <name>', help: 'the name to restore it under' },
        {
          flags: '--swap',
          help: 'put it in the place of the one that exists, which is kept as NAME_before_TIME',
        },
        {
          flags: '--identity <file>',
          help: "age's private key, for a backup that is encrypted; default: [encryption] identity",
        },
        { flags: '--drop-old', help: 'with --swap: drop that one afterwards (needs --allow deletes-data)' },
      ],
      common: ['file', 'plan', 'yes', 'allow'],
      fails: [
        'host-file',
        'file-unreadable',
        'secret',
        'not-permitted',
        'lock-held',
        'command-failed',
        'server-unreachable',
        'server-denied',
        'server-failed',
        'cluster-mismatch',
        'hazard-refused',
        'plan-impossible',
        'store-denied',
        'store-unreachable',
        'backup-missing',
        'backup-damaged',
        'target-not-empty',
        'no-space',
        'verify-failed',
        'wrong-key',
      ],
      run: restore,
    },
    clusterVerb,
  ],
})

async function restore(call: Call): Promise<Outcome> {
  const scope = await scopeOf(call)
  const begun = performance.now()
  if (call.planOnly) {
    const plan = await planDatabaseRestore(scope)
    const isPossible = !plan.findings.some(({ level }) => level === 'impossible')
    return { text: showRestorePlan(plan, new Date()), result: resultOf(plan), ok: isPossible }
  }
  using progress = beginProgress('restore', call.json)
  let bytes = 0
  const plan = await restoreDatabase(scope, {
    onBytes: (count) => progress.show(formatSize((bytes += count))),
    onPhase: (phase) => progress.show(phase),
    confirm: async (plan) => {
      if (plan.before === null || call.yes || call.json || !canAsk()) return true
      return askYes(`${showRestorePlan(plan, new Date())}\nDo it?`)
    },
  })
  const seconds = (performance.now() - begun) / 1000
  return { text: showRestored(plan, seconds), result: { ...resultOf(plan), seconds } }
}

async function scopeOf(call: Call): Promise<RestoreScope> {
  const { host } = await loadHost(call.file, call.overrides)
  const option = (name: string) => {
    const value = call.options[name]
    return typeof value === 'string' ? value : undefined
  }
  const [database = ''] = call.args
  const dropOld = call.options['dropOld'] === true
  const swap = call.options['swap'] === true
  assertConsent(call, dropOld, swap)
  return {
    host,
    identity: option('identity'),
    request: { database, as: option('as'), swap, dropOld },
    choice: { label: option('backup') ?? 'latest', job: option('job'), database },
  }
}

function assertConsent({ allow, options, planOnly }: Call, dropOld: boolean, swap: boolean): void {
  for (const hazard of allow) {
    if (hazard === 'deletes-data') continue
    throw new Fail('usage', `there is no hazard "${hazard}" here`, { hint: 'The only one is: deletes-data.' })
  }
  if (swap && options['as'] !== undefined) {
    throw new Fail('usage', '--swap and --as exclude each other', {
      hint: "A name of its own takes nobody's place.",
    })
  }
  if (dropOld && !swap) throw new Fail('usage', '--drop-old is for --swap')
  if (!dropOld || planOnly || allow.has('deletes-data')) return
  throw new Fail('hazard-refused', 'nothing was changed: --drop-old needs consent for deletes-data', {
    hint: 'Look at it with --plan. Then add: --allow deletes-data',
  })
}

function showCount(kinds: string, count: number): string {
  return `${formatCount(count)} ${count === 1 ? kinds.replace(/(x)es$|s$/, '$1') : kinds}`
}

/** Stable keys for machines. */
function resultOf(plan: RestorePlan): Record<string, unknown> {
  const { manifest, entry, file, target, before, dropsBefore, sessions, freeBytes, findings } = plan
  return {
    label: manifest.label,
    job: manifest.job,
    database: entry.name,
    target,
    before,
    dropsBefore,
    sessions,
    size: file.size,
    plainSize: file.plainSize,
    objects: entry.objects,
    freeBytes: freeBytes ?? null,
    findings,
  }
}

function showRestored(
  { manifest, entry, file, target, before, dropsBefore, findings }: RestorePlan,
  seconds: number,
): string {
  const objects = Object.entries(entry.objects).map(([kind, count]) => showCount(kind, count))
  const lines = findings.map(({ text }) => `! ${text}`)
  lines.push(
    `database ${target} is that of ${manifest.label}: ${objects.join(', ') || 'no objects'}, ${formatSize(file.plainSize ?? file.size)}, in ${formatDuration(seconds)}`,
  )
  if (before !== null) {
    lines.push(
      dropsBefore
        ? `${before}, which was in its place, was dropped`
        : `what was in its place is kept as ${before}`,
    )
  }
  return lines.join('\n')
}
