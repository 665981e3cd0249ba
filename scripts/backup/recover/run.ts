import { randomBytes } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { exists } from '../../core/file.ts'
import { interrupted } from '../../core/interrupt.ts'
import { log } from '../../core/log.ts'
import type { Host } from '../../host/schema.ts'
import { randomLetters } from '../label.ts'
import { fetchBackup, releaseControl } from './fetch.ts'
import { handOver, startRestored } from './finish.ts'
import { holdCopy, holdOwn } from './hold.ts'
import { assertPlaceFree, assertStillFree } from './place.ts'
import { assertRecoverable, explained, planRecovery, type RecoverPlan, type RecoverRequest } from './plan.ts'
import { startPrefetcher } from './prefetch.ts'
import type { Sources } from './sources.ts'
import { recover, type Recovered, type RecoveryState } from './server.ts'
import { tablespaceGuard } from './tablespace-guard.ts'
import { makeWork, recoverWorks, swapWork, undoWork, type Work, workLog, workOf } from './work.ts'

export type RecoverPhase = 'planned' | 'fetched' | 'recovered' | 'decided' | 'swapped' | 'started'

/** How to restore a cluster. */
export interface RecoverOptions {
  /** File of the private key. */
  readonly identity?: string | undefined
  /** Asked with the plan before anything is changed; false stops it. */
  readonly confirm?: (plan: RecoverPlan) => Promise<boolean>
  /** Told what has just been done. */
  readonly onPhase?: (phase: RecoverPhase) => void
  /** Told of each piece that comes out of the store. */
  readonly onBytes?: (count: number) => void
  readonly onState?: (state: RecoveryState) => void
  /** How long a store that does not answer is asked again, seconds. */
  readonly patience?: number | undefined
}

/** A cluster that was restored. */
export interface RecoverResult {
  readonly plan: RecoverPlan
  readonly recovered: Recovered
  /** Undefined when it was not to be started. */
  readonly cluster: Cluster | undefined
}

/**
 * Restores a whole cluster. Everything is made under names of its own, and what is there stays as it is,
 * until the recovery has reached its target; then it takes its place, and what was there is kept.
 * @throws {Fail} what {@link planRecovery} and {@link assertRecoverable} throw, `target-not-empty`,
 *   `target-unreached`, `backup-damaged`, `wrong-key`, `lock-held`
 */
export async function restoreCluster(
  host: Host,
  sources: Sources,
  request: RecoverRequest,
  options: RecoverOptions = {},
): Promise<RecoverResult> {
  await using _held = request.to === undefined ? await holdOwn(host) : await holdCopy(host, request.to)
  const plan = await planRecovery(host, sources, request, options.identity)
  const recoveredWorks = await recoverWorks(host.host.state_dir, plan.place.dataDir)
  // What a dead run had begun may have changed what is there.
  const now =
    recoveredWorks.length === 0 ? plan : await planRecovery(host, sources, request, options.identity)
  await assertPlaceFree(now.place, now.tablespaces)
  assertRecoverable(now)
  if ((await options.confirm?.(now)) === false) {
    throw new Fail('interrupted', 'nothing was changed', { hint: 'Answer y, or give --yes.' })
  }
  const recovered = await run(host, now, options).catch((error: unknown) => {
    throw explained(error, now)
  })
  const cluster = request.starts ? await startRestored(host, now) : undefined
  if (cluster) options.onPhase?.('started')
  return { plan: now, recovered, cluster }
}

async function run(host: Host, plan: RecoverPlan, options: RecoverOptions): Promise<Recovered> {
  const id = randomLetters(randomBytes(6))
  const { label, systemIdentifier } = plan.chain.at(-1)!.manifest
  const spool = plan.place.kind === 'own' ? await spoolStep(host, systemIdentifier, id) : null
  const work = workOf({ id, label, place: plan.place, moves: plan.tablespaces, spool })
  const written = workLog(host.host.state_dir, id, plan.place.osUser)
  await written.write(work)
  options.onPhase?.('planned')
  let recovered: Recovered
  try {
    await makeWork(work, plan.place)
    await fetchBackup(plan, work, { identity: options.identity, onBytes: options.onBytes })
    options.onPhase?.('fetched')
    recovered = await recoverIn(host, plan, work, options)
    options.onPhase?.('recovered')
    await handOver(host, plan, work, options.identity)
    interrupted.throwIfAborted()
    await assertStillFree(plan.place)
    await written.write({ ...work, phase: 'swap' }) // from here on it is finished, whatever happens
  } catch (error) {
    await undo(work, () => written.remove())
    throw error
  }
  options.onPhase?.('decided')
  await swapWork(work)
  options.onPhase?.('swapped')
  await written.remove()
  return recovered
}

async function recoverIn(
  host: Host,
  plan: RecoverPlan,
  work: Work,
  options: RecoverOptions,
): Promise<Recovered> {
  const { walSegmentSize: segmentSize } = plan.chain.at(-1)!.manifest.physical
  const { kind, bindir } = plan.place
  const seen = join(work.root, 'seen')
  await using prefetcher = await startPrefetcher({
    guard: kind === 'copy' ? await tablespaceGuard(bindir, seen, plan.route.segments) : undefined,
    wal: plan.wal,
    folder: join(work.root, 'wal'),
    owner: plan.place.owner,
    segmentSize,
    planned: plan.route.segments,
    inBackup: await segmentsIn(join(work.data, 'pg_wal'), segmentSize),
    patience: options.patience,
  })
  await releaseControl(work)
  try {
    return await recover({
      plan,
      work,
      script: prefetcher.script,
      failure: prefetcher.failure,
      superuser: host.postgres.superuser,
      onState: options.onState,
    })
  } catch (error) {
    // A server whose restore_command fails ends by itself: why that failed says more.
    throw interrupted.aborted ? error : (prefetcher.error() ?? error)
  }
}

/** Whole segments that came with the backup. */
async function segmentsIn(folder: string, segmentSize: number): Promise<Set<string>> {
  const found = new Set<string>()
  for (const name of await readdir(folder)) {
    const { size } = await stat(join(folder, name))
    if (/^[0-9A-F]{24}$/.test(name) && size === segmentSize) found.add(name)
  }
  return found
}

/** Removes what was made. When that fails, the journal makes the next run do it. */
async function undo(work: Work, forget: () => Promise<void>): Promise<void> {
  try {
    await undoWork(work)
    await forget()
  } catch (error) {
    log(
      'warning',
      `restore: "${work.root}" could not be removed, the next restore does it: ${messageOf(error)}`,
    )
  }
}

/** An old spool would make the archive service fail for ever, or mix two histories. */
async function spoolStep(
  host: Host,
  systemIdentifier: string,
  id: string,
): Promise<{ from: string; to: string } | null> {
  const from = join(host.host.state_dir, 'spool', systemIdentifier)
  return (await exists(from)) ? { from, to: `${from}.before-${id}` } : null
}
