import { describe, expect, test } from 'vitest'
import { composeHba, parseHba } from '../../scripts/host/hba.ts'
import { type Attempt, firstMatch, isUnreachable, parseAddress } from '../../scripts/host/hba-match.ts'
import type { HbaRule } from '../../scripts/host/schema.ts'

const rules = (text: string): HbaRule[] => parseHba(text, 16).map(({ rule }) => rule!)
const local = (given: Partial<Attempt> = {}): Attempt => ({
  type: 'local',
  database: 'app',
  user: 'u',
  ...given,
})
const tcp = (address: string, given: Partial<Attempt> = {}): Attempt => ({
  type: 'plain',
  database: 'app',
  user: 'u',
  address,
  ...given,
})

describe('firstMatch', () => {
  test.each<[string, string, Attempt, string | undefined]>([
    ['the first of two decides', 'local all all peer\nlocal all all trust', local(), 'peer'],
    ['a reject before an open rule', 'local all u reject\nlocal all all trust', local(), 'reject'],
    ['nothing matches', 'local other all trust', local(), undefined],
    ['a socket is no network', 'host all all all trust', local(), undefined],
    ['a network is no socket', 'local all all trust', tcp('10.0.0.1'), undefined],
    ['in the network', 'host all all 10.0.0.0/8 md5', tcp('10.9.9.9'), 'md5'],
    ['out of the network', 'host all all 10.0.0.0/8 md5', tcp('11.0.0.1'), undefined],
    ['a mask', 'host all all 10.0.0.0 255.0.0.0 md5', tcp('10.9.9.9'), 'md5'],
    ['IPv6', 'host all all fd00::/8 md5', tcp('fd12:3456::1'), 'md5'],
    ['another family', 'host all all ::/0 md5', tcp('10.0.0.1'), undefined],
    ['hostssl without TLS', 'hostssl all all all md5', tcp('10.0.0.1'), undefined],
    ['hostssl with TLS', 'hostssl all all all md5', tcp('10.0.0.1', { type: 'ssl' }), 'md5'],
    ['hostnossl with TLS', 'hostnossl all all all md5', tcp('10.0.0.1', { type: 'ssl' }), undefined],
    ['replication is not in all', 'local all all trust', local({ isReplication: true }), undefined],
    ['replication', 'local replication all trust', local({ isReplication: true }), 'trust'],
    ['replication is for no database', 'local replication all trust', local(), undefined],
    [
      'a database called replication',
      'local "replication" all trust',
      local({ database: 'replication' }),
      'trust',
    ],
    ['sameuser', 'local sameuser all trust', local({ database: 'u' }), 'trust'],
    ['samerole', 'local samerole all trust', local({ database: 'g', memberOf: ['g'] }), 'trust'],
    ['a role', 'local all +g trust', local({ memberOf: ['g'] }), 'trust'],
    ['no member of a role', 'local all +g trust', local(), undefined],
    ['a quoted all', 'local "all" all trust', local(), undefined],
    ['a regular expression', 'local /^a.p$ all trust', local(), 'trust'],
    ['a regular expression that is none', 'local "/(" all trust', local(), undefined],
    ['names in a file are not known here', 'local @dbs all trust', local({ database: '@dbs' }), undefined],
  ])('%s', (_title, text, attempt, method) => {
    expect(firstMatch(rules(text), attempt)?.method).toBe(method)
  })

  test.each(['local all all reject', 'host all all all reject', 'local replication all reject', ''])(
    'any rules of ours and of the administrator (%j): the superuser is let in, for replication too',
    (text) => {
      for (const mode of ['block', 'file'] as const) {
        const file = composeHba(text, { mode, rules: rules(text), superuser: 'postgres', major: 15 })
        const all = parseHba(file, 15).map(({ rule }) => rule!)
        const superuser = { type: 'local', database: 'postgres', user: 'postgres' } as const
        expect(firstMatch(all, superuser)?.method).toBe('peer')
        expect(firstMatch(all, { ...superuser, isReplication: true })?.method).toBe('peer')
      }
    },
  )
})

