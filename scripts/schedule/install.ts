import { rm } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import process from 'node:process'
import type { LoadedHost } from '../cluster/open.ts'
import { run } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { exists, makeFolder, writeFileAtomic } from '../core/file.ts'
import { log } from '../core/log.ts'
import { unmountedPoint } from '../core/mounts.ts'
import type { Host } from '../host/schema.ts'
import { assertCommand, assertHostFile } from './host-file.ts'
import { assertServable, assertStores, installationFindings, storeFolders } from './install-findings.ts'
import { rootCommands } from './hardening.ts'
import { defaultUser, jobsOf, servicesOf } from './job.ts'
import { keepHostFile } from './known-host.ts'
import { removeMetrics, writeMetrics } from './metrics.ts'
import {
  CHECKOUT,
  currentProgram,
  holdPrograms,
  installProgram,
  planProgram,
  PROGRAM_ROOT,
  type ProgramPlan,
  removeOldPrograms,
  switchTo,
} from './program.ts'
import { access, changeState, giveStates, madeKnown, readState } from './state.ts'
import {
  assertCanInstall,
  findUnits,
  forgetMissed,
  removeStamp,
  systemctl,
  systemdVersion,
  UNIT_FOLDER,
  unitStates,
} from './systemd.ts'
import { findTmpfiles, renderTmpfiles, TMPFILES_FOLDER } from './tmpfiles.ts'
import { renderUnits, timerName, type UnitFile } from './unit.ts'
import { actionsFor, diffUnits, EDITED, type FileChange, isQuiet, type UnitActions } from './unit-diff.ts'
import { verifyUnits } from './verify-units.ts'

/** What an installation would do. */
export interface InstallPlan {
  /** Undefined when nothing is scheduled: then none is needed. */
  readonly program: ProgramPlan | undefined
  readonly files: readonly FileChange[]
  readonly actions: UnitActions
  /** Units that ran before. */
  readonly wasActive: readonly string[]
  /** What the operator is to know; none of it stands in the way. */
  readonly findings: readonly string[]
}

/** How it is installed. */
export interface InstallOptions {
  /** Names of what may happen. */
  readonly allow: ReadonlySet<string>
  /** Asks the operator; `false` changes nothing. Not called when there is nothing to do. */
  confirm(plan: InstallPlan): Promise<boolean>
}

/**
 * The units that a host file wants, and where the folder of the locks is said.
 * @param program the folder that they run; default is what `schedule install` makes
 * @throws {Fail} `host-file`
 */
export async function wantedUnits(
  { host, path }: LoadedHost,
  program = `${PROGRAM_ROOT}/current`,
): Promise<UnitFile[]> {
  const hostFile = resolve(path)
  const units = renderUnits(host, { systemd: await systemdVersion(), program, hostFile })
  return units.length === 0 ? [] : [...units, ...renderTmpfiles(host, hostFile)]
}

/**
 * What an installation would do, after all that could stand in its way was looked at. Writes nothing.
 * @throws {Fail} `not-permitted`, `file-unreadable`, `host-file`, `plan-impossible`, `hazard-refused`
 */
export async function planInstall(loaded: LoadedHost, allow: ReadonlySet<string>): Promise<InstallPlan> {
  const { host } = loaded
  assertSystemCluster(host)
  assertUsers(host)
  await assertCanInstall(process.getuid?.() === 0)
  const hostFile = resolve(loaded.path)
  await assertHostFile(hostFile, usersOf(host))
  for (const command of rootCommands(host)) await assertCommand(command)
  assertServable(host, await systemdVersion())
  await assertStores(host)
  const findings = await installationFindings(host)
  const wanted = await wantedUnits(loaded)
  // The program may not be there yet: what stands here is what will be there.
  const ofCheckout = (await wantedUnits(loaded, CHECKOUT)).filter(({ name }) => !name.endsWith('.conf'))
  await verifyUnits(ofCheckout, await systemdVersion())
  const found = [...(await findUnits(wanted.map(({ name }) => name))), ...(await findTmpfiles())]
  const files = diffUnits(wanted, found, hostFile)
  assertAllowed(files, allow)
  const program = wanted.length === 0 ? undefined : await planProgram()
  const states = await unitStates(unitNames([...wanted, ...files]))
  const since = program?.isThere && program.isCurrent ? await currentProgram() : undefined
  const actions = actionsFor({
    wanted,
    changes: files,
    states,
    paused: await pausedTimers(host),
    services: servicesOf(host).map(({ name }) => `${host.schedule.unit_prefix}-${name}.service`),
    changedAt: (service) => {
      const unit = found.find(({ name, path }) => name === service && dirname(path) === UNIT_FOLDER)
      return Math.max(unit?.changedAt.getTime() ?? 0, since?.since.getTime() ?? Infinity)
    },
  })
  const wasActive = [...states].filter(([, { isActive }]) => isActive).map(([name]) => name)
  return { program, files, actions, wasActive, findings }
}

