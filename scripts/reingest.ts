#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Fills tables again from the files that their rows came from.
 *
 *     howdah reingest inventory -c conf/xtelem.toml && howdah reingest ingest -c conf/xtelem.toml
 *
 * Exit codes: 0 all was read, 1 verify: the table is not what the files say, 2 usage, 10 host file, 11 some file is
 * not a row in each line, or cannot be read at all, 30-33 server.
 */
import { loadHost, requireCluster } from './cluster/open.ts'
import { type Call, main, type OptionSpec, type Outcome } from './core/cli.ts'
import { type Code, Fail } from './core/fail.ts'
import { interrupted } from './core/interrupt.ts'
import { log } from './core/log.ts'
import { beginProgress } from './core/progress.ts'
import { formatCount, formatSize } from './core/quantity.ts'
import { currentUser } from './core/user.ts'
import { ingest, planIngest, type Summary } from './reingest/ingest.ts'
import { takeInventory } from './reingest/inventory.ts'
import { type Job, jobOf } from './reingest/job.ts'
import { showChecked, showInventory, showJob, showStanding, showSummary } from './reingest/show.ts'
import { verify } from './reingest/verify.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'server-unreachable',
  'server-denied',
  'server-failed',
  'cluster-mismatch',
]

const ALL: OptionSpec = { flags: '--all', help: 'each [reingest.NAME] of the host file, one after another' }

await main({
  name: 'reingest',
  summary: 'fill tables again from the files that their rows came from',
  example: 'howdah reingest ingest telem -c conf/xtelem.toml',
  verbs: [
    {
      name: 'inventory',
      summary: 'look through the folders for files that are new, were changed, moved, or are gone',
      args: ['[name]'],
      options: [ALL],
      common: ['file', 'plan'],
      fails: FAILS,
      run: lookForFiles,
    },
    {
      name: 'ingest',
      summary: 'read the files that are new or were changed; on several hosts at once, if you like',
      args: ['[name]'],
      options: [ALL],
      common: ['file', 'plan'],
      fails: FAILS,
      run: ingestFiles,
    },
    {
      name: 'backfill',
      summary: 'the same as ingest',
      args: ['[name]'],
      options: [ALL],
      common: ['file', 'plan'],
      fails: FAILS,
      run: ingestFiles,
    },
    {
      name: 'run',
      summary: 'inventory and ingest in one: what a schedule runs',
      args: ['[name]'],
      options: [ALL],
      common: ['file', 'plan'],
      fails: FAILS,
      run: runOnce,
    },
    {
      name: 'watch',
      summary: 'follow the folders, and read files as they are written, until SIGTERM: the service',
      args: ['[name]'],
      common: ['file', 'plan'],
      fails: FAILS,
      isService: true,
      run: watchFolders,
    },
    {
      name: 'verify',
      summary: 'read all files again, and compare each with the rows of the table',
      args: ['[name]'],
      options: [ALL],
      common: ['file'],
      fails: FAILS,
      run: verifyFiles,
    },
    {
      name: 'replica',
      summary: 'add a folder to which files are copied, list such folders, sync or verify what is in them',
      args: ['<add|list|sync|verify>', '[prefix]', '[name]'],
      common: ['file', 'plan'],
      fails: [...FAILS, 'no-space'],
      run: copies,
    },
    {
      name: 'enroll',
      summary:
        'take the files below PREFIX/HOST/PATH for copies of those of that host: what is gone is read from them',
      args: ['<prefix>', '[name]'],
      common: ['file', 'plan'],
      fails: FAILS,
      run: enrollDrive,
    },
  ],
})

async function lookForFiles(call: Call): Promise<Outcome> {
  return eachJob(call, (job) => lookIn(job, call))
}

async function lookIn(job: Job, call: Call): Promise<Outcome> {
  if (job.dataDirs.length === 0) {
    throw new Fail('host-file', `[reingest.${job.name}] names no folders to look through`, {
      hint: 'Add to it: data_dirs = ["/opt/MagAOX/telem"]',
    })
  }
  using progress = beginProgress(`reingest ${job.name}: inventory`, call.json)
  const onFiles = (count: number) => progress.show(`${formatCount(count)} files`)
  const inventory = await takeInventory(job, { planOnly: call.planOnly, onFiles })
  const outcome = { text: showInventory(inventory), result: { ...aboutJob(job), ...inventory } }
  const count = inventory.skipped.length
  if (count === 0) return outcome
  const fail = new Fail('file-unreadable', `${formatCount(count)} files or folders could not be looked at`)
  return { ...outcome, fail }
}

async function ingestFiles(call: Call): Promise<Outcome> {
  return eachJob(call, (job) => ingestInto(job, call))
}

