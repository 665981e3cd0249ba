import { Fail } from '../core/fail.ts'
import { formatSize } from '../core/quantity.ts'
import { assertFree, dataDirOf } from './make.ts'
import { originOf } from './origin.ts'
import { editedFor, openSpec } from './place.ts'
import type { UpgradeRequest } from './run.ts'
import { nameOf } from './show.ts'
import { chooseMethod } from './space.ts'
import { type Method, upgradeLog, type UpgradeState } from './state.ts'

/** What an upgrade would do; plain data. */
export interface UpgradePlan {
  readonly from: string
  readonly to: string
  readonly method: Method
  readonly verify: string
  readonly size: string
  /** Folder of the new cluster. */
  readonly dataDir: string
  /** Keys of the host file that get another value. */
  readonly hostFile: readonly string[]
  /** An earlier run that is to be finished or undone first. */
  readonly earlier: UpgradeState['phase'] | undefined
}

/**
 * What {@link runUpgrade} would do; nothing is written.
 * @throws {Fail} for everything that would stop it before anything is changed
 */
export async function planUpgrade(request: UpgradeRequest): Promise<UpgradePlan> {
  const { host, pair, file } = request
  const old = await openSpec(host, pair.old)
  const earlier = await upgradeLog(host, old.osUser).read()
  const about = { from: nameOf(pair.old), to: nameOf(pair.new), verify: request.verify }
  if (earlier !== undefined && earlier.phase !== 'prepared') {
    const { phase, method } = earlier
    return { ...about, method, size: '', dataDir: dataDirOf(earlier.new), hostFile: [], earlier: phase }
  }
  if (!(await old.isRunning())) {
    throw new Fail('server-unreachable', `${old.label} does not run, and what it holds cannot be asked`, {
      hint: 'Start it first: howdah provision apply --only cluster',
    })
  }
  const { bytes, ownBytes } = await originOf(old)
  const method = await chooseMethod(old, pair.new, { asked: request.method, bytes: ownBytes })
  await assertFree(pair.new)
  await editedFor(file, pair.new, pair.old)
  const keys = (['major', 'data_dir', 'bindir', 'socket_dir'] as const).filter(
    (key) => pair.new[key] !== pair.old[key],
  )
  return {
    ...about,
    method,
    size: formatSize(bytes),
    dataDir: dataDirOf(pair.new),
    hostFile: keys.map((key) => `postgres.${key} = ${JSON.stringify(pair.new[key])}`),
    earlier: undefined,
  }
}
