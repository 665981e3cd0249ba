import { createHash } from 'node:crypto'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import type { Store } from '../store/store.ts'
import type { Manifest, ManifestFile } from './manifest.ts'

/** One file to look at. */
export interface FileToVerify {
  readonly store: Store
  readonly manifest: Manifest
  readonly file: ManifestFile
}

/** Files that are read at the same time: a store far away answers late, not slowly. */
const AT_ONCE = 4

/**
 * Reads files and compares their size and SHA-256 with what their manifests say.
 * @returns what is wrong, by label
 * @throws {Fail} what a store throws: an answer that does not come says nothing about a file
 */
export async function verifyFiles(
  files: readonly FileToVerify[],
  onBytes: (count: number) => void,
): Promise<Map<string, string[]>> {
  const problems = new Map<string, string[]>()
  const queue = files.values()
  const worker = async () => {
    for (const each of queue) {
      interrupted.throwIfAborted()
      const problem = await problemOf(each, onBytes)
      if (problem === undefined) continue
      const { label } = each.manifest
      problems.set(label, [...(problems.get(label) ?? []), problem])
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return problems
}

async function problemOf(
  { store, manifest, file }: FileToVerify,
  onBytes: (count: number) => void,
): Promise<string | undefined> {
  const hash = createHash('sha256')
  let size = 0
  try {
    for await (const chunk of await store.get(`${manifest.cluster}/backup/${manifest.label}/${file.name}`)) {
      const bytes = chunk as Buffer
      hash.update(bytes)
      size += bytes.length
      onBytes(bytes.length)
      interrupted.throwIfAborted()
    }
  } catch (error) {
    if (error instanceof Fail && error.code === 'store-missing') return `file "${file.name}" is missing`
    throw error
  }
  if (size !== file.size) return `file "${file.name}" has ${size} bytes, ${file.size} were written`
  const sha256 = hash.digest('hex')
  if (sha256 === file.sha256) return undefined
  return `file "${file.name}" has the SHA-256 ${sha256}, ${file.sha256} was written`
}
