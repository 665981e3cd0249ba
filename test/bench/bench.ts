/**
 * Measures Howdah beside other programs.
 *
 *     npm run bench                                        # lists the benches
 *     npm run bench -- provision                           # all cases, five rounds
 *     npm run bench -- provision --rounds 9 --cases noop-50
 *
 * Both sides of a comparison run in turn in the same run. Printed are versions, load, a table of
 * medians with p10 and p90, then one line of JSON for each comparison.
 * Exit codes: 0 measured, 2 usage, 13 a program is missing, 25 a program failed, 60 a side did not
 * do what it was measured for.
 */
import { type Call, main, type Outcome, type Verb } from '../../scripts/core/cli.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { formatSize } from '../../scripts/core/quantity.ts'
import { type Bench, compare, jsonLine, type Measured, significant, summarize, table } from './measure.ts'
import { load, machine } from './process.ts'
import { provision } from './provision.ts'

const BENCHES: readonly Bench[] = [provision]

/** Fewer say little about how much the values scatter. */
const ROUNDS = 5

await main({
  name: 'bench',
  summary: 'measures Howdah beside other programs',
  example: 'npm run bench -- provision',
  verbs: [{ name: '', summary: '', args: ['[name]'], run: listBenches }, ...BENCHES.map(verbOf)],
})

async function listBenches(call: Call): Promise<Outcome> {
  const list = BENCHES.map(({ name, summary }) => `  ${name.padEnd(12)}${summary}`).join('\n')
  const [name] = call.args
  if (name !== undefined) {
    throw new Fail('usage', `there is no bench "${name}"`, { hint: `The benches are:\n${list}` })
  }
  const text = `Usage: npm run bench -- NAME [OPTION...]\n\n${list}\n\nOptions of each: npm run bench -- NAME --help`
  return { text, result: BENCHES.map(({ name, summary }) => ({ name, summary })) }
}

function verbOf(bench: Bench): Verb {
  const names = Object.keys(bench.cases)
  const defaults = names.filter((name) => bench.cases[name]!.isDefault)
  return {
    name: bench.name,
    summary: bench.summary,
    options: [
      { flags: '--rounds <number>', help: 'how often each side runs', default: String(ROUNDS) },
      {
        flags: '--cases <names>',
        help: `separated by commas, of: ${names.join(', ')}`,
        default: defaults.join(','),
      },
    ],
    fails: ['not-permitted', 'command-failed', 'verify-failed'],
    run: (call) => runBench(bench, call),
  }
}

async function runBench(bench: Bench, call: Call): Promise<Outcome> {
  const rounds = Number(call.options['rounds'])
  if (!Number.isInteger(rounds) || rounds < 1) {
    throw new Fail(
      'usage',
      `--rounds is "${String(call.options['rounds'])}": it must be a whole number above 0`,
    )
  }
  const cases = casesOf(bench, String(call.options['cases']))
  const begun = new Date()
  const before = load()
  const { versions, notes, measured } = await bench.measure({ rounds, cases })
  const comparisons = measured.map((one) => compare(bench.name, one))
  const text = [
    `${bench.name}: ${bench.summary}`,
    '',
    ...table([
      ...Object.entries(versions),
      ['machine', machine()],
      ['load', `${before} at the begin, ${load()} at the end (1, 5, 15 min)`],
      ['time', `${begun.toISOString()} to ${new Date().toISOString()}`],
    ]),
    '',
    ...notes,
    ...(rounds < ROUNDS ? [`Fewer than ${ROUNDS} rounds: a look, not a result.`] : []),
    '',
    ...table([
      ['case', 'beside', 'rounds', 'ours', '(p10 - p90)', 'theirs', '(p10 - p90)', 'ours / theirs'],
      ...measured.map((one, index) => rowOf(one, comparisons[index]!.ratio)),
    ]),
    '',
    ...comparisons.map(jsonLine),
  ]
  return { text: text.join('\n'), result: { versions, rounds, measured, comparisons } }
}

function casesOf(bench: Bench, text: string): ReadonlySet<string> {
  const names = text.split(',').map((name) => name.trim())
  const unknown = names.find((name) => !Object.hasOwn(bench.cases, name))
  if (unknown === undefined) return new Set(names)
  throw new Fail('usage', `bench ${bench.name} has no case "${unknown}"`, {
    hint: `The cases are: ${Object.keys(bench.cases).join(', ')}.`,
  })
}

function rowOf(measured: Measured, ratio: number | null): string[] {
  const show = (value: number) =>
    measured.unit === 'B' ? formatSize(value) : `${significant(value, 3).toString()} s`
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
    ratio === null ? '-' : `${ratio}`,
  ]
}
