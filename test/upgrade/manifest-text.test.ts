import { expect, test } from 'vitest'
import { icuLocale } from '../../scripts/upgrade/icu-locale.ts'
import { isSameQuery } from '../../scripts/upgrade/query-text.ts'

test.each([
  [
    ' SELECT t.a,\n    t."B c"\n   FROM t\n  WHERE (t.a > 1.5);',
    ' SELECT a,\n    "B c"\n   FROM t\n  WHERE (a > 1.5);',
  ],
  ['SELECT t.t FROM t', 'SELECT t FROM t'],
  ['SELECT "T.x".a FROM s."T.x"', 'SELECT a FROM s."T.x"'],
  [
    'SELECT t.a FROM s.t WHERE (EXISTS ( SELECT 1 FROM u WHERE (u.a = t.a)))',
    'SELECT a FROM s.t WHERE (EXISTS ( SELECT 1 FROM u WHERE (u.a = t.a)))',
  ],
  ['SELECT (t.whole).part, count(t.*) FROM t', 'SELECT (whole).part, count(t.*) FROM t'],
])('a query of one relation, before and since 16: %s: the same', (older, newer) => {
  expect(isSameQuery(older, newer)).toBe(true)
})

test.each([
  [
    'columns of two relations change places',
    'SELECT a.k, b.n FROM p a, p b',
    'SELECT b.k, a.n FROM p a, p b',
  ],
  [
    'a column is of the other relation',
    'SELECT a.k FROM p a, p b WHERE a.n = 1',
    'SELECT b.k FROM p a, p b WHERE a.n = 1',
  ],
  ['names of two relations are left out', 'SELECT a.k, b.n FROM p a, p b', 'SELECT k, n FROM p a, p b'],
  ['another column', 'SELECT t.a FROM t', 'SELECT b FROM t'],
  ['another relation', 'SELECT t.a FROM t', 'SELECT a FROM s'],
  ['of another schema', 'SELECT t.a FROM s.t', 'SELECT a FROM t'],
  ['what a literal holds', `SELECT 't.a' FROM t`, `SELECT 'a' FROM t`],
  [
    'what a literal with a backslash holds',
    String.raw`SELECT E'\'t.a' FROM t`,
    String.raw`SELECT E'\'a' FROM t`,
  ],
  ['white space in a literal', `SELECT 'a b' FROM t`, `SELECT 'a  b' FROM t`],
  ['one condition less', 'SELECT t.a FROM t WHERE (t.a > 1)', 'SELECT a FROM t'],
  ['one condition more', 'SELECT t.a FROM t', 'SELECT a FROM t WHERE (a > 1)'],
  [
    'a column of the outer query in a subquery',
    'SELECT t.a FROM t WHERE (t.b = ( SELECT u.a FROM u))',
    'SELECT a FROM t WHERE (b = ( SELECT a FROM u))',
  ],
  ['another function', 'SELECT lower(t.a) FROM t', 'SELECT upper(a) FROM t'],
])('%s: not the same', (_what, older, newer) => {
  expect(isSameQuery(older, newer)).toBe(false)
})

test.each([
  ['de_DE@collation=phonebook', 'de-DE-u-co-phonebk'],
  ['de_DE.UTF-8', 'de-DE'],
  ['', 'und'],
  ['root', 'und'],
  ['@colStrength=secondary', 'und-u-ks-level2'],
  ['en@colNumeric=yes', 'en-u-kn'],
  ['en-u-kn-true', 'en-u-kn'],
  ['de@colCaseFirst=upper;collation=phonebook', 'de-u-co-phonebk-kf-upper'],
  ['en@colUnheard=yes', 'en@colUnheard=yes'],
  ['no locale at all', 'no locale at all'],
])('a locale of ICU written %j is %s', (text, tag) => {
  expect(icuLocale(text)).toBe(tag)
  expect(icuLocale(tag)).toBe(tag)
})
