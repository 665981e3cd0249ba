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
  /** Seconds, bytes, millions of bytes a second, or rows a second. */
  readonly unit: 's' | 'B' | 'MB/s' | 'rows/s'
  readonly better: 'less' | 'more'
  readonly ours: readonly number[]
  readonly theirs: readonly number[]
}

/** How a bench is run. */
export interface BenchOptions {
  readonly rounds: number
  readonly cases: ReadonlySet<string>
  /** Share of the data that results are got with; less is a quick look at whether it works. */
  readonly scale: number
  /** Leaves the folder of the servers and the stores where it is. */
  readonly keep: boolean
}

/** A bench: `npm run bench -- NAME` is test/bench/NAME.ts. */
export interface Bench {
  readonly name: string
  /** One line. */
  readonly summary: string
  /** Cases by name, and whether they run when none is named. */
  readonly cases: Readonly<Record<string, { readonly isDefault: boolean }>>
  measure(options: BenchOptions): Promise<BenchResult>
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
 * Runs all sides in turn, so that whatever else the machine does meets each of them. Who begins
 * changes with each round, since the next may find warmer caches.
 */
export async function interleave<Name extends string, Sample>(
  rounds: number,
  sides: Readonly<Record<Name, (round: number) => Promise<Sample>>>,
): Promise<Record<Name, Sample[]>> {
  const names = Object.keys(sides) as Name[]
  const results = Object.fromEntries(names.map((name) => [name, [] as Sample[]])) as Record<Name, Sample[]>
  for (let round = 0; round < rounds; round++) {
    for (let step = 0; step < names.length; step++) {
      const name = names[(round + step) % names.length]!
      results[name].push(await sides[name](round))
    }
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

/** What a ratio means: within five of a hundred the two are equal. */
export function verdictOf({ ratio, better }: Pick<Comparison, 'ratio' | 'better'>): string {
  if (ratio === null) return '-'
  if (ratio >= EQUAL[0] && ratio <= EQUAL[1]) return 'equal'
  return ratio < 1 === (better === 'less') ? 'better' : 'worse'
}

/** Ratios that say nothing. */
const EQUAL = [0.95, 1.05] as const

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
