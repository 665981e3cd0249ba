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
