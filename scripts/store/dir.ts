import { randomBytes } from 'node:crypto'
import type { Dirent } from 'node:fs'
import {
  chown,
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  rmdir,
  stat,
  unlink,
} from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import process from 'node:process'
import { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { Fail, messageOf } from '../core/fail.ts'
import { isMissing, makeFolder, syncFolder } from '../core/file.ts'
import { checkKey, checkPrefix, compareKeys } from './key.ts'
import type { ByteRange, Entry, Store } from './store.ts'

/** Ids that own what is written. */
export interface Owner {
  readonly uid: number
  readonly gid: number
}

const FOLDER_MODE = 0o750
const FILE_MODE = 0o600
const READ_SIZE = 256 * 1024

/** Files that are not whole yet. A key never looks so, and a list never shows them. */
const TEMPORARY = /^\..*\.howdah-tmp$/

/**
 * A folder as a store.
 *
 * A file is written under a temporary name in its own folder, flushed, and renamed: whoever looks
 * sees all of it or nothing, also after a SIGKILL or a power cut.
 *
 * @param owner who a new root folder is made for. When this process is root, all that is written
 *   belongs to the owner of the root folder, so that a job of that user can go on with it
 */
export function dirStore(folder: string, owner?: Owner): Store {
  const root = resolve(folder)
  const place = (key: string): Place => ({ root, owner, path: join(root, checkKey(key)) })
  return {
    url: pathToFileURL(root).href,
    list: (prefix) => list(root, checkPrefix(prefix)),
    get: (key, range) => get(key, place(key).path, range),
    put: (key, body) => put(key, place(key), body),
    create: (key, body) => create(place(key), body),
    delete: async (keys) => {
      for (const key of keys) await remove(root, place(key).path)
    },
  }
}

interface Place {
  readonly root: string
  readonly owner: Owner | undefined
  readonly path: string
}

async function put(key: string, place: Place, body: AsyncIterable<Uint8Array>): Promise<Entry> {
  const temporary = await write(place, body)
  try {
    await rename(temporary, place.path) // commit point: the key has the new content
    await syncFolder(dirname(place.path))
  } catch (error) {
    await discard(temporary)
    throw failOf(error, 'write', place.path)
  }
  const found = await doing('look at', place.path, () => stat(place.path))
  return { key, size: found.size, modified: found.mtime }
}

async function create(place: Place, body: Uint8Array): Promise<boolean> {
  const temporary = await write(place, [body])
  try {
    // link() refuses a name that is there, so "is it free" and "take it" are one step, and the
    // content is whole from its first moment. Commit point: the key exists.
    await link(temporary, place.path)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw failOf(error, 'write', place.path)
  } finally {
    await doing('write', place.path, async () => {
      await rm(temporary, { force: true })
      await syncFolder(dirname(place.path))
    })
  }
}

/** Writes a body to the disk under a temporary name in its final folder. @returns that name */
async function write(place: Place, body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<string> {
  const { root, path } = place
  const temporary = join(dirname(path), `.${randomBytes(9).toString('hex')}.howdah-tmp`)
  const file = await doing('write', path, () => openIn(place, temporary))
  const flushing = flushingOf(file, path)
  try {
    for await (const chunk of body) {
      await doing('write', path, () => writeAll(file, chunk))
      await flushing.wrote(chunk.length)
    }
    await flushing.end()
    await doing('write', path, () => file.sync())
    await file.close()
    return temporary
  } catch (error) {
    await flushing.end().catch(() => {})
    await file.close().catch(() => {})
    await discard(temporary)
    await removeEmptyFolders(root, dirname(path))
    throw error
  }
}

async function discard(temporary: string): Promise<void> {
  await rm(temporary, { force: true }).catch(() => {}) // what stopped us is the news, not this
}

/** Opens a new file and makes the folders above it, again when a delete took an empty one away meanwhile. */
async function openIn({ root, owner, path }: Place, temporary: string): Promise<FileHandle> {
  for (let attempt = 1; ; attempt++) {
    try {
      const by = await ownerOf(root, owner)
      await makeFolders(root, dirname(path), by)
      const file = await open(temporary, 'wx', FILE_MODE)
      if (by) await file.chown(by.uid, by.gid).catch(() => {}) // a file system without owners
      return file
    } catch (error) {
      if (!isMissing(error) || attempt === 5) throw error
    }
  }
}

/** Bytes between two flushes of a file that is being written. */
const FLUSH_SIZE = 32 * 1024 ** 2

/**
 * Flushes a file while it grows: the disk works while the next bytes are made, and neither a long flush
 * at the end nor gigabytes of dirty pages wait for everybody else on this host.
 */
function flushingOf(
  file: FileHandle,
  path: string,
): { wrote(bytes: number): Promise<void>; end(): Promise<void> } {
  let bytes = 0
  let isOn = false
  let flush = Promise.resolve()
  return {
    async wrote(count) {
      bytes += count
      if (bytes < FLUSH_SIZE || isOn) return
      bytes = 0
      await flush // the kernel tells a failure once: whoever asks first has to pass it on
      isOn = true
      flush = doing('write', path, () => file.datasync()).finally(() => (isOn = false))
      flush.catch(() => {}) // it is told at the next flush, or at the end
    },
    end: () => flush,
  }
}

async function writeAll(file: FileHandle, chunk: Uint8Array): Promise<void> {
  let written = 0
  while (written < chunk.length) written += (await file.write(chunk, written)).bytesWritten
}

/** Who owns what root writes; anybody else owns it without our help. */
async function ownerOf(root: string, owner: Owner | undefined): Promise<Owner | undefined> {
  if (process.geteuid?.() !== 0) return undefined
  await makeFolder(root, { mode: FOLDER_MODE, ...owner })
  return stat(root)
}

async function makeFolders(root: string, folder: string, owner: Owner | undefined): Promise<void> {
  if (folder === root) return makeFolder(root, { mode: FOLDER_MODE })
  try {
    await mkdir(folder, { mode: FOLDER_MODE })
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return
    if (!isMissing(error)) throw error
    await makeFolders(root, dirname(folder), owner)
    return makeFolders(root, folder, owner)
  }
  if (owner) await chown(folder, owner.uid, owner.gid)
  await syncFolder(dirname(folder))
}

async function get(key: string, path: string, range: ByteRange | undefined): Promise<Readable> {
  try {
    const file = await open(path, 'r')
    if ((await file.stat()).isFile()) return reader(file, range, path)
    await file.close()
  } catch (error) {
    if (!isMissing(error)) throw failOf(error, 'read', path)
  }
  throw new Fail('store-missing', `the store has no "${key}"`)
}

function reader(file: FileHandle, range: ByteRange | undefined, path: string): Readable {
  let position = range?.first ?? 0
  const end = range === undefined ? Infinity : range.last + 1
  const next = async (): Promise<Buffer | null> => {
    const chunk = Buffer.allocUnsafe(Math.max(0, Math.min(READ_SIZE, end - position)))
    const { bytesRead } = await doing('read', path, () => file.read(chunk, 0, chunk.length, position))
    position += bytesRead
    return bytesRead === 0 ? null : chunk.subarray(0, bytesRead)
  }
  return new Readable({
    highWaterMark: READ_SIZE,
    read() {
      next().then(
        (chunk) => this.push(chunk),
        (error: Error) => this.destroy(error),
      )
    },
    async destroy(reason, done) {
      await file.close().catch(() => {}) // nothing was written: what it says cannot matter
      done(reason)
    },
  })
}

async function* list(root: string, prefix: string): AsyncGenerator<Entry, void> {
  // A prefix may end in the middle of a name: the folder above it is what can be opened.
  const above = prefix.slice(0, prefix.lastIndexOf('/') + 1)
  yield* walk(root, above, prefix)
}

async function* walk(root: string, above: string, prefix: string): AsyncGenerator<Entry, void> {
  for (const found of await lookInto(root, above, prefix)) {
    if (typeof found === 'string') yield* walk(root, found, prefix)
    else yield found
  }
}

/** The files of a folder, and the folders in it, which end in a slash; in order of the keys. */
async function lookInto(root: string, above: string, prefix: string): Promise<(Entry | string)[]> {
  const files = new Map<string, Entry>()
  for (let attempt = 1; ; attempt++) {
    const keys = await keysIn(root, above, prefix)
    for (const key of keys) {
      const entry = key.endsWith('/') || files.has(key) ? undefined : await entryOf(root, key)
      if (entry) files.set(key, entry)
    }
    const found = keys.map((key) => (key.endsWith('/') ? key : files.get(key)))
    // What went while this was read may have made room for what was not there yet.
    if (attempt === 3 || !found.includes(undefined)) return found.filter((each) => each !== undefined)
  }
}

async function keysIn(root: string, above: string, prefix: string): Promise<string[]> {
  const folder = join(root, above)
  const found = await readdir(folder, { withFileTypes: true }).catch((error: unknown): Dirent[] => {
    if (isMissing(error)) return []
    throw failOf(error, 'list', folder)
  })
  return found
    .filter((child) => (child.isFile() && !TEMPORARY.test(child.name)) || child.isDirectory())
    .map((child) => `${above}${child.name}${child.isDirectory() ? '/' : ''}`)
    .filter((key) => key.startsWith(prefix))
    .sort(compareKeys)
}

async function entryOf(root: string, key: string): Promise<Entry | undefined> {
  const path = join(root, key)
  try {
    const { size, mtime } = await stat(path)
    return { key, size, modified: mtime }
  } catch (error) {
    if (isMissing(error)) return undefined // deleted meanwhile
    throw failOf(error, 'look at', path)
  }
}

async function remove(root: string, path: string): Promise<void> {
  try {
    await unlink(path)
    await syncFolder(dirname(path))
  } catch (error) {
    if (!isMissing(error) && codeOf(error) !== 'EISDIR') throw failOf(error, 'delete', path)
  }
  await removeEmptyFolders(root, dirname(path))
}

/** A bucket has no folders, so an empty one is nothing to keep. One that is in use stays. */
async function removeEmptyFolders(root: string, lowest: string): Promise<void> {
  for (let folder = lowest; folder.length > root.length; folder = dirname(folder)) {
    const isGone = await rmdir(folder).then(
      () => true,
      () => false,
    )
    if (!isGone) return
  }
}

async function doing<T>(what: string, path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw failOf(error, what, path)
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException | undefined)?.code ?? ''
}

const DENIED = new Set(['EACCES', 'EPERM', 'EROFS'])
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])
/** What a disk, or a network file system, says while it cannot be used. */
const UNREACHABLE = new Set(['EIO', 'ESTALE', 'ENOTCONN', 'ETIMEDOUT', 'EHOSTDOWN', 'EREMOTEIO', 'ENXIO'])

function failOf(error: unknown, what: string, path: string): unknown {
  const cause = error instanceof Fail ? error.cause : error
  const code = codeOf(cause)
  const text = `cannot ${what} "${path}"`
  if (DENIED.has(code)) {
    return new Fail('store-denied', `${text}: permission denied`, {
      hint: `Run this as root, or as the owner of the store: ls -ld ${dirname(path)}`,
      cause,
    })
  }
  if (FULL.has(code)) {
    return new Fail('no-space', `${text}: no space left in the store`, {
      hint: `Free some space: df -h ${dirname(path)}`,
      cause,
    })
  }
  if (UNREACHABLE.has(code)) {
    return new Fail('store-unreachable', `${text}: ${messageOf(cause)}`, {
      hint: 'Is its disk well, and mounted?',
      cause,
    })
  }
  if (code === 'ENOTDIR' || code === 'EISDIR') {
    return new Fail(
      'store-denied',
      `${text}: a file stands where a folder should, or a folder where a file`,
      {
        cause,
      },
    )
  }
  return error
}
