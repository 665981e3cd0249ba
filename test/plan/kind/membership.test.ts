import { stringify } from 'smol-toml'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ident } from '../../../scripts/cluster/sql.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import type { Facts } from '../../../scripts/plan/kind.ts'
import { membership, type Membership, type MembershipGrant } from '../../../scripts/plan/kind/membership.ts'
import { role } from '../../../scripts/plan/kind/role.ts'
import { bindirs } from '../../support/majors.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = [role, membership]
const HOSTILE = ['a"b', 'Ünï cødé', 'with space', 'x'.repeat(63), 'select', `'; drop table x; --`, 'm in r']

const plain: MembershipGrant = { grantor: 'postgres', admin: false, inherit: true, set: true }

describe('membership.change', () => {
  test.each<[string, number, string, MembershipGrant[], string, string[]]>([
    ['new', 15, '"r"', [], 'granted', ['grant "r" to "m"']],
    ['new', 16, '"r"', [], 'granted', ['grant "r" to "m" with admin false']],
    [
      'new, with admin',
      15,
      '{ role = "r", admin = true }',
      [],
      'granted with admin option',
      ['grant "r" to "m" with admin option'],
    ],
    [
      'new, with all options',
      16,
      '{ role = "r", admin = true, inherit = false, set = false }',
      [],
      'granted with admin option, inherit false, set false',
      ['grant "r" to "m" with admin true, inherit false, set false'],
    ],
    [
      'admin to come',
      15,
      '{ role = "r", admin = true }',
      [plain],
      'admin option',
      ['grant "r" to "m" with admin option'],
    ],
    [
      'admin to go',
      15,
      '"r"',
      [{ ...plain, admin: true }],
      'no admin option',
      ['revoke admin option for "r" from "m"'],
    ],
    [
      'admin to go, granted by two',
      16,
      '"r"',
      [{ ...plain, admin: true, grantor: 'a"b' }, plain, { ...plain, admin: true, grantor: 'other' }],
      'no admin option',
      [
        'revoke admin option for "r" from "m" granted by "a""b"',
        'revoke admin option for "r" from "m" granted by "other"',
      ],
    ],
    [
      'inherit to go and set to come',
      16,
      '{ role = "r", inherit = false, set = true }',
      [{ ...plain, set: false, grantor: 'g' }],
      'no inherit option, set option',
      [
        'revoke inherit option for "r" from "m" granted by "g"',
        'grant "r" to "m" with admin false, inherit false, set true',
      ],
    ],
  ])('%s, on %i: the statement of that major', (...[, major, toml, grants, line, texts]) => {
    const { wanted, context } = membershipOf(toml, major)
    const actual = grants.length === 0 ? undefined : { member: 'm', role: 'r', grants }
    const change = membership.change('m in r', wanted, actual, context)!
    expect(change).toMatchObject({ kind: 'membership', name: 'm in r', line, hazards: [] })
    expect(change.action).toBe(grants.length === 0 ? 'create' : 'alter')
    expect(change.steps.map((step) => step.run === 'sql' && step.text)).toEqual(texts)
  })

  test.each<[string, number, string, MembershipGrant[]]>([
    ['as wanted', 15, '"r"', [plain]],
    ['options that the file does not speak of', 16, '"r"', [{ ...plain, inherit: false, set: false }]],
    [
      'one of two grants has the option',
      16,
      '{ role = "r", admin = true, set = true }',
      [{ ...plain, set: false, admin: true }, plain],
    ],
  ])('%s, on %i: nothing to do', (_, major, toml, grants) => {
    const { wanted, context } = membershipOf(toml, major)
    expect(membership.change('m in r', wanted, { member: 'm', role: 'r', grants }, context)).toBeUndefined()
  })

  test('several grants of one membership, from 16 on: each is revoked by its grantor', () => {
    const { context } = membershipOf('"r"', 16, 'manage = "exact"')
    const actual = { member: 'm', role: 'x', grants: [plain, { ...plain, grantor: 'other' }] }
    const change = membership.drop!('m in x', actual, context)!
    expect(change.steps.map((step) => step.run === 'sql' && step.text)).toEqual([
      'revoke "x" from "m" granted by "postgres"',
      'revoke "x" from "m" granted by "other"',
    ])
  })

  test.each([
    ['manage = "add"', 'm'],
    ['manage = "exact"', 'somebody the file does not name'],
  ])('not named, with %s, member %s: stays', (manage, member) => {
    const { context } = membershipOf('"r"', 16, manage)
    expect(membership.drop!('x', { member, role: 'x', grants: [plain] }, context)).toBeUndefined()
  })
})

