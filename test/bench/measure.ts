/** What a side was measured at, over all rounds. */
export interface Summary {
  readonly median: number
  readonly p10: number
  readonly p90: number
}

/** One thing measured on two sides, value by value of the rounds. */
export interface Measured {
  /** What was done, such as `noop-50`. */
  readonly case: string
  /** Who was measured beside us: a program, or `self` for another case of our own. */
  readonly peer: string
  /** Seconds or bytes. */
  readonly unit: 's' | 'B'
  readonly better: 'less' | 'more'
  readonly ours: readonly number[]
  readonly theirs: readonly number[]
}

/** A bench: `npm run bench -- NAME` is test/bench/NAME.ts. */
export interface Bench {
  readonly name: string
  /** One line. */
  readonly summary: string
  /** Cases by name, and whether they run when none is named. */
  readonly cases: Readonly<Record<string, { readonly isDefault: boolean }>>
  measure(options: { readonly rounds: number; readonly cases: ReadonlySet<string> }): Promise<BenchResult>
}

/** What a bench found out. */
export interface BenchResult {
  readonly versions: Readonly<Record<string, string>>
  /** How it was measured, a sentence each. */
  readonly notes: readonly string[]
  readonly measured: readonly Measured[]
}

/** What machines read of a comparison: medians, and ours divided by theirs. */
export interface Comparison {
  readonly bench: string
  readonly case: string
  readonly peer: string
  readonly ours: number
  readonly theirs: number
  /** `null`: theirs is 0, and ours is not. */
  readonly ratio: number | null
  readonly unit: Measured['unit']
  readonly better: Measured['better']
}

/** The value below which a share of the values lies, interpolated between the two nearest. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  if (sorted.length === 0) throw new RangeError('no values')
  const position = (sorted.length - 1) * share
  const below = sorted[Math.floor(position)]!
  const above = sorted[Math.ceil(position)]!
  return below + (above - below) * (position - Math.floor(position))
}

/** Median, and the tenth and ninetieth of a hundred. */
export function summarize(values: readonly number[]): Summary {
  return { median: quantile(values, 0.5), p10: quantile(values, 0.1), p90: quantile(values, 0.9) }
}

/**
 * Runs two sides in turn, so that whatever else the machine does meets both. Who begins changes
 * with each round, since the second may find warmer caches.
 */
export async function interleave<Ours, Theirs>(
  rounds: number,
  ours: (round: number) => Promise<Ours>,
  theirs: (round: number) => Promise<Theirs>,
): Promise<{ ours: Ours[]; theirs: Theirs[] }> {
  const results: { ours: Ours[]; theirs: Theirs[] } = { ours: [], theirs: [] }
  for (let round = 0; round < rounds; round++) {
    const steps = [
      async () => results.ours.push(await ours(round)),
      async () => results.theirs.push(await theirs(round)),
    ]
    if (round % 2 === 1) steps.reverse()
    for (const step of steps) await step()
  }
  return results
}

/** Compares the medians. */
export function compare(bench: string, measured: Measured): Comparison {
  const ours = summarize(measured.ours).median
  const theirs = summarize(measured.theirs).median
  return {
    bench,
    case: measured.case,
    peer: measured.peer,
    ours: significant(ours, 4),
    theirs: significant(theirs, 4),
    ratio: ratioOf(ours, theirs),
    unit: measured.unit,
    better: measured.better,
  }
}

/** One line of JSON with spaces, which people read too: `{ "bench": "provision", "case": "noop-50" }`. */
export function jsonLine(value: object): string {
  const entries = Object.entries(value).map(
    ([key, item]) => `${JSON.stringify(key)}: ${JSON.stringify(item)}`,
  )
  return `{ ${entries.join(', ')} }`
}

/** Rows in columns that line up: the first to the left, numbers to the right. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, cell.length)
  }
  return rows.map((row) =>
    row
      .map((cell, column) => (column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
}

/** A number with this many digits that count. */
export function significant(value: number, digits: number): number {
  return Number(value.toPrecision(digits))
}

function ratioOf(ours: number, theirs: number): number | null {
  if (theirs === 0) return ours === 0 ? 1 : null
  return significant(ours / theirs, 3)
}
