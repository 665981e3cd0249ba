import { lstat, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../core/exec.ts'
import { readTextIfAny } from '../core/file.ts'
import { userId } from './connect.ts'
import { livePid } from './ready.ts'

/** A folder that only a cluster's OS user can look into, for a socket, a log and what else is passing. */
export interface ClosedFolder extends AsyncDisposable {
  readonly path: string
}

const NAME = /^howdah-closed-(\d+)-/

/** Whether a folder is, or was, made by {@link closedFolder}. */
export function isClosedFolder(path: string): boolean {
  return path.startsWith(join(tmpdir(), 'howdah-closed-'))
}

/**
 * Makes a folder for a server that nobody else is to reach. Its name is short: a socket's path has 107 bytes. Those
 * of processes that were killed go first, and servers with them that have their data there.
 */
export async function closedFolder(osUser: string): Promise<ClosedFolder> {
  await sweep(osUser)
  const path = await mkdtemp(join(tmpdir(), `howdah-closed-${process.pid}-`))
  await run(['chmod', '0700', path])
  if (process.getuid?.() === 0) await run(['chown', ownerWord(osUser), path])
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

function ownerWord(osUser: string): string {
  const { uid, gid } = userId(osUser)
  return `${uid}:${gid}`
}

async function sweep(osUser: string): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const owner = NAME.exec(name)?.[1]
    if (owner === undefined || isAlive(Number(owner))) continue
    const folder = join(tmpdir(), name)
    await clear(folder, osUser).catch(() => {}) // somebody else's, whose run of this clears it
  }
}

async function clear(folder: string, osUser: string): Promise<void> {
  // Anybody can make one of this name, with a link in it to the data of a server that serves.
  if (!(await isFolderOf(folder, osUser))) return
  const data = join(folder, 'data')
  const scratch = (await isFolderOf(data, osUser)) ? await livePid(data) : undefined
  if (scratch !== undefined) await end(scratch)
  // Another one has its data elsewhere, and is stopped in order by whoever goes on with that.
  if ((await serversIn(folder)).some(isAlive)) return
  await run(['rm', '-rf', '--', folder])
}

async function isFolderOf(path: string, osUser: string): Promise<boolean> {
  const found = await lstat(path).catch(() => undefined)
  return found !== undefined && found.isDirectory() && found.uid === userId(osUser).uid
}

/** Nobody needs what is in its data directory any more. */
async function end(pid: number): Promise<void> {
  process.kill(pid, 'SIGQUIT')
  for (const deadline = Date.now() + 10_000; isAlive(pid) && Date.now() < deadline;) await sleep(20)
}

/** Processes that the locks beside sockets name (src/backend/utils/init/miscinit.c, CreateLockFile). */
async function serversIn(folder: string): Promise<number[]> {
  const names = (await readdir(folder)).filter((name) => /^\.s\.PGSQL\.\d+\.lock$/.test(name))
  const texts = await Promise.all(names.map((name) => readTextIfAny(join(folder, name))))
  return texts.map((text) => Number.parseInt(text ?? '', 10)).filter((pid) => pid > 0)
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM'
  }
}
