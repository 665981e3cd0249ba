import type { RestorePhase } from '../restore.ts'
import { formatDuration } from '../../core/quantity.ts'
import type { RecoverPhase } from './run.ts'

/** How long each part of a restore took, milliseconds. */
export type Times = Readonly<Record<string, number>>

/** Parts of the restore of a cluster: what ends each of them, in order. */
const CLUSTER: readonly Part<RecoverPhase>[] = [
  { name: 'fetch', what: 'copying', ends: ['fetched'] },
  { name: 'recovery', what: 'recovery', ends: ['recovered'] },
  { name: 'handover', what: 'handover', ends: ['swapped', 'started'] },
]

/** The same of a database, out of a dump. */
const DATABASE: readonly Part<RestorePhase>[] = [
  { name: 'fill', what: 'filling', ends: ['filled'] },
  { name: 'analyze', what: 'analyze', ends: ['analyzed'] },
  { name: 'swap', what: 'swap', ends: ['swapped', 'dropped'] },
]

interface Part<Phase> {
  readonly name: string
  /** For people. */
  readonly what: string
  readonly ends: readonly Phase[]
}

/** Measures the parts of something, from the phases that it tells of. */
export class PhaseClock<Phase extends string> {
  readonly #parts: readonly Part<Phase>[]
  readonly #now: () => number
  readonly #times = new Map<string, number>()
  #last: number | undefined

  /** @param now milliseconds */
  constructor(parts: readonly Part<Phase>[], now = () => performance.now()) {
    this.#parts = parts
    this.#now = now
  }

  /** Is told what has just been done; the first one begins it. */
  readonly onPhase = (phase: Phase): void => {
    const now = this.#now()
    const part = this.#parts.find(({ ends }) => ends.includes(phase))
    if (part === undefined) {
      this.#last ??= now // what is between two parts is of the one that follows
      return
    }
    this.#times.set(part.name, (this.#times.get(part.name) ?? 0) + now - (this.#last ?? now))
    this.#last = now
  }

  /** Of each part that has ended, in whole milliseconds. */
  times(): Times {
    return Object.fromEntries([...this.#times].map(([name, time]) => [name, Math.round(time)]))
  }

  /** For people: `8.00 s copying, 3.20 s recovery`. */
  toString(): string {
    return this.#parts
      .filter(({ name }) => this.#times.has(name))
      .map(({ name, what }) => `${formatDuration(this.#times.get(name)! / 1000)} ${what}`)
      .join(', ')
  }
}

/** Measures the restore of a cluster. */
export function clusterClock(now?: () => number): PhaseClock<RecoverPhase> {
  return new PhaseClock(CLUSTER, now)
}

/** Measures the restore of a database out of a dump. */
export function databaseClock(now?: () => number): PhaseClock<RestorePhase> {
  return new PhaseClock(DATABASE, now)
}
