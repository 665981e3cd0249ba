import { describe, expect, test } from 'vitest'
import { statementsOf, type UnfinishedText } from '../../scripts/migrate/statement.ts'

const texts = (text: string) => statementsOf(text).map((statement) => statement.text)

describe('statements: a semicolon ends one only where psql says so', () => {
  test.each([
    ['nothing', ' \n-- only a comment;\n/* ; */ ;; ', []],
    ['two', 'select 1; select 2', ['select 1', 'select 2']],
    ['a text', `select ';'; select 'it''s; \\'; select 3`, [`select ';'`, `select 'it''s; \\'`, 'select 3']],
    [
      'a text with escapes',
      String.raw`select e'a\';'; select E'\\'; select 3`,
      [String.raw`select e'a\';'`, String.raw`select E'\\'`, 'select 3'],
    ],
    [
      'a text of Unicode',
      String.raw`select u&'\;' uescape '!'; select 2`,
      [String.raw`select u&'\;' uescape '!'`, 'select 2'],
    ],
    ['a name', 'select 1 as "a;""b;"; select 2', ['select 1 as "a;""b;"', 'select 2']],
    [
      'dollar quotes',
      'do $$ begin; end $$; do $a$ $$;$b$ $a$; select $1',
      ['do $$ begin; end $$', 'do $a$ $$;$b$ $a$', 'select $1'],
    ],
    ['dollars in a name', 'select a$b$c; select 2', ['select a$b$c', 'select 2']],
    ['a tag of other letters', 'do $ünï$ ; $ünï$; select 2', ['do $ünï$ ; $ünï$', 'select 2']],
    ['nested comments', 'select /* a /* ; */ ; */ 1; select 2', ['select /* a /* ; */ ; */ 1', 'select 2']],
    [
      'a comment to the end of a line',
      "select 1 -- it's; not\n, 2; select 3",
      ["select 1 -- it's; not\n, 2", 'select 3'],
    ],
    [
      'parentheses of a rule',
      'create rule r as on insert to t do also (insert into a values (1); delete from b); select 2',
      ['create rule r as on insert to t do also (insert into a values (1); delete from b)', 'select 2'],
    ],
    [
      'the body of an SQL function',
      'create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end; select 3',
      [
        'create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end',
        'select 3',
      ],
    ],
    ['operators', 'select 1 / 2 * 3 - -4; select @-5', ['select 1 / 2 * 3 - -4', 'select @-5']],
    ['no last semicolon', 'select 1;\nselect 2\n', ['select 1', 'select 2\n']],
  ])('%s', (_title, text, expected) => {
    expect(texts(text)).toEqual(expected)
  })
})

test.each([
  ['a text', "select 'a", 7],
  ['a name', 'select "a', 7],
  ['a dollar quote', 'do $x$ begin', 3],
  ['a comment', 'select 1; /* /* */', 10],
])('what is not closed: %s: says where it begins', (_title, text, offset) => {
  expect(() => statementsOf(text)).toThrow(expect.objectContaining({ offset }) as UnfinishedText)
})

test('a command of psql: is a statement of its own, to the end of its line', () => {
  expect(statementsOf('\\restrict abc;def\nselect 1;')).toMatchObject([
    { text: '\\restrict abc;def', head: '\\restrict', isMetaCommand: true },
    { text: 'select 1', head: 'select', isMetaCommand: false },
  ])
})

test('the head: words without comments, in lower case', () => {
  expect(
    statementsOf('/* x */ Create /* y */ UNIQUE Index -- z\n concurrently if not exists "a b" on t (c)')[0]!
      .head,
  ).toBe('create unique index concurrently if')
})
