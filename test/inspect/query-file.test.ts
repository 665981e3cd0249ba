import { describe, expect, test } from 'vitest'
import { effectText } from '../../scripts/inspect/show.ts'
import { parseQuery, usageOf, valuesOf } from '../../scripts/inspect/query-file.ts'

const HEAD = '-- summary: x\n'

describe('the file of a named query', () => {
  test('one that reads: its summary, its parameters in order, and the statement without its end', () => {
    const text = `-- summary: machines of one person
-- a remark that is for nobody but the reader
-- parameter: email text
-- parameter: since timestamp with time zone = 1 day ago
-- parameter: tags text[]?

-- parameter of the statement: not one of the file
select 1;
`
    expect(parseQuery('by_email', text)).toEqual({
      name: 'by_email',
      summary: 'machines of one person',
      parameters: [
        { name: 'email', type: 'text', isOptional: false, default: undefined },
        { name: 'since', type: 'timestamp with time zone', isOptional: true, default: '1 day ago' },
        { name: 'tags', type: 'text[]', isOptional: true, default: undefined },
      ],
      effect: 'reads',
      needsBackup: false,
      sql: 'select 1',
    })
  })

  test('a byte order mark and line breaks of another system: change nothing', () => {
    const text = '\uFEFF-- summary: x\r\n-- parameter: a text\r\nselect $1;\r\n'
    expect(parseQuery('q', text)).toMatchObject({
      summary: 'x',
      parameters: [{ name: 'a' }],
      sql: 'select $1',
    })
  })

  test.each([
    ['changes: one', 'changes one row'],
    ['changes: any', 'changes rows'],
    ['deletes: any', 'deletes rows'],
    ['empties: any', 'empties'],
  ])('%s: it %s', (line, text) => {
    expect(effectText(parseQuery('q', `${HEAD}-- ${line}\nselect 1`))).toBe(text)
  })

  test.each([
    ['', 'line 1: there is no statement'],
    [HEAD, 'there is no statement'],
    ['select 1', 'line 1: "-- summary:" is missing'],
    [`${HEAD}-- paramter: a text\nselect 1`, 'line 2: "paramter" is none of summary, parameter'],
    [`${HEAD}-- parameter: a\nselect 1`, 'line 2: "a" is no parameter'],
    [`${HEAD}-- parameter: a text) or (true\nselect 1`, 'is no parameter'],
    [
      `${HEAD}-- parameter: a text\n-- parameter: a int\nselect 1`,
      'line 3: the parameter "a" is there twice',
    ],
    [`${HEAD}-- parameter: a text?\n-- parameter: b int\nselect 1`, 'line 3: "b" must be given'],
    [`${HEAD}-- changes: two\nselect 1`, 'line 2: "changes: two" means nothing'],
    [`${HEAD}-- changes: one\n-- deletes: one\nselect 1`, 'line 3: it says twice what it does'],
    [`${HEAD}-- backup: later\nselect 1`, 'line 2: "backup: later" means nothing'],
    [`${HEAD}commit`, 'line 2: a query has a transaction of its own already: "commit"'],
    [`${HEAD}Set Transaction read write`, 'has a transaction of its own already: "Set"'],
  ])('%j: is refused: %s', (text, message) => {
    expect(() => parseQuery('q', text)).toThrow(message)
  })
})

describe('values', () => {
  const query = parseQuery(
    'q',
    `${HEAD}-- parameter: email text\n-- parameter: most integer = 10\n-- parameter: note text?\nselect 1`,
  )

  test('how it is called', () => expect(usageOf(query)).toBe('q EMAIL [MOST] [NOTE]'))

  test.each<[string[], (string | null)[]]>([
    [['a'], ['a', '10', null]],
    [
      ['a', '5', 'b'],
      ['a', '5', 'b'],
    ],
    [
      ['note=n', 'a'],
      ['a', '10', 'n'],
    ],
    [['email=x=y'], ['x=y', '10', null]],
    [['other=x'], ['other=x', '10', null]],
    [["'; drop table vms; --\n"], ["'; drop table vms; --\n", '10', null]],
    [[''], ['', '10', null]],
  ])('%j: are %j', (args, values) => {
    expect(valuesOf(query, args)).toEqual(values)
  })

  test.each<[string[], string]>([
    [[], 'email (text) is missing'],
    [['most=3'], 'email (text) is missing'],
    [['a', '1', 'b', 'c'], '"c" is one argument too many'],
    [['a', 'email=b'], '"email" is given twice'],
  ])('%j: are refused: %s', (args, message) => {
    expect(() => valuesOf(query, args)).toThrow(message)
  })
})
