import { Cron } from 'croner'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { type Calendar, calendarOf, isCron } from './calendar.ts'
import { isDue, parseCron, quote, type Times } from './cron.ts'
import { assertZone, clockOf, isSecondPass, localMinute } from './zone.ts'

/** A schedule and the zone that it is meant in, where it does not name one itself. */
export interface When {
  readonly schedule: string
  readonly timezone: string
}

/**
 * When a schedule is due next, as a timer of systemd elapses: a time that a clock change leaves out is
 * skipped, and one that comes twice counts once.
 * @param from only what is later counts
 * @returns `count` times in order; fewer when there are no more
 * @throws {Fail} `host-file` when the schedule is wrong, `not-permitted` when it is a systemd expression
 * and `systemd-analyze` is not installed
 */
export async function nextElapses(when: When, from: Date, count: number): Promise<Date[]> {
  if (!isCron(when.schedule)) return expressionElapses(when, from, count)
  assertZone(when.timezone)
  return cronElapses(parseCron(when.schedule), { zone: when.timezone, from, count })
}

/**
 * Asks systemd whether it knows what it is told, where it is installed. It exits with 0 for what never
 * elapses, and a timer ignores a line that it cannot read: both are refused here.
 * @throws {Fail} `host-file`
 */
export async function assertCalendar({ lines }: Calendar): Promise<void> {
  const result = await analyze(['--iterations=1', '--', ...lines]).catch((error: unknown) => {
    if (error instanceof Fail && error.code === 'not-permitted') return undefined
    throw error
  })
  if (result === undefined) return
  assertAccepted(lines, result)
  const never = lines.find((_, index) => elapsesIn(blocks(result.stdout)[index] ?? '').length === 0)
  if (never === undefined) return
  throw new Fail('host-file', `the calendar expression ${quote(never)} never elapses`, {
    hint: `Look at it yourself: systemd-analyze calendar '${never}'`,
  })
}

interface Asked {
  readonly zone: string
  readonly from: Date
  readonly count: number
}

function cronElapses(times: Times, { zone, from, count }: Asked): Date[] {
  const cron = new Cron(patternOf(times), {
    paused: true,
    mode: '5-part',
    timezone: zone,
    domAndDow: !times.isEither,
  })
  const clock = clockOf(zone)
  const found: Date[] = []
  let next = cron.nextRun(from)
  while (next !== null && found.length < count) {
    const instant = next.getTime()
    // What a clock change leaves out comes later here, and what it repeats comes twice.
    const isReal = isDue(times, localMinute(clock(instant))) && !isSecondPass(clock, instant)
    if (isReal && instant > from.getTime()) found.push(next)
    next = cron.nextRun(next)
  }
  return found
}

/** Lists only: what a `*` does to the days was decided when the schedule was read. */
function patternOf({ minutes, hours, days, months, weekdays }: Times): string {
  const field = (values: readonly number[], all: number) => (values.length === all ? '*' : values.join(','))
  return [field(minutes, 60), field(hours, 24), field(days, 31), field(months, 12), field(weekdays, 7)].join(
    ' ',
  )
}

async function expressionElapses(when: When, from: Date, count: number): Promise<Date[]> {
  const { lines } = calendarOf(when.schedule, when.timezone)
  const base = `--base-time=@${Math.floor(from.getTime() / 1000)}`
  const result = await analyze([`--iterations=${count}`, base, '--', ...lines])
  assertAccepted(lines, result)
  return elapsesIn(result.stdout).filter((date) => date > from)
}

type Answer = Awaited<ReturnType<typeof run>>

async function analyze(args: readonly string[]): Promise<Answer> {
  try {
    // Its times have the zone of the environment, and its words the language.
    const env = { LC_ALL: 'C', TZ: 'UTC' }
    return await run(['systemd-analyze', 'calendar', ...args], { env, okCodes: [0, 1], timeoutSeconds: 60 })
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'not-permitted') throw error
    throw new Fail(
      'not-permitted',
      'program "systemd-analyze" is not installed, which knows systemd expressions',
      {
        hint: 'Write the schedule in cron: "0 2 * * *"',
        cause: error,
      },
    )
  }
}

function assertAccepted(lines: readonly string[], { code, stderr }: Answer): void {
  if (code === 0 && stderr.trim() === '') return
  const first = lines.find((line) => stderr.includes(line))
  throw new Fail('host-file', `systemd refuses the calendar expression ${quote(first ?? lines.join('; '))}`, {
    hint: `It says: ${stderr.trim().split('\n')[0] ?? `exit code ${code}`}. Right ones are "0 2 * * *" (cron) and "Mon..Fri *-*-* 02:00:00".`,
  })
}

/** Its answers to several expressions have an empty line between them. */
function blocks(stdout: string): string[] {
  return stdout.trimEnd().split('\n\n')
}

/** The times in an answer. "Next elapse: never" is none. */
function elapsesIn(answer: string): Date[] {
  const line = /^ *(?:Next elapse|Iter\. #\d+): \w{3} (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC$/gm
  return [...answer.matchAll(line)].map(([, date, time]) => new Date(`${date}T${time}Z`))
}
