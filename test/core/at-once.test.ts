import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { mapAtOnce } from '../../scripts/core/at-once.ts'

test('what comes of each is in the order of the items, however they end', async () => {
  const gates = [30, 0, 10].map((milliseconds) => () => sleep(milliseconds, milliseconds))
  expect(await mapAtOnce(gates, 3, (gate) => gate())).toEqual([30, 0, 10])
  expect(await mapAtOnce([], 3, async () => 1)).toEqual([])
})

test.each([1, 2, 5])('no more than %d at once', async (atOnce) => {
  let now = 0
  let most = 0
  await mapAtOnce(Array.from({ length: 10 }), atOnce, async () => {
    now += 1
    most = Math.max(most, now)
    await sleep(1)
    now -= 1
  })
  expect(most).toBe(atOnce)
})

test('after an error none is begun, and those under way have ended before it is thrown', async () => {
  const begun: number[] = []
  const ended: number[] = []
  const failing = mapAtOnce([1, 2, 3, 4], 2, async (item) => {
    begun.push(item)
    if (item === 1) throw new Error('one')
    await sleep(10)
    ended.push(item)
  })
  await expect(failing).rejects.toThrow('one')
  expect([begun, ended]).toEqual([[1, 2], [2]])
})
