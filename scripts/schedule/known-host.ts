import { createHash } from 'node:crypto'
import { readdir, realpath, rm, rmdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { type LoadedHost, loadHost } from '../cluster/open.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { makeFolder, readTextIfAny, writeFileAtomic } from '../core/file.ts'
import { log } from '../core/log.ts'
import { parseHost } from '../host/host.ts'
import type { Host } from '../host/schema.ts'
import { PROGRAM_ROOT } from './program.ts'

/** Root's: an alert may run as root what the file says. */
const FOLDER = join(PROGRAM_ROOT, 'host-files')

/**
 * Reads a host file; when it has a mistake, the one that was installed last instead. With a mistake no job runs, and
 * only what was there before it knows who is to be told of that.
 * @throws {Fail} `file-unreadable`, `host-file` when none was installed
 */
export async function loadKnownHost(path: string, overrides: readonly string[]): Promise<Host> {
  try {
    return (await loadHost(path, overrides)).host
  } catch (error) {
    const known = await lastInstalled(path)
    if (known === undefined) throw error
    log('error', `schedule: ${messageOf(error)}; who is to be told is known by what was installed last`)
    return known
  }
}

/** The host file as it was installed last; undefined when it was not, or is none of this version. */
export async function lastInstalled(path: string): Promise<Host | undefined> {
  try {
    const text = await readTextIfAny(copyOf(path))
    return text === undefined ? undefined : parseHost(text, { path })
  } catch (error) {
    if (error instanceof Fail) return undefined
    throw error
  }
}

/** Keeps what is installed, for whom the host file itself is for. To be called as root. */
export async function keepHostFile({ path, text }: LoadedHost): Promise<void> {
  const { mode, uid, gid } = await stat(await realpath(path))
  await makeFolder(FOLDER, { mode: 0o755, uid: 0, gid: 0 })
  await writeFileAtomic(copyOf(path), text, { mode: mode & 0o777, uid, gid })
}

/** Forgets what was installed. To be called as root. */
export async function forgetHostFile(path: string): Promise<void> {
  await rm(copyOf(path), { force: true })
  const rest = await readdir(FOLDER).catch(() => undefined)
  if (rest?.length === 0) await rmdir(FOLDER)
}

/** One for each host file; a path cannot be a name. */
function copyOf(path: string): string {
  return join(FOLDER, `${createHash('sha256').update(resolve(path)).digest('hex').slice(0, 16)}.toml`)
}
