import { chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'smol-toml'
import { isMd5, makeVerifier, matchesVerifier } from '../../../scripts/cluster/scram.ts'
import { ident, literal } from '../../../scripts/cluster/sql.ts'
import type { Fail } from '../../../scripts/core/fail.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import type { Facts } from '../../../scripts/plan/kind.ts'
import type { Role } from '../../../scripts/plan/kind/role-spec.ts'
import { role } from '../../../scripts/plan/kind/role.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const HOSTILE = [
  'a"b',
  'Ünï cødé',
  'with space',
  'x'.repeat(63),
  'select',
  `'; drop table x; --`,
  'ends with :verifier',
  'password :verifier',
  '$$ $howdah$',
  'back\\slash',
  '10',
  'constructor',
]

const FACTS: Facts = {
  major: 17,
  memoryBytes: 2 ** 31,
  cpus: 2,
  osUser: 'postgres',
  configDir: '/x',
  dataDir: '/x',
  socketDir: '/x',
}

describe('role.change', () => {
  test.each<[string, string, string, string[]]>([
    ['nothing said', '', 'no login', ['create role "r"']],
    ['login', 'login = true', 'login', ['create role "r" login']],
    [
      'every attribute',
      'login = true\nsuperuser = true\ncreatedb = true\ncreaterole = true\ninherit = false\nreplication = true\nbypassrls = true',
      'login, superuser, createdb, createrole, no inherit, replication, bypassrls',
      ['create role "r" login superuser createdb createrole noinherit replication bypassrls'],
    ],
    [
      'a limit and a time',
      'connection_limit = 0\nvalid_until = "2027-01-01T00:00:00+02:00"',
      'no login, connection limit 0, valid until 2026-12-31T22:00:00Z',
      [`create role "r" connection limit 0 valid until '2026-12-31T22:00:00Z'`],
    ],
    [
      'a password',
      'login = true\npassword = { file = "/s/r" }',
      'login, password set',
      ['create role "r" login password :verifier'],
    ],
    ['no password', 'password = false', 'no login', ['create role "r"']],
    [
      'settings and a comment',
      `settings = { search_path = ["a, b", "c"], jit = false }\ncomment = "it's"`,
      'no login, set jit = off, set search_path = "a, b", c',
      [
        'create role "r"',
        `alter role "r" set "jit" to 'off'`,
        `alter role "r" set "search_path" to 'a, b', 'c'`,
        `comment on role "r" is 'it''s'`,
      ],
    ],
  ])('create: %s: one statement, then what cannot be in it', (_, toml, line, texts) => {
    const change = role.change('r', wantedOf(toml), undefined, contextOf(toml))!
    expect(change).toMatchObject({ kind: 'role', name: 'r', action: 'create', line, hazards: [] })
    expect(change.steps.map(textOf)).toEqual(texts)
  })

  test.each<[string, string, Partial<Role>, string, string[]]>([
    ['login', 'login = true', {}, 'login', ['alter role "r" login']],
    [
      'several',
      'createdb = true',
      { attributes: { ...wantedOf('').attributes, login: true }, connectionLimit: 3 },
      'no login, createdb, connection limit 3 -> -1',
      ['alter role "r" nologin createdb connection limit -1'],
    ],
    [
      'a comment that goes',
      'comment = ""',
      { comment: 'x' },
      'comment changed',
      ['comment on role "r" is null'],
    ],
    [
      'another password',
      'password = { env = "X" }',
      { stored: 'differs' },
      'password changed',
      ['alter role "r" password :verifier'],
    ],
    [
      'no password yet',
      'password = { env = "X" }',
      { stored: 'absent' },
      'password set',
      ['alter role "r" password :verifier'],
    ],
    [
      'the right password as MD5',
      'password = { env = "X" }',
      { stored: 'md5' },
      'password stored as SCRAM instead of MD5',
      ['alter role "r" password :verifier'],
    ],
    [
      'a password where none is wanted',
      'password = false',
      { stored: 'differs' },
      'password removed',
      ['alter role "r" password null'],
    ],
    [
      'settings not named, with manage = "exact"',
      'manage = "exact"',
      { settings: new Map([['work_mem', '4MB']]) },
      'reset work_mem',
      ['alter role "r" reset "work_mem"'],
    ],
    [
      'infinity where nothing was ever set: they differ',
      'valid_until = "infinity"',
      {},
      'valid until never set -> infinity',
      [`alter role "r" valid until 'infinity'`],
    ],
    [
      'a time that is to go: becomes infinity, since no statement makes it NULL',
      '',
      { validUntil: '2020-01-01T00:00:00Z' },
      'valid until 2020-01-01T00:00:00Z -> infinity',
      [`alter role "r" valid until 'infinity'`],
    ],
  ])('alter: %s', (...[, toml, actual, line, texts]) => {
    const change = role.change('r', wantedOf(toml), actualOf(actual), contextOf(toml))!
    expect(change).toMatchObject({ action: 'alter', line, hazards: [] })
    expect(change.steps.map(textOf)).toEqual(texts)
  })

  test.each<[string, string, Partial<Role>]>([
    ['the same', '', {}],
    ['a password that matches', 'password = { env = "X" }', { stored: 'matches' }],
    ['a password that nobody may read', 'password = { env = "X" }', { stored: 'unreadable' }],
    ['a password that the file does not speak of', '', { stored: undefined }],
    ['no password and none wanted', 'password = false', { stored: 'absent' }],
    ['settings not named, with manage = "add"', '', { settings: new Map([['work_mem', '4MB']]) }],
    ['infinity where nothing is said', '', { validUntil: 'infinity' }],
    ['a comment that the file does not speak of', '', { comment: 'x' }],
    [
      'attributes of the role that initdb made',
      '',
      { isBootstrap: true, attributes: { ...wantedOf('').attributes, login: true, superuser: true } },
    ],
    [
      'attributes of the role that we log in as',
      '',
      { isOurs: true, attributes: { ...wantedOf('').attributes, login: true } },
    ],
  ])('alter: %s: nothing to do', (_, toml, actual) => {
    expect(role.change('r', wantedOf(toml), actualOf(actual), contextOf(toml))).toBeUndefined()
  })

  test.each(HOSTILE)('create: name %j: stands in the statement quoted, the verifier at its end', (name) => {
    const toml = `[roles.${JSON.stringify(name)}]\npassword = { env = "X" }`
    const wanted = [...role.wanted(hostOf(toml), FACTS)]
    expect(wanted.length).toBe(1)
    for (const [key, value] of wanted) {
      const step = role.change(key, value, undefined, { host: hostOf(toml), facts: FACTS })!.steps[0]
      expect(step).toMatchObject({
        text: `create role ${ident(name)} password :verifier`,
        secret: { role: name, ref: { env: 'X' } },
      })
    }
  })
})

