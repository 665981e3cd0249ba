import { describe, expect, test } from 'vitest'
import type { UnitState } from '../../scripts/schedule/systemd.ts'
import { troubleOf } from '../../scripts/schedule/watch.ts'

describe('troubleOf', () => {
  const now = new Date('2026-11-23T08:00:00Z')
  const running: UnitState = {
    isActive: true,
    isEnabled: true,
    needsReload: false,
    activeSince: now,
    next: undefined,
    lastTrigger: undefined,
    result: 'success',
    activeState: 'active',
    subState: 'running',
    inactiveSince: undefined,
    restarts: 0,
    isInstalled: true,
  }
  const stopped: Partial<UnitState> = { activeState: 'inactive', subState: 'dead', isActive: false }
  const ago = (seconds: number) => new Date(now.getTime() - seconds * 1000)

  test.each<[string, Partial<UnitState>, string | undefined]>([
    ['one that runs', {}, undefined],
    ['one that runs, after many restarts', { restarts: 20 }, undefined],
    ['one that waits for its server', { activeState: 'activating', subState: 'start' }, undefined],
    [
      'one that has ended once, and is started again',
      { activeState: 'activating', subState: 'auto-restart', result: 'exit-code', restarts: 1 },
      undefined,
    ],
    [
      'one that ends again and again, and never is failed for systemd',
      { activeState: 'activating', subState: 'auto-restart', result: 'exit-code', restarts: 3 },
      'exit-code: it was started again 3 times, and ended',
    ],
    [
      'the same, as newer ones call it',
      { activeState: 'activating', subState: 'auto-restart-queued', result: 'signal', restarts: 9 },
      'signal: it was started again 9 times, and ended',
    ],
    [
      'one that failed',
      { activeState: 'failed', subState: 'failed', result: 'timeout' },
      'timeout: it has ended, and is not started again',
    ],
    ['one that somebody stopped', { ...stopped, inactiveSince: ago(31) }, 'it was stopped'],
    ['one that is just restarted', { ...stopped, inactiveSince: ago(5) }, undefined],
    ['one that nobody has started', stopped, 'it was not started'],
    ['one that is not installed', { ...stopped, inactiveSince: ago(61), isInstalled: false }, undefined],
  ])('%s', (_, state, expected) => {
    expect(troubleOf({ ...running, ...state }, { now, uptimeSeconds: 700 })).toBe(expected)
  })

  test('one that nobody has started, while the host boots', () => {
    expect(troubleOf({ ...running, ...stopped }, { now, uptimeSeconds: 60 })).toBeUndefined()
  })
})
