import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { nextElapses } from './elapse.ts'
import { findJob } from './job.ts'
import { statusOf } from './list.ts'
import { showList, showTimeIn } from './show.ts'
import { readState } from './state.ts'

/** `schedule list` */
export const listVerb: Verb = {
  name: 'list',
  summary: 'list the jobs: when they ran, with what result, and when they run next',
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'command-failed'],
  run: list,
}

/** `schedule next JOB` */
export const nextVerb: Verb = {
  name: 'next',
  summary: 'print when a job runs next',
  args: ['<job>'],
  options: [{ flags: '-n, --count <number>', help: 'how many times', default: '10' }],
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'command-failed'],
  run: next,
}

async function list(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const now = new Date()
  const status = await statusOf(host, now)
  return { text: showList(status.jobs, status.services, now), result: status }
}

const MAX_COUNT = 1000

async function next(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const count = Number(call.options['count'])
  if (!Number.isInteger(count) || count < 1 || count > MAX_COUNT) {
    throw new Fail('usage', `--count is "${String(call.options['count'])}", should be 1 to ${MAX_COUNT}`)
  }
  const { name, schedule, timezone, randomizedDelay } = findJob(host, call.args[0]!)
  const times = await nextElapses({ schedule, timezone }, new Date(), count)
  // Whoever may not look into the state still gets the times.
  const paused = await readState(host, name).then(
    ({ pausedSince }) => pausedSince,
    () => undefined,
  )
  const isLate = !/^0(\.0+)?\s*[a-z]*$/.test(randomizedDelay)
  const notes = [
    ...(isLate ? [`each begins up to ${randomizedDelay} later`] : []),
    ...(paused === undefined ? [] : [`${name} is paused: none of them counts until it is resumed`]),
    ...(times.length === 0 ? [`${name} never runs`] : []),
  ]
  return {
    text: [
      ...times.map((time) =>
        timezone === 'UTC'
          ? showTimeIn(time, 'UTC')
          : `${showTimeIn(time, timezone)}  ${showTimeIn(time, 'UTC')}`,
      ),
      ...notes,
    ].join('\n'),
    result: {
      job: name,
      schedule,
      timezone,
      randomizedDelay,
      pausedSince: paused ?? null,
      times: times.map((time) => time.toISOString()),
    },
  }
}
