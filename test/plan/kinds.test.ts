import { expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import type { Facts, Kind } from '../../scripts/plan/kind.ts'
import { FOUNDATION, KINDS, selectKinds } from '../../scripts/plan/kinds.ts'

const names = KINDS.map(({ name }) => name)

test('KINDS: in the order in which they need one another', () => {
  expect(names).toEqual([
    'package',
    'cluster',
    'setting',
    'hba',
    'role',
    'membership',
    'tablespace',
    'database',
    'extension',
    'schema',
    'default-privilege',
    'grant',
  ])
  expect([...FOUNDATION]).toEqual(['package', 'cluster'])
})

test.each([
  ['nothing: all of them', undefined, names],
  ['one', ['hba'], ['hba']],
  ['several, in the order of the kinds', ['database', 'hba'], ['hba', 'database']],
  ['in the plural', ['databases', 'schemas', 'settings'], ['setting', 'database', 'schema']],
  ['roles: with their memberships', ['roles'], ['role', 'membership']],
  ['grants: with those of objects to come', ['grant'], ['default-privilege', 'grant']],
  ['one of a group by its own name', ['membership'], ['membership']],
  ['twice', ['role', 'roles'], ['role', 'membership']],
  ['none', [], []],
])('selectKinds: %s', (_, only, selected) => {
  expect(selectKinds(only).map(({ name }) => name)).toEqual(selected)
})

test.each([
  ['rols', 'there is no kind "rols" (did you mean "role"?)'],
  ['', 'there is no kind ""'],
  ['s', 'there is no kind "s"'],
  ['constructor', 'there is no kind "constructor"'],
])('selectKinds: %j: is refused, with the kinds that there are', (word, message) => {
  expect(() => selectKinds([word])).toThrow(
    expect.objectContaining({
      code: 'usage',
      message,
      hint: `The kinds are: ${[...names, 'migration'].join(', ')}.`,
    }),
  )
})

test('every kind: wants nothing for a host file that says nothing, but the server itself', () => {
  const host = parseHost('format = 1\n[host]\nname = "x"\n[postgres]\nmajor = 15\n')
  const facts: Facts = {
    major: 15,
    memoryBytes: 2 ** 31,
    cpus: 2,
    osUser: 'postgres',
    configDir: '/etc/postgresql/15/main',
    dataDir: '/var/lib/postgresql/15/main',
    socketDir: '/var/run/postgresql',
  }
  const wanted = (KINDS as readonly unknown[] as Kind<unknown>[]).flatMap((kind) =>
    [...kind.wanted(host, facts).keys()].map((name) => `${kind.name} ${name}`),
  )
  expect(wanted).toEqual(['package postgresql-15', 'cluster 15/main'])
})