describe('role.wanted', () => {
  test.each([
    ['2027-01-01T00:00:00Z', '2027-01-01T00:00:00Z'],
    ['2027-01-01T00:00:00.000Z', '2027-01-01T00:00:00Z'],
    ['2027-01-01T00:00:00.123456789+02:30', '2026-12-31T21:30:00.123456Z'],
    ['2027-01-01T00:00:00.5-01:00', '2027-01-01T01:00:00.5Z'],
    ['2027-01-01 12:00+02', '2027-01-01T10:00:00Z'],
    ['+012345-01-01T00:00:00Z', '9999-12-31T23:59:59.999999Z'],
    ['-000001-01-01T00:00:00Z', '0001-01-01T00:00:00Z'],
    ['infinity', 'infinity'],
  ])('valid_until %s: is %s for the comparison', (text, expected) => {
    expect(wantedOf(`valid_until = "${text}"`).validUntil).toBe(expected)
  })
})

describe('role.findings', () => {
  test('a password that nobody may read: is a warning', () => {
    const toml = 'password = { env = "X" }'
    const found = role.findings!('r', wantedOf(toml), actualOf({ stored: 'unreadable' }), contextOf(toml))
    expect(found).toMatchObject([{ level: 'warning', name: 'r' }])
    expect(role.findings!('r', wantedOf(toml), actualOf({ stored: 'matches' }), contextOf(toml))).toEqual([])
    expect(role.findings!('r', wantedOf(toml), undefined, contextOf(toml))).toEqual([])
  })
})

