import { stringify } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ident } from '../../../scripts/cluster/sql.ts'
import { database } from '../../../scripts/plan/kind/database.ts'
import { grant } from '../../../scripts/plan/kind/grant.ts'
import { schema } from '../../../scripts/plan/kind/schema.ts'
import { exportedToml, HOSTILE_NAMES } from '../../support/exported.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = [database, schema, grant]
let server: TestServer

beforeAll(async () => {
  server = await startServer()
  await server.query('postgres', 'create role o1; create role o2')
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

async function aclOf(database: string): Promise<string | null> {
  const [row] = await server.query<{ acl: string | null }>(
    database,
    `select nspacl::text as acl from pg_namespace where nspname = 'public'`,
  )
  return row!.acl
}

test.each(HOSTILE_NAMES)('schema %j: apply, plan again: nothing to do', async (name) => {
  const role = `${name.slice(1)}r`
  await server.query('postgres', `create role ${ident(role)}`)
  const toml = stringify({
    databases: {
      [name]: { owner: role, schemas: { [name]: {}, other: { owner: 'o1' }, public: { owner: 'o2' } } },
    },
  })
  const { changes } = await server.apply(KINDS, toml)
  expect(changes.map(({ action }) => action).toSorted()).toEqual(['alter', 'create', 'create', 'create'])
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  const rows = await server.query(
    name,
    `select nspname::text as name, pg_get_userbyid(nspowner)::text as owner from pg_namespace
      where nspname !~ '^pg_' and nspname <> 'information_schema' and nspname <> 'public' and nspname <> 'other'`,
  )
  expect(rows).toEqual([{ name, owner: role }])
  const exported = await exportedToml(server, KINDS)
  expect((await server.plan(KINDS, exported)).changes).toEqual([])
  await server.query('postgres', `drop database ${ident(name)}`)
})

test('owner: is changed where it is named, else left as it is', async () => {
  await server.apply(KINDS, '[databases.own]\n[databases.own.schemas.app]\nowner = "o1"\n')
  expect((await server.plan(KINDS, '[databases.own]\n[databases.own.schemas.app]\n')).changes).toEqual([])
  const other = '[databases.own]\n[databases.own.schemas.app]\nowner = "o2"\n'
  expect(linesOf((await server.apply(KINDS, other)).changes)).toEqual(['~ schema own.app: owner o1 -> o2'])
})

test('a schema that is not named: is never dropped', async () => {
  expect('drop' in schema).toBe(false)
  expect((await server.plan(KINDS, '[databases.own]\n')).changes).toEqual([])
})

test('an owner that nobody makes: is impossible', async () => {
  const { findings } = await server.plan(
    KINDS,
    '[databases.own]\n[databases.own.schemas.app]\nowner = "no one"\n',
  )
  expect(findings).toMatchObject([
    { level: 'impossible', name: 'own.app', text: 'there is no role "no one" to own it' },
  ])
})

describe('public', () => {
  test('revoke, legacy and default: change what PUBLIC may do in schema public and nothing else', async () => {
    await server.apply(KINDS, '[databases.pub]\n')
    const before = await server.query('postgres', `select datacl from pg_database where datname = 'pub'`)
    const revoke = '[databases.pub]\npublic = "revoke"\n'
    expect((await server.plan(KINDS, revoke)).changes).toMatchObject([
      { name: 'pub.public', action: 'alter' },
    ])
    await server.apply(KINDS, revoke)
    expect((await server.plan(KINDS, revoke)).changes).toEqual([])
    expect(await aclOf('pub')).not.toMatch(/[{,]=/)
    const legacy = '[databases.pub]\npublic = "legacy"\n'
    expect(linesOf((await server.apply(KINDS, legacy)).changes)).toEqual([
      '~ schema pub.public: grant usage, create to public',
    ])
    expect((await server.plan(KINDS, legacy)).changes).toEqual([])
    expect(await aclOf('pub')).toMatch(/[{,]=UC\//)
    expect((await server.plan(KINDS, '[databases.pub]\npublic = "default"\n')).changes).toEqual([])
    expect(await server.query('postgres', `select datacl from pg_database where datname = 'pub'`)).toEqual(
      before,
    )
  })

  test.each(['revoke', 'legacy'])(
    '%s of a database that is not there yet: is planned on what it will have',
    async (policy) => {
      const toml = `[databases.new_${policy}]\npublic = "${policy}"\n`
      const { changes } = await server.apply(KINDS, toml)
      const isInitial = policy === 'legacy' && server.major < 15
      expect(changes).toHaveLength(isInitial ? 1 : 2)
      expect((await server.plan(KINDS, toml)).changes).toEqual([])
    },
  )

  test('revoke and a grant to public in the same file: do not undo each other', async () => {
    const toml = `[databases.both]\npublic = "revoke"\n[[databases.both.grants]]\nto = "public"\non = "schema"\nschema = "public"\nprivileges = ["USAGE"]\n`
    await server.apply(KINDS, toml)
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
    expect(await aclOf('both')).toMatch(/[{,]=U\//)
  })

  test('a database from an older major keeps its old grant: export says so', async () => {
    await server.query('postgres', 'create database upgraded')
    await server.query(
      'upgraded',
      'alter schema public owner to postgres; grant create on schema public to public',
    )
    const toml = await exportedToml(server, KINDS)
    const { public: policy, schemas } = server.host(toml).databases['upgraded']!
    const isInitial = server.major < 15
    expect(policy).toBe(isInitial ? 'default' : 'legacy')
    expect(schemas).toEqual(isInitial ? {} : { public: { owner: 'postgres' } })
    expect((await server.plan(KINDS, toml)).changes).toEqual([])
  })

  test('schema public was dropped: nothing is revoked from it', async () => {
    await server.query('postgres', 'create database bare')
    await server.query('bare', 'drop schema public')
    expect((await server.plan([schema], '[databases.bare]\n')).changes).toEqual([])
    const { changes } = await server.apply([schema], '[databases.bare]\npublic = "revoke"\n')
    expect(linesOf(changes)).toEqual([])
  })
})
