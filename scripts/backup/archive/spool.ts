import { readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Access, isMissing, makeFolder, syncFolder } from '../../core/file.ts'
import { isHistoryName, isSegmentName, type HistoryLine, segmentPlace, segmentStart } from '../wal/segment.ts'

const PARTIAL = '.partial'

/** What is in a spool. */
export interface SpoolContent {
  /** Whole segments, in order of their names. */
  readonly segments: readonly string[]
  /** Segments that are begun, in order; the last one may be being written. */
  readonly partials: readonly string[]
  readonly histories: readonly string[]
  /** Bytes. */
  readonly size: number
}

/** How far a server is, and by which way. */
export interface ServerPlace {
  readonly timeline: number
  /** The end of its flushed WAL. */
  readonly lsn: bigint
  /** Of its timeline. */
  readonly history: readonly HistoryLine[]
  /** Bytes. */
  readonly segmentSize: number
}

/**
 * The folder that pg_receivewal writes into. It names a file `X.partial` until it is whole and
 * flushed, then `X` (src/bin/pg_basebackup/walmethods.c).
 */
export class Spool {
  readonly folder: string
  readonly #access: Access

  constructor(folder: string, access: Access) {
    this.folder = folder
    this.#access = access
  }

  /** Makes the folder. */
  make(): Promise<void> {
    return makeFolder(this.folder, this.#access)
  }

  /** The path of a whole file. */
  path(name: string): string {
    return join(this.folder, name)
  }

  /** The path of a segment that is begun. */
  partialPath(segment: string): string {
    return join(this.folder, segment + PARTIAL)
  }

  /** What is there; nothing when there is no folder. */
  async read(): Promise<SpoolContent> {
    const names = await readdir(this.folder).catch((error: unknown): string[] => {
      if (isMissing(error)) return []
      throw error
    })
    const sizes = await Promise.all(names.map((name) => sizeOf(join(this.folder, name))))
    return {
      segments: names.filter(isSegmentName).sort(),
      partials: names
        .filter((name) => name.endsWith(PARTIAL))
        .map((name) => name.slice(0, -PARTIAL.length))
        .filter(isSegmentName)
        .sort(),
      histories: names.filter(isHistoryName).sort(),
      size: sizes.reduce((sum, size) => sum + size, 0),
    }
  }

  /** Deletes a file that is in the store. */
  async remove(path: string): Promise<void> {
    await rm(path, { force: true })
  }

  /**
   * Moves everything aside and begins anew; nothing is deleted.
   * @returns where it is now
   */
  async setAside(now: Date): Promise<string> {
    const stamp = now.toISOString().replace(/[-:]|\.\d+/g, '')
    let aside = `${this.folder}.before-${stamp}`
    for (let number = 2; await isThere(aside); number++) aside = `${this.folder}.before-${stamp}-${number}`
    await rename(this.folder, aside)
    await this.make()
    await syncFolder(join(this.folder, '..'))
    return aside
  }
}

/**
 * Why a spool cannot go on with what the server writes, or undefined. After a recovery to an earlier
 * point the server's WAL is behind the spool, or on a way that left it: pg_receivewal would ask for
 * what never comes, for ever. Pure.
 */
export function staleReason(content: SpoolContent, server: ServerPlace): string | undefined {
  const { segmentSize } = server
  const fault = (name: string, reached: bigint): string | undefined => {
    const { timeline } = segmentPlace(name, segmentSize)
    const limit =
      timeline === server.timeline
        ? server.lsn
        : server.history.find((line) => line.timeline === timeline)?.switchLsn
    if (limit === undefined)
      return `"${name}" is of a timeline that the server's timeline ${server.timeline} did not come from`
    return reached > limit ? `"${name}" is ahead of what the server has of timeline ${timeline}` : undefined
  }
  // Only the newest of each timeline can be ahead; of a beginning only its start is known.
  for (const name of content.segments) {
    const found = fault(name, segmentStart(name, segmentSize) + BigInt(segmentSize))
    if (found !== undefined) return found
  }
  for (const name of content.partials) {
    const found = fault(name, segmentStart(name, segmentSize))
    if (found !== undefined) return found
  }
  return undefined
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if (isMissing(error)) return 0 // it was renamed meanwhile
    throw error
  }
}

async function isThere(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}
