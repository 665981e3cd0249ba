import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { table } from '../core/table.ts'
import { planRuns, runSchedule } from './run.ts'
import { showTime } from './show.ts'

/** `schedule run` */
export const runVerb: Verb = {
  name: 'run',
  summary: 'run the jobs until SIGTERM where there is no systemd; a changed host file needs a restart',
  common: ['file', 'plan'],
  fails: ['host-file', 'file-unreadable', 'not-permitted', 'lock-held'],
  isService: true,
  run,
}

async function run(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  if (!call.planOnly) {
    await runSchedule({ loaded, overrides: call.overrides })
    return { text: '', result: {} }
  }
  const runs = await planRuns(loaded.host, new Date(), 3)
  const rows = runs.map(({ job, user, paused, times }) => [
    job,
    user,
    paused ? 'is paused' : times.map(showTime).join(', '),
  ])
  return {
    text: rows.length === 0 ? 'no job is scheduled' : table([['JOB', 'USER', 'NEXT'], ...rows]),
    result: { runs },
  }
}
