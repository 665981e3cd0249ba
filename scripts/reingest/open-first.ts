import { Fail } from '../core/fail.ts'
import type { Job, Recipe } from './job.ts'
import type { Claimed, Origin, Replica } from './ledger.ts'
import { openSource, type Source } from './source.ts'

/** A file that is read: the original, or a copy of it. */
export interface Opened extends AsyncDisposable {
  readonly source: Source
  readonly isOriginal: boolean
  /** A copy, and not of what the original was when it was last seen. */
  readonly isOther: boolean
}

/** File systems of drives may keep times to two seconds only (FAT). */
const CLOCK_SECONDS = 2

/**
 * The original, or else a copy of it that this host has: one that is still what it was when it was made, or found.
 * @throws {Fail} `file-unreadable` when there is neither
 */
export async function openFirst(
  { hostname }: Pick<Job, 'hostname'>,
  { origin, claimed }: { readonly origin: Origin; readonly claimed: Claimed },
  { ending, decoder }: Pick<Recipe, 'ending' | 'decoder'>,
): Promise<Opened> {
  if (origin.host === hostname) {
    const source = await openSource(origin.path, ending, decoder)
    if (source) return opened(source, { isOriginal: true, isOther: false })
  }
  const damaged: string[] = []
  for (const replica of claimed.replicas) {
    const source = await openSource(replica.path, ending, decoder)
    if (source === undefined) continue
    if (isSame(source, replica)) {
      return opened(source, { isOriginal: false, isOther: !isSame(source, claimed) })
    }
    await source[Symbol.asyncDispose]()
    damaged.push(replica.path)
  }
  throw notThere(claimed.replicas, damaged)
}

function opened(source: Source, about: Pick<Opened, 'isOriginal' | 'isOther'>): Opened {
  return { source, ...about, [Symbol.asyncDispose]: () => source[Symbol.asyncDispose]() }
}

function isSame(source: Source, { size, modifiedSeconds }: Omit<Replica, 'path'>): boolean {
  if (size !== null && size !== String(source.size)) return false
  return modifiedSeconds === null || Math.abs(source.modifiedSeconds - modifiedSeconds) <= CLOCK_SECONDS
}

function notThere(replicas: readonly Replica[], damaged: readonly string[]): Fail {
  if (damaged.length > 0) {
    return new Fail(
      'file-unreadable',
      `it is not there any more, and the copy "${damaged[0]}" has another size or time than it had`,
      { hint: 'If the copy is right: howdah reingest enroll PREFIX' },
    )
  }
  const copies = replicas.length === 0 ? 'and has no copy here' : 'nor is a copy of it'
  return new Fail('file-unreadable', `it is not there any more, ${copies}`)
}
