/** When a server's WAL ended where: pairs of position and time, as they were seen. */
export class Samples {
  readonly #kept: { lsn: bigint; time: string }[] = []

  /** Adds what was just seen. A position behind the last one begins anew: the server was set back. */
  add(lsn: bigint, time: string): void {
    const last = this.#kept.at(-1)
    if (last !== undefined && lsn < last.lsn) this.#kept.length = 0
    if (last?.lsn === lsn) last.time = time
    else this.#kept.push({ lsn, time })
    if (this.#kept.length > KEPT) this.#kept.splice(0, this.#kept.length - KEPT / 2)
  }

  /** The latest time at which the WAL ended at or before a position, ISO; undefined when it is not known. */
  timeOf(lsn: bigint): string | undefined {
    return this.#kept.findLast((sample) => sample.lsn <= lsn)?.time
  }
}

const KEPT = 20_000
