import { expect, test } from 'vitest'
import { canonicalValue, type Guc, valueProblem } from '../../scripts/plan/guc.ts'

const GUC: Guc = { name: 'x', vartype: 'string', unit: null, enumvals: null, minVal: null, maxVal: null }
const blocks: Guc = { ...GUC, vartype: 'integer', unit: '8kB', minVal: '16', maxVal: '1073741823' }
const kilobytes: Guc = { ...GUC, vartype: 'integer', unit: 'kB', minVal: '64', maxVal: '2147483647' }
const seconds: Guc = { ...GUC, vartype: 'integer', unit: 's', minVal: '-1', maxVal: '86400' }
const milliseconds: Guc = { ...GUC, vartype: 'real', unit: 'ms', minVal: '0', maxVal: '100' }
const count: Guc = { ...GUC, vartype: 'integer', minVal: '1', maxVal: '262143' }
const mode: Guc = { ...GUC, vartype: 'integer', minVal: '0', maxVal: '511' }
const fraction: Guc = { ...GUC, vartype: 'real', minVal: '0', maxVal: '1' }
const truth: Guc = { ...GUC, vartype: 'bool' }
const level: Guc = { ...GUC, vartype: 'enum', enumvals: ['minimal', 'replica', 'logical'] }
const trueOrMore: Guc = { ...GUC, vartype: 'enum', enumvals: ['off', 'try', 'on'] }
const messages: Guc = { ...GUC, vartype: 'enum', enumvals: ['debug2', 'log'] }

test.each([
  ['sizes in several units', blocks, ['1GB', '1024MB', '131072', '1048576kB', '131072.0'], '131072'],
  ['a size with a space before its unit', blocks, ['1 GB'], '131072'],
  ['times in several units', seconds, ['90s', '1.5min', '90', '90000ms'], '90'],
  ['minus one', seconds, ['-1'], '-1'],
  ['a fraction of a unit, to the next smaller one', kilobytes, ['30.1GB', '30822MB'], '31561728'],
  ['half a block goes to the even neighbour', blocks, ['100kB'], '12'],
  ['octal, which is how modes are shown', mode, ['0700', '448', '0x1C0'], '448'],
  ['a number with an exponent', count, ['1e3', '1000'], '1000'],
  ['a real time', milliseconds, ['2ms', '2', '2000us', '0.002s'], '2'],
  ['fractions', fraction, ['0.9', '.9', '9e-1', '0.90'], '0.9'],
  ['truth', truth, ['on', 'true', 'YES', 't', '1'], 'on'],
  ['untruth', truth, ['off', 'false', 'No', 'f', '0', 'of'], 'off'],
  ['capitals in a choice', level, ['LOGICAL', 'logical'], 'logical'],
  ['old names of a choice', level, ['hot_standby', 'archive', 'replica'], 'replica'],
  ['a choice that was a truth once', trueOrMore, ['true', 'on', '1', 'yes'], 'on'],
  ['a level with another name', messages, ['debug', 'debug2'], 'debug2'],
  ['text, as it is', GUC, [' A b '], ' A b '],
  [
    'a list, whatever its spaces and quotes',
    { ...GUC, name: 'shared_preload_libraries' },
    ['a,b', 'a, b', '"a" , "b"'],
    'a, b',
  ],
] as const)('canonicalValue: %s: one text', (_title, guc, spellings, value) => {
  expect(spellings.map((text) => canonicalValue(guc, text))).toEqual(spellings.map(() => value))
})

test.each([
  ['a unit of another sort', seconds, '1GB'],
  ['a unit of the wrong case', blocks, '1gb'],
  ['a unit where there is none', count, '1kB'],
  ['a name from every object', blocks, '1constructor'],
  ['a word', count, 'many'],
  ['nothing', count, ''],
  ['two numbers', count, '1 2'],
  ['a truth that is none', truth, 'maybe'],
  ['one letter that two words begin with', truth, 'o'],
  ['a choice that is not there', level, 'full'],
  ['a truth where only choices are', level, 'on'],
])('canonicalValue: %s: no value of it', (_title, guc, text) => {
  expect(canonicalValue(guc, text)).toBeUndefined()
})

test.each([
  ['too small', blocks, '64kB', '"64kB" is below its minimum, 16 (in 8kB)'],
  ['too big', seconds, '2d', '"2d" is above its maximum, 86400 (in s)'],
  ['no truth', truth, 'maybe', '"maybe" is no value of it: it is "on" or "off"'],
  ['no choice', level, 'full', '"full" is no value of it: it is one of minimal, replica, logical'],
  ['a size without sense', blocks, 'big', '"big" is no value of it: it is a size such as "64MB"'],
  ['a time without sense', seconds, 'long', '"long" is no value of it: it is a time such as "90s"'],
  ['a unit too many', count, '1kB', '"1kB" is no value of it: it is a number without a unit'],
])('valueProblem: %s: said so', (_title, guc, text, problem) => {
  expect(valueProblem(guc, text)).toBe(problem)
})

test.each([
  ['at its minimum', blocks, '128kB'],
  ['at its maximum', fraction, '1'],
  ['text', GUC, 'anything'],
])('valueProblem: %s: nothing', (_title, guc, text) => {
  expect(valueProblem(guc, text)).toBeUndefined()
})
