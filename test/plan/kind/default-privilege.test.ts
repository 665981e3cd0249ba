import { stringify } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ident } from '../../../scripts/cluster/sql.ts'
import { database } from '../../../scripts/plan/kind/database.ts'
import { defaultPrivilege } from '../../../scripts/plan/kind/default-privilege.ts'
import { grant } from '../../../scripts/plan/kind/grant.ts'
import { schema } from '../../../scripts/plan/kind/schema.ts'
import { HOSTILE_NAMES } from '../../support/exported.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = [database, schema, defaultPrivilege, grant]
let server: TestServer

beforeAll(async () => {
  server = await startServer()
  await server.query('postgres', 'create role app; create role maker; create role r; create role w')
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

/** A database with a schema `app`, and one grants entry for each argument. */
function hostWith(name: string, ...entries: Record<string, unknown>[]): string {
  return stringify({ databases: { [name]: { owner: 'app', schemas: { app: {} }, grants: entries } } })
}

async function privileged(name: string, role: string, object: string, privilege: string): Promise<boolean> {
  const [row] = await server.query<{ has: boolean }>(name, 'select has_table_privilege($1, $2, $3) as has', [
    role,
    object,
    privilege,
  ])
  return row!.has
}

test.each(HOSTILE_NAMES)('default privileges for %j: apply, plan again: nothing to do', async (name) => {
  const [owner, reader] = [`${name.slice(1)}o`, `${name.slice(1)}r`]
  await server.query('postgres', `create role ${ident(owner)}; create role ${ident(reader)}`)
  const toml = stringify({
    databases: {
      [name]: {
        owner,
        schemas: { [name]: {} },
        grants: [
          { to: reader, on: 'tables', schema: name, privileges: ['SELECT'] },
          { to: reader, on: 'functions', privileges: ['EXECUTE'], grantable: true },
        ],
      },
    },
  })
  await server.apply(KINDS, toml)
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  const table = `${ident(name)}.${ident(name)}`
  await server.query(name, `set role ${ident(owner)}; create table ${table} (i int)`)
  expect(await privileged(name, reader, table, 'SELECT')).toBe(true)
  expect(await privileged(name, reader, table, 'INSERT')).toBe(false)
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
  await server.query('postgres', `drop database ${ident(name)}`)
})

test('a schema for each of many: are entries of their own, every schema: is one without IN SCHEMA', async () => {
  const toml = hostWith(
    'levels',
    { to: ['r', 'w'], on: 'tables', privileges: ['SELECT'] },
    { to: 'w', on: 'tables', schema: ['app', 'public'], privileges: ['SELECT', 'INSERT'] },
    { to: 'r', on: 'sequences', schema: 'app', privileges: ['USAGE'], future: false },
    { to: 'r', on: 'tables', schema: 'app', objects: ['t'], privileges: ['DELETE'] },
  )
  const { changes } = await server.apply(KINDS, toml)
  expect(
    changes.filter(({ kind }) => kind === 'default-privilege').flatMap(({ steps }) => steps),
  ).toMatchObject([
    { text: 'alter default privileges for role "app" grant select on tables to "r", "w"' },
    // A schema can only add to what the role grants everywhere, so what is there is not said again.
    { text: 'alter default privileges for role "app" in schema "app" grant insert on tables to "w"' },
    { text: 'alter default privileges for role "app" in schema "public" grant insert on tables to "w"' },
  ])
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
})

test('default privileges belong to who makes an object: creators say whose', async () => {
  const toml = hostWith('whose', { to: 'r', on: 'tables', privileges: ['SELECT'], creators: ['maker'] })
  await server.apply(KINDS, toml)
  await server.query(
    'whose',
    'create table app.by_superuser(i int); grant create, usage on schema app to maker',
  )
  await server.query('whose', 'set role maker; create table app.by_maker(i int)')
  expect(await privileged('whose', 'r', 'app.by_maker', 'SELECT')).toBe(true)
  expect(await privileged('whose', 'r', 'app.by_superuser', 'SELECT')).toBe(false)
})

test('a creator: needs nothing on its own objects', async () => {
  const toml = hostWith('own', { to: ['app', 'r'], on: 'tables', privileges: ['ALL'] })
  const { changes } = await server.apply(KINDS, toml)
  expect(linesOf(changes).filter((line) => line.includes('default-privilege'))).toEqual([
    '+ default-privilege own: tables made by app: grant all to r',
  ])
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
})

test('no owner is named: the superuser is the one who makes objects', async () => {
  const toml = stringify({
    databases: { nobody: { grants: [{ to: 'r', on: 'types', privileges: ['USAGE'] }] } },
  })
  const { changes } = await server.apply(KINDS, toml)
  expect(changes.find(({ kind }) => kind === 'default-privilege')).toMatchObject({
    name: 'nobody: types made by postgres',
  })
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
})

test('what is built in for PUBLIC: is not granted once more', async () => {
  const toml = hostWith('builtin', { to: 'public', on: 'functions', schema: 'app', privileges: ['EXECUTE'] })
  const { changes } = await server.apply(KINDS, toml)
  expect(changes.map(({ kind }) => kind).filter((kind) => kind === 'default-privilege')).toEqual([])
})

test('sequences: are another letter in pg_default_acl than in acldefault, and are found again', async () => {
  const toml = hostWith('seq', { to: 'r', on: 'sequences', privileges: ['ALL'] })
  await server.apply(KINDS, toml)
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
  await server.query('seq', 'set role app; create table app.t(i serial)')
  expect(
    await server.query('seq', `select has_sequence_privilege('r', 'app.t_i_seq', 'USAGE') as has`),
  ).toEqual([{ has: true }])
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
})

describe('exact', () => {
  const exact = (name: string, ...grants: Record<string, unknown>[]) =>
    stringify({ databases: { [name]: { owner: 'app', manage: 'exact', schemas: { app: {} }, grants } } })

  test('what named roles get besides: is taken from them, others keep theirs', async () => {
    await server.apply(KINDS, hostWith('cut'))
    await server.query(
      'cut',
      `alter default privileges for role app grant insert on tables to r, w;
       alter default privileges for role app in schema app grant delete, select on tables to r;
       alter default privileges for role maker in schema app grant update on tables to r, w;
       alter default privileges for role app grant usage on sequences to r`,
    )
    const toml = exact('cut', { to: 'r', on: 'tables', schema: 'app', privileges: ['SELECT'] })
    const { changes } = await server.apply(KINDS, toml)
    expect(linesOf(changes)).toEqual([
      '~ default-privilege cut: tables made by app: revoke insert from r',
      '~ default-privilege cut: tables made by app in app: revoke delete from r',
      '~ default-privilege cut: tables made by maker in app: revoke update from r',
    ])
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
    const rows = await server.query<{ acl: string }>(
      'cut',
      'select defaclacl::text as acl from pg_default_acl',
    )
    expect(rows.map(({ acl }) => acl).join()).toContain('w=a/app')
    expect(rows.map(({ acl }) => acl).join()).toContain('r=U/app')
  })

  test('EXECUTE of PUBLIC in one schema only: is revoked everywhere first, since a schema can only add', async () => {
    const toml = exact('strict', { to: 'public', on: 'functions', schema: 'app', privileges: ['EXECUTE'] })
    const { changes } = await server.apply(KINDS, toml)
    expect(linesOf(changes).filter((line) => line.includes('default-privilege'))).toEqual([
      '~ default-privilege strict: functions made by app: revoke execute from public',
      '+ default-privilege strict: functions made by app in app: grant execute to public',
    ])
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
    await server.query('strict', `grant create, usage on schema public to app`)
    await server.query(
      'strict',
      `set role app; create function app.f() returns int language sql as 'select 1'; create function public.f() returns int language sql as 'select 1'`,
    )
    expect(
      await server.query(
        'strict',
        `select has_function_privilege('r', 'app.f()', 'execute') as here, has_function_privilege('r', 'public.f()', 'execute') as there`,
      ),
    ).toEqual([{ here: true, there: false }])
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
  })

  test('a grant option that is too much: goes alone', async () => {
    await server.apply(KINDS, hostWith('option'))
    await server.query(
      'option',
      'alter default privileges for role app grant select on tables to r with grant option',
    )
    const toml = exact('option', { to: 'r', on: 'tables', privileges: ['SELECT'] })
    expect(linesOf((await server.apply(KINDS, toml)).changes)).toEqual([
      '~ default-privilege option: tables made by app: revoke grant option for select from r',
    ])
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
  })
})

describe('findings', () => {
  test('a creator that nobody makes: is impossible', async () => {
    const toml = hostWith('levels', { to: 'r', on: 'tables', privileges: ['SELECT'], creators: ['no one'] })
    const { findings, changes } = await server.plan([defaultPrivilege], toml)
    expect(findings).toMatchObject([
      { level: 'impossible', text: 'there is no role "no one" to make objects' },
    ])
    expect(changes).toEqual([])
  })

  test('a schema that is not there yet: is said, and nothing is sent that would fail', async () => {
    const toml = hostWith('levels', { to: 'r', on: 'tables', schema: 'later', privileges: ['SELECT'] })
    const { findings, changes } = await server.plan(KINDS, toml)
    expect(changes).toEqual([])
    expect(findings.map(({ kind, level }) => `${level} ${kind}`)).toEqual([
      'warning default-privilege',
      'warning grant',
    ])
  })
})

test('a database that is not there yet: the plan is complete before anything is made', async () => {
  const toml = hostWith('future', { to: 'r', on: 'tables', schema: 'public', privileges: ['SELECT'] })
  const planned = await server.plan(KINDS, toml)
  const applied = await server.apply(KINDS, toml)
  expect(applied.changes).toEqual(planned.changes)
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
})
