import { expect, test } from 'vitest'
import { didYouMean, nearest } from '../../scripts/core/nearest.ts'

const KEYS = ['login', 'superuser', 'createdb', 'createrole', 'inherit', 'connection_limit', 'on', 'to']

test.each([
  ['one letter missing', 'logn', 'login'],
  ['two letters swapped', 'lgoin', 'login'],
  ['other case', 'LOGIN', 'login'],
  ['the nearer one of two', 'createrle', 'createrole'],
  ['a dash for an underscore', 'connection-limit', 'connection_limit'],
  ['something else', 'zzzzz', undefined],
  ['a short word must not match everything', 'xy', undefined],
  ['a short word', 'tp', 'to'],
  ['nothing', '', undefined],
])('nearest: %s: %j gives %j', (_, word, found) => {
  expect(nearest(word, KEYS)).toBe(found)
})

test('nearest: two that are equally near: the first, so that messages do not change', () => {
  expect(nearest('ab', ['aa', 'bb'])).toBe('aa')
})

test('nearest: a very long word: does not take long', () => {
  expect(nearest('x'.repeat(20_000), KEYS)).toBeUndefined()
})

test('didYouMean: a near one, none: a question in brackets, or nothing', () => {
  expect(didYouMean('logn', KEYS)).toBe(' (did you mean "login"?)')
  expect(didYouMean('zzzzz', KEYS)).toBe('')
})
