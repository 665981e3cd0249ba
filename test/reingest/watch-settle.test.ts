import { expect, test } from 'vitest'
import { Settling } from '../../scripts/reingest/watch-settle.ts'

const MANY = 1000

test('a file that rests for a second is read; one that never rests, after five', () => {
  const settling = new Settling()
  settling.changed('/a', 0)
  for (let now = 0; now < 4900; now += 100) settling.changed('/busy', now)
  expect(settling.take(999, MANY)).toEqual([])
  expect(settling.take(1000, MANY)).toEqual(['/a'])
  expect(settling.take(4900, MANY)).toEqual([])
  expect(settling.take(5000, MANY)).toEqual(['/busy'])
  expect(settling.take(9000, MANY)).toEqual([])
})

test('a big one rests for a second for each megabyte, and is not forgotten; a small one does not', () => {
  const settling = new Settling()
  settling.wasRead('/big', 10_000_000, 0)
  settling.wasRead('/small', 1000, 0)
  for (const path of ['/big', '/small']) settling.changed(path, 0)
  expect(settling.take(9999, MANY)).toEqual(['/small'])
  expect(settling.size).toBe(1)
  expect(settling.take(10_000, MANY)).toEqual(['/big'])
})

test('more than are read at once: the rest waits, the first ones first', () => {
  const settling = new Settling()
  for (const path of ['/a', '/b', '/c']) settling.changed(path, 0)
  expect(settling.take(2000, 2)).toEqual(['/a', '/b'])
  expect(settling.take(2000, 2)).toEqual(['/c'])
})
