import { createHash, randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import {
  chmod,
  copyFile,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { isMissing, makeFolder, readTextIfAny, reasonOf, syncFolder } from '../core/file.ts'
import { takeLock } from '../core/lock.ts'
import { VERSION } from '../core/version.ts'

/** Where the program is installed. */
export const PROGRAM_ROOT = '/opt/howdah'

/** The checkout that this process runs from. */
export const CHECKOUT: string = join(import.meta.dirname, '../..')

/** What of a checkout is needed to run it. */
const PARTS = [
  'scripts',
  'sql',
  'units',
  'conf',
  'package.json',
  'package-lock.json',
  'README.md',
  'LICENSE',
] as const

const VERSION_NAME = /^\d+\.\d+\.\d+\S*-[0-9a-f]{12}$/

/** What an installation of the program would do. */
export interface ProgramPlan {
  /** The folder of all versions. */
  readonly root: string
  /** `0.1.0-0123456789ab`: the version, and a digest of the content. */
  readonly name: string
  readonly path: string
  /** It is there already, whole. */
  readonly isThere: boolean
  /** The link `current` names it. */
  readonly isCurrent: boolean
}

/**
 * What an installation of this checkout's program would do. Reads all of its files.
 * @throws {Fail} `not-permitted` when npm packages are missing
 */
export async function planProgram(root: string = PROGRAM_ROOT): Promise<ProgramPlan> {
  const digest = await digestOf(await filesOf(CHECKOUT))
  const name = `${VERSION}-${digest}`
  const path = join(root, name)
  return {
    root,
    name,
    path,
    isThere: await isWhole(path, digest),
    isCurrent: (await currentOf(root)) === name,
  }
}

/**
 * Copies this checkout's program, with its Node and the npm packages that it needs, and lets the link
 * `current` name the copy: the commit point. Only root can write there. Ended at any moment, it leaves
 * the version that was current, or the new one, never half of one.
 * @param users who must be able to run it
 * @returns the name of the version that was current before, if any
 * @throws {Fail} `not-permitted`, `lock-held`, `file-unreadable`, `command-failed` when the copy does not run
 */
export async function installProgram(
  plan: ProgramPlan,
  users: readonly string[],
): Promise<string | undefined> {
  const { root, path, name } = plan
  await makeFolder(root, { mode: 0o755, uid: 0, gid: 0 })
  const before = await currentOf(root)
  if (!plan.isThere) {
    await removeUnfinished(root)
    await copyTo(path, name)
  }
  for (const user of users) await assertRuns(path, user)
  if (before !== name) await switchTo(root, name)
  return before
}

/** Lets the link `current` name another version that is there. */
export async function switchTo(root: string, name: string): Promise<void> {
  const temporary = join(root, `.current-${randomBytes(6).toString('hex')}`)
  await symlink(name, temporary)
  await rename(temporary, join(root, 'current'))
  await syncFolder(root)
}

/**
 * Removes the versions that nobody needs: all but the current one, the newest one before it, and those
 * that a process still runs from.
 * @returns their names
 */
export async function removeOldPrograms(root: string): Promise<string[]> {
  const current = await currentOf(root)
  const old = (await versionsIn(root)).filter((name) => name !== current)
  const inUse = await usedIn(root)
  const gone = old.slice(1).filter((name) => !inUse.has(name))
  for (const name of gone) await removeVersion(root, name)
  await removeUnfinished(root)
  return gone
}

/** Removes all of it; processes that run from it go on with what they have read. */
export async function removeProgram(root: string): Promise<void> {
  if ((await lookAt(root)) === undefined) return
  await rm(join(root, 'current'), { force: true })
  for (const name of await versionsIn(root)) await removeVersion(root, name)
  await removeUnfinished(root)
  const rest = await readdir(root)
  if (rest.length === 0) await rm(root, { recursive: true }) // what somebody else put there stays
}

/** The version that the link `current` names, and since when; undefined when there is none. */
export async function currentProgram(
  root: string = PROGRAM_ROOT,
): Promise<{ readonly name: string; readonly since: Date } | undefined> {
  const name = await currentOf(root)
  const link = await lookAt(join(root, 'current'))
  return name === undefined || link === undefined ? undefined : { name, since: link.mtime }
}

interface ProgramFile {
  /** Where it is; or its content. */
  readonly from: string | { readonly content: string }
  /** Below the folder of the program. */
  readonly to: string
  readonly mode: 0o644 | 0o755
}

/** All files of the program of a checkout, or of an installed one, which has the same. */
async function filesOf(root: string): Promise<ProgramFile[]> {
  const own = await Promise.all(PARTS.map((part) => walk(root, part, isOwn)))
  const lock = await readFile(join(root, 'package-lock.json'), 'utf8')
  const packages = await Promise.all(
    productionPackages(lock).map(async ({ path, isOptional }) => {
      const files = await walk(root, path, (name) => name !== 'node_modules')
      if (files.length > 0 || isOptional) return files
      throw new Fail('not-permitted', `the npm package "${path}" of package-lock.json is not installed`, {
        hint: 'Install the packages: scripts/howdah schedule --help, as root.',
      })
    }),
  )
  return [
    ...own.flat(),
    ...packages.flat(),
    { from: { content: lock }, to: 'node_modules/.howdah-lock.json', mode: 0o644 },
    ...(await nodeFiles(root)),
  ]
}

/** An editor's and our own unfinished files begin with a dot. */
function isOwn(name: string): boolean {
  return !name.startsWith('.')
}

/** The Node of this process, at the place where the launcher looks first. */
async function nodeFiles(root: string): Promise<ProgramFile[]> {
  const launcher = await readFile(join(root, 'scripts/howdah'), 'utf8')
  const pinned = /^node_version=(\S+)/m.exec(launcher)?.[1]
  if (pinned === undefined) throw new Fail('bug', 'the launcher names no version of Node')
  const to = `.node/node_modules/node-linux-${process.arch}/bin/node`
  const installed = join(root, to)
  // Of an installed copy its own, whoever looks at it.
  const from = root === CHECKOUT || (await lookAt(installed)) === undefined ? process.execPath : installed
  return [
    { from: { content: '' }, to: `.node/${pinned}`, mode: 0o644 },
    { from, to, mode: 0o755 },
  ]
}

/** The packages of a lock file that are not for development only. Pure. */
export function productionPackages(lock: string): { path: string; isOptional: boolean }[] {
  const { packages } = JSON.parse(lock) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean; optional?: boolean }>
  }
  return Object.entries(packages)
    .filter(([path, { dev, devOptional }]) => path !== '' && !dev && !devOptional)
    .map(([path, { optional }]) => ({ path, isOptional: optional === true }))
}

