import type { Host } from '../host/schema.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { openCluster } from '../cluster/open.ts'
import { isClosed, stopServer } from '../cluster/restricted.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { protect } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { removeBootUnit } from './boot-unit.ts'
import { reloadUnits, setPort, setStart } from './doors.ts'
import { removeCluster } from './make.ts'
import { endOrphans } from './orphans.ts'
import { editedFor, hostWith, openSpec, writeHostFile } from './place.ts'
import { hasWayBack, type UpgradeLog, type UpgradeState } from './state.ts'
import { enableOld } from './transfer.ts'

/** What going back needs of others. */
export interface BackSurroundings {
  handOver(from: Cluster, to: Cluster): Promise<void>
  resumeJobs(names: readonly string[]): Promise<void>
}

/**
 * Removes the new cluster and lets the old one serve as before. Done again after a crash it goes on.
 * @throws {Fail} what {@link assertWayBack} throws
 */
export async function goBack(
  host: Host,
  state: UpgradeState,
  written: UpgradeLog,
  around: BackSurroundings,
): Promise<void> {
  assertWayBack(state)
  if (state.phase === 'prepared') {
    await around.resumeJobs(state.paused ?? [])
    await written.remove()
    return
  }
  await protect(() => takeBack(host, state, written, around))
}

async function takeBack(
  host: Host,
  state: UpgradeState,
  written: UpgradeLog,
  around: BackSurroundings,
): Promise<void> {
  const old = await openSpec(host, state.old)
  await note(state, written)
  await endOrphans(written.folder)
  // One that serves, at boot for instance, goes on to do so.
  if (isClosed(old)) await stopServer(old)
  const newHost = hostWith(host, state.new)
  const target = await openCluster(newHost)
  if (state.opened !== undefined && target) {
    await around.handOver(target, old)
    await setStart(state.new, 'manual', 'An upgrade is being taken back.')
    await stopServer(target)
  } else await removeCluster(newHost, old.osUser) // made only in part, maybe, and the disk may be full of it
  await enableOld(old)
  await setPort(state.old, state.old.port)
  await setStart(state.old, 'auto', 'As before: an upgrade was taken back.')
  await writeHostFile(state.file, await editedFor(state.file, state.old, state.new))
  const cluster = await openSpec(host, state.old)
  if (!(await cluster.isRunning())) await cluster.start()
  if (state.opened !== undefined && target) {
    // Nothing of one that people have written into goes before the old one serves; then there is nothing to ask it.
    const { opened: _opened, ...rest } = state
    await written.write({ ...rest, phase: 'back' })
    await removeCluster(newHost, old.osUser)
  }
  await reloadUnits(state.old)
  await removeBootUnit(host)
  await around.resumeJobs(state.paused ?? [])
  await written.remove()
}

/** That it is being taken back, for whoever comes after a crash. */
async function note(state: UpgradeState, written: UpgradeLog): Promise<void> {
  try {
    await written.write({ ...state, phase: 'back' })
  } catch (error) {
    // On a disk that the new cluster has filled. What has never opened is taken back by the next run in any case.
    if (state.opened !== undefined || state.phase === 'open') throw error
    log('warning', `upgrade: it cannot be written down that this is taken back: ${messageOf(error)}`)
  }
}

/**
 * That the old cluster can serve again.
 * @throws {Fail} `plan-impossible` when its files are the new one's by now, or it is being dropped
 */
export function assertWayBack(state: UpgradeState): void {
  if (hasWayBack(state)) return
  const { phase, method, new: target } = state
  if (phase === 'drop') {
    throw new Fail('plan-impossible', 'there is no way back: the old cluster is being dropped', {
      hint: 'Go on with that: howdah upgrade finalize',
    })
  }
  throw new Fail(
    'plan-impossible',
    `there is no way back: by the method ${method} the files of the old cluster became those of ${target.major} when that was started`,
    { hint: 'The newest backup of the old cluster has what it held: howdah restore cluster --plan' },
  )
}
