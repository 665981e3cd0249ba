import { chown, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userId } from '../../../scripts/cluster/connect.ts'
import { ident, literal } from '../../../scripts/cluster/sql.ts'
import type { Change } from '../../../scripts/plan/change.ts'
import { database } from '../../../scripts/plan/kind/database.ts'
import { exportedToml, HOSTILE_NAMES } from '../../support/exported.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = [database]
let server: TestServer

beforeAll(async () => {
  server = await startServer()
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

function textsOf(changes: readonly Change[]): string[] {
  return changes.flatMap(({ steps }) => steps.map((step) => (step.run === 'sql' ? step.text : step.run)))
}

async function findingsOf(toml: string): Promise<string[]> {
  const { findings } = await server.plan(KINDS, toml)
  return findings.map(({ level, name, text }) => `${level} ${name}: ${text}`)
}

describe('database.change', () => {
  test.each<[string, string, string, string[]]>([
    ['nothing said', '', 'with defaults', ['create database "d"']],
    [
      'everything',
      'owner = "o"\nencoding = "LATIN1"\nlocale = "C"\ntablespace = "t"\nconnection_limit = 3\nallow_connections = false',
      'owner o, encoding LATIN1, locale C, tablespace t, connection limit 3, no connections',
      [
        `create database "d" owner "o" template "template0" encoding 'LATIN1' locale 'C' tablespace "t" connection limit 3 allow_connections false`,
      ],
    ],
    ['a template of its own', 'template = "mine"', 'with defaults', ['create database "d" template "mine"']],
    [
      'settings and a comment',
      `settings = { search_path = ["a, b", "c"], jit = false }\ncomment = "it's"`,
      'set jit = off, set search_path = "a, b", c',
      [
        'create database "d"',
        `alter database "d" set "jit" to 'off'`,
        `alter database "d" set "search_path" to 'a, b', 'c'`,
        `comment on database "d" is 'it''s'`,
      ],
    ],
  ])(
    'create: %s: one statement outside of a transaction, then what cannot be in it',
    (_, toml, line, texts) => {
      const host = server.host(`[databases.d]\n${toml}`)
      const facts = { major: 17 } as never
      const change = database.change('d', database.wanted(host, facts).get('d')!, undefined, { host, facts })!
      expect(change).toMatchObject({ kind: 'database', name: 'd', action: 'create', line, hazards: [] })
      expect(textsOf([change])).toEqual(texts)
      expect(change.steps.map((step) => step.run === 'sql' && step.transaction)).toEqual(
        texts.map((text) => !text.startsWith('create')),
      )
    },
  )
})

test.each(HOSTILE_NAMES)('database %j: apply, plan again: nothing to do', async (name) => {
  const role = `${name.slice(1)}r`
  await server.query('postgres', `create role ${ident(role)}`)
  const toml = stringify({
    databases: {
      [name]: {
        owner: role,
        connection_limit: 7,
        settings: { search_path: [name, 'public'], work_mem: '8MB', 'app.x': `it's "${name}"` },
        comment: name,
      },
    },
  })
  expect(linesOf((await server.apply(KINDS, toml)).changes)).toHaveLength(1)
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  const rows = await server.query(
    'postgres',
    `select pg_get_userbyid(datdba)::text as owner, datconnlimit as limit, shobj_description(oid, 'pg_database') as comment
       from pg_database where datname = ${literal(name)}`,
  )
  expect(rows).toEqual([{ owner: role, limit: 7, comment: name }])
  expect(await server.query(name, `select current_setting('app.x') as x`)).toEqual([{ x: `it's "${name}"` }])
  const same = `select current_setting('search_path') = quote_ident(${literal(name)}) || ', public' as same`
  expect(await server.query(name, same)).toEqual([{ same: true }])
  await server.query('postgres', `drop database ${ident(name)}`)
})

test('alter: only what differs is sent, what is left out stays as it is', async () => {
  await server.query('postgres', 'create role o1; create role o2')
  const before = `[databases.alt]\nowner = "o1"\nsettings = { work_mem = "8MB", jit = false }\ncomment = "x"\n`
  await server.apply(KINDS, before)
  expect((await server.plan(KINDS, '[databases.alt]\n')).changes).toEqual([])
  const after = `[databases.alt]\nowner = "o2"\nconnection_limit = 2\nallow_connections = false\nsettings = { work_mem = "9MB" }\ncomment = ""\n`
  const { changes } = await server.apply(KINDS, after)
  expect(linesOf(changes)).toEqual([
    '~ database alt: owner o1 -> o2, connection limit -1 -> 2, no connections, set work_mem = 8MB -> 9MB, comment changed',
  ])
  expect((await server.plan(KINDS, after)).changes).toEqual([])
  expect(
    await server.query(
      'postgres',
      `select datallowconn, shobj_description(oid, 'pg_database') as comment from pg_database where datname = 'alt'`,
    ),
  ).toEqual([{ datallowconn: false, comment: null }])
})

test('a database that the file does not name: is never dropped', async () => {
  await server.query('postgres', 'create database stays')
  expect('drop' in database).toBe(false)
  expect((await server.plan(KINDS, '')).changes).toEqual([])
})

test('template1 and postgres: may be named', async () => {
  const toml = `[databases.template1]\nsettings = { jit = false }\n[databases.postgres]\nconnection_limit = 50\n`
  expect(linesOf((await server.apply(KINDS, toml)).changes)).toEqual([
    '~ database postgres: connection limit -1 -> 50',
    '~ database template1: set jit = off',
  ])
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
  await server.query(
    'postgres',
    'alter database postgres connection limit -1; alter database template1 reset jit',
  )
})

test('another encoding and locale than template1: are made from template0', async () => {
  const toml = `[databases.latin]\nencoding = "LATIN1"\nlocale = "C"\n`
  await server.apply(KINDS, toml)
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
})

test.each([
  ['encoding = "UTF8"', []],
  ['encoding = "utf-8"', []],
  ['encoding = "unicode"', []],
  ['locale = "C.utf8"', []],
  ['locale = "C.UTF-8"', []],
  ['encoding = "LATIN1"', ['warning fixed: encoding is UTF8, not LATIN1: cannot be changed in place']],
  [
    'locale = "de_DE.UTF-8"',
    ['warning fixed: locale is C.UTF-8, not de_DE.UTF-8: cannot be changed in place'],
  ],
])('%s of one that exists: is reported and never made anew', async (toml, expected) => {
  await server.apply(KINDS, '[databases.fixed]\n')
  const planned = await server.plan(KINDS, `[databases.fixed]\n${toml}\n`)
  expect(planned.changes).toEqual([])
  expect(planned.findings.map(({ level, name, text }) => `${level} ${name}: ${text}`)).toEqual(expected)
})

test('another tablespace: says what it costs, needs consent, and moves the files', async () => {
  const location = join(server.dir, 'space')
  await mkdir(location)
  const { uid, gid } = userId('postgres')
  await chown(location, uid, gid)
  await server.query('postgres', `create tablespace "Big Disk" location ${literal(location)}`)
  await server.query('postgres', 'create database moves')
  const toml = `[databases.moves]\ntablespace = "Big Disk"\n`
  const { changes } = await server.apply(KINDS, toml)
  expect(changes).toMatchObject([{ action: 'alter', hazards: ['moves-data'] }])
  expect(changes[0]!.line).toMatch(
    /^tablespace pg_default -> "Big Disk" \(copies about [\d.]+ MB; nobody may be connected\)$/,
  )
  expect(changes[0]!.steps).toMatchObject([{ transaction: false, database: 'postgres' }])
  expect((await server.plan(KINDS, toml)).changes).toEqual([])
  expect((await server.plan(KINDS, '[databases.moves]\n')).changes).toEqual([])
  expect(await exportedToml(server, KINDS)).toContain('tablespace = "Big Disk"')
})

describe('findings', () => {
  test('an owner or a tablespace that nobody makes: is impossible', async () => {
    expect(await findingsOf('[databases.nope]\nowner = "no one"\ntablespace = "nowhere"\n')).toEqual([
      'impossible nope: there is no role "no one" to own it',
      'impossible nope: there is no tablespace nowhere',
    ])
    const made = `[roles."no one"]\n[tablespaces.nowhere]\nlocation = "/x"\n`
    expect(await findingsOf(`${made}[databases.nope]\nowner = "no one"\ntablespace = "nowhere"\n`)).toEqual(
      [],
    )
  })

  test('an owner that the same file drops: is impossible', async () => {
    await server.query('postgres', 'create role leaving')
    expect(
      await findingsOf('[roles.leaving]\nstate = "absent"\n[databases.nope]\nowner = "leaving"\n'),
    ).toEqual(['impossible nope: there is no role leaving to own it'])
  })

  test('no connections, but something is wanted inside: is impossible', async () => {
    expect(
      await findingsOf('[databases.shut]\nallow_connections = false\nextensions = ["pg_trgm"]\n'),
    ).toEqual(['impossible shut: it is to take no connections, so nothing can be made in it'])
    expect(await findingsOf('[databases.shut]\nallow_connections = false\n')).toEqual([])
  })

  test('it takes no connections yet: what is inside is planned later, and that is said', async () => {
    await server.query('postgres', 'create database opens allow_connections false')
    const toml = '[databases.opens]\n[databases.opens.schemas.app]\n'
    const { changes, findings } = await server.apply(KINDS, toml)
    expect(linesOf(changes)).toEqual(['~ database opens: allow connections'])
    expect(findings).toMatchObject([{ level: 'warning', text: expect.stringContaining('was not looked at') }])
    expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  })

  test('one whose drop was interrupted: is impossible, with the way out', async () => {
    await server.query('postgres', 'create database half')
    await server.query('postgres', `update pg_database set datconnlimit = -2 where datname = 'half'`)
    const { changes, findings } = await server.plan(KINDS, '[databases.half]\n')
    expect(changes).toEqual([])
    expect(findings).toMatchObject([{ level: 'impossible', hint: 'Finish it: drop database "half";' }])
    await server.query('postgres', 'drop database half')
  })
})

test('without a server: the plan is complete', () => {
  const host = server.host('[roles.o]\n[databases.d]\nowner = "o"\n[databases.e]\nowner = "nobody"\n')
  const context = { host, facts: { major: 17 } as never }
  const wanted = database.wanted(host, context.facts)
  const found = [...wanted].flatMap(([name, one]) => database.findings!(name, one, undefined, context))
  expect(found.map(({ name, level }) => `${level} ${name}`)).toEqual(['impossible e'])
})

test('export: a plan against it is empty, and defaults are left out', async () => {
  await server.query(
    'postgres',
    `create database "Odd ""one" owner o1 connection limit 3 encoding LATIN1 locale 'C' template template0`,
  )
  await server.query(
    'postgres',
    `alter database "Odd ""one" set search_path to 'a, b', "X"; alter database "Odd ""one" set "TimeZone" to 'UTC'`,
  )
  await server.query(
    'postgres',
    `comment on database "Odd ""one" is 'multi
line'`,
  )
  const toml = await exportedToml(server, KINDS)
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  const { databases } = server.host(toml)
  expect(databases['Odd "one']).toMatchObject({
    owner: 'o1',
    connection_limit: 3,
    encoding: 'LATIN1',
    locale: 'C',
    settings: { search_path: ['a, b', 'X'], timezone: 'UTC' },
    comment: 'multi\nline',
  })
  expect(Object.keys(databases)).not.toContain('postgres')
  expect(Object.keys(databases)).not.toContain('template1')
})
