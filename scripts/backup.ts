#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Takes, lists, shows, verifies and prunes backups.
 *
 *     howdah backup take nightly -c conf/demo.toml
 *
 * Exit codes: 0 done, 1 verify found something, 2 usage, 10 host file, 13 another user is needed, 20
 * locked, 30-33 server, 50-55 store and backup, 57 no space, 62 wrong key.
 */
import { findBackup, readCatalogs } from './backup/catalog.ts'
import { totalsOf } from './backup/manifest.ts'
import { prune, type Pruned } from './backup/prune.ts'
import { showPruned } from './backup/prune-show.ts'
import { pruneVerb, resultOf } from './backup/prune-verb.ts'
import {
  ageSeconds,
  databaseNames,
  secondsOf,
  showBackup,
  showList,
  showTaken,
  showTakePlan,
} from './backup/show.ts'
import { planTake, take, type TakeScope } from './backup/take.ts'
import { verifyVerb } from './backup/verify-verb.ts'
import { waitSecondsOf, WAIT_OPTION } from './backup/wait.ts'
import { loadHost } from './cluster/open.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import { type Code, Fail } from './core/fail.ts'
import { beginProgress } from './core/progress.ts'
import { formatSize } from './core/quantity.ts'
import type { Host } from './host/schema.ts'
import { openStore } from './store/open.ts'

const FAILS: readonly Code[] = ['host-file', 'file-unreadable', 'store-denied', 'store-unreachable']

await main({
  name: 'backup',
  summary: 'take, list, show, verify and prune backups',
  example: 'howdah backup take nightly -c conf/demo.toml',
  verbs: [
    {
      name: 'take',
      summary: 'take a backup as [backup.JOB] of the host file says',
      args: ['[job]'],
      options: [
        { flags: '--take-over <machine>', help: 'go on with the backups of another machine, which is gone' },
        WAIT_OPTION,
        { flags: '--prune', help: 'afterwards do what "backup prune JOB" does' },
      ],
      common: ['file', 'plan'],
      fails: [
        ...FAILS,
        'not-permitted',
        'lock-held',
        'server-unreachable',
        'server-denied',
        'server-failed',
        'cluster-mismatch',
        'backup-damaged',
        'backup-failed',
        'no-space',
      ],
      run: takeBackup,
    },
    {
      name: 'list',
      summary: 'list the backups of this cluster, oldest first',
      options: [{ flags: '--job <name>', help: 'of this job only' }],
      common: ['file'],
      fails: FAILS,
      run: list,
    },
    {
      name: 'show',
      summary: 'show everything about one backup',
      args: ['[label]'],
      options: [{ flags: '--job <name>', help: 'the latest of this job' }],
      common: ['file'],
      fails: [...FAILS, 'backup-missing', 'backup-damaged'],
      run: show,
    },
    verifyVerb,
    pruneVerb,
  ],
})

async function takeBackup(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const takeOver = call.options['takeOver']
  const scope: TakeScope = {
    loaded,
    overrides: call.overrides,
    job: jobOf(call, loaded.host),
    waitSeconds: waitSecondsOf(call),
    ...(typeof takeOver === 'string' && { takeOver }),
  }
  if (call.planOnly) {
    const plan = await planTake(scope)
    return { text: showTakePlan(plan), result: plan }
  }
  using progress = beginProgress('backup', call.json)
  let bytes = 0
  const manifest = await take({
    ...scope,
    onBytes: (count) => progress.show(`${formatSize((bytes += count))} stored`),
    onProgress: (done, of) => progress.show(`${formatSize(done)} of ${formatSize(of)}`),
  })
  const { url } = openStore(loaded.host, loaded.host.backup[manifest.job]!.store)
  const text = showTaken(manifest, `${url}/${manifest.cluster}`)
  const result = { ...manifest, ...totalsOf(manifest.files), seconds: secondsOf(manifest), store: url }
  if (call.options['prune'] !== true) return { text, result }
  const pruned = await pruneAfter(scope, manifest.label)
  const { plans, denied } = pruned
  return {
    text: `${text}\n${showPruned(plans, denied)}`,
    result: { ...result, pruned: { stores: plans.map(resultOf), denied } },
  }
}

/** The take has given the store back, so this may wait for somebody else again. */
async function pruneAfter({ loaded: { host }, job, waitSeconds }: TakeScope, label: string): Promise<Pruned> {
  try {
    return await prune({ host, job, waitSeconds })
  } catch (cause) {
    if (!(cause instanceof Fail)) throw cause
    throw new Fail(
      cause.code,
      `the backup ${label} is there, but older ones could not be pruned: ${cause.message}`,
      {
        hint: cause.hint,
        cause,
      },
    )
  }
}

async function list(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const job = call.options['job']
  const entries = (await readCatalogs(host)).filter(
    (entry) => typeof job !== 'string' || 'problem' in entry || entry.manifest.job === job,
  )
  const now = new Date()
  const backups = entries.map((entry) => {
    const head = { label: entry.label, store: entry.store.url, ageSeconds: ageSeconds(entry.label, now) }
    if ('problem' in entry) return { ...head, problem: entry.problem.message }
    const { job, kind, begun, ended, files, physical } = entry.manifest
    return {
      ...head,
      job,
      kind,
      begun,
      ended,
      ...totalsOf(files),
      databases: databaseNames(entry.manifest),
      ...(physical && { startLsn: physical.startLsn, stopLsn: physical.stopLsn, parent: physical.parent }),
    }
  })
  return { text: showList(entries, now), result: { backups } }
}

async function show(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const job = call.options['job']
  const { manifest, store } = await findBackup(host, {
    label: call.args[0] ?? 'latest',
    job: typeof job === 'string' ? job : undefined,
  })
  return {
    text: showBackup(manifest, `${store.url}/${manifest.cluster}`),
    result: { ...manifest, ...totalsOf(manifest.files), store: store.url },
  }
}

function jobOf(call: Call, host: Host): string {
  const job = call.args[0]
  if (job !== undefined) return job
  const names = Object.keys(host.backup)
  throw new Fail('usage', 'the name of a job is missing: howdah backup take JOB', {
    hint: names.length === 0 ? 'The host file has no [backup.NAME].' : `There is: ${names.join(', ')}`,
  })
}
