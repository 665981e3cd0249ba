import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type Acl,
  defaultAcl,
  heldByOwnerGrant,
  NOTHING,
  type ObjectClass,
  parsePrivileges,
} from '../../scripts/plan/acl.ts'
import type { ObjectGroup } from '../../scripts/plan/grant-catalog.ts'
import { findGaps, type Gap, type GrantDemand, statementsFor } from '../../scripts/plan/grant-diff.ts'
import type { GrantEntry } from '../../scripts/plan/grant-spec.ts'

const MAJOR = 17
const HOSTILE = ['a"b', 'Ünï cødé', 'with space', 'x'.repeat(63), 'select', `'; drop table x; --`]

type Words = Partial<Omit<GrantEntry, 'privileges'>> & { on: ObjectClass; privileges: string[] }

function entry({ privileges, ...words }: Words): GrantEntry {
  return {
    to: ['r'],
    schemas: '*',
    objects: undefined,
    isGrantable: false,
    creators: [],
    ...parsePrivileges(privileges, words.on, MAJOR),
    ...words,
  }
}

function group(words: Partial<ObjectGroup> & { names: string[] }, on: ObjectClass = 'tables'): ObjectGroup {
  const { names, ...rest } = words
  const owner = rest.owner ?? 'o'
  const objects = names.map((name) => ({ name }))
  return { schema: 's', owner, isProtected: false, objects, acl: defaultAcl(on, owner, MAJOR), ...rest }
}

function texts(entries: GrantEntry[], groups: ObjectGroup[], exact: string[] = []): string[] {
  const demand: GrantDemand = { on: entries[0]!.on, major: MAJOR, entries, exact: new Set(exact) }
  return statementsFor(demand, findGaps(demand, groups)).map(({ text }) => text)
}

function held(on: ObjectClass, privileges: string[], grantable: string[] = []) {
  return heldByOwnerGrant(
    parsePrivileges(privileges, on, MAJOR).privileges,
    parsePrivileges(grantable, on, MAJOR).privileges,
  )
}

function acl(on: ObjectClass, holders: Record<string, string[]>): Acl {
  return new Map(Object.entries(holders).map(([name, words]) => [name, held(on, words)]))
}

describe('statementsFor', () => {
  test.each(HOSTILE)('names %j: are quoted wherever they stand', (name) => {
    const quoted = `"${name.replaceAll('"', '""')}"`
    const entries = [entry({ on: 'tables', to: [name], privileges: ['SELECT'] })]
    expect(texts(entries, [group({ schema: name, names: [name] })])).toEqual([
      `grant select on table ${quoted}.${quoted} to ${quoted}`,
    ])
  })

  test('many grantees and many objects: are one statement', () => {
    const entries = ['a', 'b', 'c'].map((to) => entry({ on: 'tables', to: [to], privileges: ['SELECT'] }))
    const groups = [group({ names: ['t', 'u'] }), group({ schema: 'other', names: ['v'] })]
    expect(texts(entries, groups)).toEqual([
      `grant select on table "s"."t", "s"."u", "other"."v" to "a", "b", "c"`,
    ])
  })

  test('two entries for the same: send it once', () => {
    const entries = [
      entry({ on: 'tables', privileges: ['SELECT'] }),
      entry({ on: 'tables', privileges: ['SELECT', 'INSERT'] }),
    ]
    expect(texts(entries, [group({ names: ['t'] })])).toEqual([
      `grant select, insert on table "s"."t" to "r"`,
    ])
  })

  test('some hold it already: only the others get it', () => {
    const entries = [entry({ on: 'tables', to: ['a', 'b'], privileges: ['SELECT', 'INSERT'] })]
    const groups = [group({ names: ['t'], acl: acl('tables', { a: ['SELECT'], b: ['SELECT', 'INSERT'] }) })]
    expect(texts(entries, groups)).toEqual([`grant insert on table "s"."t" to "a"`])
  })

  test('an owner whose privileges are implied: is sent nothing', () => {
    const entries = [entry({ on: 'tables', to: ['o'], privileges: ['ALL'], isGrantable: true })]
    expect(texts(entries, [group({ names: ['t'] })])).toEqual([])
  })

  test('a built-in default: is not granted once more to PUBLIC', () => {
    const entries = [entry({ on: 'functions', to: ['public'], privileges: ['EXECUTE'] })]
    expect(texts(entries, [group({ names: ['f'] }, 'functions')])).toEqual([])
  })

  test('grantable: the option is sent, also where the privilege is held', () => {
    const entries = [entry({ on: 'tables', privileges: ['SELECT'], isGrantable: true })]
    const groups = [group({ names: ['t'], acl: acl('tables', { r: ['SELECT'] }) })]
    expect(texts(entries, groups)).toEqual([`grant select on table "s"."t" to "r" with grant option`])
  })

  test.each<[ObjectClass, string, string]>([
    ['database', 'CONNECT', 'database "t"'],
    ['schema', 'USAGE', 'schema "t"'],
    ['tables', 'SELECT', 'table "t"."t"'],
    ['sequences', 'USAGE', 'sequence "t"."t"'],
    ['types', 'USAGE', 'type "t"."t"'],
  ])('on %s: %s: is on %s', (on, privilege, where) => {
    const schema = on === 'database' ? '' : 't'
    const groups = [group({ schema, names: ['t'], acl: new Map() }, on)]
    expect(texts([entry({ on, privileges: [privilege] })], groups)).toEqual([
      `grant ${privilege.toLowerCase()} on ${where} to "r"`,
    ])
  })

  test('functions: carry the types of their arguments, and a name means all of them', () => {
    const objects = [
      { name: 'f', arguments: '' },
      { name: 'f', arguments: `integer, app."Odd ""type"[]` },
      { name: 'g', arguments: 'text' },
    ]
    const groups = [{ ...group({ names: [] }, 'functions'), objects, acl: new Map() }]
    const entries = [entry({ on: 'functions', privileges: ['EXECUTE'], objects: new Set(['f']) })]
    expect(texts(entries, groups)).toEqual([
      `grant execute on routine "s"."f"(), "s"."f"(integer, app."Odd ""type"[]) to "r"`,
    ])
  })

  test('thousands of objects: come in statements of a bounded size', () => {
    const names = Array.from({ length: 1200 }, (_empty, index) => `t${index}`)
    const statements = texts([entry({ on: 'tables', privileges: ['SELECT'] })], [group({ names })])
    expect(statements.map((text) => text.match(/"s"\./g)!.length)).toEqual([500, 500, 200])
  })
})

