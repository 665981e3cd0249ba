import { describe, expect, test } from 'vitest'
import {
  aclWithOwner,
  allPrivileges,
  classFacts,
  defaultAcl,
  difference,
  heldByOwnerGrant,
  NOTHING,
  type ObjectClass,
  parsePrivileges,
  privilegeNames,
  privilegeSince,
  publicPrivileges,
  showGrantees,
  showPrivileges,
  showSome,
  sqlGrantees,
  sqlPrivileges,
} from '../../scripts/plan/acl.ts'

function mask(on: ObjectClass, ...words: string[]): number {
  return parsePrivileges(words, on, 17).privileges
}

describe('parsePrivileges', () => {
  test.each<[ObjectClass, number, string[], string]>([
    ['tables', 16, ['ALL'], 'select, insert, update, delete, truncate, references, trigger'],
    ['tables', 17, ['ALL'], 'select, insert, update, delete, truncate, references, trigger, maintain'],
    [
      'tables',
      17,
      ['all  privileges'],
      'select, insert, update, delete, truncate, references, trigger, maintain',
    ],
    ['tables', 15, ['update', 'SELECT', 'Select'], 'select, update'],
    ['sequences', 17, ['ALL PRIVILEGES'], 'select, update, usage'],
    ['functions', 17, ['ALL'], 'execute'],
    ['types', 17, ['USAGE'], 'usage'],
    ['schema', 17, ['ALL'], 'usage, create'],
    ['database', 17, ['ALL'], 'create, connect, temporary'],
    ['database', 17, ['TEMP'], 'temporary'],
    ['database', 17, [' temporary '], 'temporary'],
  ])('on %s of %i: %j: means %s', (on, major, words, expected) => {
    const { privileges, invalid } = parsePrivileges(words, on, major)
    expect(sqlPrivileges(privileges)).toBe(expected)
    expect(invalid).toEqual([])
  })

  test.each<[ObjectClass, number, string]>([
    ['tables', 16, 'MAINTAIN'],
    ['tables', 17, 'USAGE'],
    ['tables', 17, 'EXECUTE'],
    ['schema', 17, 'SELECT'],
    ['database', 17, 'MAINTAIN'],
    ['functions', 17, 'SELECT'],
    ['tables', 17, 'select, insert'],
    ['tables', 17, ''],
    ['tables', 17, 'constructor'],
  ])('on %s of %i: %j: is no privilege there and never reaches SQL', (on, major, word) => {
    expect(parsePrivileges([word], on, major)).toEqual({ privileges: 0, invalid: [word] })
  })

  test('privilegeSince: tells what is too new from what is wrong', () => {
    expect(privilegeSince('maintain', 'tables')).toBe(17)
    expect(privilegeSince('maintain', 'schema')).toBeUndefined()
    expect(privilegeSince('SELECT', 'tables')).toBeUndefined()
  })
})

test('acldefault and pg_default_acl: sequences have one letter here and another one there', () => {
  expect(classFacts('sequences')).toMatchObject({ letter: 's', defaultLetter: 'S' })
  expect(classFacts('tables')).toMatchObject({ letter: 'r', defaultLetter: 'r' })
})

describe('defaultAcl', () => {
  test.each<[ObjectClass, string]>([
    ['database', 'connect, temporary'],
    ['functions', 'execute'],
    ['types', 'usage'],
    ['tables', ''],
    ['sequences', ''],
    ['schema', ''],
  ])('%s: an ACL that is NULL gives PUBLIC: %j', (on, ofPublic) => {
    const acl = defaultAcl(on, 'o', 17)
    expect(sqlPrivileges(acl.get('public')?.privileges ?? 0)).toBe(ofPublic)
    expect(acl.get('public')?.privileges ?? 0).toBe(publicPrivileges(on))
    expect(acl.get('o')?.privileges).toBe(allPrivileges(on, 17))
    expect(acl.get('o')?.grantable).toBe(0)
  })
})

test('aclWithOwner: an owner change: merges the old owner’s entry into the new one’s', () => {
  const select = mask('tables', 'SELECT')
  const acl = new Map([
    ['old', heldByOwnerGrant(mask('tables', 'ALL'))],
    ['new', heldByOwnerGrant(select)],
    ['reader', heldByOwnerGrant(select)],
  ])
  const changed = aclWithOwner(acl, 'old', 'new')
  expect([...changed.keys()].toSorted()).toEqual(['new', 'reader'])
  expect(changed.get('new')!.privileges).toBe(mask('tables', 'ALL'))
  expect(acl.get('old')!.privileges).toBe(mask('tables', 'ALL'))
  expect(aclWithOwner(acl, 'old', 'old')).toBe(acl)
})

describe('difference', () => {
  const r = mask('tables', 'SELECT')
  const w = mask('tables', 'INSERT')
  const nobody = { isOwner: false, isExact: false }
  const want = (privileges: number, grantable = 0) => ({ privileges, grantable })
  const gap = { grant: 0, grantWithOption: 0, revoke: 0, revokeOption: 0 }

  test('what is held: is not sent again', () => {
    expect(difference(want(r), heldByOwnerGrant(r | w), nobody)).toBeUndefined()
    expect(difference(want(r, r), heldByOwnerGrant(r, r), nobody)).toBeUndefined()
  })

  test('what is lacking: only that is sent', () => {
    expect(difference(want(r | w), heldByOwnerGrant(r), nobody)).toEqual({ ...gap, grant: w })
    expect(difference(want(r | w, r), heldByOwnerGrant(r), nobody)).toEqual({
      ...gap,
      grant: w,
      grantWithOption: r,
    })
  })

  test('an owner: needs no grant option and loses nothing', () => {
    const owner = { isOwner: true, isExact: true }
    expect(difference(want(r, r), heldByOwnerGrant(r | w), owner)).toBeUndefined()
    expect(difference(want(r, r), NOTHING, owner)).toEqual({ ...gap, grant: r })
  })

  test('exact: what is too much goes, and an option that is too much goes alone', () => {
    const exact = { isOwner: false, isExact: true }
    expect(difference(want(r), heldByOwnerGrant(r | w), exact)).toEqual({ ...gap, revoke: w })
    expect(difference(want(r), heldByOwnerGrant(r, r), exact)).toEqual({ ...gap, revokeOption: r })
    expect(difference(want(0), heldByOwnerGrant(r, r), exact)).toEqual({ ...gap, revoke: r })
  })

  test('exact: what somebody else than the owner granted cannot be revoked in the owner’s name', () => {
    const held = { ...NOTHING, privileges: r | w, byOwner: w }
    expect(difference(want(0), held, { isOwner: false, isExact: true })).toEqual({ ...gap, revoke: w })
  })
})

test('names for people and for SQL: hostile ones are quoted, PUBLIC is a keyword', () => {
  expect(sqlGrantees(['a"b', 'public', 'Public', 'select'])).toBe(`"a""b", public, "Public", "select"`)
  expect(showGrantees(['a', 'with space', 'c', 'd', 'e'])).toBe('a, "with space", c, d, e')
  expect(showSome(['a', 'b', 'c', 'd', 'e', 'f'])).toBe('a, b, c, d and 2 more')
  expect(showPrivileges(mask('tables', 'ALL'), 'tables', 17)).toBe('all')
  expect(showPrivileges(mask('functions', 'ALL'), 'functions', 17)).toBe('execute')
  expect(privilegeNames(mask('database', 'TEMP', 'CREATE'))).toEqual(['CREATE', 'TEMPORARY'])
})
