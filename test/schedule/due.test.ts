import { describe, expect, test } from 'vitest'
import { countsFrom, type Due, dueOf, healthOf, toldAfter, type Watch } from '../../scripts/schedule/due.ts'
import type { JobState } from '../../scripts/schedule/state.ts'

const NOW = new Date('2026-06-10T12:00:00.000Z')

/** Hours before now. */
function ago(hours: number): string {
  return new Date(NOW.getTime() - hours * 3_600_000).toISOString()
}

/** A job that was to run `elapse` hours ago; negative: that is to run. */
function watch(elapse: number | undefined, state: Partial<JobState>, job: Partial<Watch['job']> = {}): Watch {
  return {
    job: {
      name: 'nightly',
      randomizedDelay: '0s',
      runtimeLimit: '24h',
      grace: '1h',
      onFailure: ['ops', 'chat'],
      ...job,
    },
    state: { job: 'nightly', failures: 0, ...state },
    elapse: elapse === undefined ? undefined : new Date(ago(elapse)),
  }
}

const last = (hours: number, change: Partial<JobState['last'] & object> = {}) => ({
  begun: ago(hours),
  ended: ago(hours - 0.5),
  result: 'success' as const,
  reason: 'exit code 0',
  ...change,
})
const failure = (hours: number) => last(hours, { result: 'failed', reason: 'timeout' })
const skip = (hours: number) => last(hours, { result: 'skipped', reason: 'exit code 20' })

describe('healthOf', () => {
  test.each<[string, Watch, string]>([
    ['installed, its first time is yet to come', watch(-5, { installedAt: ago(3) }), 'never ran'],
    ['nothing is known of it', watch(undefined, {}), 'never ran'],
    ['first time missed by more than grace', watch(1.01, { installedAt: ago(30) }), 'stale'],
    ['first time missed by less than grace', watch(0.99, { installedAt: ago(30) }), 'never ran'],
    ['succeeded, next time is to come', watch(-14, { lastSuccess: ago(10) }), 'ok'],
    ['succeeded, but the next time was missed', watch(2, { lastSuccess: ago(26) }), 'stale'],
    [
      'within randomized delay and grace',
      watch(2, { lastSuccess: ago(26) }, { randomizedDelay: '90min' }),
      'ok',
    ],
    ['beyond both', watch(2.6, { lastSuccess: ago(26) }, { randomizedDelay: '90min' }), 'stale'],
    ['as late as the last run took', watch(1.4, { lastSuccess: ago(26), last: last(26) }), 'ok'],
    ['later than the last run took', watch(1.6, { lastSuccess: ago(26), last: last(26) }), 'stale'],
    ['late, but a run goes on', watch(3, { lastSuccess: ago(26), begun: ago(3) }), 'ok'],
    [
      'a run goes on for longer than it may: it is dead',
      watch(3, { lastSuccess: ago(26), begun: ago(3) }, { runtimeLimit: '2h' }),
      'stale',
    ],
    ['failed', watch(-10, { lastSuccess: ago(26), last: failure(2), failures: 1 }), 'failed'],
    ['failed, then missed', watch(5, { lastSuccess: ago(50), last: failure(26), failures: 1 }), 'failed'],
    ['failed, then skipped', watch(-1, { last: skip(2), failures: 2 }), 'failed'],
    ['skipped once', watch(0.5, { lastSuccess: ago(26), last: skip(0.4) }), 'ok'],
    ['skipped for too long', watch(5, { lastSuccess: ago(26), last: skip(1) }), 'stale'],
    ['paused and late', watch(50, { lastSuccess: ago(90), pausedSince: ago(60) }), 'paused'],
    ['paused and failed', watch(50, { failures: 4, pausedSince: ago(60) }), 'paused'],
    ['runs by hand only and has succeeded', watch(undefined, { lastSuccess: ago(900) }), 'ok'],
  ])('%s', (_title, watch, health) => {
    expect(healthOf(watch, NOW)).toBe(health)
  })
})

test.each<[string, Partial<JobState>, string | undefined]>([
  ['nothing known', {}, undefined],
  ['installed', { installedAt: ago(3) }, ago(3)],
  ['succeeded', { installedAt: ago(30), lastSuccess: ago(3) }, ago(3)],
  ['resumed after the last success', { installedAt: ago(2), lastSuccess: ago(30) }, ago(2)],
])('countsFrom: %s', (_title, state, time) => {
  expect(countsFrom({ job: 'x', failures: 0, ...state })?.toISOString()).toBe(time)
})

