import { rm } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import process from 'node:process'
import type { LoadedHost } from '../cluster/open.ts'
import { syncFolder } from '../core/file.ts'
import { dropUnits, forgetUnits, jobsOfTimers } from './install.ts'
import { forgetHostFile } from './known-host.ts'
import { removeMetrics } from './metrics.ts'
import { holdPrograms, PROGRAM_ROOT, removeProgram } from './program.ts'
import { assertCanInstall, findUnits, systemctl, unitStates } from './systemd.ts'
import { findTmpfiles } from './tmpfiles.ts'
import { ownerOf } from './unit-diff.ts'

/** What a removal would take away. */
export interface RemovePlan {
  /** Paths of files. */
  readonly files: readonly string[]
  /** Jobs that run, and are ended. */
  readonly running: readonly string[]
  /** The program goes, too: no host file has units any more. */
  readonly program: boolean
}

/**
 * What a removal would take away: all that was installed for this host file, edited or not.
 * @throws {Fail} `not-permitted`, `file-unreadable`
 */
export async function planRemove({ path }: LoadedHost): Promise<RemovePlan> {
  await assertCanInstall(process.getuid?.() === 0)
  const hostFile = resolve(path)
  const found = [...(await findUnits([])), ...(await findTmpfiles())]
  const files = found.filter((unit) => ownerOf(unit) === hostFile)
  const others = found.filter((unit) => ![undefined, hostFile].includes(ownerOf(unit)))
  const services = files.map(({ name }) => name).filter((name) => /(?<!@)\.service$/.test(name))
  const states = await unitStates(services)
  return {
    files: files.map(({ path }) => path),
    running: services.filter((name) => states.get(name)?.isActive),
    program: files.length > 0 && others.length === 0,
  }
}

/**
 * Removes all that was installed for a host file. What jobs remember stays, and so do drop-ins.
 * @param confirm asks the operator; not called when there is nothing to do
 * @returns what was removed, undefined when the operator does not want it
 * @throws {Fail} what {@link planRemove} throws, `lock-held`, `command-failed`
 */
export async function remove(
  loaded: LoadedHost,
  confirm: (plan: RemovePlan) => Promise<boolean>,
): Promise<RemovePlan | undefined> {
  await planRemove(loaded) // before the lock, whose folder is the first thing that is made
  await using _lock = await holdPrograms()
  const plan = await planRemove(loaded)
  if (plan.files.length === 0) return plan
  if (!(await confirm(plan))) return undefined
  const names = plan.files.map((path) => path.slice(dirname(path).length + 1))
  const units = names.filter((name) => !name.endsWith('.conf'))
  await dropUnits(units)
  for (const path of plan.files) await rm(path, { force: true })
  for (const folder of new Set(plan.files.map((path) => dirname(path)))) await syncFolder(folder)
  await systemctl(['daemon-reload'])
  await forgetUnits(units)
  await removeMetrics(loaded.host, jobsOfTimers(loaded.host, names))
  await forgetHostFile(loaded.path)
  if (plan.program) await removeProgram(PROGRAM_ROOT)
  return plan
}
