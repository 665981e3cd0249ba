import { type AddressInfo, createServer } from 'node:net'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { holdResource } from '../cluster/lock.ts'
import { closedFolder } from '../cluster/closed-folder.ts'
import { startClosed, stopServer } from '../cluster/restricted.ts'
import { mapAtOnce } from '../core/at-once.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { interrupted, protect } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import type { Host } from '../host/schema.ts'
import { goBack } from './back.ts'
import { installBootUnit, removeBootUnit } from './boot-unit.ts'
import { assertTaken, customOf, writeCustom } from './carry.ts'
import { type CheckTarget, checkUpgrade, packagesIn } from './check.ts'
import { closeDoors, keepManifest, keptManifest, writeOut } from './close.ts'
import { checkpointOf, setPort } from './doors.ts'
import { finish, type Finished } from './finish.ts'
import { assertFree, bindirOf, makeCluster } from './make.ts'
import { type Manifest, takeManifest } from './manifest.ts'
import { openDoors } from './open.ts'
import { endOrphans, markPrograms } from './orphans.ts'
import { type Origin, originOf } from './origin.ts'
import { editedFor, hostWith, openSpec, packagesFor, type Pair } from './place.ts'
import { rehearse } from './rehearse.ts'
import { chooseMethod } from './space.ts'
import {
  isDone,
  type Method,
  type Phase,
  sharesFiles,
  type UpgradeLog,
  upgradeLog,
  type UpgradeState,
} from './state.ts'
import { completeStatistics } from './statistics.ts'
import { openTarget, transferFiles, transferRows } from './transfer.ts'

/** What other capabilities do for an upgrade; whoever runs it composes them. */
export interface Surroundings {
  /** The Debian package that brings an extension. */
  readonly packageOf: CheckTarget['packageOf']
  /**
   * Renders kinds of things of the host file for a cluster: its settings, its rules.
   * @param cluster default: the one that the host file names
   */
  provision(host: Host, kinds: readonly string[], cluster?: Cluster): Promise<void>
  /** Jobs that could run now, and services that do. */
  pausableJobs(): Promise<readonly string[]>
  pauseJobs(names: readonly string[]): Promise<void>
  resumeJobs(names: readonly string[]): Promise<void>
  /** Lets stores that had backups of one cluster take those of another one. */
  handOver(from: Cluster, to: Cluster): Promise<void>
  /** Takes a full backup. @returns its label; undefined where the host file has no job for it */
  backup(host: Host): Promise<string | undefined>
}

/** What is to be done. */
export interface UpgradeRequest {
  readonly host: Host
  /** The host file, which is edited: an absolute path. */
  readonly file: string
  /** `a.b=value` arguments that were put over it. */
  readonly overrides: readonly string[]
  readonly pair: Pair
  readonly method: Method | 'auto'
  readonly verify: Manifest['verify']
  /** Processes; default: one for each CPU. */
  readonly jobs?: number | undefined
  /** Whether packages may be installed. */
  readonly mayInstall: boolean
  readonly onPhase?: (phase: Phase) => void
}

/** An upgrade that is done. */
export interface Upgraded {
  readonly state: UpgradeState
  /** Undefined where it was done before. */
  readonly finished: Finished | undefined
  readonly backup: string | undefined
}

/** An upgrade under way. */
interface Running extends UpgradeRequest {
  readonly around: Surroundings
  readonly written: UpgradeLog
  readonly jobs: number
  readonly old: Cluster
}

/**
 * Takes a cluster to another major. What fails before the new cluster has its place is undone, and the old one
 * serves again; what was begun by a run that died is undone or finished first.
 * @throws {Fail} `lock-held`, `target-not-empty`, `no-space`, `plan-impossible`, `command-failed`, `verify-failed`
 */
