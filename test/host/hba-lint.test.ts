import { describe, expect, test } from 'vitest'
import { parseHba } from '../../scripts/host/hba.ts'
import { type HbaSituation, lintHba } from '../../scripts/host/hba-lint.ts'
import type { HbaRule } from '../../scripts/host/schema.ts'

const situation: HbaSituation = { superuser: 'postgres', major: 15, isSslOn: true, md5Roles: [] }
const lint = (text: string, given: Partial<HbaSituation> = {}) =>
  said(
    parseHba(text, given.major ?? 15).map(({ rule }) => rule!),
    given,
  )
const said = (rules: readonly HbaRule[], given: Partial<HbaSituation> = {}) =>
  lintHba(rules, { ...situation, ...given }).map(
    ({ number, level, text }) => `${number} ${level}: ${text.slice(text.lastIndexOf('": ') + 3)}`,
  )

describe('lintHba: what the server would refuse', () => {
  test.each([
    ['local /^a$ all peer', 15, '1 impossible: regular expressions work from 16 on, this is 15'],
    ['host all all 10.0.0.0/8 peer', 15, '1 impossible: method "peer" is for type "local" only'],
    ['host all all all cert', 15, '1 impossible: method "cert" is for type "hostssl" only'],
    ['local all all gss', 15, '1 impossible: method "gss" is not for type "local"'],
    ['local all all oauth', 17, '1 impossible: method "oauth" works from 18 on, this is 17'],
    [
      'hostgssenc all all all md5',
      15,
      '1 impossible: type "hostgssenc" has the methods "gss", "reject" and "trust" only',
    ],
    ['host all all 10.0.0.0/33 md5', 15, '1 impossible: "33" is no mask: it is the first 0 to 32 bits'],
  ])('%s on %i', (text, major, problem) => {
    expect(lint(text, { major })).toEqual([problem])
  })

  test('a regular expression on 16: nothing', () => {
    expect(lint('local /^a$ all peer', { major: 16 })).toEqual([])
  })

  test.each([
    ['a user', { user: ['x peer\nhost all all all trust'] }],
    ['a database', { database: ['x\0'] }],
    ['an address', { address: 'all trust\nhost all all all' }],
    ['an option', { options: { map: 'x\nhost all all all trust' } }],
  ])('a line break in %s: would be a rule of its own, so it is refused', (_title, given) => {
    const rule: HbaRule = {
      type: 'host',
      database: ['all'],
      user: ['all'],
      address: 'samehost',
      method: 'scram-sha-256',
      options: {},
      ...given,
    }
    expect(said([rule])).toContain('1 impossible: a line break or a NUL byte cannot stand in pg_hba.conf')
  })
})

describe('lintHba: what is unsafe', () => {
  test.each([
    ['local all u trust', ['1 warning: method "trust" lets everybody in as anybody']],
    ['host all u 10.0.0.0/8 password', ['1 warning: method "password" sends passwords in clear text']],
    [
      'host all u 10.0.0.0/8 md5',
      ['1 warning: method "md5" can be broken, and a stolen verifier is a password'],
    ],
    ['host all u 0.0.0.0/0 scram-sha-256', ['1 warning: the whole world may try']],
    ['host all u 0.0.0.0 0.0.0.0 scram-sha-256', ['1 warning: the whole world may try']],
    ['host all u ::/0 scram-sha-256', ['1 warning: the whole world may try']],
    ['host all u all scram-sha-256', ['1 warning: the whole world may try']],
    ['host all u 0.0.0.0/0 reject', []],
    ['host all u 192.168.0.0/16 scram-sha-256', []],
  ])('%s', (text, problems) => {
    expect(lint(text)).toEqual(problems)
  })
})

describe('lintHba: what never matches', () => {
  test('a rule behind one that takes all of it', () => {
    expect(lint('host all all 10.0.0.0/8 scram-sha-256\nhost app u 10.1.0.0/16 reject')).toEqual([
      '2 warning: it is never reached, earlier rules take all of it',
    ])
  })

  test('a rule for the superuser behind the pinned ones', () => {
    expect(lint('local app postgres scram-sha-256')).toEqual([
      '1 warning: it is never reached, earlier rules take all of it',
    ])
  })

  test.each([
    [false, ['1 warning: it never matches, since the server has ssl = off']],
    [true, []],
    [undefined, []],
  ])('hostssl while ssl is %s', (isSslOn, problems) => {
    expect(lint('hostssl all all 10.0.0.0/8 scram-sha-256', { isSslOn })).toEqual(problems)
  })
})

describe('lintHba: md5 verifiers', () => {
  const old = { md5Roles: [{ name: 'old', memberOf: ['staff'] }] }
  const problem = 'warning: role "old" has an md5 verifier and cannot log in by it'

  test.each([
    ['a scram rule for all', 'host all all 10.0.0.0/8 scram-sha-256', [`1 ${problem}`]],
    [
      'a scram rule for its group',
      'host app +staff samenet scram-sha-256\nlocal app +staff scram-sha-256',
      [`2 ${problem}`],
    ],
    ['a scram rule for somebody else', 'local app other scram-sha-256', []],
    ['a scram rule for its own database', 'local sameuser all scram-sha-256', [`1 ${problem}`]],
    ['a scram rule for replication', 'local replication all scram-sha-256', [`1 ${problem}`]],
    ['an earlier rule takes it', 'local all old peer\nlocal all all scram-sha-256', []],
    ['another method', 'local all all peer', []],
  ])('%s', (_title, text, problems) => {
    expect(lint(text, old)).toEqual(problems)
  })

  test('several roles: in one finding', () => {
    const md5Roles = ['a', 'b"c'].map((name) => ({ name, memberOf: [] }))
    expect(lint('local all all scram-sha-256', { md5Roles })).toEqual([
      '1 warning: roles "a", "b\\"c" have an md5 verifier and cannot log in by it',
    ])
  })
})
