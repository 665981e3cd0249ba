import { isAbsolute, resolve } from 'node:path'
import type { Call, Outcome } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import { beginProgress } from '../core/progress.ts'
import { formatCount, formatSize } from '../core/quantity.ts'
import { type Enrolled, enroll } from './enroll.ts'
import type { Job } from './job.ts'
import { addReplica, listReplicas } from './replica.ts'
import { syncReplicas } from './replica-sync.ts'
import { verifyCopies } from './replica-verify.ts'

/** The folder and the name of a job: it is the slash that tells one from the other. */
interface Wanted {
  readonly names: readonly string[]
  readonly prefix: string | undefined
}

/** The job and the folder among arguments in any order. */
export function wantedOf(args: readonly string[]): Wanted {
  const prefix = args.find((arg) => arg.includes('/'))
  return {
    names: args.filter((arg) => !arg.includes('/')),
    // Without a slash at its end: what is below it is known by its beginning.
    prefix: prefix === undefined || isAbsolute(prefix) ? prefix && resolve(prefix) : refuse(prefix),
  }
}

function refuse(prefix: string): never {
  throw new Fail('usage', `"${prefix}" is no absolute path`, { hint: `Write it as: ${resolve(prefix)}` })
}

const ACTIONS = ['add', 'list', 'sync', 'verify']

/** Runs `replica add | list | sync | verify`. */
export async function replicaVerb(
  action: string,
  job: Job,
  call: Call,
  prefix: string | undefined,
): Promise<Outcome> {
  const { planOnly } = call
  if (action === 'add') return added(job, needed(prefix, 'replica add'), planOnly)
  if (action === 'list') return listed(job)
  using progress = beginProgress(`reingest ${job.name}: replica ${action}`, call.json)
  const onFile = (done: number, all: number) =>
    progress.show(`${formatCount(done)} of ${formatCount(all)} files`)
  if (action === 'sync') return await synced(job, prefix, { planOnly, onFile })
  if (action === 'verify') return await verified(job, prefix, onFile)
  throw new Fail('usage', `replica has no "${action}"${didYouMean(action, ACTIONS)}`, {
    hint: `There is: ${ACTIONS.join(', ')}`,
  })
}

/** Runs `enroll PREFIX`. */
export async function enrollVerb(job: Job, call: Call, prefix: string | undefined): Promise<Outcome> {
  using progress = beginProgress(`reingest ${job.name}: enroll`, call.json)
  const onFiles = (count: number) => progress.show(`${formatCount(count)} files`)
  const enrolled = await enroll(job, needed(prefix, 'enroll'), { planOnly: call.planOnly, onFiles })
  const outcome = { text: showEnrolled(enrolled), result: { job: job.name, ...enrolled } }
  const count = enrolled.skipped.length
  if (count === 0) return outcome
  const fail = new Fail('file-unreadable', `${formatCount(count)} files or folders could not be looked at`)
  return { ...outcome, fail }
}

function needed(prefix: string | undefined, verb: string): string {
  if (prefix !== undefined) return prefix
  throw new Fail('usage', 'which folder?', { hint: `Name it: howdah reingest ${verb} /mnt/backup` })
}

async function added(job: Job, prefix: string, planOnly: boolean): Promise<Outcome> {
  await addReplica(job, prefix, { planOnly })
  const will = planOnly ? 'would be copied' : 'are copied'
  const text = `files of ${job.hostname} ${will} to ${prefix}/${job.hostname}: howdah reingest replica sync`
  return { text, result: { job: job.name, prefix } }
}

async function listed(job: Job): Promise<Outcome> {
  const replicas = await listReplicas(job)
  const lines = replicas.map(
    ({ prefix, copies, bytes, missing }) =>
      `${prefix}: ${formatCount(copies)} copies, ${formatSize(bytes)}; ${formatCount(missing)} to be copied`,
  )
  const text = lines.length === 0 ? 'nothing is copied anywhere' : lines.join('\n')
  return { text, result: { job: job.name, replicas } }
}

async function synced(
  job: Job,
  prefix: string | undefined,
  options: Parameters<typeof syncReplicas>[2],
): Promise<Outcome> {
  const done = await syncReplicas(job, prefix, options)
  const { copied, bytes, gone, failed } = done
  const what = options.planOnly ? 'would be copied' : `copied, ${formatSize(bytes)}`
  const text = [
    `${formatCount(copied)} files ${what}; ${formatCount(gone)} are not there any more`,
    ...failed.slice(0, 100).map(({ path, reason }) => `failed: ${path}: ${reason}`),
  ].join('\n')
  const outcome = { text, result: { job: job.name, ...done } }
  if (failed.length === 0) return outcome
  return {
    ...outcome,
    fail: new Fail('file-unreadable', `${formatCount(failed.length)} files were not copied`),
  }
}

async function verified(
  job: Job,
  prefix: string | undefined,
  onFile: (done: number, all: number) => void,
): Promise<Outcome> {
  const done = await verifyCopies(job, prefix, onFile)
  const { copies, bytes, hashed, differing } = done
  const text = [
    `${formatCount(copies)} copies, ${formatSize(bytes)}: of ${formatCount(hashed)} all bytes were compared, of others size and time`,
    ...differing.map(({ path, reason }) => `differs: ${path}: ${reason}`),
  ].join('\n')
  return { text, result: { job: job.name, ...done }, ok: differing.length === 0 }
}

function showEnrolled({ copies, hosts, origins, changed, differing, vanished, skipped }: Enrolled): string {
  return [
    `${formatCount(copies)} copies of files of ${hosts.join(', ') || 'no host'}: ${formatCount(changed)} new or changed, ` +
      `${formatCount(vanished)} vanished; ${formatCount(origins)} originals were not known, ` +
      `${formatCount(differing)} are not what their copy is`,
    ...skipped.slice(0, 100).map(({ path, reason }) => `skipped: ${path}: ${reason}`),
  ].join('\n')
}
