import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Fail, messageOf } from './fail.ts'

/** Who may do what with a new file or folder. */
export interface Access {
  /** Permission bits, such as `0o640`. */
  readonly mode: number
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

/**
 * Writes a file so that it is there as a whole or not at all, whatever happens meanwhile: a
 * temporary file beside it, fsync, rename (the commit point), fsync of the folder.
 * @throws {Fail} `file-unreadable`
 */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array,
  access: Access,
): Promise<void> {
  const temporary = join(dirname(path), `.${randomBytes(6).toString('hex')}.howdah-tmp`)
  try {
    const file = await open(temporary, 'wx', 0o600)
    try {
      await file.writeFile(content)
      await setAccess(file, access)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
    await syncFolder(dirname(path))
  } catch (cause) {
    await rm(temporary, { force: true })
    throw new Fail('file-unreadable', `cannot write "${path}": ${reasonOf(cause)}`, {
      hint: hintFor(cause, path),
      cause,
    })
  }
}

/**
 * Makes a folder, and those above it, with this access. One that is there is left as it is.
 * @throws {Fail} `file-unreadable`
 */
export async function makeFolder(path: string, access: Access): Promise<void> {
  try {
    if (await isFolder(path)) return
    await makeFolder(dirname(path), { ...access, mode: 0o755 })
    await mkdir(path, { mode: access.mode })
    const folder = await open(path, 'r')
    try {
      await setAccess(folder, access)
      await folder.sync()
    } finally {
      await folder.close()
    }
    await syncFolder(dirname(path))
  } catch (cause) {
    if (cause instanceof Fail) throw cause
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return
    throw new Fail('file-unreadable', `cannot make folder "${path}": ${reasonOf(cause)}`, {
      hint: hintFor(cause, path),
      cause,
    })
  }
}

async function isFolder(path: string): Promise<boolean> {
  const found = await stat(path).catch((cause: unknown) => {
    if (isMissing(cause)) return undefined
    throw cause
  })
  if (found === undefined || found.isDirectory()) return found !== undefined
  throw new Fail('file-unreadable', `cannot make folder "${path}": it is no folder`)
}

/**
 * A whole text file, or `undefined` when there is none.
 * @throws {Fail} `file-unreadable` for any other reason
 */
export async function readTextIfAny(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    if (isMissing(cause)) return undefined
    throw new Fail('file-unreadable', `cannot read "${path}": ${reasonOf(cause)}`, {
      hint: hintFor(cause, path),
      cause,
    })
  }
}

/**
 * A whole text file.
 * @throws {Fail} `file-unreadable`
 */
export async function readText(path: string): Promise<string> {
  const text = await readTextIfAny(path)
  if (text === undefined) throw new Fail('file-unreadable', `cannot read "${path}": no such file`)
  return text
}

/** Whether something of that name is there. */
export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (cause: unknown) => {
      if (isMissing(cause)) return false
      throw new Fail('file-unreadable', `cannot look at "${path}": ${reasonOf(cause)}`, { cause })
    },
  )
}

/** Makes a rename or a delete in a folder survive a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Whether an error says that a file is not there. */
export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  return code === 'ENOENT' || code === 'ENOTDIR'
}

async function setAccess(file: FileHandle, access: Access): Promise<void> {
  if (access.uid !== undefined && access.gid !== undefined) await file.chown(access.uid, access.gid)
  await file.chmod(access.mode)
}

const REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOENT: 'no such file or folder',
  ENOSPC: 'no space left on the device',
  EISDIR: 'it is a folder',
  EROFS: 'the file system is read-only',
}

/** Why the system refused to do something with a file, for people. */
export function reasonOf(cause: unknown): string {
  return REASONS[(cause as NodeJS.ErrnoException).code ?? ''] ?? messageOf(cause)
}

function hintFor(cause: unknown, path: string): string | undefined {
  const code = (cause as NodeJS.ErrnoException).code
  if (code === 'EACCES' || code === 'EPERM')
    return `Run this as root, or as the owner of ${dirname(resolve(path))}.`
  if (code === 'ENOSPC') return `Free some space: df -h ${dirname(path)}`
  return undefined
}
