import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  asName,
  type Column,
  composeHba,
  type HbaSpec,
  literalName,
  parseHba,
  pinnedRules,
  renderHbaRule,
  renderWord,
  showHbaRule,
  splitHba,
} from '../../scripts/host/hba.ts'
import type { HbaRule } from '../../scripts/host/schema.ts'

const rule = (given: Partial<HbaRule>): HbaRule => ({
  type: 'host',
  database: ['all'],
  user: ['all'],
  ...(given.type === 'local' ? {} : { address: '10.0.0.0/8' }),
  method: 'scram-sha-256',
  options: {},
  ...given,
})
const spec = (given: Partial<HbaSpec> = {}): HbaSpec => ({
  mode: 'block',
  rules: [],
  superuser: 'postgres',
  major: 15,
  ...given,
})

describe('renderWord', () => {
  test.each([
    ['all', 'database', 'all'],
    ['all', 'user', 'all'],
    ['"all"', 'database', '"all"'],
    ['"all"', 'user', '"all"'],
    ['replication', 'database', 'replication'],
    ['replication', 'user', 'replication'],
    ['"replication"', 'database', '"replication"'],
    ['"replication"', 'user', 'replication'],
    ['sameuser', 'database', 'sameuser'],
    ['app', 'user', 'app'],
    ['"app"', 'user', 'app'],
    ['+admins', 'user', '+admins'],
    ['+my admins', 'user', '+"my admins"'],
    ['"+admins"', 'user', '"+admins"'],
    ['@users', 'user', '@users'],
    ['"@users"', 'user', '"@users"'],
    ['+', 'user', '"+"'],
    ['ALL', 'user', 'ALL'],
    ['a"b', 'user', '"a""b"'],
    ['"a""b"', 'user', '"a""b"'],
    ['"a"b"', 'user', '"""a""b"""'],
    ['with space', 'user', '"with space"'],
    ['a,b', 'user', '"a,b"'],
    ['a#b', 'user', '"a#b"'],
    ['Ünï cødé', 'user', '"Ünï cødé"'],
    ['select', 'user', 'select'],
    ["'; drop table x; --", 'user', `"'; drop table x; --"`],
    [`back\\`, 'user', '"back\\"'],
    ['x'.repeat(63), 'user', 'x'.repeat(63)],
  ])('%j in the column %s: %j', (word, column, token) => {
    expect(renderWord(word, column as Column, 15)).toBe(token)
  })

  test.each([
    ['a regular expression', '/^app_\\d+$', 16, '/"^app_\\d+$"'],
    ['a regular expression with a comma', '/^a{2,4}$', 16, '/"^a{2,4}$"'],
    ['a name that begins with a slash, before 16', '"/app.x"', 15, '"/app.x"'],
    ['such a name from 16 on, where quotes do not help', '"/app.x"', 16, '/"^/app\\.x$"'],
  ])('%s', (_title, word, major, token) => {
    expect(renderWord(word, 'database', major)).toBe(token)
  })

  test('any name in quotes, rendered and read: the same word', () => {
    const name = fc.string({ unit: 'grapheme', minLength: 1 }).filter((text) => !/[\n\r\0]|^\//.test(text))
    fc.assert(
      fc.property(name, fc.constantFrom('database', 'user'), (text, column) => {
        const word = asName(text, column)
        expect(literalName(word) ?? word).toBe(text)
        const [line] = parseHba(renderHbaRule(rule({ [column]: [word] }), 15), 15)
        const [read] = line!.rule![column]
        expect(literalName(read!) ?? read).toBe(text)
        expect(renderWord(read!, column, 15)).toBe(renderWord(word, column, 15))
      }),
    )
  })
})

describe('renderHbaRule', () => {
  test.each([
    ['local', rule({ type: 'local', method: 'peer' }), 'local all all peer'],
    [
      'lists',
      rule({ database: ['a', 'b c'], user: ['+x', 'y'] }),
      'host a,"b c" +x,y 10.0.0.0/8 scram-sha-256',
    ],
    ['a mask', rule({ address: '10.0.0.0 255.0.0.0' }), 'host all all 10.0.0.0 255.0.0.0 scram-sha-256'],
    [
      'options',
      rule({ method: 'ldap', options: { ldapserver: 'a b,c', ldapprefix: 'x"y', ldapport: '389' } }),
      'host all all 10.0.0.0/8 ldap ldapserver="a b,c" ldapprefix="x""y" ldapport=389',
    ],
  ])('%s: a line that reads back as the same rule', (_title, given, line) => {
    expect(showHbaRule(given, 15)).toBe(line)
    expect(parseHba(renderHbaRule(given, 15), 15)).toMatchObject([{ line: 1, rule: given }])
  })

  test('a password in an option: not shown to people', () => {
    const ldap = rule({ method: 'ldap', options: { ldapbindpasswd: 'hidden', radiussecrets: 'hidden' } })
    expect(showHbaRule(ldap, 15)).not.toContain('hidden')
    expect(renderHbaRule(ldap, 15)).toContain('hidden')
  })
})

describe('parseHba', () => {
  test('a line that goes on in the next one: one rule, with the number of its first line', () => {
    expect(parseHba('# c\nhost all \\\n  all 10.0.0.0/8 trust\nlocal all all peer\n', 15)).toMatchObject([
      { line: 2, rule: { type: 'host', address: '10.0.0.0/8', method: 'trust', comment: 'c' } },
      { line: 4, rule: { type: 'local' } },
    ])
  })

  test('a comment that ends in a backslash: swallows the next line, as the server does', () => {
    expect(parseHba('# c \\\nhost all all 10.0.0.0/8 trust\nlocal all all peer\n', 15)).toHaveLength(1)
  })

  test.each([
    [
      'tabs, line ends of another system, a comment behind',
      'local\tall  all\tpeer # x\r\n',
      'local all all peer',
    ],
    ['a list with spaces after its commas', 'local a, b all peer', 'local a,b all peer'],
    ['a mask in a column of its own', 'host all all ::1 ffff:: md5', 'host all all ::1 ffff:: md5'],
    ['a host name', 'host all all .example.com md5', 'host all all .example.com md5'],
  ])('%s', (_title, text, shown) => {
    const [line] = parseHba(text, 15)
    expect(showHbaRule(line!.rule!, 15)).toBe(shown)
  })

  test('an include: is kept as a line that is no rule', () => {
    expect(parseHba('include_dir pg_hba.d\n', 16)).toEqual([
      { line: 1, rule: undefined, text: 'include_dir pg_hba.d' },
    ])
  })
})

const ADMIN = '# theirs\r\n\nlocal all postgres peer\nhost\tall all 127.0.0.1/32 scram-sha-256 # last'

describe('composeHba', () => {
  test('block: the pinned rules stand first, then ours in their order, then every byte of the rest', () => {
    const rules = [rule({ user: ['z'] }), rule({ user: ['a'], comment: 'why\nso' }), rule({ user: ['10'] })]
    const text = composeHba(ADMIN, spec({ rules }))
    expect(
      text
        .split('\n')
        .map((line) => line.replaceAll(/ +/g, ' '))
        .slice(0, 9),
    ).toEqual([
      '# howdah begin: written from the host file, changes in here are lost',
      'local all postgres peer',
      'local replication postgres peer',
      'host all z 10.0.0.0/8 scram-sha-256',
      '# why',
      '# so',
      'host all a 10.0.0.0/8 scram-sha-256',
      'host all 10 10.0.0.0/8 scram-sha-256',
      '# howdah end',
    ])
    expect(text.endsWith(`# howdah end\n${ADMIN}`)).toBe(true)
  })

  test('block: composed again: the same text; without rules: the rest is what it was', () => {
    const once = composeHba(ADMIN, spec({ rules: [rule({})] }))
    expect(composeHba(once, spec({ rules: [rule({})] }))).toBe(once)
    expect(splitHba(composeHba(once, spec())).rest).toBe(ADMIN)
  })

  test('block: moved down by somebody: comes first again', () => {
    const block = composeHba('', spec())
    expect(composeHba(`${ADMIN}\n${block}`, spec())).toBe(`${block}${ADMIN}\n`)
  })

  test('file: nothing but ours, and in block mode later the same text', () => {
    const text = composeHba(ADMIN, spec({ mode: 'file', rules: [rule({})] }))
    expect(parseHba(text, 15)).toHaveLength(3)
    expect(composeHba(text, spec({ rules: [rule({})] }))).toBe(text)
  })

  test('a comment that ends in a backslash: does not swallow the rule below it', () => {
    const text = composeHba('', spec({ rules: [rule({ comment: 'path C:\\' })] }))
    expect(parseHba(text, 15)).toHaveLength(3)
    expect(parseHba(text, 15)[2]!.rule!.comment).toBe('path C:\\')
  })

  test('a superuser whose name is a keyword: pinned by its name', () => {
    expect(pinnedRules('all').map((pin) => showHbaRule(pin, 15))).toEqual([
      'local all "all" peer',
      'local replication "all" peer',
    ])
  })
})

test.each([
  ['no end', '# howdah begin\nlocal all all trust\n', 1],
  ['no begin', 'local all all peer\n# howdah end\n', 2],
  ['two begins', '# howdah begin\n# howdah begin\n# howdah end\n', 1],
  ['both', '# howdah begin\n# howdah end\n', undefined],
])('splitHba: markers with %s: the lone one is told', (_title, text, line) => {
  expect(splitHba(text).loneMarker).toBe(line)
})
