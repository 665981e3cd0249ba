import fc from 'fast-check'
import { expect, test } from 'vitest'
import { includeLine, parseConf, quoteConf, renderConf } from '../../scripts/host/conf.ts'

test.each([
  ['a plain word', '512MB', `'512MB'`],
  ['nothing', '', `''`],
  ['a quote is doubled', `it's`, `'it''s'`],
  ['a backslash would begin an escape', String.raw`C:\x`, String.raw`'C:\\x'`],
  [
    'a line break would end the line and begin another setting',
    "a'\nfsync = off",
    String.raw`'a''\nfsync = off'`,
  ],
  ['a comment sign stays', '# no comment', `'# no comment'`],
  ['other letters stay', 'Ünï cødé', `'Ünï cødé'`],
])('quoteConf: %s', (_title, value, quoted) => {
  expect(quoteConf(value)).toBe(quoted)
})

test.each([
  ['quotes and a sign', `work_mem = '4MB'`, [['work_mem', '4MB']]],
  ['no quotes', 'work_mem = 4MB', [['work_mem', '4MB']]],
  ['no sign', 'work_mem 4MB', [['work_mem', '4MB']]],
  ['a comment behind', "work_mem='4MB' # it's", [['work_mem', '4MB']]],
  ['a comment only', '  # work_mem = 4MB\n\n', []],
  ['capitals mean nothing in a name', 'DateStyle = ISO', [['datestyle', 'ISO']]],
  ['escapes', String.raw`x.y = 'a\n\101\\''\''`, [['x.y', "a\nA\\''"]]],
  ['a sign inside of quotes', `x.y = 'a = b # c'`, [['x.y', 'a = b # c']]],
])('parseConf: %s: understood', (_title, text, lines) => {
  expect(parseConf(text)).toEqual({
    lines: lines.map(([name, value]) => ({ name, value })),
    isClean: true,
  })
})

test.each([
  ['half a line', 'work_mem ='],
  ['an open quote', `work_mem = '4MB`],
  ['two values', `work_mem = 4MB 5MB`],
  ['the same setting twice', 'a.b = 1\nA.B = 2'],
])('parseConf: %s: not clean', (_title, text) => {
  expect(parseConf(text).isClean).toBe(false)
})

test('renderConf and parseConf: any text: comes back as it was', () => {
  const value = fc.string({ unit: 'grapheme' }).filter((text) => !text.includes('\0'))
  fc.assert(
    fc.property(value, (text) => {
      const lines = [{ name: 'x.y', value: text }]
      expect(parseConf(renderConf('ours', lines))).toEqual({ lines, isClean: true })
    }),
  )
})

test.each([
  ["include_dir = 'conf.d'", 1],
  ["port = 5432\n  include_dir 'conf.d/' # ours", 2],
  ["include_dir = '/etc/pg/conf.d'", 1],
  ["#include_dir = 'conf.d'", undefined],
  ["include_dir = 'other.d'", undefined],
  ["include = 'conf.d'", undefined],
  ['', undefined],
])('includeLine: %j: line %s', (text, line) => {
  expect(includeLine(text, '/etc/pg')).toBe(line)
})
