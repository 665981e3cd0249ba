import { readdir, readFile, readlink } from 'node:fs/promises'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'

/** Says in the environment of a program which upgrade it belongs to; core/exec.ts hands it on. */
const MARK = 'HOWDAH_UPGRADE'

/** From here on each program that this process runs can be found again, by whoever comes after its death. */
export function markPrograms(folder: string): void {
  process.env[MARK] = folder
}

/**
 * Ends the programs of an upgrade that outlive whoever began them: what they write into would be removed, or used,
 * at the same time. Not servers, which end in order: their data directory leads to them.
 */
export async function endOrphans(folder: string): Promise<void> {
  for (let found = await orphansOf(folder); found.length > 0; found = await orphansOf(folder)) {
    for (const pid of found) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has ended by itself.
      }
    }
    await sleep(20)
  }
}

async function orphansOf(folder: string): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid || pid === process.ppid) continue
    const environment = await readFile(`/proc/${name}/environ`, 'utf8').catch(() => '')
    if (!environment.split('\0').includes(`${MARK}=${folder}`)) continue
    const program = await readlink(`/proc/${name}/exe`).catch(() => '')
    if (program !== '' && !program.endsWith('/postgres')) found.push(pid)
  }
  return found
}
