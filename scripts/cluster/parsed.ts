import { hash } from 'node:crypto'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { writeFileAtomic } from '../core/file.ts'
import type { Host } from '../host/schema.ts'

// To load what checks a host file takes longer than most of what is then done with it. So what came of a text is kept
// where Node keeps the code that it has compiled: a folder of the user's own, from which code is run anyway.

/** How many are kept; one is some kilobytes. */
const KEPT = 64

/** What came of a text, if exactly this program has checked it before; undefined when that is not known. */
export async function parsedBefore(text: string, overrides: readonly string[]): Promise<Host | undefined> {
  const path = pathOf(text, overrides)
  if (path === undefined) return undefined
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Host
  } catch {
    return undefined
  }
}

/** Keeps what came of a text; where it cannot be kept, it is checked again. */
export async function keepParsed(text: string, overrides: readonly string[], host: Host): Promise<void> {
  const path = pathOf(text, overrides)
  if (path === undefined) return
  const folder = join(path, '..')
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await writeFileAtomic(path, JSON.stringify(host), { mode: 0o600 })
    await forgetOldest(folder)
  } catch {
    // on a disk that is full, or read-only
  }
}

async function forgetOldest(folder: string): Promise<void> {
  const names = await readdir(folder)
  if (names.length <= KEPT) return
  const times = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).mtimeMs))
  const oldest = names.map((name, at) => ({ name, time: times[at]! })).toSorted((a, b) => a.time - b.time)
  for (const { name } of oldest.slice(0, names.length - KEPT / 2))
    await rm(join(folder, name), { force: true })
}

function pathOf(text: string, overrides: readonly string[]): string | undefined {
  const folder = process.env['NODE_COMPILE_CACHE']
  if (folder === undefined || folder === '') return undefined
  const by = program()
  if (by === undefined) return undefined
  return join(folder, 'host-files', `${hash('sha256', JSON.stringify([by, overrides, text]))}.json`)
}

/**
 * What checks a text: other files of code, or other packages, may make something else of it. Undefined for a copy of
 * the program that does not say which packages it has.
 */
function program(): string[] | undefined {
  const lock = join(import.meta.dirname, '../../package-lock.json')
  if (!existsSync(lock)) return undefined
  const here = import.meta.dirname
  const folders = [join(here, '../host'), join(here, '../core')]
  const files = folders.flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)))
  return [...files, lock].map((path) => {
    const { mtimeMs, size } = statSync(path)
    return `${path} ${mtimeMs} ${size}`
  })
}
