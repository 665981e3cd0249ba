import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isMissing, readText } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import type { FoundUnit } from './systemd.ts'
import type { UnitFile } from './unit.ts'

/** Where an administrator says what stands in /run after each boot (tmpfiles.d(5)). */
export const TMPFILES_FOLDER = '/etc/tmpfiles.d'

const HEAD = '# Made by "howdah schedule install" for '

/**
 * The file that makes the folder of the locks at each boot, for nobody but root could; none where the
 * locks are elsewhere. Pure.
 * @param hostFile absolute
 */
export function renderTmpfiles(host: Host, hostFile: string): UnitFile[] {
  if (host.postgres.kind !== 'debian') return []
  const content = `${HEAD}${hostFile}\nd /run/lock/howdah 0750 postgres postgres -\n`
  return [{ name: `${host.schedule.unit_prefix}.conf`, content }]
}

/** The host file that such a file was made for; undefined when we did not make it. Pure. */
export function tmpfilesOwner(content: string): string | undefined {
  const [first] = content.split('\n')
  return first?.startsWith(HEAD) ? first.slice(HEAD.length) : undefined
}

/**
 * The files of an administrator that are there.
 * @throws {Fail} `file-unreadable`
 */
export async function findTmpfiles(): Promise<FoundUnit[]> {
  const names = await readdir(TMPFILES_FOLDER).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw error
  })
  const found: FoundUnit[] = []
  for (const name of names.filter((name) => name.endsWith('.conf'))) {
    const path = join(TMPFILES_FOLDER, name)
    const { mtime } = await lstat(path)
    found.push({ name, path, content: await readText(path), isMasked: false, changedAt: mtime })
  }
  return found
}
