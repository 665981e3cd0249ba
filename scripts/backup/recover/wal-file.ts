import { open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Fail } from '../../core/fail.ts'
import { isHistoryName } from '../wal/segment.ts'
import type { WalStore } from '../wal/wal-store.ts'

/** Who a file of WAL is for. */
export interface WalFileOwner {
  readonly uid: number
  readonly gid: number
}

/** Where files of WAL go. */
export interface WalFolder {
  readonly folder: string
  /** Bytes. */
  readonly segmentSize: number
  /** Left out: this process's user. */
  readonly owner?: WalFileOwner | undefined
  /** Told how many bytes were stored of what is there now. */
  readonly onSize?: ((size: number) => void) | undefined
}

/**
 * Puts a file of WAL into a folder: as a whole, under its name. Of a segment that is not whole in the
 * store its beginning, filled up with zeros, which is how the server itself begins one.
 * @returns `absent` when lists of the store prove that it has nothing of that name
 * @throws {Fail} what a store throws, `backup-damaged`, `wrong-key`
 */
export async function fetchWalFile(
  wal: WalStore,
  name: string,
  into: WalFolder,
): Promise<'whole' | 'partial' | 'absent'> {
  // What is stored as a beginning may become a whole one between two looks, never the other way round.
  for (let attempt = 1; ; attempt++) {
    // A list that is read while that happens may have neither of the two: only a second one is a proof.
    const found = (await lookFor(wal, name)) ?? (await lookFor(wal, name))
    if (found === undefined) return 'absent'
    try {
      const bytes = found === 'whole' ? wal.get(name) : wal.getPartial(name)
      await writeWalFile(name, bytes, into)
      return found
    } catch (error) {
      if (!(error instanceof Fail) || error.code !== 'store-missing' || attempt === 3) throw error
    }
  }
}

async function lookFor(wal: WalStore, name: string): Promise<'whole' | 'partial' | undefined> {
  if (!isHistoryName(name)) return wal.has(name)
  const { histories } = await wal.list(Number.parseInt(name.slice(0, 8), 16))
  return histories.includes(name) ? 'whole' : undefined
}

async function writeWalFile(name: string, bytes: AsyncIterable<Buffer>, into: WalFolder): Promise<void> {
  const { folder, segmentSize, owner, onSize } = into
  const temporary = join(folder, `.${name}.tmp`)
  const file = await open(temporary, 'w', 0o600)
  try {
    if (owner) await file.chown(owner.uid, owner.gid)
    let size = 0
    for await (const chunk of bytes) {
      await file.writeFile(chunk) // goes on where the last one ended
      size += chunk.length
    }
    if (!isHistoryName(name)) {
      if (size > segmentSize)
        throw new Fail('backup-damaged', `segment ${name} has ${size} bytes, a segment has ${segmentSize}`)
      await file.truncate(segmentSize)
    }
    await file.close()
    await rename(temporary, join(folder, name)) // commit point: it can be read
    onSize?.(size)
  } catch (error) {
    await file.close().catch(() => {})
    await rm(temporary, { force: true })
    throw error
  }
}
