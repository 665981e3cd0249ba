import { readFile } from 'node:fs/promises'
import { run } from '../../scripts/core/exec.ts'

/** A pair of keys of age. */
export interface AgeKey {
  /** The file with the private key; 0600, and of whoever runs the tests. */
  readonly path: string
  readonly recipient: string
  /** The line of the private key. */
  readonly secret: string
}

/** Makes a pair of keys, and a file that must not be there with the private one. */
export async function ageKey(path: string): Promise<AgeKey> {
  await run(['age-keygen', '-o', path])
  const text = await readFile(path, 'utf8')
  return {
    path,
    recipient: /age1[0-9a-z]+/.exec(text)![0],
    secret: /AGE-SECRET-KEY-1[0-9A-Z]+/.exec(text)![0],
  }
}
