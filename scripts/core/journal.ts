import { readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Fail } from './fail.ts'
import { type Access, isMissing, makeFolder, readTextIfAny, syncFolder, writeFileAtomic } from './file.ts'

/** Of the files that this version writes; a newer one is refused, since it may mean something else. */
const FORMAT = 1

/**
 * Writes down what is about to be done, so that a run after a crash can finish or undo it. Durable
 * when it returns.
 * @param value plain data
 */
export async function writeJournal(path: string, value: object, folder: Access): Promise<void> {
  await makeFolder(dirname(path), folder)
  const text = `${JSON.stringify({ format: FORMAT, ...value }, undefined, 2)}\n`
  await writeFileAtomic(path, text, { ...folder, mode: 0o600 })
}

/**
 * What a journal says, or undefined when there is none.
 * @throws {Fail} `file-unreadable` when it is damaged or of a newer format
 */
export async function readJournal<T extends object>(path: string): Promise<T | undefined> {
  const text = await readTextIfAny(path)
  if (text === undefined) return undefined
  const value = parseJson(text, path) as T & { format?: number }
  if (value.format !== FORMAT) {
    throw new Fail(
      'file-unreadable',
      `the journal "${path}" has ${value.format === undefined ? 'no format' : `format ${value.format}`}, this version knows ${FORMAT}`,
      {
        hint: 'Finish what it describes with the version of Howdah that wrote it.',
      },
    )
  }
  return value
}

/** Names of the journals in a folder, without their ending, in order. */
export async function listJournals(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw new Fail('file-unreadable', `cannot read the folder "${folder}"`, { cause: error })
  })
  return names
    .filter((name) => /^[^.].*\.json$/.test(name))
    .map((name) => name.slice(0, -'.json'.length))
    .toSorted()
}

/** Forgets a journal: what it described is done or undone. */
export async function removeJournal(path: string): Promise<void> {
  await rm(path, { force: true })
  await syncFolder(dirname(path)).catch((error: unknown) => {
    if (!isMissing(error)) throw error
  })
}

/** Where a journal of that name is, under a state folder. */
export function journalPath(stateDir: string, name: string): string {
  return join(stateDir, 'journal', `${encodeURIComponent(name)}.json`)
}

function parseJson(text: string, path: string): object {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('no JSON object')
    return value
  } catch (cause) {
    throw new Fail('file-unreadable', `the journal "${path}" is damaged`, {
      hint: `Look at it, and remove it when nothing is half-done: ${path}`,
      cause,
    })
  }
}
