import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ident } from '../../../scripts/cluster/sql.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import { membership } from '../../../scripts/plan/kind/membership.ts'
import type { Role } from '../../../scripts/plan/kind/role-spec.ts'
import { role } from '../../../scripts/plan/kind/role.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const HOSTILE = [
  'a"b',
  'Ünï cødé',
  'x'.repeat(63),
  'select',
  `'; drop table x; --`,
  '$$ $howdah$',
  'back\\slash',
]

let server: TestServer
beforeAll(async () => {
  server = await startServer()
  await writeFile(join(server.cluster.dataDir, 'pg_hba.conf'), 'local all all trust\n')
  await server.query('postgres', 'select pg_reload_conf()')
})
afterAll(() => server[Symbol.asyncDispose]())

describe('role.dropFindings', () => {
  test.each<[string, string, Partial<Role>, string[]]>([
    ['nothing in the way', '', {}, []],
    ['made by initdb', '', { isBootstrap: true }, ['it is the superuser that everything is done as']],
    ['we are logged in as it', '', { isOurs: true }, ['it is the superuser that everything is done as']],
    ['owns things, no heir', '', tied({ owned: 3 }), ['it owns 3 things, which would be dropped with it']],
    ['owns things, heir on the server', 'h', tied({ owned: 3, hasHeir: true }), []],
    ['owns things, heir in the file', 'inside', tied({ owned: 3 }), []],
    ['owns things, the superuser is heir', 'postgres', tied({ owned: 3 }), []],
    [
      'heir that is to be dropped too',
      'gone',
      tied({ owned: 3, hasHeir: true }),
      ['role gone, which is to get what it owns, is not there'],
    ],
    [
      'a database that takes no connections',
      '',
      tied({ databases: [{ name: 'Odd', allowsConnections: false }] }),
      ['it owns something or has privileges in database "Odd", which takes no connections'],
    ],
  ])('%s', (_, heir, actual, texts) => {
    const host = parseHost(
      `format = 1\n[host]\nname = "h"\n[postgres]\nkind = "private"\nmajor = 17\ndata_dir = "/x"
       [roles.inside]\n[roles.gone]\nstate = "absent"
       [roles.r]\nstate = "absent"\n${heir === '' ? '' : `reassign_to = "${heir}"`}`,
    )
    const facts = {
      major: 17,
      memoryBytes: 1,
      cpus: 1,
      osUser: '',
      configDir: '',
      dataDir: '',
      socketDir: '',
    }
    const found = role.dropFindings!('r', { name: 'r', ...actual } as Role, { host, facts })
    expect(found.map(({ text }) => text)).toEqual(texts)
    expect(found.every(({ level }) => level === 'impossible')).toBe(true)
  })

  function tied(ties: Partial<NonNullable<Role['ties']>>): Partial<Role> {
    return { ties: { owned: 0, databases: [], hasHeir: false, ...ties } }
  }
})

