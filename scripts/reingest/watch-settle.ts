/** A file that was not written to for so long is read. */
const QUIET_MILLISECONDS = 1000
/** One that never rests is read after so long. */
const LONGEST_MILLISECONDS = 5000
/** A file that grows is read from its beginning each time: the bigger it is, the longer it rests in between. */
const MILLISECONDS_PER_MEGABYTE = 1000

interface Changed {
  readonly first: number
  readonly last: number
}

/** When files that were changed are read. Pure: the times, in milliseconds, are told. */
export class Settling {
  readonly #changed = new Map<string, Changed>()
  /** Until when a file rests that was read. */
  readonly #rests = new Map<string, number>()

  /** How many wait. */
  get size(): number {
    return this.#changed.size
  }

  /** A file was written to. */
  changed(path: string, now: number): void {
    this.#changed.set(path, { first: this.#changed.get(path)?.first ?? now, last: now })
  }

  /** A file was read. */
  wasRead(path: string, bytes: number, now: number): void {
    const rest = (bytes / 1_000_000) * MILLISECONDS_PER_MEGABYTE
    if (rest > QUIET_MILLISECONDS) this.#rests.set(path, now + rest)
  }

  /** Those that are to be read now, `most` of them at most: they wait no longer. */
  take(now: number, most: number): string[] {
    for (const [path, until] of this.#rests) if (until <= now) this.#rests.delete(path)
    const due: string[] = []
    for (const [path, { first, last }] of this.#changed) {
      if (due.length === most) break
      if (this.#rests.has(path) || now < Math.min(last + QUIET_MILLISECONDS, first + LONGEST_MILLISECONDS))
        continue
      due.push(path)
      this.#changed.delete(path)
    }
    return due
  }
}