describe('findGaps', () => {
  test('schema and objects: limit an entry', () => {
    const entries = [
      entry({ on: 'tables', to: ['a'], privileges: ['SELECT'], schemas: new Set(['app']) }),
      entry({ on: 'tables', to: ['b'], privileges: ['SELECT'], objects: new Set(['t']) }),
      entry({
        on: 'tables',
        to: ['c'],
        privileges: ['SELECT'],
        schemas: new Set(['app']),
        objects: new Set(['t']),
      }),
    ]
    const groups = [
      group({ schema: 'app', names: ['t', 'u'] }),
      group({ schema: 'other', names: ['t', 'u'] }),
    ]
    expect(texts(entries, groups)).toEqual([
      `grant select on table "app"."u" to "a"`,
      `grant select on table "app"."t" to "a", "b", "c"`,
      `grant select on table "other"."t" to "b"`,
    ])
  })

  test('what belongs to an extension: is left alone unless it is named', () => {
    const groups = [group({ names: ['spatial_ref_sys'], isProtected: true })]
    expect(texts([entry({ on: 'tables', privileges: ['SELECT'] })], groups)).toEqual([])
    expect(texts([entry({ on: 'tables', privileges: ['SELECT'], schemas: new Set(['s']) })], groups)).toEqual(
      [],
    )
    const named = entry({ on: 'tables', privileges: ['SELECT'], objects: new Set(['spatial_ref_sys']) })
    expect(texts([named], groups)).toEqual([`grant select on table "s"."spatial_ref_sys" to "r"`])
    expect(texts([named], [{ ...groups[0]!, acl: acl('tables', { r: ['ALL'] }) }], ['r'])).toEqual([])
  })

  test('a schema of an extension: is meant when it is named', () => {
    const groups = [group({ schema: 'cron', names: ['cron'], isProtected: true }, 'schema')]
    expect(texts([entry({ on: 'schema', privileges: ['USAGE'] })], groups)).toEqual([])
    expect(
      texts([entry({ on: 'schema', privileges: ['USAGE'], schemas: new Set(['cron']) })], groups),
    ).toEqual([`grant usage on schema "cron" to "r"`])
  })

  test('add: more than what is named stays', () => {
    const groups = [group({ names: ['t'], acl: acl('tables', { r: ['SELECT', 'DELETE'], x: ['ALL'] }) })]
    expect(texts([entry({ on: 'tables', privileges: ['SELECT'] })], groups)).toEqual([])
  })

  test('exact: takes from the roles that are named, never from others or from owners', () => {
    const groups = [
      group({ names: ['t'], acl: acl('tables', { r: ['SELECT', 'DELETE'], x: ['ALL'], o: ['ALL'] }) }),
      group({ names: ['mine'], owner: 'r' }),
    ]
    expect(texts([entry({ on: 'tables', privileges: ['SELECT'] })], groups, ['r', 'o'])).toEqual([
      `revoke delete on table "s"."t" from "r"`,
    ])
  })

  test('exact: PUBLIC in schema public is left to its own key', () => {
    const groups = [
      group({ schema: 'public', names: ['public'], acl: acl('schema', { public: ['USAGE'] }) }, 'schema'),
      group({ schema: 'app', names: ['app'], acl: acl('schema', { public: ['USAGE'] }) }, 'schema'),
    ]
    const entries = [entry({ on: 'schema', to: ['r'], privileges: ['USAGE'], schemas: new Set(['x']) })]
    expect(texts(entries, groups, ['public'])).toEqual([`revoke usage on schema "app" from public`])
  })

  test('500 roles on 200 schemas, nothing to do: is found in no time', () => {
    const roles = Array.from({ length: 500 }, (_empty, index) => `role ${index}`)
    const entries = roles.map((to) => entry({ on: 'schema', to: [to], privileges: ['USAGE'] }))
    const all: Acl = new Map(roles.map((to) => [to, held('schema', ['USAGE'])]))
    const groups = Array.from({ length: 200 }, (_empty, index) =>
      group({ schema: `s${index}`, names: [`s${index}`], acl: all }, 'schema'),
    )
    const begin = performance.now()
    expect(texts(entries, groups)).toEqual([])
    expect(performance.now() - begin).toBeLessThan(1000)
  })
})