describe('roles on a server', () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startServer({
      settings: {
        shared_preload_libraries: 'pg_stat_statements',
        'pg_stat_statements.track': 'all',
        log_statement: 'all',
        log_min_duration_statement: '0',
      },
    })
    await server.query('postgres', 'create extension pg_stat_statements')
  })
  afterAll(() => server[Symbol.asyncDispose]())
  afterEach(async () => {
    await server.query(
      'postgres',
      'set role none; alter role postgres reset all; alter role postgres password null',
    )
    const made = await server.query<{ name: string }>(
      'postgres',
      `select rolname::text as name from pg_roles where oid <> 10 and rolname !~ '^pg_'`,
    )
    for (const { name } of made) await server.query('postgres', `drop role ${ident(name)}`)
  })

  test('hostile names: applied once, then planned and exported without a change', async () => {
    const secret = await secretFile(server, 'hostile', 'correct horse')
    const roles = Object.fromEntries(
      HOSTILE.map((name) => [
        name,
        {
          login: true,
          connection_limit: 7,
          valid_until: '2027-01-01T00:00:00.25+02:00',
          settings: { search_path: [name, 'a, b', '$user'], 'app.label': name, work_mem: '64MB', jit: false },
          password: { file: secret },
          comment: name,
        },
      ]),
    )
    const toml = stringify({ roles })
    const first = await server.apply([role], toml)
    expect(first.changes.length).toBe(HOSTILE.length)
    expect((await server.plan([role], toml)).changes).toEqual([])
    for (const name of Object.keys(roles)) {
      expect(await matchesVerifier('correct horse', await verifierOf(server, name), name)).toBe(true)
    }
    const words = await server.observe('', async (observe) =>
      role.exported!(await role.actual(observe), observe),
    )
    const exported = stringify(words)
    expect(exported).not.toMatch(/^password/m)
    expect((await server.plan([role], exported)).changes).toEqual([])
    expect(Object.keys(words['roles'] as object).toSorted()).toEqual(Object.keys(roles).toSorted())
  })

  test('roles and the superuser of an empty cluster: are not exported', async () => {
    await server.observe('', async (observe) => {
      expect(role.exported!(await role.actual(observe), observe)).toEqual({ roles: {} })
    })
  })

  test('the same password under another salt: planned again, nothing to do', async () => {
    const toml = `[roles.app]\npassword = { file = "${await secretFile(server, 'app', 'correct horse')}" }`
    await server.apply([role], toml)
    const before = await verifierOf(server, 'app')
    await server.query(
      'postgres',
      `alter role app password ${literal(await makeVerifier('correct horse', 5000))}`,
    )
    expect(await verifierOf(server, 'app')).not.toBe(before)
    expect((await server.plan([role], toml)).changes).toEqual([])
  })

  test('a secret that changed: only the password is changed', async () => {
    const toml = `[roles.app]\nlogin = true\npassword = { file = "${await secretFile(server, 'app', 'one horse')}" }`
    await server.apply([role], toml)
    await secretFile(server, 'app', 'two horses')
    const { changes } = await server.apply([role], toml)
    expect(linesOf(changes)).toEqual(['~ role app: password changed'])
    expect(await matchesVerifier('two horses', await verifierOf(server, 'app'), 'app')).toBe(true)
  })

  test('an MD5 hash of the right password: becomes SCRAM', async () => {
    const toml = `[roles.app]\npassword = { file = "${await secretFile(server, 'app', 'correct horse')}" }`
    await server.query('postgres', `set password_encryption = md5; create role app password 'correct horse'`)
    expect(isMd5(await verifierOf(server, 'app'))).toBe(true)
    const { changes } = await server.apply([role], toml)
    expect(linesOf(changes)).toEqual(['~ role app: password stored as SCRAM instead of MD5'])
    expect(await verifierOf(server, 'app')).toMatch(/^SCRAM-SHA-256\$/)
    expect((await server.plan([role], toml)).changes).toEqual([])
  })

  test('password left out: is left alone; password = false: is taken away', async () => {
    await server.query('postgres', `create role app password 'correct horse'`)
    expect((await server.plan([role], '[roles.app]')).changes).toEqual([])
    const { changes } = await server.apply([role], '[roles.app]\npassword = false')
    expect(linesOf(changes)).toEqual(['~ role app: password removed'])
    expect((await server.plan([role], '[roles.app]\npassword = false')).changes).toEqual([])
  })

  test('clear text and verifier: reach neither log, nor statistics, nor plan', async () => {
    const clear = 'Zungenbrecher-4711'
    const toml = `[roles.app]\npassword = { file = "${await secretFile(server, 'app', clear)}" }`
    const logged = await logFrom(server)
    await server.query('postgres', 'select pg_stat_statements_reset()')
    const created = await server.apply([role], toml)
    await secretFile(server, 'app', `${clear}-2`)
    const altered = await server.apply([role], toml)
    const log = await logged()
    const statements = await server.query('postgres', 'select query from pg_stat_statements')
    expect(log).toContain('pg_authid') // it does log statements
    expect(JSON.stringify(statements)).toContain('pg_authid')
    const verifier = await verifierOf(server, 'app')
    for (const text of [log, JSON.stringify(statements), JSON.stringify([created, altered])]) {
      expect(text).not.toContain(clear)
      expect(text).not.toContain(verifier.split('$')[2])
      expect(text).not.toMatch(/SCRAM-SHA-256\$\d/)
    }
  })

  test('a password statement that the server refuses: shows neither clear text nor verifier', async () => {
    const toml = `[roles.app]\npassword = { file = "${await secretFile(server, 'app', 'Zungenbrecher-4712')}" }`
    const logged = await logFrom(server)
    const error = await server
      .apply([role], toml, {
        onStep: async () => void (await server.query('postgres', 'create role app')),
      })
      .catch((thrown: unknown) => thrown as Fail)
    expect(error).toMatchObject({
      code: 'server-failed',
      message: 'cannot create role app: role "app" already exists',
    })
    for (const text of [await logged(), (error as Fail).stack, JSON.stringify(error)]) {
      expect(text).not.toContain('Zungenbrecher-4712')
      expect(text).not.toMatch(/SCRAM-SHA-256\$\d/)
    }
  })

  test('secrets that cannot be read: all of them are named at once', async () => {
    const toml = [
      `[roles.a]\npassword = { file = "${server.dir}/missing" }`,
      `[roles.b]\npassword = { env = "HOWDAH_NOT_SET" }`,
      `[roles.fine]\npassword = { file = "${await secretFile(server, 'f', 'correct horse')}" }`,
    ].join('\n')
    await expect(server.plan([role], toml)).rejects.toMatchObject({
      code: 'secret',
      message: [
        '2 secrets cannot be read',
        `  role a: secret file "${server.dir}/missing" does not exist`,
        '  role b: environment variable HOWDAH_NOT_SET is not set',
      ].join('\n'),
    })
  })

  test.each([
    ['changeme', 'is a placeholder or a well-known default'],
    ['lablink', 'is a placeholder or a well-known default'],
    ['extremeAO!', 'is a placeholder or a well-known default'],
    ['${DB_PASSWORD}', 'is a placeholder or a well-known default'],
    ['Tenant', 'is the name of the role'],
    ['', 'is empty'],
    [Buffer.from([0x61, 0xff, 0x62]), 'is no UTF-8 text'],
  ] as [string | Buffer, string][])(
    'password %j: is refused for a new role and for an old one, and not shown',
    async (text, reason) => {
      const secret = await secretFile(server, 'placeholder', text)
      const toml = `[roles.tenant]\nlogin = true\npassword = { file = "${secret}" }\n[roles.other]`
      for (const state of ['new', 'old']) {
        if (state === 'old') await server.query('postgres', 'create role tenant')
        const planned = await server.plan([role], toml)
        expect(planned.findings).toEqual([
          {
            kind: 'role',
            name: 'tenant',
            level: 'impossible',
            text: `its password, file "${secret}", ${reason}`,
            hint: `Remove it and make a random one with: howdah secret generate ${secret}`,
          },
        ])
        expect(linesOf(planned.changes)).toEqual(['+ role other: no login'])
      }
    },
  )

  test('one secret that cannot be used: the hint is the next command', async () => {
    const toml = `[roles.a]\npassword = { file = "${server.dir}/missing" }`
    await expect(server.plan([role], toml)).rejects.toMatchObject({
      code: 'secret',
      hint: `Make it with: howdah secret generate ${server.dir}/missing`,
    })
  })

  test('search_path: a list is one schema each, and stays so', async () => {
    await server.apply([role], '[roles.app]\nsettings = { search_path = ["a, b", "Odd", "$user"] }')
    const rows = await server.query('postgres', `select setconfig[1] as path from pg_db_role_setting`)
    expect(rows).toEqual([{ path: 'search_path="a, b", "Odd", "$user"' }])
  })

  test('settings of a role in one database: are another scope and stay', async () => {
    await server.query(
      'postgres',
      `create role app; alter role app in database postgres set work_mem = '1MB'`,
    )
    const toml = '[roles.app]\nmanage = "exact"'
    expect((await server.plan([role], toml)).changes).toEqual([])
  })

  test('valid_until: is compared as a time, whatever zone the server shows it in', async () => {
    await server.query(
      'postgres',
      `alter role postgres set timezone = 'Asia/Kathmandu'; create role app valid until '2027-01-01 05:45:00+05:45'`,
    )
    const plan = (time: string) => server.plan([role], `[roles.app]\nvalid_until = "${time}"`)
    expect((await plan('2027-01-01T00:00:00Z')).changes).toEqual([])
    expect((await plan('2026-12-31T19:00:00-05:00')).changes).toEqual([])
    expect(linesOf((await plan('2027-01-01T00:00:00.000001Z')).changes)).toEqual([
      '~ role app: valid until 2027-01-01T00:00:00Z -> 2027-01-01T00:00:00.000001Z',
    ])
  })

  test.each(['infinity', '-infinity', '20000-01-01', '0044-03-15 BC'])(
    'valid_until: %s on the server: exported, it is planned without a change',
    async (time) => {
      await server.query('postgres', `create role app valid until '${time}'`)
      const words = await server.observe('', async (observe) =>
        role.exported!(await role.actual(observe), observe),
      )
      expect((await server.plan([role], stringify(words))).changes).toEqual([])
    },
  )

  test('the superuser in the host file: settings and password are looked after, its powers stay', async () => {
    const toml = `[roles.postgres]\nsettings = { work_mem = "8MB" }\npassword = { file = "${await secretFile(server, 's', 'correct horse')}" }`
    const { changes } = await server.apply([role], toml)
    expect(linesOf(changes)).toEqual(['~ role postgres: password set, set work_mem = 8MB'])
    expect((await server.plan([role], toml)).changes).toEqual([])
    const [found] = await server.query(
      'postgres',
      `select rolsuper, rolcanlogin from pg_roles where oid = 10`,
    )
    expect(found).toEqual({ rolsuper: true, rolcanlogin: true })
  })

  test('a role that may not read verifiers: says so and changes no password', async () => {
    const toml = `[roles.app]\npassword = { file = "${await secretFile(server, 'app', 'correct horse')}" }`
    await server.query('postgres', `create role app; create role plain login`)
    await server.query('postgres', `alter role postgres set role = plain`)
    const planned = await server.plan([role], toml)
    expect(planned.changes).toEqual([])
    expect(planned.findings).toMatchObject([{ level: 'warning', name: 'app' }])
  })

  test('500 roles with passwords: nothing to do takes one query for roles and one for verifiers', async () => {
    const secret = await secretFile(server, 'many', 'correct horse')
    const names = Array.from({ length: 500 }, (_, index) => `many_${index}`)
    const toml = names.map((name) => `[roles.${name}]\npassword = { file = "${secret}" }`).join('\n')
    await server.apply([role], toml)
    await server.query('postgres', 'select pg_stat_statements_reset()')
    expect((await server.plan([role], toml)).changes).toEqual([])
    const [calls] = await server.query<{ calls: number }>(
      'postgres',
      `select sum(calls)::int as calls from pg_stat_statements where query like '%from pg_roles%' or query like '%from pg_authid%'`,
    )
    expect(calls).toEqual({ calls: 2 })
  })
})

