import { stringify } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ident, literal } from '../../../scripts/cluster/sql.ts'
import { database } from '../../../scripts/plan/kind/database.ts'
import { defaultPrivilege } from '../../../scripts/plan/kind/default-privilege.ts'
import { extension } from '../../../scripts/plan/kind/extension.ts'
import { grant } from '../../../scripts/plan/kind/grant.ts'
import { schema } from '../../../scripts/plan/kind/schema.ts'
import { exportedToml, HOSTILE_NAMES } from '../../support/exported.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = [database, extension, schema, defaultPrivilege, grant]
let server: TestServer

beforeAll(async () => {
  // Nothing but the tests writes WAL.
  server = await startServer({ settings: { autovacuum: 'off', wal_level: 'minimal', max_wal_senders: '0' } })
  await server.query('postgres', 'create role app; create role other; create role r; create role w')
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

type Words = Record<string, unknown>

function hostWith(name: string, grants: Words[], more: Words = {}): string {
  return stringify({ databases: { [name]: { owner: 'app', grants, ...more } } })
}

/** Makes a database with what a statement makes in it. */
async function made(name: string, text = ''): Promise<void> {
  await server.query('postgres', `create database ${ident(name)} owner app`)
  await server.query(name, `create schema app authorization app; ${text}`)
}

async function grantLines(toml: string): Promise<string[]> {
  const { changes } = await server.plan([grant], toml)
  return linesOf(changes)
}

/** Applies the grants, and is sure that a second plan is empty. */
async function applied(toml: string): Promise<string[]> {
  const { changes } = await server.apply([grant], toml)
  expect(await grantLines(toml)).toEqual([])
  return linesOf(changes)
}

async function has(name: string, role: string, object: string, privilege: string): Promise<boolean> {
  const [row] = await server.query<{ has: boolean }>(name, 'select has_table_privilege($1, $2, $3) as has', [
    role,
    object,
    privilege,
  ])
  return row!.has
}

test.each(HOSTILE_NAMES)(
  'grants on everything named %j: apply, plan again, export, plan: nothing to do',
  async (name) => {
    const [owner, role] = [`${name.slice(1)}o`, `${name.slice(1)}r`]
    const [id, path] = [ident(name), `${ident(name)}.${ident(name)}`]
    await server.query('postgres', `create role ${ident(owner)}; create role ${ident(role)}`)
    await server.query('postgres', `create database ${id} owner ${ident(owner)}`)
    await server.query(
      name,
      `create schema ${id}; create table ${path} (i int); create sequence ${id}.${ident(`${name.slice(1)}s`)};
     create type ${id}.${ident(`${name.slice(1)}t`)} as enum (${literal(name)});
     create function ${path}(${id}.${ident(`${name.slice(1)}t`)}, text) returns int language sql as 'select 1';
     create function ${path}() returns int language sql as 'select 1'`,
    )
    const classes = ['schema', 'tables', 'sequences', 'functions', 'types']
    const grants = [
      { to: role, on: 'database', privileges: ['CREATE'] },
      ...classes.map((on) => ({ to: role, on, schema: name, privileges: ['ALL'] })),
      { to: 'public', on: 'tables', schema: name, objects: [name], privileges: ['SELECT'] },
    ]
    const toml = stringify({ databases: { [name]: { owner, grants } } })
    const { changes } = await server.apply(KINDS, toml)
    expect(changes.filter(({ kind }) => kind === 'grant')).toHaveLength(6)
    expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
    expect(await has(name, role, path, 'INSERT')).toBe(true)
    expect(await has(name, 'r', path, 'SELECT')).toBe(true)
    const exported = await exportedToml(server, KINDS)
    expect(await server.plan(KINDS, exported)).toMatchObject({ changes: [], findings: [] })
    const kept = server.host(exported).databases[name]!.grants
    expect(new Set(kept.map(({ on }) => on))).toEqual(new Set(['database', ...classes]))
    await server.query('postgres', `drop database ${id}`)
  },
)

describe('only what differs', () => {
  test('some objects have it: only the others are named', async () => {
    await made(
      'some',
      'create table app.a(); create table app.b(); create table app.c(); grant select on app.b to r',
    )
    const toml = hostWith('some', [{ to: 'r', on: 'tables', privileges: ['SELECT'] }])
    expect(await applied(toml)).toEqual(['+ grant some: tables: grant select on app.a, app.c to r'])
  })

  test('nothing to do: not one catalog row is written', async () => {
    await made('quiet', 'create table app.a(); grant select on app.a to r')
    const toml = hostWith('quiet', [{ to: 'r', on: 'tables', privileges: ['SELECT'], future: false }])
    // The first reader of new rows may write hints on them.
    await grantLines(toml)
    const version = `select xmin::text from pg_class where oid = 'app.a'::regclass`
    const before = await server.query('quiet', version)
    const lsn = await server.query('postgres', 'select pg_current_wal_insert_lsn()::text as lsn')
    expect((await server.apply(KINDS, toml)).changes).toEqual([])
    expect(await server.query('quiet', version)).toEqual(before)
    expect(await server.query('postgres', 'select pg_current_wal_insert_lsn()::text as lsn')).toEqual(lsn)
  })

  test('an ACL that is NULL: is the built-in default and not nobody', async () => {
    await made(
      'nulls',
      `create function app.f() returns int language sql as 'select 1'; create type app.t as (i int); create table app.a()`,
    )
    const grants = [
      { to: 'public', on: 'functions', schema: 'app', privileges: ['EXECUTE'], future: false },
      { to: 'public', on: 'types', schema: 'app', privileges: ['USAGE'], future: false },
      { to: 'public', on: 'database', privileges: ['CONNECT', 'TEMP'] },
      { to: 'app', on: 'database', privileges: ['ALL'] },
      { to: 'postgres', on: 'tables', schema: 'app', privileges: ['ALL'], future: false },
    ]
    expect(await grantLines(hostWith('nulls', grants))).toEqual([])
  })

  test('an ACL that is empty: is nobody and not the default', async () => {
    await made(
      'empty',
      `create function app.f() returns int language sql as 'select 1'; revoke all on function app.f() from public, postgres`,
    )
    const toml = hostWith('empty', [
      { to: 'public', on: 'functions', schema: 'app', privileges: ['EXECUTE'] },
    ])
    expect(await applied(toml)).toEqual(['+ grant empty: functions: grant execute on app.f() to public'])
  })

  test('what a role has through PUBLIC: does not count as its own', async () => {
    await made('through', 'create table app.a(); grant select on app.a to public')
    const toml = hostWith('through', [{ to: 'r', on: 'tables', schema: 'app', privileges: ['SELECT'] }])
    expect(await applied(toml)).toHaveLength(1)
  })
})

describe('what ALL is', () => {
  test('ALL on tables: is what this major has, and is complete in one go', async () => {
    await made('everything', 'create table app.a()')
    const toml = hostWith('everything', [{ to: 'r', on: 'tables', schema: 'app', privileges: ['ALL'] }])
    expect(await applied(toml)).toEqual(['+ grant everything: tables: grant all on app.a to r'])
    expect(await has('everything', 'r', 'app.a', 'TRUNCATE')).toBe(true)
    const newest = server.major >= 17 ? 'MAINTAIN' : 'TRIGGER'
    expect(await has('everything', 'r', 'app.a', newest)).toBe(true)
  })

  test('tables: are partitioned tables, partitions, views, materialized views and foreign tables too', async () => {
    await made(
      'kinds',
      `create table app.p(i int) partition by list (i); create table app.p1 partition of app.p for values in (1);
       create view app.v as select 1; create materialized view app.m as select 1;
       create foreign data wrapper fdw; create server s foreign data wrapper fdw; create foreign table app.f(i int) server s`,
    )
    const toml = hostWith('kinds', [{ to: 'r', on: 'tables', schema: 'app', privileges: ['SELECT'] }])
    expect(await applied(toml)).toHaveLength(1)
    for (const table of ['p', 'p1', 'v', 'm', 'f'])
      expect(await has('kinds', 'r', `app.${table}`, 'SELECT')).toBe(true)
  })

  test('functions: are procedures and aggregates too, with any arguments', async () => {
    await made(
      'routines',
      `create type app."Odd ""type" as enum ('a');
       create function app.f(variadic text[]) returns int language sql as 'select 1';
       create function app.f(a int default 1, out b int) language sql as 'select 1';
       create procedure app.p(inout a app."Odd ""type"[]) language sql as 'select $1';
       create aggregate app.a(int) (sfunc = int4pl, stype = int);
       create aggregate app.o(float8 order by anyelement) (sfunc = ordered_set_transition, stype = internal, finalfunc = percentile_disc_final, finalfunc_extra);
       revoke execute on all routines in schema app from public`,
    )
    const toml = hostWith('routines', [{ to: 'r', on: 'functions', schema: 'app', privileges: ['EXECUTE'] }])
    expect(await applied(toml)).toHaveLength(1)
    const rows = await server.query(
      'routines',
      `select count(*)::int as lacking from pg_proc where pronamespace = 'app'::regnamespace and not has_function_privilege('r', oid, 'execute')`,
    )
    expect(rows).toEqual([{ lacking: 0 }])
  })

  test('types: are not those that come with a table, an array or a range', async () => {
    await made(
      'typed',
      `create table app.t(i int); create type app.c as (i int); create type app.e as enum ('a');
       create domain app.d as int; create type app.r as range (subtype = int)`,
    )
    const toml = hostWith('typed', [
      { to: 'r', on: 'types', schema: 'app', privileges: ['USAGE'], future: false },
    ])
    expect(await applied(toml)).toEqual([
      '+ grant typed: types: grant usage on app.c, app.d, app.e, app.r to r',
    ])
  })

  test('a table: does not bring its sequence along', async () => {
    await made('serial', 'create table app.t(i serial)')
    await applied(hostWith('serial', [{ to: 'r', on: 'tables', schema: 'app', privileges: ['ALL'] }]))
    const usage = `select has_sequence_privilege('r', 'app.t_i_seq', 'usage') as has`
    expect(await server.query('serial', usage)).toEqual([{ has: false }])
    const asked = hostWith('serial', [{ to: 'r', on: 'sequences', schema: 'app', privileges: ['USAGE'] }])
    expect(await applied(asked)).toEqual(['+ grant serial: sequences: grant usage on app.t_i_seq to r'])
  })

  test('what belongs to an extension: is not touched, unless it is named', async () => {
    await made(
      'ext',
      'create extension hstore schema app; create extension pg_stat_statements schema app; create table app.mine()',
    )
    const grants = (objects?: string[]) => [
      { to: 'r', on: 'tables', schema: 'app', privileges: ['INSERT'], ...(objects && { objects }) },
    ]
    expect(await applied(hostWith('ext', grants()))).toEqual([
      '+ grant ext: tables: grant insert on app.mine to r',
    ])
    const functions = [{ to: 'r', on: 'functions', schema: 'app', privileges: ['EXECUTE'], future: false }]
    expect(await grantLines(hostWith('ext', functions))).toEqual([])
    expect(await applied(hostWith('ext', grants(['pg_stat_statements'])))).toEqual([
      '+ grant ext: tables: grant insert on app.pg_stat_statements to r',
    ])
  })

  test('a function of the system: can be granted by its name', async () => {
    await made('sys')
    const toml = hostWith('sys', [
      { to: 'r', on: 'functions', schema: 'pg_catalog', objects: ['pg_ls_waldir'], privileges: ['EXECUTE'] },
    ])
    expect(await applied(toml)).toEqual([
      '+ grant sys: functions: grant execute on pg_catalog.pg_ls_waldir() to r',
    ])
  })
})

describe('plan before anything is there', () => {
  test('database, schema and owners in the same file: the grants are planned on what will be', async () => {
    const toml = hostWith(
      'fresh',
      [
        { to: ['r', 'app', 'public'], on: 'schema', privileges: ['USAGE'] },
        { to: ['r', 'app', 'public'], on: 'database', privileges: ['CONNECT'] },
        { to: 'r', on: 'tables', privileges: ['SELECT'] },
      ],
      { schemas: { app: {}, 'o s': { owner: 'other' } }, extensions: [{ name: 'hstore', schema: 'ext' }] },
    )
    const planned = linesOf((await server.plan(KINDS, toml)).changes)
    expect(planned).toContain('+ grant fresh: database: grant connect on fresh to r')
    await server.apply([database, extension, schema, defaultPrivilege], toml)
    expect(planned.filter((line) => line.startsWith('+ grant'))).toEqual(await grantLines(toml))
    await applied(toml)
  })

  test('an owner changes in the same apply: what it leaves behind is planned for', async () => {
    await made('hand', 'create schema s authorization app; grant usage on schema s to other')
    const toml = hostWith(
      'hand',
      [{ to: ['app', 'other'], on: 'schema', schema: 's', privileges: ['USAGE'] }],
      {
        owner: 'other',
        schemas: { s: { owner: 'other' } },
      },
    )
    const { changes } = await server.apply(KINDS, toml)
    expect(linesOf(changes)).toEqual([
      '~ database hand: owner app -> other',
      '~ schema hand.s: owner app -> other',
      '+ grant hand: schema: grant usage on s to app',
    ])
    expect(await grantLines(toml)).toEqual([])
  })

  test('objects that come later: a second plan of the grants sees them', async () => {
    const toml = hostWith('late', [{ to: 'r', on: 'tables', privileges: ['SELECT'] }])
    await server.apply(KINDS, toml)
    await server.query('late', 'create schema made_later; create table made_later.t()')
    expect(await applied(toml)).toEqual(['+ grant late: tables: grant select on made_later.t to r'])
  })
})

describe('exact', () => {
  const exact = (name: string, grants: Words[]) => hostWith(name, grants, { manage: 'exact' })

  test('named roles lose what is not named, other roles and owners keep theirs', async () => {
    await made(
      'exact',
      `create table app.a(); create table public.b(); create table app.mine(); alter table app.mine owner to r;
       grant select, delete on app.a to r with grant option; grant all on public.b to r; grant all on app.a, public.b to w;
       create sequence app.s; grant usage on sequence app.s to r`,
    )
    const toml = exact('exact', [
      { to: 'r', on: 'tables', schema: 'app', privileges: ['SELECT'], future: false },
    ])
    const lines = await applied(toml)
    expect(lines).toEqual([
      '~ grant exact: tables: revoke delete on app.a from r; revoke grant option for select on app.a from r; revoke all on public.b from r',
    ])
    expect(await has('exact', 'w', 'app.a', 'DELETE')).toBe(true)
    expect(await has('exact', 'r', 'app.mine', 'DELETE')).toBe(true)
    expect(await has('exact', 'r', 'app.a', 'SELECT')).toBe(true)
    // No entry of this database is about sequences, so they are out of scope.
    expect(
      await server.query('exact', `select has_sequence_privilege('r', 'app.s', 'usage') as has`),
    ).toEqual([{ has: true }])
  })

  test('add: privileges on columns stay, exact: taking from the table takes them too and says so', async () => {
    await made(
      'columns',
      'create table app.a(i int, j int); grant select (i), update (j) on app.a to r; grant update on app.a to r',
    )
    const entry = { to: 'r', on: 'tables', schema: 'app', privileges: ['INSERT'], future: false }
    const before = `select count(*)::int as count from pg_attribute where attacl is not null and attrelid = 'app.a'::regclass`
    await applied(hostWith('columns', [entry]))
    expect(await server.query('columns', before)).toEqual([{ count: 2 }])
    const { findings } = await server.plan([grant], exact('columns', [entry]))
    expect(findings).toMatchObject([
      { level: 'warning', text: 'revoking on app.a takes what r has on its columns, too' },
    ])
    await applied(exact('columns', [entry]))
    expect((await server.plan([grant], exact('columns', [entry]))).findings).toEqual([])
  })

  test('granted by somebody else than the owner: cannot be revoked here, is said, and does not come back for ever', async () => {
    await made(
      'chain',
      'create table app.a(); grant select on app.a to w with grant option; grant usage on schema app to w',
    )
    await server.query('chain', 'set role w; grant select on app.a to r')
    const toml = exact('chain', [
      { to: 'r', on: 'tables', schema: 'app', privileges: ['INSERT'], future: false },
    ])
    const { findings } = await server.plan([grant], toml)
    expect(findings).toMatchObject([
      { level: 'warning', text: 'r has select on a from somebody else than its owner postgres' },
    ])
    expect(await applied(toml)).toEqual(['+ grant chain: tables: grant insert on app.a to r'])
  })
})

describe('grantable', () => {
  test('the option is granted with the privilege, and later to who has it without', async () => {
    await made('option', 'create table app.a(); create table app.b(); grant select on app.a to r')
    const toml = hostWith('option', [
      { to: 'r', on: 'tables', schema: 'app', privileges: ['SELECT'], grantable: true, future: false },
    ])
    expect(await applied(toml)).toHaveLength(1)
    expect(await has('option', 'r', 'app.a', 'SELECT WITH GRANT OPTION')).toBe(true)
    expect(await has('option', 'r', 'app.b', 'SELECT WITH GRANT OPTION')).toBe(true)
  })
})

describe('findings', () => {
  const findingsOf = async (entry: Words): Promise<string[]> => {
    const { findings, changes } = await server.plan([grant], hostWith('postgres', [entry]))
    if (findings.some(({ level }) => level === 'impossible')) expect(changes).toEqual([])
    return findings.map(({ level, text }) => `${level}: ${text}`)
  }

  test.each<[string, Words, string]>([
    [
      'a grantee that nobody makes',
      { to: ['r', 'no one'], on: 'database', privileges: ['ALL'] },
      'impossible: there is no role "no one" to grant to',
    ],
    [
      'a privilege of another class',
      { to: 'r', on: 'schema', privileges: ['SELECT'] },
      'impossible: SELECT is no privilege on schema',
    ],
    [
      'objects of a database',
      { to: 'r', on: 'database', objects: ['x'], privileges: ['ALL'] },
      'impossible: objects cannot be named with on = "database"',
    ],
    [
      'PUBLIC with grant option',
      { to: 'public', on: 'database', privileges: ['ALL'], grantable: true },
      'impossible: a grant to public cannot be grantable',
    ],
    [
      'a schema that is not there',
      { to: 'r', on: 'schema', schema: 'nope', privileges: ['USAGE'] },
      'warning: schema nope is not there, so nothing is granted in it',
    ],
    [
      'an object that is not there',
      { to: 'r', on: 'tables', objects: ['no table'], privileges: ['SELECT'] },
      'warning: not there, so not granted: "no table"',
    ],
  ])('%s: is said before anything is sent', async (_, entry, text) => {
    expect(await findingsOf(entry)).toEqual([text])
  })

  test('MAINTAIN on a major that has it not: is impossible, and says since when', async () => {
    const host = server.host(hostWith('x', [{ to: 'postgres', on: 'tables', privileges: ['maintain'] }]))
    const textsFor = (major: number) => {
      const context = { host, facts: { major } as never }
      const found = [...grant.wanted(host, context.facts)].flatMap(([name, one]) =>
        grant.findings!(name, one, undefined, context),
      )
      return found.map(({ text }) => text)
    }
    expect(textsFor(16)).toEqual(['maintain on tables came with PostgreSQL 17, this is 16'])
    expect(textsFor(17)).toEqual([])
  })

  test('a grantee that the file makes: is no finding, one that it drops is', async () => {
    const entry = hostWith('postgres', [{ to: ['new one', 'w'], on: 'database', privileges: ['CONNECT'] }])
    const roles = '[roles."new one"]\n[roles.w]\nstate = "absent"\n'
    const { findings } = await server.plan([grant], `${roles}${entry}`)
    expect(findings.map(({ text }) => text)).toEqual(['there is no role w to grant to'])
  })
})

describe('export', () => {
  test('what all objects of a schema have: is one entry, else the objects are named', async () => {
    await made(
      'exp',
      `create schema two; create table app.a(); create table app.b(); create table two.c(); create sequence app.s;
       create function app.f() returns int language sql as 'select 1'; create function app.f(int) returns int language sql as 'select 1';
       revoke execute on all functions in schema app from public; grant execute on function app.f(int) to r;
       grant usage on schema app, two to r, w; grant select on all tables in schema app to r, w;
       grant select on two.c to r, w; grant insert on app.b to w; grant update on app.a to r with grant option;
       grant usage on sequence app.s to r; grant temp on database exp to r;
       alter default privileges for role app in schema app grant select on tables to r, w;
       alter default privileges for role app, other grant usage on sequences to r`,
    )
    const toml = await exportedToml(server, KINDS)
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
    const { grants } = server.host(toml).databases['exp']!
    const short = grants.map(({ to, on, schema, objects, privileges, future, creators, grantable }) =>
      [
        on,
        schema,
        objects ?? 'all',
        privileges,
        to,
        future ? (creators ?? 'owners') : 'now',
        grantable ? 'grantable' : '',
      ]
        .map((part) => (Array.isArray(part) ? part.join(' ') : part))
        .join(' | '),
    )
    expect(short).toEqual([
      'database | * | all | TEMPORARY | r | owners | ',
      'schema | app two | all | USAGE | r w | owners | ',
      'tables | app | all | SELECT | r w | app | ',
      'tables | app | a | UPDATE | r | owners | grantable',
      'tables | app | b | INSERT | w | owners | ',
      'tables | two | all | SELECT | r w | now | ',
      'sequences | * | all | USAGE | r | app other | ',
    ])
  })

  test('an empty cluster: has no grants to speak of', async () => {
    await using empty = await startServer()
    expect(await exportedToml(empty, KINDS)).toBe('[databases]\n')
  })
})

test('500 schema grants that are there: cost a few queries and tens of milliseconds', async () => {
  const roles = Array.from({ length: 500 }, (_empty, index) => `many ${index}`)
  await made('many', roles.map((role) => `create role ${ident(role)};`).join(''))
  const grants = roles.map((to) => ({ to, on: 'schema', schema: 'app', privileges: ['USAGE'] }))
  const toml = hostWith('many', grants)
  expect(await applied(toml)).toHaveLength(1)
  await server.observe(toml, async (observe) => {
    let queries = 0
    const counting = {
      ...observe,
      query: (...args: Parameters<typeof observe.query>) => (queries++, observe.query(...args)),
    }
    const context = { host: observe.host, facts: observe.facts }
    await grant.actual(observe)
    const begin = performance.now()
    const actual = await grant.actual(counting as typeof observe)
    const wanted = grant.wanted(observe.host, observe.facts)
    const changes = [...wanted].map(([name, one]) => grant.change(name, one, actual.get(name), context))
    const took = performance.now() - begin
    expect(changes).toEqual([undefined])
    expect(queries).toBeLessThan(6)
    expect(took).toBeLessThan(500)
  })
})
