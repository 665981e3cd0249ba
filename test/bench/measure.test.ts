import { describe, expect, test } from 'vitest'
import {
  compare,
  interleave,
  jsonLine,
  type Measured,
  quantile,
  significant,
  summarize,
  table,
  verdictOf,
} from './measure.ts'

describe('quantile', () => {
  test.each([
    ['one value: is all of them', [7], 0.1, 7],
    ['odd count: the one in the middle', [9, 1, 5], 0.5, 5],
    ['even count: between the two in the middle', [4, 1, 2, 3], 0.5, 2.5],
    ['numbers, not text: 10 is above 9', [10, 9, 8], 0.5, 9],
    ['p10 of five: between the lowest two', [1, 2, 3, 4, 5], 0.1, 1.4],
    ['p90 of five: between the highest two', [5, 4, 3, 2, 1], 0.9, 4.6],
    ['p90 of eleven: the tenth', [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 0.9, 90],
    ['the ends: lowest', [3, 1, 2], 0, 1],
    ['the ends: highest', [3, 1, 2], 1, 3],
  ])('%s', (_, values, share, expected) => {
    expect(quantile(values, share)).toBeCloseTo(expected, 12)
  })

  test('no values: is an error, not NaN', () => {
    expect(() => quantile([], 0.5)).toThrow(RangeError)
  })

  test('the values: stay in their order', () => {
    const values = [3, 1, 2]
    quantile(values, 0.5)
    expect(values).toEqual([3, 1, 2])
  })
})

test('summary: one slow round: moves p90, not the median', () => {
  const summary = summarize([1, 1, 1, 1, 11])
  expect(summary).toMatchObject({ median: 1, p10: 1 })
  expect(summary.p90).toBeCloseTo(7, 12)
})

describe('interleave', () => {
  test('rounds: both sides in each, who begins changes', async () => {
    const order: string[] = []
    const side = (name: string) => async (round: number) => {
      order.push(`${name}${round}`)
      return round
    }
    const results = await interleave(3, { ours: side('ours'), theirs: side('theirs') })
    expect(order).toEqual(['ours0', 'theirs0', 'theirs1', 'ours1', 'ours2', 'theirs2'])
    expect(results).toEqual({ ours: [0, 1, 2], theirs: [0, 1, 2] })
  })

  test('more than two sides: each begins once', async () => {
    const order: string[] = []
    const side = (name: string) => async () => order.push(name)
    await interleave(3, { a: side('a'), b: side('b'), c: side('c') })
    expect(order.join('')).toBe('abcbcacab')
  })

  test('one at a time: a side waits for the other', async () => {
    let running = 0
    const side = async () => {
      running += 1
      await new Promise(setImmediate)
      expect(running).toBe(1)
      running -= 1
    }
    await interleave(4, { ours: side, theirs: side })
  })

  test('a side that fails: ends it', async () => {
    const broken = () => Promise.reject(new Error('no server'))
    await expect(interleave(2, { ours: async () => 1, theirs: broken })).rejects.toThrow('no server')
  })
})

const MEASURED: Measured = {
  case: 'noop-50',
  peer: 'ansible',
  unit: 's',
  better: 'less',
  ours: [0.16, 0.17, 0.9],
  theirs: [16.2, 16.4, 30],
}

describe('compare', () => {
  test('ratio: ours divided by theirs, of the medians', () => {
    expect(compare('provision', MEASURED)).toEqual({
      bench: 'provision',
      case: 'noop-50',
      peer: 'ansible',
      ours: 0.17,
      theirs: 16.4,
      ratio: 0.0104,
      unit: 's',
      better: 'less',
    })
  })

  test.each([
    ['nothing beside something', [0], [10], 0],
    ['nothing beside nothing: equal', [0], [0], 1],
    ['something beside nothing: no number', [10], [0], null],
  ])('%s', (_, ours, theirs, ratio) => {
    expect(compare('provision', { ...MEASURED, ours, theirs }).ratio).toBe(ratio)
  })
})

test.each([
  ['less is better, less', 'less', 0.94, 'better'],
  ['less is better, more', 'less', 1.06, 'worse'],
  ['more is better, more', 'more', 1.06, 'better'],
  ['more is better, less', 'more', 0.94, 'worse'],
  ['five of a hundred less', 'less', 0.95, 'equal'],
  ['five of a hundred more', 'more', 1.05, 'equal'],
  ['nothing to compare with', 'less', null, '-'],
] as const)('verdict: %s', (_, better, ratio, expected) => {
  expect(verdictOf({ ratio, better })).toBe(expected)
})

test('JSON line: one line with spaces, in the order given, that a parser reads', () => {
  const comparison = compare('provision', { ...MEASURED, case: 'a"b\n' })
  const line = jsonLine(comparison)
  expect(line).toBe(
    '{ "bench": "provision", "case": "a\\"b\\n", "peer": "ansible", "ours": 0.17, "theirs": 16.4, "ratio": 0.0104, "unit": "s", "better": "less" }',
  )
  expect(JSON.parse(line)).toEqual(comparison)
})

test.each([
  [0.171234, 0.1712],
  [16.4321, 16.43],
  [123_456_789, 123_500_000],
  [0, 0],
])('significant: %d: four digits', (value, expected) => {
  expect(significant(value, 4)).toBe(expected)
})

test('table: names to the left, numbers to the right', () => {
  expect(
    table([
      ['case', 'beside', 'ours'],
      ['noop-50', 'ansible', '1 s'],
      ['first-50', 'self', '10 s'],
    ]),
  ).toEqual(['case      beside   ours', 'noop-50   ansible   1 s', 'first-50  self     10 s'])
})
