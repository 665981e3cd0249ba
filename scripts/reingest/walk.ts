import type { Dirent } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { interrupted } from '../core/interrupt.ts'
import { isMissing, reasonOf } from '../core/file.ts'
import { parseFileName } from './name.ts'
import { microseconds } from './source.ts'

/** A file as it was found; times in UTC to the microsecond. */
export interface FoundFile {
  readonly path: string
  readonly size: string
  readonly modified: string
  /** What its name says, or else when its inode was changed. */
  readonly created: string
}

/** Something that could not be looked at. */
export interface Skipped {
  readonly path: string
  readonly reason: string
  /** Nothing is known of what is in it. */
  readonly isFolder: boolean
}

/** What is not looked at: names, as a whole. */
export interface Ignore {
  readonly files: readonly RegExp[]
  readonly folders: readonly RegExp[]
}

/** What the columns of file_origins hold. */
const PATH_CHARACTERS = 1024

/** Files that are asked about at the same time. */
const AT_ONCE = 64

/**
 * All files below a folder, those of one folder at a time. Links to files count as files, links to folders are not
 * followed: there is no loop.
 * @param onSkipped told what is no file that can be read, and why
 */
export async function* walk(
  folder: string,
  ignore: Ignore,
  onSkipped: (skipped: Skipped) => void,
): AsyncGenerator<FoundFile[], void> {
  const folders = [folder]
  for (let here = folders.pop(); here !== undefined; here = folders.pop()) {
    interrupted.throwIfAborted()
    const at = here
    const entries = await readdir(at, { withFileTypes: true }).catch((error: unknown) => {
      onSkipped({ path: at, reason: reasonOf(error), isFolder: true })
      return []
    })
    const files: Dirent[] = []
    for (const entry of entries) {
      if (entry.isDirectory()) {
        if (!isIgnored(entry.name, ignore.folders)) folders.push(join(at, entry.name))
      } else if ((entry.isFile() || entry.isSymbolicLink()) && !isIgnored(entry.name, ignore.files))
        files.push(entry)
    }
    for (let first = 0; first < files.length; first += AT_ONCE) {
      const found = await Promise.all(
        files
          .slice(first, first + AT_ONCE)
          .map((entry) => lookAt(join(at, entry.name), { isLink: entry.isSymbolicLink(), onSkipped })),
      )
      yield found.filter((file) => file !== undefined)
    }
  }
}

/** Whether a name is one of those that are passed over. Pure. */
export function isIgnored(name: string, patterns: readonly RegExp[]): boolean {
  return patterns.some((pattern) => pattern.test(name))
}

/** A file as it is now; undefined when it is none, or is gone, or cannot be looked at, which is told. */
export async function lookAt(
  path: string,
  { isLink, onSkipped }: { readonly isLink: boolean; readonly onSkipped: (skipped: Skipped) => void },
): Promise<FoundFile | undefined> {
  const skip = (reason: string): undefined => {
    onSkipped({ path, reason, isFolder: false })
  }
  if (basename(path).includes('\uFFFD')) return skip('its name is not UTF-8')
  if (path.length > PATH_CHARACTERS && Array.from(path).length > PATH_CHARACTERS)
    return skip(`its path has more than ${PATH_CHARACTERS} characters`)
  try {
    const { size, mtimeNs, ctimeNs, ...found } = await stat(path, { bigint: true })
    if ((Number(found.mode) & FILE_TYPE) !== REGULAR) return undefined // a link to a folder
    const created = parseFileName(path)?.time ?? microseconds(ctimeNs)
    return { path, size: String(size), modified: microseconds(mtimeNs), created }
  } catch (error) {
    // Between being listed and being looked at it may have gone.
    if (!isMissing(error)) skip(reasonOf(error))
    else if (isLink) skip('a link to what is not there')
    return undefined
  }
}

/** Of st_mode: inode(7). */
const FILE_TYPE = 0o170_000
const REGULAR = 0o100_000
