import { createHash } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { readTextIfAny, writeFileAtomic } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { access, type Told, toldSchema } from './state.ts'

// What people were told belongs to the state of a job. Where that cannot be written, on a disk that is full or gone, it
// is kept in memory until the next boot: else each check would tell all of it again.

/** The folder of the locks: it is made at each boot, and is writable in every unit. */
const FOLDER = '/run/lock/howdah'

/** What people were told of a job while its state could not be written; undefined when that never was so. */
export async function toldMeanwhile(host: Host, name: string): Promise<Told | undefined> {
  try {
    const text = await readTextIfAny(pathOf(host, name))
    return text === undefined ? undefined : toldSchema.parse(JSON.parse(text))
  } catch {
    return undefined // it is told once more
  }
}

/**
 * Remembers what people were told of a job whose state cannot be written.
 * @throws {Fail} `file-unreadable` where there is no such folder, either
 */
export async function keepMeanwhile(host: Host, name: string, told: Told): Promise<void> {
  await writeFileAtomic(pathOf(host, name), JSON.stringify(told), { ...access(host), mode: 0o600 })
}

/** Forgets it: the state is written again. */
export async function forgetMeanwhile(host: Host, name: string): Promise<void> {
  await rm(pathOf(host, name), { force: true })
}

function pathOf({ host }: Host, name: string): string {
  const key = createHash('sha256').update(host.state_dir).digest('hex').slice(0, 12)
  return join(FOLDER, `told-${key}-${name}.json`)
}
