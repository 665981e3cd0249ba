import type { Outcome } from '../core/cli.ts'

/**
 * What a run says that looked through the folders, and then read what needs it. Each is told, and what went wrong at
 * first is no less wrong since the rest went well. Pure.
 */
export function bothOf(inventory: Outcome, ingest: Outcome): Outcome {
  const fail = ingest.fail ?? inventory.fail
  const text = [inventory.text, ingest.text].join('\n')
  const outcome = { text, result: { inventory: inventory.result, ingest: ingest.result } }
  return fail ? { ...outcome, fail } : outcome
}

/**
 * What several jobs of one run say, each under its name. One that failed has kept none of the others, and is told with
 * them; the first failure gives the exit code. Pure.
 */
export function allOf(outcomes: ReadonlyMap<string, Outcome>): Outcome {
  const all = [...outcomes.values()]
  const fail = all.find((outcome) => outcome.fail !== undefined)?.fail
  const text = [...outcomes].flatMap(([name, outcome]) =>
    outcome.text === '' ? [] : [`${name}:`, outcome.text.replaceAll(/^/gm, '  ')],
  )
  const outcome = {
    text: text.join('\n'),
    result: { jobs: all.map(({ result }) => result) },
    ok: fail === undefined && all.every(({ ok }) => ok !== false),
  }
  return fail ? { ...outcome, fail } : outcome
}