export async function runUpgrade(request: UpgradeRequest, around: Surroundings): Promise<Upgraded> {
  const { host, pair } = request
  const old = await openSpec(host, pair.old)
  await using _lock = await holdResource(hostWith(host, pair.old), old, 'cluster')
  const written = upgradeLog(host, old.osUser)
  await endOrphans(written.folder)
  markPrograms(written.folder)
  const running: Running = { ...request, around, written, jobs: request.jobs ?? availableParallelism(), old }
  const before = await written.read()
  if (before && isDone(before)) return { state: before, finished: undefined, backup: undefined }
  const state = before && (await resumed(running, before))
  if (state === undefined) {
    // A dead run may have left it elsewhere than it is now.
    const opened = { ...running, old: await openSpec(host, pair.old) }
    return begin(opened, before?.phase === 'prepared' ? before.paused : undefined)
  }
  return state.phase === 'after' ? conclude(running, state, undefined) : forward(running, state)
}

/**
 * Finishes or undoes what a run that died has left, and begins nothing.
 * @returns undefined when it was undone, or there was nothing
 */
export async function resumeUpgrade(
  request: UpgradeRequest,
  around: Surroundings,
): Promise<Upgraded | undefined> {
  const { host, pair } = request
  const old = await openSpec(host, pair.old)
  const written = upgradeLog(host, old.osUser)
  const state = await written.read()
  if (state === undefined || state.phase === 'prepared' || isDone(state)) return undefined
  if (await canFinish(old, state)) return runUpgrade(request, around)
  await using _lock = await holdResource(hostWith(host, pair.old), old, 'cluster')
  await goBack(host, state, written, around)
  return undefined
}

/** Whether an upgrade can, or need, only be finished. */
function isPastReturn(state: UpgradeState): boolean {
  return state.phase === 'open' || state.phase === 'after' || (state.phase === 'start' && sharesFiles(state))
}

/** Not where the old cluster has run since it closed its doors: somebody may have written into it. */
async function canFinish(old: Cluster, state: UpgradeState): Promise<boolean> {
  if (state.phase !== 'open' || sharesFiles(state)) return isPastReturn(state)
  return (await checkpointOf(old)) === state.checkpoint
}

/** What a dead run left: undefined when it was undone. */
async function resumed(running: Running, state: UpgradeState): Promise<UpgradeState | undefined> {
  if (await canFinish(running.old, state)) return state
  if (state.phase === 'prepared') return undefined
  log('notice', `upgrade: what was begun at ${state.begun} is undone, and begun again`)
  await goBack(running.host, state, running.written, running.around)
  return undefined
}

async function begin(running: Running, paused: readonly string[] = []): Promise<Upgraded> {
  const { pair, written, around, old } = running
  await requirePrograms(running)
  if (!(await old.isRunning())) await old.start()
  const origin = await originOf(old)
  const method = await chooseMethod(old, pair.new, { asked: running.method, bytes: origin.ownBytes })
  await editedFor(running.file, pair.new, pair.old) // whether that can be done is to be known now
  await assertFree(pair.new)
  const notes = await assertPossible(running, method)
  const { verify, file } = running
  const begun = new Date().toISOString()
  let state: UpgradeState = {
    phase: 'make',
    // Where it listens, whatever the host file says of that.
    old: { ...pair.old, port: old.port },
    new: { ...pair.new, port: old.port },
    method,
    verify,
    file,
    begun,
    spare: await freePort(),
    paused,
    notes,
  }
  const enter: Enter = async (phase, more = {}) => {
    interrupted.throwIfAborted()
    state = { ...state, ...more, phase }
    await written.write(state)
    running.onPhase?.(phase)
  }
  try {
    await enter('make')
    const { made, dropped } = await prepare(running, state, origin)
    const names = await around.pausableJobs()
    await enter('make', { notes: [...notes, ...dropped], paused: [...paused, ...names] })
    await around.pauseJobs(names)
    await installBootUnit(running.host, file, running.overrides)
    const checkpoint = await move({ ...running, method }, { made, installUser: origin.installUser }, enter)
    await enter('start', { checkpoint })
    return await forward(running, state)
  } catch (error) {
    const now = await written.read()
    if (now === undefined || sharesFiles(now) || isPastReturn(now)) throw error
    throw await undone(running, now, error)
  }
}