/** Whether an installation would change nothing. Pure. */
export function isInstalled({ program, files, actions }: InstallPlan): boolean {
  const isRight = program === undefined || (program.isThere && program.isCurrent)
  return isRight && files.length === 0 && isQuiet(actions)
}

/**
 * Installs the jobs of a host file as units of systemd, with the program that they run. When it fails the
 * units are put back as they were; ended in the middle, a second one completes it.
 * @returns what was done, undefined when the operator does not want it
 * @throws {Fail} what {@link planInstall} throws, `lock-held`, `command-failed`, `change-undone`
 */
export async function install(loaded: LoadedHost, options: InstallOptions): Promise<InstallPlan | undefined> {
  await planInstall(loaded, options.allow) // before the lock, whose folder is the first thing that is made
  await using _lock = await holdPrograms()
  const plan = await planInstall(loaded, options.allow)
  if (isInstalled(plan)) {
    if (plan.program) await keepHostFile(loaded)
    return plan
  }
  if (!(await options.confirm(plan))) return undefined
  const { program } = plan
  const before = program && (await installProgram(program, usersOf(loaded.host)))
  try {
    await prepareFolders(loaded.host)
    await prepareJobs(loaded.host, plan.files)
    await writeUnits(plan)
    await startUnits(plan.actions)
  } catch (cause) {
    await undo(plan, before, cause)
  }
  if (program) {
    await keepHostFile(loaded)
    await removeOldPrograms(program.root)
  }
  return plan
}

/** Which users run what a host file schedules. */
export function usersOf(host: Host): string[] {
  return [...new Set([...jobsOf(host), ...servicesOf(host)].map(({ user }) => user))]
}

/** Names of units among files, without templates: systemd knows no state of those. */
function unitNames(files: readonly { name: string }[]): string[] {
  return [...new Set(files.map(({ name }) => name))].filter((name) => /(?<!@)\.(service|timer)$/.test(name))
}

function assertSystemCluster({ postgres }: Host): void {
  if (postgres.kind !== 'private') return
  throw new Fail('plan-impossible', 'the jobs of a private cluster run by no unit of systemd', {
    hint: 'They run as long as this does: howdah schedule run',
  })
}

/**
 * The state of the jobs and their locks are the cluster's owner's: anybody else but root could neither begin nor say
 * that it could not.
 */
function assertUsers(host: Host): void {
  const owner = host.postgres.kind === 'debian' ? 'postgres' : defaultUser(host)
  const other = [...jobsOf(host), ...servicesOf(host)].find(({ user }) => user !== owner && user !== 'root')
  if (other === undefined) return
  throw new Fail(
    'plan-impossible',
    `${other.title} is to run as ${other.user}, who may not write to "${host.host.state_dir}"`,
    {
      hint:
        owner === undefined
          ? 'Let all run as one: [schedule] user = "..."'
          : `Jobs run as ${owner}, or as root: leave "user" out.`,
    },
  )
}

function assertAllowed(files: readonly FileChange[], allow: ReadonlySet<string>): void {
  const unknown = [...allow].find((hazard) => hazard !== EDITED)
  if (unknown !== undefined) {
    throw new Fail('usage', `--allow: there is no hazard "${unknown}"`, { hint: `The hazard is: ${EDITED}` })
  }
  const edited = files.filter(({ isEdited }) => isEdited).map(({ path }) => path)
  if (edited.length === 0 || allow.has(EDITED)) return
  throw new Fail('hazard-refused', `somebody has changed ${edited.join(', ')} by hand`, {
    hint: `See what: howdah schedule diff. Put changes into a drop-in (systemctl edit UNIT), which stays, and give: --allow ${EDITED}`,
  })
}

async function pausedTimers(host: Host): Promise<Set<string>> {
  const paused = new Set<string>()
  for (const { name } of jobsOf(host)) {
    const { pausedSince } = await readState(host, name)
    if (pausedSince !== undefined) paused.add(`${host.schedule.unit_prefix}-${name}.timer`)
  }
  return paused
}

async function prepareFolders(host: Host): Promise<void> {
  await makeFolder(host.host.state_dir, access(host))
  await giveStates(host)
  for (const folder of storeFolders(host)) {
    // Where a disk is to be mounted and is not, nothing is made: it would fill another one.
    if ((await unmountedPoint(folder)) === undefined) await makeFolder(folder, access(host))
  }
}

async function prepareJobs(host: Host, files: readonly FileChange[]): Promise<void> {
  const now = new Date()
  for (const job of jobsOf(host)) {
    const timer = timerName(host, job.name)
    const isNew = files.some(({ action, name }) => action === 'create' && name === timer)
    const state = await changeState(host, job.name, (state) => madeKnown(state, job, { now, isNew }))
    // Nobody records how the check of the others ended.
    if (!job.isAlert)
      await writeMetrics(host, state).catch((error: unknown) => log('warning', messageOf(error)))
  }
  const gone = files.filter(({ action }) => action === 'remove').map(({ name }) => name)
  await removeMetrics(host, jobsOfTimers(host, gone))
}

