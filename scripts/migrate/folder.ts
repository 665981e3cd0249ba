import { readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Fail } from '../core/fail.ts'
import { reasonOf } from '../core/file.ts'
import { isMigrationFile, type Migration, parseMigration } from './file.ts'

/**
 * All migrations of a folder, in the order of their versions. Files whose names do not begin with a number
 * are none.
 * @throws {Fail} `file-unreadable`; `migration-invalid` when one cannot be read or two have the same version
 */
export async function readFolder(dir: string): Promise<Migration[]> {
  const names = await readdir(dir).catch((cause: unknown) => {
    throw new Fail('file-unreadable', `cannot read the folder of migrations "${dir}": ${reasonOf(cause)}`, {
      cause,
    })
  })
  const files = names.filter(isMigrationFile).toSorted()
  const migrations = files.map((file) => parseMigration(file, readNow(join(dir, file))))
  const sorted = migrations.toSorted((a, b) => (BigInt(a.version) < BigInt(b.version) ? -1 : 1))
  const twice = sorted.find(
    ({ version }, index) => index > 0 && BigInt(sorted[index - 1]!.version) === BigInt(version),
  )
  if (twice === undefined) return sorted
  const same = sorted
    .filter(({ version }) => BigInt(version) === BigInt(twice.version))
    .map(({ file }) => file)
  throw new Fail('migration-invalid', `version ${BigInt(twice.version)} is there twice: ${same.join(', ')}`, {
    hint: 'Give the one that is not applied yet a higher number.',
  })
}

// Hundreds of small files are read at once in less time than their turns in other threads would take.
function readNow(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new Fail('file-unreadable', `cannot read "${path}": ${reasonOf(cause)}`, { cause })
  }
}