describe('isUnreachable', () => {
  test.each([
    ['the same rule twice', 'local all all peer\nlocal all all md5', true],
    ['another type', 'hostssl all all all md5\nhost all all all md5', false],
    ['a narrower type', 'host all all all md5\nhostssl all all all md5', true],
    ['a smaller network', 'host all all 10.0.0.0/8 md5\nhost all all 10.1.0.0/16 md5', true],
    ['a bigger network', 'host all all 10.1.0.0/16 md5\nhost all all 10.0.0.0/8 md5', false],
    ['a network of another family', 'host all all 0.0.0.0/0 md5\nhost all all ::/0 md5', false],
    ['a host name inside of all', 'host all all all md5\nhost all all db.example.com md5', true],
    ['all does not take replication', 'local all all peer\nlocal replication all peer', false],
    ['a user of all', 'local all all peer\nlocal app u md5', true],
    ['a role among all', 'local all all peer\nlocal app +g md5', true],
    ['a role is not its members', 'local all +g peer\nlocal all u md5', false],
    ['a name with and without quotes', 'local "app" all peer\nlocal app u md5', true],
    ['a name that is a keyword', 'local "all" all peer\nlocal all all md5', false],
    ['two databases taken by two rules', 'local a all peer\nlocal b all peer\nlocal a,b u md5', true],
    ['one of two left', 'local a all peer\nlocal a,b u md5', false],
  ])('%s: %s', (_title, text, expected) => {
    const all = rules(text)
    expect(isUnreachable(all.at(-1)!, all.slice(0, -1), 16)).toBe(expected)
  })
})

describe('parseAddress', () => {
  test.each([
    ['10.0.0.0/8', { family: 4, bits: 10n << 24n, length: 8 }],
    ['0.0.0.0/0', { family: 4, bits: 0n, length: 0 }],
    ['192.168.1.1/32', { family: 4, bits: 0xc0a80101n, length: 32 }],
    ['10.0.0.0 255.0.0.0', { family: 4, bits: 10n << 24n, length: 8 }],
    ['::/0', { family: 6, bits: 0n, length: 0 }],
    ['::1/128', { family: 6, bits: 1n, length: 128 }],
    ['fd00::/8', { family: 6, bits: 0xfd00n << 112n, length: 8 }],
    ['1:2:3:4:5:6:7:8/128', { family: 6, bits: 0x00010002000300040005000600070008n, length: 128 }],
    ['::ffff:10.0.0.1/128', { family: 6, bits: 0xffff0a000001n, length: 128 }],
    ['fe80::%eth0/64', { family: 6, bits: 0xfe80n << 112n, length: 64 }],
    ['fd00:: ff00::', { family: 6, bits: 0xfd00n << 112n, length: 8 }],
  ])('%s: a range', (text, range) => {
    expect(parseAddress(text)).toEqual({ range })
  })

  test.each(['all', 'samehost', 'samenet', 'db1', 'db1.example.com', '.example.com', '3com.example'])(
    '%s: a word or a name',
    (text) => {
      expect(parseAddress(text)).toEqual({})
    },
  )

  test.each([
    ['10.0.0.1/8', 'its last 24 bits are not zero: write 10.0.0.0/8'],
    ['fd00::1/8', 'its last 120 bits are not zero: write fd00::/8'],
    ['10.0.0.0/33', '"33" is no mask: it is the first 0 to 32 bits'],
    ['::/129', '"129" is no mask: it is the first 0 to 128 bits'],
    ['10.0.0.0/x', '"x" is no mask: it is the first 0 to 32 bits'],
    ['10.0.0.0/', '"" is no mask: it is the first 0 to 32 bits'],
    ['10.0.0.0 255.0.255.0', '"255.0.255.0" is no mask: it is the first 0 to 32 bits'],
    ['10.0.0.1', 'a single address needs its length: 10.0.0.1/32'],
    ['::1', 'a single address needs its length: ::1/128'],
    ['10.0.0/8', 'it is no network and no name of a host'],
    ['010.0.0.0/8', 'it is no network and no name of a host'],
    ['10.0.0.256', 'it is no network and no name of a host'],
    ['1::2::3/64', 'it is no network and no name of a host'],
    ['bad name', 'it is no network and no name of a host'],
    ['a"b', 'it is no network and no name of a host'],
  ])('%s: %s', (text, problem) => {
    expect(parseAddress(text)).toEqual({ problem })
  })
})