describe('any entries on any objects', () => {
  const roles = ['public', 'a', 'b', 'o']
  const words = fc.uniqueArray(fc.constantFrom('SELECT', 'INSERT', 'DELETE'), { minLength: 1 })
  const entries = fc.array(
    fc.record({
      to: fc.uniqueArray(fc.constantFrom(...roles), { minLength: 1 }),
      privileges: words,
      schemas: fc.constantFrom<'*' | Set<string>>('*', new Set(['s']), new Set(['x', 's'])),
      objects: fc.option(fc.constantFrom(new Set(['t']), new Set(['t', 'u'])), { nil: undefined }),
      isGrantable: fc.boolean(),
    }),
    { minLength: 1, maxLength: 6 },
  )
  const groups = fc.array(
    fc.record({
      schema: fc.constantFrom('s', 'x', 'y'),
      owner: fc.constantFrom('a', 'o'),
      isProtected: fc.boolean(),
      names: fc.uniqueArray(fc.constantFrom('t', 'u', 'v'), { minLength: 1 }),
      acl: fc
        .array(fc.tuple(fc.constantFrom(...roles), words, fc.boolean()))
        .map(
          (held_) => new Map(held_.map(([role, some, all]) => [role, held('tables', some, all ? some : [])])),
        ),
    }),
    { maxLength: 4 },
  )

  test('what the statements do: leaves nothing to do, and takes nothing from owners and extensions', () => {
    fc.assert(
      fc.property(entries, groups, fc.boolean(), (someEntries, someGroups, exact) => {
        const demand: GrantDemand = {
          on: 'tables',
          major: MAJOR,
          entries: someEntries.map((one) => entry({ on: 'tables', ...one })),
          exact: new Set(exact ? someEntries.flatMap(({ to }) => to) : []),
        }
        let state = someGroups.map((one) => group(one))
        const gaps = [...findGaps(demand, state)]
        const taken = gaps.filter(({ difference }) => difference!.revoke | difference!.revokeOption)
        expect(exact ? [] : taken).toEqual([])
        expect(taken.filter(({ grantee, group }) => grantee === group.owner || group.isProtected)).toEqual([])
        const options = gaps.filter(({ difference }) => difference!.grantWithOption)
        expect(options.filter(({ grantee }) => grantee === 'public')).toEqual([])
        for (const gap of gaps) state = state.flatMap((one) => after(one, gap))
        expect([...findGaps(demand, state)]).toEqual([])
      }),
      { numRuns: 300 },
    )
  })

  /** A group after one gap is closed, as the server would: what is left of it, and what has changed. */
  function after(one: ObjectGroup, { group: from, objects, grantee, difference }: Gap): ObjectGroup[] {
    const isHit = (name: string) => objects.some((object) => object.name === name)
    const hit = (ORIGIN.get(one) ?? one) === from ? one.objects.filter(({ name }) => isHit(name)) : []
    if (hit.length === 0) return [one]
    const rest = one.objects.filter(({ name }) => !isHit(name))
    const { privileges, grantable } = one.acl.get(grantee) ?? NOTHING
    const { grant, grantWithOption, revoke, revokeOption } = difference!
    const changed = heldByOwnerGrant(
      (privileges | grant | grantWithOption) & ~revoke,
      (grantable | grantWithOption) & ~revoke & ~revokeOption,
    )
    const parts = [
      { ...one, objects: hit, acl: new Map([...one.acl, [grantee, changed]]) },
      ...(rest.length === 0 ? [] : [{ ...one, objects: rest }]),
    ]
    for (const part of parts) ORIGIN.set(part, ORIGIN.get(one) ?? one)
    return parts
  }
})

const ORIGIN = new WeakMap<ObjectGroup, ObjectGroup>()
