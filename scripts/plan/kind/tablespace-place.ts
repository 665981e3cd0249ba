import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, normalize, resolve } from 'node:path'
import { userName } from '../../cluster/connect.ts'
import { isMissing } from '../../core/file.ts'

/** What is at the location of a tablespace. */
export interface Place {
  readonly state: 'absent' | 'folder' | 'other' | 'hidden'
  /** Without symbolic links. Of a place that is not there: where it would be. */
  readonly realPath: string
  /** Of the file system that it is on, or would be on. */
  readonly mountPoint: string
  /** Of the file system that the data directory is on. */
  readonly dataMountPoint: string
  readonly owner?: string
  /** What is in the folder. */
  readonly entries: readonly string[]
}

/** Looks at a location; changes nothing. */
export async function lookAtPlace(location: string, dataDir: string): Promise<Place> {
  const realPath = await realPathOf(location)
  const found = await lookInside(location)
  // After the look: a file system that is mounted on demand is there now.
  const mounts = parseMounts(await readFile('/proc/self/mountinfo', 'utf8'))
  return {
    ...found,
    realPath,
    mountPoint: mountPointOf(realPath, mounts),
    dataMountPoint: mountPointOf(await realPathOf(dataDir), mounts),
  }
}

async function lookInside(location: string): Promise<Pick<Place, 'state' | 'owner' | 'entries'>> {
  try {
    const { uid } = await stat(location)
    const entries = await readdir(location)
    return { state: 'folder', owner: userName(uid), entries: entries.toSorted() }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOTDIR') return { state: 'other', entries: [] }
    if (isMissing(error)) return { state: 'absent', entries: [] }
    if (code === 'EACCES') return { state: 'hidden', entries: [] }
    throw error
  }
}

/** The path without symbolic links, as far as it is there already; a link that leads nowhere is followed, too. */
async function realPathOf(path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EACCES') return path
    if (!isMissing(error) || path === '/') throw error
    const target = await readlink(path).catch(() => undefined)
    if (target !== undefined) return realPathOf(resolve(dirname(path), target))
    return join(await realPathOf(dirname(path)), basename(path))
  }
}

/**
 * Mount points of /proc/self/mountinfo. An automount that waits to be asked is none: what is
 * written there now goes nowhere. Pure.
 */
export function parseMounts(mountinfo: string): string[] {
  const types = new Map<string, string>()
  for (const line of mountinfo.split('\n')) {
    const [fields, after] = line.split(' - ')
    const point = fields?.split(' ')[4]
    // A later line of the same place lies on top of an earlier one.
    if (point !== undefined && after !== undefined) types.set(unescapeOctal(point), after.split(' ')[0]!)
  }
  return [...types].filter(([, type]) => type !== 'autofs').map(([point]) => point)
}

/** The mount point that a path is on: the longest that leads to it. Pure. */
export function mountPointOf(path: string, mounts: readonly string[]): string {
  const above = mounts.filter((mount) => isInside(path, mount))
  return above.reduce((longest, mount) => (mount.length > longest.length ? mount : longest), '/')
}

/** Whether a path is another one or in it. Pure. */
export function isInside(path: string, folder: string): boolean {
  const parent = normalize(`${folder}/`)
  return normalize(`${path}/`).startsWith(parent)
}

// Spaces, tabs, line breaks and backslashes are octal there.
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_match, octal: string) =>
    String.fromCodePoint(Number.parseInt(octal, 8)),
  )
}