async function walk(root: string, path: string, isWanted: (name: string) => boolean): Promise<ProgramFile[]> {
  const found = await lookAt(join(root, path))
  if (found === undefined) return []
  if (!found.isDirectory()) return found.isFile() ? [fileOf(root, path, Number(found.mode))] : []
  const names = (await readdir(join(root, path))).filter(isWanted).toSorted()
  const inside: ProgramFile[] = []
  for (const name of names) inside.push(...(await walk(root, join(path, name), isWanted)))
  return inside
}

function fileOf(root: string, path: string, mode: number): ProgramFile {
  return { from: join(root, path), to: path, mode: mode & 0o100 ? 0o755 : 0o644 }
}

/** Of names, rights and content of files. */
async function digestOf(files: readonly ProgramFile[]): Promise<string> {
  const sorted = files.toSorted((a, b) => (a.to < b.to ? -1 : 1))
  const digests = await inBatches(sorted, ({ from }) =>
    typeof from === 'string' ? digestOfFile(from) : Promise.resolve(sha256(from.content)),
  )
  const whole = createHash('sha256')
  for (const [index, { to, mode }] of sorted.entries()) whole.update(`${to}\0${mode}\0${digests[index]}\0`)
  return whole.digest('hex').slice(0, 12)
}

async function digestOfFile(path: string): Promise<string> {
  return sha256(await readFile(path))
}

/** Not one file after the other, nor thousands at once. */
async function inBatches<T, R>(items: readonly T[], each: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (let at = 0; at < items.length; at += BATCH) {
    results.push(...(await Promise.all(items.slice(at, at + BATCH).map(each))))
  }
  return results
}

const BATCH = 64

function sha256(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex')
}

/** Whether a version is there and nobody has changed anything in it. */
async function isWhole(path: string, digest: string): Promise<boolean> {
  if ((await lookAt(join(path, 'scripts/howdah'))) === undefined) return false
  try {
    return (await digestOf(await filesOf(path))) === digest
  } catch (error) {
    if (error instanceof Fail || isMissing(error)) return false
    throw error
  }
}