async function runOnce(call: Call): Promise<Outcome> {
  const { bothOf } = await import('./reingest/once.ts')
  return eachJob(call, async (job) => bothOf(await lookIn(job, call), await ingestInto(job, call)))
}

async function watchFolders(call: Call): Promise<Outcome> {
  if (call.planOnly) return runOnce(call)
  const { watchFiles } = await import('./reingest/watch.ts')
  const { host } = await loadHost(call.file, call.overrides)
  return { text: '', result: await watchFiles(host, call.args[0]) }
}

async function ingestInto(job: Job, call: Call): Promise<Outcome> {
  if (call.planOnly) return planned(job)
  const begun = performance.now()
  const seconds = () => (performance.now() - begun) / 1000
  using progress = beginProgress(`reingest ${job.name}`, call.json)
  const summary = await ingest(job, (state) => progress.show(showStanding(state, seconds())))
  const outcome = { text: showSummary(summary, seconds()), result: { ...aboutJob(job), ...summary } }
  const fail = failOf(summary)
  return fail ? { ...outcome, fail } : outcome
}

async function planned(job: Job): Promise<Outcome> {
  const files = await planIngest(job)
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0)
  const text = [
    ...files.slice(0, 100).map(({ host, path }) => `${host}:${path}`),
    ...(files.length > 100 ? [`and ${formatCount(files.length - 100)} more`] : []),
    `would be read: ${formatCount(files.length)} files, ${formatSize(bytes)}`,
  ]
  return { text: text.join('\n'), result: { ...aboutJob(job), files, bytes } }
}

async function verifyFiles(call: Call): Promise<Outcome> {
  return eachJob(call, (job) => verifyJob(job, call))
}

async function verifyJob(job: Job, call: Call): Promise<Outcome> {
  using progress = beginProgress(`reingest ${job.name}: verify`, call.json)
  const checked = await verify(job, (done, all) => progress.show(`${done} of ${all} files`))
  const ok = checked.differing.length === 0 && checked.extra === 0
  return { text: showChecked(checked), result: { ...aboutJob(job), ...checked }, ok }
}

async function copies(call: Call): Promise<Outcome> {
  const { replicaVerb, wantedOf } = await import('./reingest/replica-verb.ts')
  const [action, ...args] = call.args
  const { names, prefix } = wantedOf(args)
  return await replicaVerb(action!, await openJob(call, names), call, prefix)
}

async function enrollDrive(call: Call): Promise<Outcome> {
  const { enrollVerb, wantedOf } = await import('./reingest/replica-verb.ts')
  const { names, prefix } = wantedOf(call.args)
  return await enrollVerb(await openJob(call, names), call, prefix)
}

/** Does something with the job that is named, or the only one; with `--all` with each, whatever becomes of the others. */
async function eachJob(call: Call, body: (job: Job) => Promise<Outcome>): Promise<Outcome> {
  if (call.options['all'] !== true) return body(await openJob(call))
  if (call.args.length > 0)
    throw new Fail('usage', `--all is each [reingest.NAME], and "${call.args[0]}" is one`)
  const { host } = await loadHost(call.file, call.overrides)
  const names = Object.keys(host.reingest)
  if (names.length === 0) return body(await openJob(call)) // which says so
  const outcomes = new Map<string, Outcome>()
  for (const name of names) {
    outcomes.set(
      name,
      await openJob(call, [name])
        .then(body)
        .catch((error: unknown) => failed(name, error)),
    )
  }
  const { allOf } = await import('./reingest/once.ts')
  return allOf(outcomes)
}

function failed(name: string, error: unknown): Outcome {
  if (interrupted.aborted || !(error instanceof Fail)) throw error
  const { code, message, hint } = error
  return { text: message, result: { job: name, error: { code, message, hint } }, fail: error }
}

async function openJob(call: Call, args: readonly string[] = call.args): Promise<Job> {
  const { host } = await loadHost(call.file, call.overrides)
  const job = jobOf(host, await requireCluster(host), args[0])
  if (!call.json) log('info', `reingest: ${showJob(job, currentUser())}`)
  return job
}

function aboutJob({ name, database, hostname, role }: Job): Readonly<Record<string, string | null>> {
  return { job: name, database, hostname, role: role ?? null, user: currentUser() }
}

function failOf({ files }: Summary): Fail | undefined {
  const { partial, failed } = files
  if (partial + failed === 0) return undefined
  const what = [
    ...(failed > 0 ? [`${formatCount(failed)} files were not stored`] : []),
    ...(partial > 0 ? [`${formatCount(partial)} files were stored in part`] : []),
  ]
  return new Fail('file-unreadable', what.join(', '), {
    hint: 'Why stands in the tables file_ingests and file_rejects.',
  })
}