describe('dueOf', () => {
  const due = (watch: Watch) => dueOf([watch], { now: NOW, remind: '24h' }).map(brief)
  const brief = ({ state, to, isReminder }: Due) => [state, to.join(), isReminder]
  const failed = (told?: JobState['told']) => watch(-10, { last: failure(2), failures: 1, told })
  const stale = (told?: JobState['told']) => watch(5, { lastSuccess: ago(29), told })
  const well = (told?: JobState['told']) => watch(-10, { lastSuccess: ago(2), last: last(2), told })

  test.each<[string, Watch, unknown[]]>([
    ['failed, nobody knows', failed(), [['failed', 'ops,chat', false]]],
    ['failed, all know it', failed({ state: 'failed', at: ago(23.9) }), []],
    ['failed, told a day ago', failed({ state: 'failed', at: ago(24) }), [['failed', 'ops,chat', true]]],
    [
      'failed, one does not know yet',
      failed({ state: 'failed', at: ago(1), missed: ['chat'] }),
      [['failed', 'chat', false]],
    ],
    [
      'failed, who could not be told is not on the list any more',
      failed({ state: 'failed', at: ago(1), missed: ['gone'] }),
      [],
    ],
    ['failed, told that it is late', failed({ state: 'stale', at: ago(1) }), [['failed', 'ops,chat', false]]],
    [
      'failed again before all knew of the recovery',
      failed({ state: 'recovered', at: ago(1), missed: ['ops'] }),
      [['failed', 'ops,chat', false]],
    ],
    ['stale, nobody knows', stale(), [['stale', 'ops,chat', false]]],
    ['stale, all know it', stale({ state: 'stale', at: ago(2) }), []],
    ['stale, told long ago', stale({ state: 'stale', at: ago(200) }), [['stale', 'ops,chat', true]]],
    ['well, as all know', well(), []],
    ['well, told of a failure', well({ state: 'failed', at: ago(5) }), [['recovered', 'ops,chat', false]]],
    ['well, told that it was late', well({ state: 'stale', at: ago(5) }), [['recovered', 'ops,chat', false]]],
    [
      'well, one does not know yet',
      well({ state: 'recovered', at: ago(5), missed: ['ops'] }),
      [['recovered', 'ops', false]],
    ],
    [
      'paused after it was told of',
      watch(5, { failures: 1, pausedSince: ago(1), told: { state: 'failed', at: ago(60) } }),
      [],
    ],
    ['nobody wants to know', watch(-10, { last: failure(2), failures: 1 }, { onFailure: [] }), []],
  ])('%s', (_title, watch, expected) => {
    expect(due(watch)).toEqual(expected)
  })

  test('reasons: say how often, since when, and why a run was skipped', () => {
    const reasons = (watch: Watch) =>
      dueOf([watch], { now: NOW, remind: '24h' }).map(({ since, reason }) => [since, reason])
    expect(reasons(watch(-1, { last: failure(2), failures: 3, failingSince: ago(50) }))).toEqual([
      [ago(50), 'timeout (the last of 3 failures in a row)'],
    ])
    expect(reasons(watch(5, { lastSuccess: ago(29), last: skip(5) }))).toEqual([
      [ago(5), `no success since it was to run at ${ago(5)}; the last run was skipped: exit code 20`],
    ])
  })

  test('toldAfter: late deliveries do not put off the reminder, a recovery that all know is forgotten', () => {
    const one = (state: Due['state'], isReminder = false): Due => ({
      job: 'nightly',
      state,
      to: [],
      isReminder,
      since: '',
      reason: '',
    })
    const before = { state: 'failed', at: ago(5), missed: ['chat'] } as const
    expect(toldAfter(one('failed'), [], { now: NOW, before: undefined })).toEqual({
      state: 'failed',
      at: ago(0),
    })
    expect(toldAfter(one('failed'), ['chat'], { now: NOW, before: undefined })).toEqual({
      state: 'failed',
      at: ago(0),
      missed: ['chat'],
    })
    expect(toldAfter(one('failed'), [], { now: NOW, before })).toEqual({ state: 'failed', at: ago(5) })
    expect(toldAfter(one('failed', true), [], { now: NOW, before })).toEqual({ state: 'failed', at: ago(0) })
    expect(toldAfter(one('recovered'), [], { now: NOW, before })).toBeUndefined()
    expect(toldAfter(one('recovered'), ['ops'], { now: NOW, before })).toEqual({
      state: 'recovered',
      at: ago(0),
      missed: ['ops'],
    })
  })
})