async function copyTo(path: string, name: string): Promise<void> {
  const temporary = join(dirname(path), `.new-${randomBytes(6).toString('hex')}`)
  try {
    await mkdir(temporary, { mode: 0o700 })
    const files = await filesOf(CHECKOUT)
    for (const folder of foldersOf(files)) await makeOpen(join(temporary, folder))
    await inBatches(files, (file) => copy(file, temporary))
    if (!(await isWhole(temporary, name.slice(-12)))) {
      throw new Fail('file-unreadable', `"${CHECKOUT}" was changed while it was copied`, {
        hint: 'Run the same command again.',
      })
    }
    await chmod(temporary, 0o755)
    // All of its file system at once: a thousand files one after the other take minutes.
    await run(['sync', '--file-system', temporary])
    await rm(path, { recursive: true, force: true }) // one that somebody has changed
    await rename(temporary, path)
    await syncFolder(dirname(path))
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true })
    if (cause instanceof Fail) throw cause
    throw new Fail('file-unreadable', `cannot install the program in "${path}": ${reasonOf(cause)}`, {
      cause,
    })
  }
}

/** The folders of files, each after the one above it. */
function foldersOf(files: readonly ProgramFile[]): string[] {
  const folders = new Set<string>()
  const add = (path: string) => {
    if (path === '.' || folders.has(path)) return
    add(dirname(path))
    folders.add(path)
  }
  for (const { to } of files) add(dirname(to))
  return [...folders]
}

async function makeOpen(path: string): Promise<void> {
  await mkdir(path)
  await chmod(path, 0o755) // whatever the umask
}

async function copy({ from, to, mode }: ProgramFile, folder: string): Promise<void> {
  const path = join(folder, to)
  if (typeof from === 'string') await copyFile(from, path, constants.COPYFILE_FICLONE)
  else await writeFile(path, from.content)
  await chmod(path, mode)
}

/** The launcher installs nothing under systemd: that nothing is missing is found out here. */
async function assertRuns(path: string, user: string): Promise<void> {
  await run([join(path, 'scripts/howdah'), 'schedule', '--help'], {
    as: user,
    env: { HOWDAH_NO_INSTALL: '1' },
    timeoutSeconds: 60,
  })
}

/** Names of the versions that are there, the newest first. */
async function versionsIn(root: string): Promise<string[]> {
  const names = (await readdir(root)).filter((name) => VERSION_NAME.test(name))
  const aged = await Promise.all(
    names.map(async (name) => ({ name, time: (await lstat(join(root, name))).mtimeMs })),
  )
  return aged.toSorted((a, b) => b.time - a.time).map(({ name }) => name)
}

/** Names of the versions that a process runs from: its program, its folder, or an argument is in there. */
async function usedIn(root: string): Promise<Set<string>> {
  const used = new Set<string>()
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const about = [
      await readlink(`/proc/${pid}/exe`).catch(() => ''), // it may have ended
      await readlink(`/proc/${pid}/cwd`).catch(() => ''),
      ...((await readTextIfAny(`/proc/${pid}/cmdline`).catch(() => '')) ?? '').split('\0'),
    ]
    for (const text of about) {
      if (text.startsWith(`${root}/`)) used.add(text.slice(root.length + 1).split('/')[0]!)
    }
  }
  return used
}

/** First out of sight: half of a version is never called one. */
async function removeVersion(root: string, name: string): Promise<void> {
  const temporary = join(root, `.new-${randomBytes(6).toString('hex')}`)
  await rename(join(root, name), temporary)
  await rm(temporary, { recursive: true, force: true })
}

/** What a run left that was killed. */
async function removeUnfinished(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    if (/^\.(new|current)-[0-9a-f]{12}$/.test(name))
      await rm(join(root, name), { recursive: true, force: true })
  }
}

/**
 * Keeps others from installing or removing anything; whoever calls what changes programs holds it.
 * @throws {Fail} `not-permitted` when this is not root, `lock-held`
 */
export async function holdPrograms(): Promise<AsyncDisposable> {
  if (process.getuid?.() !== 0) {
    throw new Fail('not-permitted', 'cannot change what is installed: this is not root', {
      hint: 'Run the same command as root.',
    })
  }
  return takeLock('/run/howdah/install.lock', { waitSeconds: 60, folder: { mode: 0o700, uid: 0, gid: 0 } })
}

async function currentOf(root: string): Promise<string | undefined> {
  return readlink(join(root, 'current')).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw new Fail('file-unreadable', `cannot read the link "${root}/current": ${reasonOf(error)}`)
  })
}

function lookAt(path: string): Promise<Awaited<ReturnType<typeof lstat>> | undefined> {
  return lstat(path).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
}
