/**
 * Measures Howdah beside other programs.
 *
 *     npm run bench                                        # lists the benches
 *     npm run bench -- provision                           # all cases, five rounds
 *     npm run bench -- provision --rounds 9 --cases noop-50
 *     npm run bench -- backup --scale 0.02 --rounds 1      # does it work? says nothing about speed
 *
 * All sides of a comparison run in turn in the same run. Printed are versions, load, a table of
 * medians with p10 and p90, then one line of JSON for each comparison.
 * Exit codes: 0 measured, 2 usage, 13 a program is missing, 25 a program failed, 57 no space, 60 a
 * side did not do what it was measured for.
 */
import { type Call, main, type Outcome } from '../../scripts/core/cli.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { formatSize } from '../../scripts/core/quantity.ts'
import { backup } from './backup.ts'
import { dump } from './dump.ts'
import {
  type Bench,
  compare,
  type Comparison,
  jsonLine,
  type Measured,
  significant,
  summarize,
  table,
  verdictOf,
} from './measure.ts'
import { load, machine } from './process.ts'
import { migrate } from './migrate.ts'
import { provision } from './provision.ts'
import { reingest } from './reingest.ts'
import { restore } from './restore.ts'
import { upgrade } from './upgrade.ts'
import { wal } from './wal.ts'

const BENCHES: readonly Bench[] = [provision, backup, restore, wal, dump, migrate, reingest, upgrade]

/** Fewer say little about how much the values scatter. */
const ROUNDS = 5

await main({
  name: 'bench',
  summary: 'measures Howdah beside other programs',
  example: 'npm run bench -- provision',
  verbs: [
    {
      name: '',
      summary: '',
      args: ['[name]'],
      options: [
        { flags: '--rounds <number>', help: 'how often each side runs', default: String(ROUNDS) },
        { flags: '--cases <names>', help: 'these cases only, separated by commas' },
        { flags: '--scale <number>', help: 'share of the data; below 1 is no result', default: '1' },
        { flags: '--keep', help: 'leave the servers and stores where they are' },
      ],
      fails: ['not-permitted', 'no-space', 'command-failed', 'verify-failed'],
      run: benchOrList,
    },
  ],
})

async function benchOrList(call: Call): Promise<Outcome> {
  const [name] = call.args
  const bench = BENCHES.find((one) => one.name === name)
  if (bench) return runBench(bench, call)
  const list = BENCHES.flatMap(({ name, summary, cases }) => [
    `  ${name.padEnd(12)}${summary}`,
    ...Object.entries(cases).map(
      ([key, { isDefault }]) => `              ${key}${isDefault ? '' : ' (when named)'}`,
    ),
  ]).join('\n')
  if (name !== undefined) {
    throw new Fail('usage', `there is no bench "${name}"`, {
      hint: `The benches and their cases are:\n${list}`,
    })
  }
  const text = `Usage: npm run bench -- NAME [--rounds NUMBER] [--cases CASE,...] [--scale NUMBER] [--keep]\n\n${list}`
  return { text, result: BENCHES.map(({ name, summary, cases }) => ({ name, summary, cases })) }
}

async function runBench(bench: Bench, call: Call): Promise<Outcome> {
  const rounds = numberOf(
    call,
    'rounds',
    'a whole number above 0',
    (value) => Number.isInteger(value) && value >= 1,
  )
  const scale = numberOf(call, 'scale', 'above 0, and 1 at most', (value) => value > 0 && value <= 1)
  const cases = casesOf(bench, call.options['cases'])
  const begun = new Date()
  const before = load()
  const { versions, notes, measured } = await bench.measure({
    rounds,
    cases,
    scale,
    keep: call.options['keep'] === true,
  })
  const comparisons = measured.map((one) => compare(bench.name, one))
  const text = [
    `${bench.name}: ${bench.summary}`,
    '',
    ...table([
      ...Object.entries(versions),
      ['machine', machine()],
      ['load', `${before} at the beginning, ${load()} at the end (1, 5, 15 min)`],
      ['time', `${begun.toISOString()} to ${new Date().toISOString()}`],
    ]),
    '',
    ...notes,
    ...(rounds < ROUNDS ? [`Fewer than ${ROUNDS} rounds: a look, not a result.`] : []),
    ...(scale < 1 ? ['Less than all of the data: a look, not a result.'] : []),
    '',
    ...table([
      ['case', 'beside', 'rounds', 'ours', '(p10 - p90)', 'theirs', '(p10 - p90)', 'ours / theirs', ''],
      ...measured.map((one, index) => rowOf(one, comparisons[index]!)),
    ]),
    '',
    ...comparisons.map(jsonLine),
  ]
  return { text: text.join('\n'), result: { versions, rounds, scale, notes, measured, comparisons } }
}

function numberOf(call: Call, option: string, wanted: string, isValid: (value: number) => boolean): number {
  const value = Number(call.options[option])
  if (isValid(value)) return value
  throw new Fail('usage', `--${option} is "${String(call.options[option])}": it must be ${wanted}`)
}

function casesOf(bench: Bench, text: unknown): ReadonlySet<string> {
  const all = Object.keys(bench.cases)
  if (typeof text !== 'string') return new Set(all.filter((name) => bench.cases[name]!.isDefault))
  const names = text.split(',').map((name) => name.trim())
  const unknown = names.find((name) => !Object.hasOwn(bench.cases, name))
  if (unknown === undefined) return new Set(names)
  throw new Fail('usage', `bench ${bench.name} has no case "${unknown}"`, {
    hint: `The cases are: ${all.join(', ')}.`,
  })
}

function rowOf(measured: Measured, comparison: Comparison): string[] {
  const show = (value: number) =>
    measured.unit === 'B' ? formatSize(value) : `${significant(value, 3)} ${measured.unit}`
  const cells = (values: readonly number[]) => {
    const { median, p10, p90 } = summarize(values)
    return [show(median), `(${show(p10)} - ${show(p90)})`]
  }
  return [
    measured.case,
    measured.peer,
    String(measured.ours.length),
    ...cells(measured.ours),
    ...cells(measured.theirs),
    comparison.ratio === null ? '-' : `${comparison.ratio}`,
    verdictOf(comparison),
  ]
}
