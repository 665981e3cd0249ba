import { Fail } from '../../core/fail.ts'
import { unpack } from '../../store/pipeline.ts'
import type { PhysicalFound } from './choose.ts'

/**
 * Proves that what is encrypted of some backups can be read, by the smallest file of each, before anything
 * else is fetched.
 * @param identity file of the private key
 * @throws {Fail} `wrong-key`, `backup-damaged`, and what a store throws
 */
export async function assertReadable(
  chain: readonly PhysicalFound[],
  identity: string | undefined,
): Promise<void> {
  for (const { manifest, store } of chain) {
    if (!manifest.encrypted) continue
    if (identity === undefined) {
      throw new Fail(
        'wrong-key',
        `backup ${manifest.label} is encrypted, and there is no identity to read it with`,
        { hint: 'Give the file with the private key: --identity FILE' },
      )
    }
    const [file] = manifest.files
      .filter(({ name }) => name.endsWith('.age'))
      .toSorted((a, b) => a.size - b.size)
    if (file === undefined) continue
    const key = `${manifest.cluster}/backup/${manifest.label}/${file.name}`
    for await (const _ of unpack(store, { ...file, key }, { identity })); // to its end: then it is proven
  }
}