type Enter = (phase: Phase, more?: Partial<UpgradeState>) => Promise<void>

/**
 * Closes the doors of the old cluster, takes down what it holds, and brings that into the new one. Both are stopped
 * afterwards. A dump is made while the old one runs behind closed doors.
 * @returns where the control file of the old one stands
 */
async function move(
  running: Running & { readonly method: Method },
  { made, installUser }: { readonly made: Cluster; readonly installUser: string },
  enter: Enter,
): Promise<string> {
  const { old, written, verify, jobs, method } = running
  const moved = { ...running, new: made, installUser, logs: logsOf(written) }
  await using target = method === 'dump' ? await openTarget(made) : undefined
  await writeOut(old)
  await enter('close', { closed: new Date().toISOString() })
  const checkpoint = await closeDoors(old, async (closed) => {
    const take = async () => keepManifest(old, written, await takeManifest(closed, { verify, jobs }))
    if (target === undefined) return take()
    await enter('transfer')
    await mapAtOnce([take, () => transferRows({ ...moved, old: closed, target })], 2, (each) => each())
  })
  if (target === undefined) {
    await enter('transfer', { checkpoint })
    await transferFiles(moved)
  }
  return checkpoint
}

/** Programs of the new major; of a cluster of Debian they come as packages. */
async function requirePrograms({ host, pair, around, old, mayInstall }: Running): Promise<void> {
  const spec = pair.new
  if (await exists(join(bindirOf(spec), 'pg_upgrade'))) return
  if (spec.kind === 'debian' && mayInstall) {
    await around.provision(hostWith(host, packagesFor(spec, old.major)), ['package'])
    return
  }
  throw new Fail('not-permitted', `there is no pg_upgrade in "${bindirOf(spec)}"`, {
    hint:
      spec.kind === 'debian'
        ? `Let it be installed: --allow install. By hand: apt-get install postgresql-${spec.major}`
        : `Install PostgreSQL ${spec.major}, or name the folder of its programs: --bindir DIR`,
  })
}

/**
 * Looks for whatever is in the way, and lets missing packages be installed if that is allowed.
 * @returns what a person should know, though it stops nothing
 */
async function assertPossible(running: Running, method: Method): Promise<string[]> {
  const { host, pair, around, old, mayInstall } = running
  const look = () => checkUpgrade(old, { host, spec: pair.new, method, packageOf: around.packageOf })
  let findings = await look()
  const packages = packagesIn(findings)
  if (packages.length > 0 && mayInstall && pair.new.kind === 'debian') {
    await around.provision(hostWith(host, { ...pair.new, packages }), ['package'])
    findings = await look()
  }
  const errors = findings.filter(({ severity }) => severity === 'error')
  if (errors.length === 0)
    return findings.filter(({ severity }) => severity === 'warning').map(({ message }) => message)
  const shown = errors.map(({ message, hint }) => `${message}: ${hint}`).join('\n')
  throw new Fail('plan-impossible', `nothing was changed, since this is in the way:\n${shown}`, {
    hint: `Look again once it is not: howdah upgrade check --to ${pair.new.major}`,
  })
}

function logsOf({ folder }: UpgradeLog): string {
  return join(folder, 'logs')
}

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Takes everything back, and tells it with the reason. */
async function undone(running: Running, state: UpgradeState, error: unknown): Promise<unknown> {
  try {
    await goBack(running.host, state, running.written, running.around)
  } catch (other) {
    log('error', `upgrade: the old cluster could not be opened again: ${messageOf(other)}`)
    log('error', 'upgrade: hint: howdah upgrade rollback')
    return error
  }
  log('notice', 'upgrade: what was made is removed, and the old cluster serves as before')
  return error
}

