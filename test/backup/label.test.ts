import { expect, test } from 'vitest'
import { compactTime, isLabel, labelTime, makeLabel, randomLetters } from '../../scripts/backup/label.ts'

const random = Uint8Array.from([0, 1, 31, 32, 255, 19])
const at = (text: string) => new Date(text)

test('label: its time, kind and six letters', () => {
  const label = makeLabel({ now: at('2026-11-22T02:00:00.999Z'), kind: 'dump', random, newest: undefined })
  expect(label).toBe('20261122T020000Z-dump-01z0zk')
  expect(isLabel(label)).toBe(true)
  expect(labelTime(label)).toEqual(at('2026-11-22T02:00:00Z'))
})

test.each([
  ['an older one is there', '2026-11-22T01:00:00Z', '20261122T020000Z'],
  ['one of the same second is there', '2026-11-22T02:00:00Z', '20261122T020001Z'],
  ['the clock was set back', '2026-11-22T05:00:00Z', '20261122T050001Z'],
  ['the clock was set back over the turn of a year', '2026-12-31T23:59:59Z', '20270101T000000Z'],
])('label: %s: it is later than that one', (_name, newestTime, wanted) => {
  const newest = `${compactTime(at(newestTime))}-dump-zzzzzz`
  const label = makeLabel({ now: at('2026-11-22T02:00:00Z'), kind: 'dump', random, newest })
  expect(label).toBe(`${wanted}-dump-01z0zk`)
  expect(label > newest).toBe(true)
})

test.each([
  ['20261122T020000Z-base-k3v9qa', true],
  ['20261122T020000Z-incr-k3v9qa', true],
  ['20261122T020000Z-dump-k3v9q', false],
  ['20261122T020000Z-dump-k3v9ql', false],
  ['20261122T020000Z-copy-k3v9qa', false],
  ['2026-11-22T02:00:00Z-dump-k3v9qa', false],
  ['x20261122T020000Z-dump-k3v9qa', false],
  ['../20261122T020000Z-dump-k3v9qa', false],
  ['latest', false],
  ['', false],
])('label: %j: is one: %s', (text, wanted) => {
  expect(isLabel(text)).toBe(wanted)
})

test('random letters: every byte gives a letter of the alphabet', () => {
  for (let byte = 0; byte < 256; byte++) {
    expect(isLabel(`20261122T020000Z-dump-${randomLetters(new Uint8Array(6).fill(byte))}`)).toBe(true)
  }
})
