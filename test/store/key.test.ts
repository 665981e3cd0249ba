import fc from 'fast-check'
import { expect, test } from 'vitest'
import { checkKey, compareKeys, keyPart } from '../../scripts/store/key.ts'

test.each([
  ['plain', 'plain'],
  ['a.b-c_d', 'a.b-c_d'],
  ['.', '%2e'],
  ['..', '%2e.'],
  ['.hidden', '%2ehidden'],
  ['a/b', 'a%2fb'],
  ['../../etc', '%2e.%2f..%2fetc'],
  ['a"b', 'a%22b'],
  ['with space', 'with%20space'],
  ['ü', '%c3%bc'],
  ['100%', '100%25'],
  [`'; drop table x; --`, '%27%3b%20drop%20table%20x%3b%20--'],
  ['a\nb', 'a%0ab'],
])('part of a key: %j: %s', (name, wanted) => {
  expect(keyPart(name)).toBe(wanted)
})

test('part of a key: any name: a key by itself, which no other name has, and the name can be read back', () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, unit: 'binary' }), (name) => {
      const part = keyPart(name)
      expect(checkKey(part)).toBe(part)
      expect(part).not.toContain('/')
      expect(decodeURIComponent(part)).toBe(name)
    }),
  )
})

test('order of keys: by bytes, where JavaScript would compare halves of characters', () => {
  const keys = ['\u{ff5e}', '\u{1f418}', 'a/b', 'a.b']
  expect(keys.toSorted()).not.toEqual(keys.toSorted(compareKeys))
  expect(keys.toSorted(compareKeys)).toEqual(['a.b', 'a/b', '\u{ff5e}', '\u{1f418}'])
})
