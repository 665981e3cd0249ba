import { join } from 'node:path'
import { Fail } from '../core/fail.ts'
import { exists, makeFolder, writeFileAtomic } from '../core/file.ts'
import { readFolder } from './folder.ts'

/** What a new file has in it. */
const TEMPLATE = `-- migrate:up

-- migrate:down

`

/**
 * Makes the file of a new migration, with the number that follows the highest.
 * @returns its path
 * @throws {Fail} `usage` when the name is none; `file-unreadable`, `migration-invalid`
 */
export async function newMigration(dir: string, name: string, planOnly: boolean): Promise<string> {
  const word = name
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, '_')
  if (!/^[\p{L}\p{N}]/u.test(word)) {
    throw new Fail('usage', `"${name}" is no name of a migration`, {
      hint: 'Such as: howdah migrate new add_outputs',
    })
  }
  const versions = (await exists(dir)) ? (await readFolder(dir)).map(({ version }) => version) : []
  const last = versions.at(-1) ?? '0000'
  const version = String(BigInt(last) + 1n).padStart(last.length, '0')
  const path = join(dir, `${version}_${word.replace(/_$/, '')}.sql`)
  if (planOnly) return path
  await makeFolder(dir, { mode: 0o755 })
  await writeFileAtomic(path, TEMPLATE, { mode: 0o644 })
  return path
}
