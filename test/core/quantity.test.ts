import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  formatCount,
  formatDuration,
  formatSize,
  parseDuration,
  parseSize,
} from '../../scripts/core/quantity.ts'

test.each([
  ['0B', 0],
  ['1kB', 1024],
  ['1KB', 1024],
  ['64MB', 64 * 1024 ** 2],
  ['1.5GB', 1.5 * 1024 ** 3],
  ['2TB', 2 * 1024 ** 4],
  [' 16 MB ', 16 * 1024 ** 2],
  ['0.3kB', 307],
  ['64', undefined],
  ['64mb', undefined],
  ['64 MiB', undefined],
  ['-1MB', undefined],
  ['1e3MB', undefined],
  ['MB', undefined],
  ['', undefined],
  ['64MB 1kB', undefined],
  ['1toString', undefined],
  ['1constructor', undefined],
])('parseSize: %j: %j bytes', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes)
})

test.each([
  ['500us', 0.0005],
  ['250ms', 0.25],
  ['30s', 30],
  ['5min', 300],
  ['5m', 300],
  ['2h', 7200],
  ['30d', 2_592_000],
  ['1w', 604_800],
  ['1.5min', 90],
  ['5 min', 300],
  ['30', undefined],
  ['1M', undefined],
  ['1y', undefined],
  ['-5s', undefined],
  ['1h30m', undefined],
  ['', undefined],
])('parseDuration: %j: %j seconds', (text, seconds) => {
  expect(parseDuration(text)).toBe(seconds)
})

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [1024, '1.0 kB'],
  [1536, '1.5 kB'],
  [100 * 1024, '100 kB'],
  [1.5 * 1024 ** 2, '1.5 MB'],
  [2.3 * 1024 ** 3, '2.3 GB'],
  [5000 * 1024 ** 4, '5000.0 TB'],
  [-1536, '-1.5 kB'],
])('formatSize: %j bytes: %j', (bytes, text) => {
  expect(formatSize(bytes)).toBe(text)
})

test('formatSize: any size: what it says is within a twentieth of it, and can be read again', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1000, max: 2 ** 50 }), (bytes) => {
      const read = parseSize(formatSize(bytes))!
      expect(Math.abs(read - bytes) / bytes).toBeLessThan(0.055)
    }),
  )
})

test.each([
  [0, '0.00 s'],
  [0.347, '0.35 s'],
  [9.994, '9.99 s'],
  [9.999, '10.0 s'],
  [59.94, '59.9 s'],
  [59.96, '1 min'],
  [60, '1 min'],
  [125, '2 min 5 s'],
  [3599.6, '1 h'],
  [12_000, '3 h 20 min'],
  [86_399.9, '1 d'],
  [353_000, '4 d 2 h'],
])('formatDuration: %j seconds: %j', (seconds, text) => {
  expect(formatDuration(seconds)).toBe(text)
})

test.each([
  [0, '0'],
  [999, '999'],
  [1000, '1,000'],
  [1_234_567, '1,234,567'],
  [-1_234_567, '-1,234,567'],
  [12_345_678_901_234_567_890n, '12,345,678,901,234,567,890'],
])('formatCount: %s: %s', (count, text) => {
  expect(formatCount(count)).toBe(text)
})