/** While the old cluster serves: makes the new one, and sees that it takes its files and that pg_upgrade takes both. */
async function prepare(
  running: Running,
  state: UpgradeState,
  origin: Origin,
): Promise<{ made: Cluster; dropped: readonly string[] }> {
  const { host, old, around } = running
  await rehearse(old, state.new, origin)
  const custom = await customOf(old, host)
  const target = await makeCluster(hostWith(host, { ...state.new, port: state.spare }), origin, old.osUser)
  await setPort(state.new, old.port) // it is not started by itself before it has the place
  await using folder = await closedFolder(old.osUser)
  const empty = await startClosed(target, { folder: folder.path })
  const { dropped } = await writeCustom(empty, custom)
  await stopServer(target)
  const proving = await startClosed(target, { folder: folder.path, hasOwnRules: true })
  try {
    await around.provision(hostWith(host, state.new), ['setting', 'hba'], proving)
    await assertTaken(proving, custom, host.hba !== undefined)
  } finally {
    await stopServer(target)
  }
  return { made: target, dropped }
}

/** From the moment on that the new cluster has everything. Where there is no way back, nothing stops it. */
async function forward(running: Running, state: UpgradeState): Promise<Upgraded> {
  const { host, written } = running
  const isOneWay = sharesFiles(state)
  let finished: Finished | undefined
  let now = state
  if (now.phase === 'start') {
    const found = await (isOneWay ? protect(() => prove(running, state)) : prove(running, state))
    finished = found.finished
    if (!isOneWay) {
      assertSame(found.problems)
      interrupted.throwIfAborted()
    }
    now = { ...now, phase: 'open', notes: [...now.notes, ...found.problems] }
    await written.write(now)
    running.onPhase?.('open')
  }
  now = await protect(() => openDoors(host, now)).catch(async (error: unknown) => {
    const mayServe = isOneWay || (await (await openSpec(host, state.new)).isRunning())
    throw mayServe ? error : await undone(running, now, error)
  })
  await written.write(now)
  running.onPhase?.('after')
  return conclude(running, now, finished)
}

/** Where there is a way back, what fails here goes it; else the new cluster is the only one that can serve. */
async function prove(
  running: Running,
  state: UpgradeState,
): Promise<{ finished: Finished | undefined; problems: readonly string[] }> {
  const target = await openSpec(running.host, state.new)
  await stopServer(running.old)
  await stopServer(target)
  try {
    const before = await keptManifest(running.written)
    const finished = await finish(target, before, { method: state.method, jobs: running.jobs })
    return { finished, problems: finished.problems }
  } catch (error) {
    if (!sharesFiles(state)) throw error
    return { finished: undefined, problems: [`not everything could be proved: ${messageOf(error)}`] }
  }
}

function assertSame(problems: readonly string[]): void {
  if (problems.length === 0) return
  const shown = problems.slice(0, 50).join('\n')
  throw new Fail('verify-failed', `the new cluster is not what the old one was:\n${shown}`, {
    hint: 'Look at each of them in the old cluster.',
  })
}

/** While the new cluster serves: its statistics, its first backup, and its jobs. */
async function conclude(
  running: Running,
  state: UpgradeState,
  finished: Finished | undefined,
): Promise<Upgraded> {
  const { host, around, written } = running
  const newHost = hostWith(host, state.new)
  const late = await completeStatistics(await openSpec(host, state.new), running.jobs)
  if (Object.keys(host.tablespaces).length > 0) await around.provision(newHost, ['tablespace'])
  await around.handOver(running.old, await openSpec(host, state.new))
  const backup = await around.backup(newHost)
  await around.resumeJobs(state.paused ?? [])
  await removeBootUnit(host)
  const kept: UpgradeState = { ...state, phase: 'kept', notes: [...state.notes, ...late] }
  await written.write(kept)
  running.onPhase?.('kept')
  return { state: kept, finished, backup }
}