describe('membership.findings', () => {
  test.each<[string, number, string, Partial<Membership> | undefined, string[]]>([
    ['a role of the file', 15, '"r"', undefined, []],
    ['a role of the server', 15, '"s"', { grants: [] }, []],
    ['a role of nobody', 15, '"s"', { grants: [], hasNoRole: true }, ['role s is not there']],
    ['a role that the file will make', 15, '"r"', { grants: [], hasNoRole: true }, []],
    ['a role that is to go', 15, '"gone"', undefined, ['role gone is to be absent']],
    [
      'the owner of each database',
      15,
      '"pg_database_owner"',
      undefined,
      ['its only member is the owner of each database'],
    ],
    [
      'options that the major does not know',
      15,
      '{ role = "r", set = false }',
      undefined,
      ['"inherit" and "set" need PostgreSQL 16, the cluster is of major 15'],
    ],
    ['options that the major knows', 16, '{ role = "r", set = false }', undefined, []],
    ['itself', 16, '"m"', undefined, ['a role cannot be a member of itself: m -> m']],
    ['a circle', 16, '"one"', undefined, ['a role cannot be a member of itself: m -> one -> "Two" -> m']],
    ['a circle that it is no part of', 16, '"three"', undefined, []],
  ])('%s, on %i: found before anything is changed', (...[, major, toml, actual, texts]) => {
    const { wanted, context } = membershipOf(toml, major)
    const found = membership.findings!('x', wanted, actual as Membership | undefined, context)
    expect(found.map(({ text }) => text)).toEqual(texts)
    expect(found.every(({ level, hint }) => level === 'impossible' && hint !== undefined)).toBe(true)
  })
})

