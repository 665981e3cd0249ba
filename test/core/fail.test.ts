import { expect, test } from 'vitest'
import { CODES, type Code, Fail, messageOf } from '../../scripts/core/fail.ts'

test('CODES: every number is one way to fail only, and none of those that mean something else to a shell', () => {
  const numbers = Object.values(CODES).map(([number]) => number)
  expect(new Set(numbers).size).toBe(numbers.length)
  for (const [code, [number, text]] of Object.entries(CODES)) {
    expect(number).toSatisfy((n: number) => n === 2 || n === 130 || (n >= 10 && n < 126))
    expect(code).toMatch(/^[a-z]+(-[a-z]+)*$/)
    expect(text).toMatch(/^[a-z].*[^.]$/)
  }
})

test('CODES: numbers that scripts of users may know: never change', () => {
  const fixed: [Code, number][] = [
    ['usage', 2],
    ['host-file', 10],
    ['file-unreadable', 11],
    ['secret', 12],
    ['not-permitted', 13],
    ['lock-held', 20],
    ['server-unreachable', 30],
    ['hazard-refused', 40],
    ['bug', 70],
    ['interrupted', 130],
  ]
  expect(fixed.map(([code]) => new Fail(code, 'x').exitCode)).toEqual(fixed.map(([, number]) => number))
})

test('Fail: hint and cause: are kept, and left out when there are none', () => {
  const cause = new Error('below')
  expect(new Fail('secret', 'text', { hint: 'Do this.', cause })).toMatchObject({ hint: 'Do this.', cause })
  expect('cause' in new Fail('secret', 'text')).toBe(false)
})

test.each([
  ['an error', new Error('text'), 'text'],
  ['a text', 'text', 'text'],
  ['nothing', undefined, 'undefined'],
])('messageOf: %s: its text', (_, thrown, text) => {
  expect(messageOf(thrown)).toBe(text)
})
