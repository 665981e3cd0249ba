import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { calendarOf } from '../../scripts/schedule/calendar.ts'
import { nextElapses } from '../../scripts/schedule/elapse.ts'
import { dueAfter, entryOf, hasDate } from '../support/vixie.ts'

/** Elapses that are compared, of each expression from each time. */
const COUNT = 6

describe('cron: thousands of expressions', () => {
  const expressions = fc.sample(cronText(), { numRuns: 3000, seed: 20_261_123 })
  const possible = expressions.filter((text) => hasDate(entryOf(text)))

  test('dates: those that never come are refused, all others are not', () => {
    const refused = expressions.filter((text) => {
      try {
        calendarOf(text, 'UTC')
        return false
      } catch {
        return true
      }
    })
    expect(refused).toEqual(expressions.filter((text) => !hasDate(entryOf(text))))
    expect(refused.length).toBeGreaterThan(0)
    expect(possible.length).toBeGreaterThan(2500)
  })

  test.each([
    '2024-02-28T23:58:00Z', // before a leap day
    '2026-12-31T23:59:30Z', // not at a whole minute
    '2027-08-15T12:00:00Z',
    '2097-01-01T00:00:00Z', // before a year that is no leap year although four divides it
  ])('UTC, from %s: systemd, the preview and Vixie cron agree', async (from) => {
    expect(await differences(possible, 'UTC', new Date(from))).toEqual([])
  })

  test.each([
    ['Europe/Vienna', '2027-03-28T00:10:00Z'], // an hour is left out at 01:00
    ['Europe/Vienna', '2027-10-30T23:10:00Z'], // an hour comes twice from 00:00 on
    ['America/New_York', '2027-03-14T05:50:00Z'],
    ['America/New_York', '2027-11-07T05:10:00Z'],
    ['Australia/Lord_Howe', '2027-04-03T14:05:00Z'], // half an hour comes twice
    ['Australia/Lord_Howe', '2027-10-02T14:40:00Z'],
    ['Asia/Kolkata', '2027-06-30T18:00:00Z'],
  ])('%s, from %s, at a change of its clock: they agree', async (zone, from) => {
    const close = ['* * * * *', '*/10 * * * *', '0 * * * *', '5,35 1-3 * * *', '30 2 * * *', '15 1 * * sun']
    const some = [...close, '0 3 * * *', ...possible.slice(0, 120)]
    expect(await differences(some, zone, new Date(from))).toEqual([])
  })
})

/** The first few expressions about which the three do not agree. */
async function differences(texts: readonly string[], zone: string, from: Date): Promise<object[]> {
  const systemd = await bySystemd(texts, zone, from)
  const found: object[] = []
  for (const [index, text] of texts.entries()) {
    const right = byVixie(text, zone, from)
    const preview = await nextElapses({ schedule: text, timezone: zone }, from, COUNT)
    const seen = { systemd: systemd[index]!.join(' '), preview: preview.map(iso).join(' ') }
    if (seen.systemd !== right.join(' ') || seen.preview !== right.join(' '))
      found.push({ text, right: right.join(' '), ...seen })
  }
  return found.slice(0, 5)
}

/** The first elapses of each, of whichever of its lines comes first. */
async function bySystemd(texts: readonly string[], zone: string, from: Date): Promise<string[][]> {
  const lines = texts.map((text) => calendarOf(text, zone, from).lines)
  const argv = [
    'systemd-analyze',
    'calendar',
    `--iterations=${COUNT}`,
    `--base-time=@${Math.floor(+from / 1000)}`,
  ]
  const answers: string[] = []
  const all = lines.flat()
  // One shell command takes 128 KiB.
  for (let first = 0; first < all.length; first += 400) {
    const some = all.slice(first, first + 400)
    const { stdout, stderr } = await run([...argv, ...some], { env: { LC_ALL: 'C', TZ: 'UTC' } })
    expect(stderr).toBe('')
    answers.push(...stdout.trimEnd().split('\n\n'))
  }
  expect(answers).toHaveLength(lines.flat().length)
  return lines.map((some) => {
    const times = answers
      .splice(0, some.length)
      .flatMap((answer) => [...answer.matchAll(/: \w{3} ([\d-]{10}) ([\d:]{8}) UTC$/gm)])
    return [...new Set(times.map(([, date, time]) => `${date}T${time}Z`))].toSorted().slice(0, COUNT)
  })
}

/** A local time that does not exist is left out, one that comes twice counts the first time. */
function byVixie(text: string, zone: string, from: Date): string[] {
  const found: number[] = []
  const local = localTimes(zone)
  for (const due of dueAfter(entryOf(text), local(+from) - 86_400_000)) {
    const instants = [due - 86_400_000, due + 86_400_000].map((at) => due - (local(at) - at))
    const first = instants.filter((instant) => local(instant) === due).toSorted((a, b) => a - b)[0]
    if (first !== undefined && first > +from) found.push(first)
    if (found.length === COUNT) break
  }
  return found.map(iso)
}

function localTimes(zone: string): (instant: number) => number {
  if (zone === 'UTC') return (instant) => instant
  const format = (formats[zone] ??= new Intl.DateTimeFormat('sv', {
    timeZone: zone,
    dateStyle: 'short',
    timeStyle: 'medium',
  }))
  return (instant) => Date.parse(`${format.format(instant).replace(' ', 'T')}Z`)
}

const formats: Record<string, Intl.DateTimeFormat> = {}

function iso(at: Date | number): string {
  return new Date(at).toISOString().replace('.000Z', 'Z')
}

interface Field {
  readonly low: number
  readonly high: number
  readonly names?: readonly string[]
}

/** Right expressions of every shape: stars, steps, ranges, lists, names, weekdays across Sunday. */
function cronText(): fc.Arbitrary<string> {
  const months = ['jan', 'FEB', 'Mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
  const weekdays = ['sun', 'Mon', 'tue', 'WED', 'thu', 'fri', 'sat']
  return fc
    .tuple(
      field({ low: 0, high: 59 }),
      field({ low: 0, high: 23 }),
      field({ low: 1, high: 31 }),
      field({ low: 1, high: 12, names: months }),
      field({ low: 0, high: 7, names: weekdays }),
    )
    .map((fields) => fields.join(' '))
}

function field({ low, high, names = [] }: Field): fc.Arbitrary<string> {
  const isWeek = high === 7
  const number = fc.integer({ min: low, max: high })
  const show = fc.boolean().map((named) => (value: number) => (named && names[value - low]) || String(value))
  const single = fc.tuple(number, show).map(([value, show]) => show(value))
  const span = fc
    .tuple(number, number, show)
    .map(([a, b, show]) => (isWeek || a <= b ? `${show(a)}-${show(b)}` : `${show(b)}-${show(a)}`))
  const step = fc.integer({ min: 1, max: isWeek ? 6 : high })
  const stepped = fc
    .tuple(fc.oneof({ weight: 2, arbitrary: fc.constant('*') }, { weight: 1, arbitrary: span }), step)
    .map(([of, step]) => `${of}/${step}`)
  const item = fc.oneof(
    { weight: 4, arbitrary: single },
    { weight: 2, arbitrary: span },
    { weight: 2, arbitrary: stepped },
    { weight: 1, arbitrary: fc.constant('*') },
  )
  const list = fc.array(item, { minLength: 1, maxLength: 4 }).map((items) => items.join(','))
  return fc.oneof(
    { weight: 2, arbitrary: fc.constant('*') },
    { weight: 3, arbitrary: item },
    { weight: 3, arbitrary: list },
  )
}