describe('roles that are to be absent', () => {
  afterEach(async () => {
    const databases = await server.query<{ name: string }>(
      'postgres',
      `select datname::text as name from pg_database where datname not in ('postgres', 'template0', 'template1')`,
    )
    for (const { name } of databases)
      await server.query('postgres', `drop database ${ident(name)} with (force)`)
    const made = await server.query<{ name: string }>(
      'postgres',
      `select rolname::text as name from pg_roles where oid <> 10 and rolname !~ '^pg_'`,
    )
    for (const { name } of made)
      await server.query('postgres', `drop owned by ${ident(name)}; drop role ${ident(name)}`)
  })

  test('a role that the file does not name: is never dropped', async () => {
    await server.query('postgres', 'create role other')
    expect((await server.plan([role], '[roles.app]\nstate = "absent"')).changes).toEqual([])
  })

  test('a role that is gone already: nothing to do', async () => {
    expect(await server.plan([role], '[roles.app]\nstate = "absent"')).toMatchObject({
      changes: [],
      findings: [],
    })
  })

  test('dropping: needs consent, and shuts the door first', async () => {
    await server.query('postgres', 'create role app login')
    const { changes } = await server.plan([role], '[roles.app]\nstate = "absent"')
    expect(linesOf(changes)).toEqual(['- role app: owns nothing'])
    expect(changes[0]!.hazards).toEqual(['drops-role'])
    expect(changes[0]!.steps[0]).toMatchObject({ text: 'alter role "app" nologin' })
    // What is not committed keeps nobody out.
    expect(changes[0]!.steps[1]).toMatchObject({ transaction: false })
  })

  test.each(HOSTILE)(
    'name %j with things in several databases, default privileges, shared things: all of it goes over',
    async (name) => {
      const app = ident(name)
      await server.query('postgres', `create role ${app} login; create role heir`)
      await server.query('postgres', `create database one owner ${app}`)
      await server.query('postgres', 'create database two')
      await server.query(
        'one',
        `create table t (i int); alter table t owner to ${app}; insert into t values (1)`,
      )
      await server.query(
        'two',
        `create schema s authorization ${app}; create table p (i int); grant select on p to ${app}`,
      )
      await server.query(
        'two',
        `alter default privileges for role ${app} grant select on tables to heir; create policy mine on p to ${app}`,
      )
      const toml = `[roles.${JSON.stringify(name)}]\nstate = "absent"\nreassign_to = "heir"`
      const session = await server.cluster.connect('postgres', { user: name })
      const { changes } = await server.apply([role, membership], toml)
      expect(changes.map(({ line }) => line)).toEqual(['what it owns goes to heir'])
      await expect(session.query('select 1')).rejects.toThrow(/terminat|not queryable/)
      expect((await server.plan([role, membership], toml)).changes).toEqual([])
      expect(
        await server.query('one', "select i, tableowner from t, pg_tables where tablename = 't'"),
      ).toEqual([{ i: 1, tableowner: 'heir' }])
      expect(
        await server.query(
          'postgres',
          `select pg_get_userbyid(datdba) as owner from pg_database where datname = 'one'`,
        ),
      ).toEqual([{ owner: 'heir' }])
    },
  )

  test('a role that owns something and no heir: refused, since its data would go', async () => {
    await server.query('postgres', 'create role app')
    await server.query('postgres', 'create database one owner app')
    const planned = await server.plan([role], '[roles.app]\nstate = "absent"')
    expect(planned.changes).toEqual([])
    expect(planned.findings).toMatchObject([
      { level: 'impossible', name: 'app', text: 'it owns one thing, which would be dropped with it' },
    ])
  })

  test('privileges only and no heir: dropped', async () => {
    await server.query('postgres', 'create role app')
    await server.query('postgres', 'create database one')
    await server.query('postgres', 'grant connect on database one to app')
    await server.query('one', 'create table t (i int); grant select on t to app')
    await server.apply([role], '[roles.app]\nstate = "absent"')
    expect(await server.query('postgres', `select from pg_roles where rolname = 'app'`)).toEqual([])
  })

  test('privileges in a database that takes no connections: refused, and the hint says how', async () => {
    await server.query('postgres', 'create role app')
    await server.query('postgres', 'create database "Clo sed"')
    await server.query('Clo sed', 'create table t (i int); grant select on t to app')
    await server.query('postgres', 'alter database "Clo sed" allow_connections false')
    const planned = await server.plan([role], '[roles.app]\nstate = "absent"')
    expect(planned.changes).toEqual([])
    expect(planned.findings).toMatchObject([
      { level: 'impossible', hint: 'Let it take some: alter database "Clo sed" allow_connections true' },
    ])
    await server.query('postgres', 'alter database "Clo sed" allow_connections true')
  })

  test('an heir that is not there: refused before anybody is locked out', async () => {
    await server.query('postgres', 'create role app login')
    const planned = await server.plan([role], '[roles.app]\nstate = "absent"\nreassign_to = "nobody here"')
    expect(planned).toMatchObject({ changes: [], findings: [{ level: 'impossible' }] })
  })

  test('an heir that the same file makes: is there in time', async () => {
    await server.query('postgres', 'create role app')
    await server.query('postgres', 'create table t (i int); alter table t owner to app')
    await server.apply([role], '[roles.heir]\n[roles.app]\nstate = "absent"\nreassign_to = "heir"')
    const rows = await server.query(
      'postgres',
      `select tableowner as owner from pg_tables where tablename = 't'`,
    )
    expect(rows).toEqual([{ owner: 'heir' }])
  })

  test('killed between any two steps: the next run ends it', async () => {
    const toml = '[roles.heir]\n[roles.app]\nstate = "absent"\nreassign_to = "heir"'
    await server.query('postgres', 'create role heir')
    for (let killAt = 1; killAt <= 7; killAt += 1) {
      await server.query('postgres', 'create role app login')
      await server.query('postgres', 'create database one owner app')
      await server.query('one', 'create table t (i int); alter table t owner to app')
      let steps = 0
      const killed = server.apply([role], toml, {
        onStep: () => {
          steps += 1
          if (steps === killAt) throw new Error('killed')
        },
      })
      await expect(killed).rejects.toThrow('killed')
      await server.apply([role], toml)
      expect(await server.query('postgres', `select from pg_roles where rolname = 'app'`)).toEqual([])
      await server.query('postgres', 'drop database one')
    }
  })
})