// On every major whose programs are there: memberships got more options with 16.
describe.each(await bindirs())('memberships on a server of PostgreSQL $major', ({ bindir }) => {
  let server: TestServer
  beforeAll(async () => {
    server = await startServer({ bindir })
  })
  afterAll(() => server[Symbol.asyncDispose]())
  afterEach(async () => {
    const made = await server.query<{ name: string }>(
      'postgres',
      `select rolname::text as name from pg_roles where oid <> 10 and rolname !~ '^pg_'`,
    )
    const names = made.map(({ name }) => ident(name)).join(', ')
    if (names !== '') await server.query('postgres', `drop owned by ${names} cascade; drop role ${names}`)
  })

  test('hostile names: applied once, then planned and exported without a change', async () => {
    const roles = Object.fromEntries(
      HOSTILE.map((name, index) => [
        name,
        { member_of: index === 0 ? [] : [{ role: HOSTILE[index - 1]!, admin: index % 2 === 0 }] },
      ]),
    )
    const toml = stringify({ roles })
    const { changes } = await server.apply(KINDS, toml)
    expect(changes.filter(({ kind }) => kind === 'membership').length).toBe(HOSTILE.length - 1)
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
    const words = await server.observe('', async (observe) => {
      const parts = [
        role.exported!(await role.actual(observe), observe),
        membership.exported!(await membership.actual(observe), observe),
      ] as { roles: Record<string, object> }[]
      return {
        roles: Object.fromEntries(
          HOSTILE.map((name) => [name, { ...parts[0]!.roles[name], ...parts[1]!.roles[name] }]),
        ),
      }
    })
    expect((await server.plan(KINDS, stringify(words))).changes).toEqual([])
    const exact = stringify(words).replaceAll(/^member_of/gm, 'manage = "exact"\nmember_of')
    expect((await server.plan(KINDS, exact)).changes).toEqual([])
  })

  test('an empty cluster: predefined memberships are not exported', async () => {
    await server.observe('', async (observe) => {
      expect(membership.exported!(await membership.actual(observe), observe)).toEqual({ roles: {} })
    })
  })

  test('member before role in the file: all roles are made first', async () => {
    await server.apply(KINDS, '[roles.a]\nmember_of = ["b"]\n[roles.b]\nmember_of = ["pg_monitor"]')
    const rows = await server.query('postgres', `select pg_has_role('a', 'pg_monitor', 'member') as has`)
    expect(rows).toEqual([{ has: true }])
  })

  test('admin option: comes and goes', async () => {
    const toml = (admin: boolean) => `[roles.r]\n[roles.m]\nmember_of = [{ role = "r", admin = ${admin} }]`
    await server.apply(KINDS, toml(false))
    expect(linesOf((await server.apply(KINDS, toml(true))).changes)).toEqual([
      '~ membership m in r: admin option',
    ])
    expect((await server.plan(KINDS, toml(true))).changes).toEqual([])
    expect(linesOf((await server.apply(KINDS, toml(false))).changes)).toEqual([
      '~ membership m in r: no admin option',
    ])
    expect((await server.plan(KINDS, toml(false))).changes).toEqual([])
  })

  test('memberships not named: stay with manage = "add", go with manage = "exact"', async () => {
    await server.query('postgres', 'create role m; create role r; grant r to m')
    expect((await server.plan(KINDS, '[roles.m]')).changes).toEqual([])
    const exact = '[roles.m]\nmanage = "exact"'
    expect(linesOf((await server.apply(KINDS, exact)).changes)).toEqual(['- membership m in r: revoked'])
    expect((await server.plan(KINDS, exact)).changes).toEqual([])
  })

  test('a role that is nowhere: refused, with nothing done', async () => {
    const planned = await server.plan(KINDS, '[roles.m]\nmember_of = ["nowhere"]')
    expect(planned.findings).toMatchObject([{ level: 'impossible', text: 'role nowhere is not there' }])
  })

  test('options of 16: each comes and goes by itself, whoever granted it', async (context) => {
    if (server.major < 16) return context.skip()
    await server.query(
      'postgres',
      `create role m; create role r; create role g;
       grant r to g with admin option; grant r to m; grant r to m with admin option granted by g`,
    )
    const toml = (words: string) => `[roles.m]\nmanage = "exact"\nmember_of = [{ role = "r", ${words} }]`
    for (const words of [
      'inherit = false, set = false',
      'admin = true, set = true',
      'inherit = true',
      'admin = false, inherit = false, set = false',
    ]) {
      expect((await server.apply(KINDS, toml(words))).changes.length).toBe(1)
      expect((await server.plan(KINDS, toml(words))).changes).toEqual([])
    }
    await server.apply(KINDS, '[roles.m]\nmanage = "exact"')
    const left = await server.query('postgres', `select from pg_auth_members where member = 'm'::regrole`)
    expect(left).toEqual([])
  })
})

const FACTS: Omit<Facts, 'major'> = {
  memoryBytes: 2 ** 31,
  cpus: 2,
  osUser: 'postgres',
  configDir: '/x',
  dataDir: '/x',
  socketDir: '/x',
}

/** Role m as a member of what the text says, beside some others. */
function membershipOf(toml: string, major: number, more = '') {
  const host = parseHost(
    `format = 1\n[host]\nname = "h"\n[postgres]\nkind = "private"\nmajor = ${major}\ndata_dir = "/x"
     [roles.m]\nmember_of = [${toml}]\n${more}
     [roles.r]\n[roles.gone]\nstate = "absent"
     [roles.one]\nmember_of = ["Two"]\n[roles.Two]\nmember_of = ["m"]
     [roles.three]\nmember_of = ["four"]\n[roles.four]\nmember_of = ["three"]`,
  )
  const facts = { ...FACTS, major }
  const wanted = [...membership.wanted(host, facts).values()].find(({ member }) => member === 'm')!
  return { wanted, context: { host, facts } }
}