/** Names of jobs by those of their timers, among other files. Pure. */
export function jobsOfTimers(
  { schedule: { unit_prefix: prefix } }: Host,
  names: readonly string[],
): string[] {
  return names
    .filter((name) => name.startsWith(`${prefix}-`) && name.endsWith('.timer'))
    .map((name) => name.slice(prefix.length + 1, -'.timer'.length))
}

async function writeUnits({ files, actions }: InstallPlan): Promise<void> {
  await stop(actions.stop)
  const stale = files.filter(({ action }) => action === 'remove')
  await dropUnits(stale.map(({ name }) => name))
  for (const file of files) await write(file.path, file.after)
  if (actions.reload) await systemctl(['daemon-reload'])
  const tmpfiles = files.filter(({ path, after }) => dirname(path) === TMPFILES_FOLDER && after !== undefined)
  for (const { path } of tmpfiles) await run(['systemd-tmpfiles', '--create', path])
  await forgetUnits(stale.map(({ name }) => name))
}

async function startUnits({ enable, start, restart }: UnitActions): Promise<void> {
  for (const timer of start) await forgetMissed(timer)
  if (enable.length > 0) await systemctl(['enable', '--', ...enable])
  if (start.length > 0) await systemctl(['start', '--', ...start])
  // Not waited for: a server that is down would hold it up.
  if (restart.length > 0) await systemctl(['restart', '--no-block', '--', ...restart])
}

/** Stops and disables units that are about to be removed; a job that runs is ended. */
export async function dropUnits(names: readonly string[]): Promise<void> {
  const units = unitNames(names.map((name) => ({ name })))
  // Timers first: one that elapses now would start its job again.
  const timers = units.filter((name) => name.endsWith('.timer'))
  await stop(timers)
  await stop(units.filter((name) => !timers.includes(name)))
  if (units.length > 0) await systemctl(['disable', '--', ...units])
}

/** Makes systemd forget units whose files are gone. */
export async function forgetUnits(names: readonly string[]): Promise<void> {
  for (const name of names) {
    if (name.endsWith('.timer')) await removeStamp(name)
    // Only one that failed is known still, and of the others it says so. Of a template that is each of its instances.
    await systemctl(['reset-failed', '--', name.replace('@.', '@*.')]).catch(() => {})
  }
}

async function stop(names: readonly string[]): Promise<void> {
  if (names.length > 0) await systemctl(['stop', '--', ...names])
}

async function write(path: string, content: string | undefined): Promise<void> {
  if (content === undefined) return rm(path, { force: true })
  await makeFolder(dirname(path), { mode: 0o755, uid: 0, gid: 0 })
  await writeFileAtomic(path, content, { mode: 0o644, uid: 0, gid: 0 })
}

/** Puts everything back as it was, although this process was asked to end. */
async function undo(plan: InstallPlan, program: string | undefined, cause: unknown): Promise<never> {
  try {
    const made = unitNames(plan.files.filter(({ action }) => action === 'create'))
    const there = await Promise.all(made.map((name) => exists(`${UNIT_FOLDER}/${name}`)))
    const written = made.filter((_, index) => there[index])
    if (written.length > 0) await systemctl(['disable', '--now', '--', ...written], true)
    for (const { path, before } of plan.files) await write(path, before)
    if (plan.program?.isCurrent === false && program !== undefined) {
      await switchTo(plan.program.root, program)
    }
    await systemctl(['daemon-reload'], true)
    const timers = plan.wasActive.filter((name) => name.endsWith('.timer'))
    const services = [...plan.actions.restart, ...removedServices(plan)].filter((name) =>
      plan.wasActive.includes(name),
    )
    for (const timer of timers) await forgetMissed(timer)
    if (timers.length > 0) await systemctl(['enable', '--now', '--', ...timers], true)
    if (services.length > 0) {
      await systemctl(['enable', '--', ...services], true)
      await systemctl(['restart', '--no-block', '--', ...services], true)
    }
  } catch (second) {
    throw new Fail('command-failed', `cannot install the jobs: ${messageOf(cause)}`, {
      hint: `Nor could the units be put back: ${messageOf(second)}. Run the same command again.`,
      cause,
    })
  }
  const hint = cause instanceof Fail && cause.hint !== undefined ? `: ${cause.hint}` : ''
  throw new Fail('change-undone', `cannot install the jobs: ${messageOf(cause)}`, {
    hint: `The units are as they were before${hint}`,
    cause,
  })
}

/** Services that always ran: no timer starts them. */
function removedServices({ files }: InstallPlan): string[] {
  const removed = unitNames(files.filter(({ action }) => action === 'remove'))
  return removed.filter(
    (name) => name.endsWith('.service') && !removed.includes(name.replace(/service$/, 'timer')),
  )
}
