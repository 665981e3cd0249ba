import type { Call, OptionSpec } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { parseDuration } from '../core/quantity.ts'

/** `--wait TIME`, of verbs that hold a store. */
export const WAIT_OPTION: OptionSpec = {
  flags: '--wait <time>',
  help: 'how long to wait for another run that has the store, such as "1h"; default: not at all',
}

/**
 * Seconds of `--wait`; 0 without it.
 * @throws {Fail} `usage`
 */
export function waitSecondsOf(call: Call): number {
  const text = call.options['wait']
  if (typeof text !== 'string') return 0
  const seconds = parseDuration(text)
  if (seconds !== undefined) return seconds
  throw new Fail('usage', `--wait ${JSON.stringify(text)} is no time`, {
    hint: 'A time is a number with a unit, such as "30s", "10min" or "1h".',
  })
}