function hostOf(toml: string) {
  return parseHost(
    `format = 1\n[host]\nname = "h"\n[postgres]\nkind = "private"\nmajor = 17\ndata_dir = "/x"\n${toml}`,
  )
}

function contextOf(toml: string) {
  return { host: hostOf(`[roles.r]\n${toml}`), facts: FACTS }
}

function wantedOf(toml: string): Role {
  return role.wanted(hostOf(`[roles.r]\n${toml}`), FACTS).get('r')!
}

function actualOf(changes: Partial<Role>): Role {
  return { ...wantedOf(''), ...changes }
}

function textOf(step: { run: string; text?: string }): string | undefined {
  return step.text
}

async function secretFile(server: TestServer, name: string, text: string | Buffer): Promise<string> {
  const path = join(server.dir, name)
  await writeFile(path, Buffer.concat([Buffer.from(text), Buffer.from('\n')]))
  await chmod(path, 0o600)
  return path
}

async function verifierOf(server: TestServer, name: string): Promise<string> {
  const rows = await server.query<{ stored: string }>(
    'postgres',
    'select rolpassword as stored from pg_authid where rolname = $1',
    [name],
  )
  return rows[0]!.stored
}

/** What the server logs from now on. */
async function logFrom(server: TestServer): Promise<() => Promise<string>> {
  const read = () => readFile(join(server.cluster.socketDir, 'server.log'), 'utf8')
  const { length } = await read()
  return async () => (await read()).slice(length)
}
