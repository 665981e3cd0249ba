import { describe, expect, test } from 'vitest'
import type { Fail } from '../../scripts/core/fail.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Host } from '../../scripts/host/schema.ts'

const HEAD = 'format = 1\n[host]\nname = "x"\n[postgres]\nmajor = 15\n'
const REMOTE = 'format = 1\n[host]\nname = "x"\n[postgres]\nkind = "remote"\n'

function failOf(text: string, overrides: readonly string[] = []): Fail {
  try {
    parseHost(text, { path: 'h.toml', overrides })
  } catch (error) {
    return error as Fail
  }
  throw new Error(`it is accepted:\n${text}`)
}

describe('parseHost: what is wrong, by whole messages with lines', () => {
  // The first line below HEAD is line 6.
  test.each([
    [
      'an unknown key',
      '[roles.a]\nlogn = true',
      'h.toml:7: roles.a.logn: unknown key (did you mean "login"?)',
    ],
    ['one that is near nothing', '[roles.a]\nzzzzzz = 1', 'h.toml:7: roles.a.zzzzzz: unknown key'],
    ['an unknown table', '[rolls.a]', 'h.toml:6: rolls: unknown key (did you mean "roles"?)'],
    ['a key that every object has', '[constructor]', 'h.toml:6: constructor: unknown key'],
    ['a table below the wrong one', 'roles = {}', 'h.toml:6: postgres.roles: unknown key'],
    ['a wrong type', '[roles.a]\nlogin = "yes"', 'h.toml:7: roles.a.login: must be a boolean, is a text'],
    ['a list for a table', '[databases]\nx = []', 'h.toml:7: databases.x: must be a table, is an array'],
    [
      'a table for a list',
      '[databases.x]\ngrants = {}',
      'h.toml:7: databases.x.grants: must be an array, is a table',
    ],
    [
      'a fraction',
      '[roles.a]\nconnection_limit = 1.5',
      'h.toml:7: roles.a.connection_limit: must be a whole number, is a number',
    ],
    [
      'a date',
      '[roles.a]\nvalid_until = 2027-01-01',
      'h.toml:7: roles.a.valid_until: must be a text, is a date',
    ],
    [
      'a day without an offset',
      '[roles.a]\nvalid_until = "2027-01-01"',
      'h.toml:7: roles.a.valid_until: a time looks like "2027-01-01T00:00:00Z": with its offset',
    ],
    [
      'a time without an offset',
      '[roles.a]\nvalid_until = "2027-01-01T00:00:00"',
      'h.toml:7: roles.a.valid_until: a time looks like "2027-01-01T00:00:00Z": with its offset',
    ],
    [
      'no time',
      '[roles.a]\nvalid_until = "tomorrow"',
      'h.toml:7: roles.a.valid_until: a time looks like "2027-01-01T00:00:00Z": with its offset',
    ],
    [
      'too small a number',
      '[roles.a]\nconnection_limit = -2',
      'h.toml:7: roles.a.connection_limit: must be at least -1',
    ],
    ['too big a port', 'port = 65536', 'h.toml:6: postgres.port: must be at most 65535'],
    [
      'an empty list',
      '[[databases.x.grants]]\nto = []\non = "tables"\nprivileges = ["ALL"]',
      'h.toml:7: databases.x.grants[0].to: must have at least 1 element',
    ],
    [
      'no choice of these',
      '[hba]\nmode = "blok"',
      'h.toml:7: hba.mode: "blok" is not one of "block", "file" (did you mean "block"?)',
    ],
    [
      'a number where words are chosen',
      '[hba]\nmode = 1',
      'h.toml:7: hba.mode: must be "block", "file", is 1',
    ],
    [
      'a missing key',
      '[[hba.rules]]\ntype = "local"',
      'h.toml:6: hba.rules[0].method: this key is missing: it is one of "scram-sha-256", "peer", "reject", "cert", "md5", "password", "trust", "ident", "gss", "sspi", "ldap", "radius", "pam", "bsd", "oauth"',
    ],
    [
      'a bad size',
      '[postgres.tune]\nmemory = "2 GiB"',
      'h.toml:7: postgres.tune.memory: a size is a number with a unit, such as "64MB"',
    ],
    [
      'a size without a unit',
      '[postgres.tune]\nmemory = 2000',
      'h.toml:7: postgres.tune.memory: must be a text, is a number',
    ],
    [
      'a segment size that initdb refuses',
      '[postgres.initdb]\nwal_segsize = "5MB"',
      'h.toml:7: postgres.initdb.wal_segsize: a WAL segment has 1MB, 2MB, 4MB and so on, up to 1024MB',
    ],
    [
      'a name over 63 bytes',
      `[roles."${'é'.repeat(32)}"]`,
      `h.toml:6: roles."${'é'.repeat(32)}": a name has at most 63 bytes: this one has 64`,
    ],
    [
      'a name with NUL',
      String.raw`[databases."a\u0000b"]`,
      String.raw`h.toml:6: databases."a\u0000b": a name must not hold a NUL byte`,
    ],
    ['an empty name', '[roles.""]', 'h.toml:6: roles."": a name must not be empty'],
    [
      'a reserved role',
      '[roles.pg_own]',
      'h.toml:6: roles.pg_own: role names that start with "pg_" are reserved by PostgreSQL',
    ],
    [
      'the role that is everybody',
      '[roles.public]',
      'h.toml:6: roles.public: this role name is reserved by PostgreSQL',
    ],
    [
      'a reserved tablespace',
      '[tablespaces.pg_x]\nlocation = "/x"',
      'h.toml:6: tablespaces.pg_x: tablespace names that start with "pg_" are reserved by PostgreSQL',
    ],
    [
      'a reserved schema',
      '[databases.x.schemas.information_schema]',
      'h.toml:6: databases.x.schemas.information_schema: this schema name is reserved by PostgreSQL',
    ],
    [
      'the template that must not change',
      '[databases.template0]',
      'h.toml:6: databases.template0: template0 must stay as it is: name another database',
    ],
    [
      'a name that would change objects',
      '[roles.__proto__]\nlogin = true',
      'h.toml:6: roles.__proto__: this name is not supported',
    ],
    ['a table that would change objects', '[__proto__]', 'h.toml:6: __proto__: this name is not supported'],
    [
      'a path that is not absolute',
      '[tablespaces.x]\nlocation = "data"',
      'h.toml:7: tablespaces.x.location: a path must be absolute',
    ],
    [
      'a path with a line break',
      '[tablespaces.x]\nlocation = "/a\\nb"',
      'h.toml:7: tablespaces.x.location: a path must not hold a NUL byte or a line break',
    ],
    [
      'a secret as text',
      '[roles.a]\npassword = "hunter2"',
      'h.toml:7: roles.a.password: a secret is never in the file itself: use { file = "/path" }, { env = "NAME" }, { credential = "name" } or { command = [...] }',
    ],
    [
      'a secret of two sources',
      '[roles.a]\npassword = { file = "/x", env = "X" }',
      'h.toml:7: roles.a.password: a secret is never in the file itself: use { file = "/path" }, { env = "NAME" }, { credential = "name" } or { command = [...] }',
    ],
    [
      'a secret in a file that is not absolute',
      '[roles.a]\npassword = { file = "x" }',
      'h.toml:7: roles.a.password.file: a path must be absolute',
    ],
    [
      'a setting that is a table',
      '[settings]\nwork_mem = { a = 1 }',
      'h.toml:7: settings.work_mem: cannot be a table',
    ],
    [
      'a setting with a bad name',
      '[settings]\n"work mem" = 1',
      'h.toml:7: settings."work mem": this is no name of a setting',
    ],
    [
      'a setting that is a list of numbers',
      '[settings]\nx = [\n "a",\n 2 ]',
      'h.toml:9: settings.x[1]: must be a text, is a number',
    ],
    [
      'a key of a table in a list',
      '[databases.x]\nextensions = [\n "a",\n { nam = "b", name = "b" } ]',
      'h.toml:9: databases.x.extensions[1].nam: unknown key (did you mean "name"?)',
    ],
    [
      'a rule without an address',
      '[[hba.rules]]\ntype = "host"\nmethod = "trust"',
      'h.toml:6: hba.rules[0].address: type "host" needs an address',
    ],
    [
      'a local rule with one',
      '[[hba.rules]]\ntype = "local"\nmethod = "peer"\naddress = "all"',
      'h.toml:9: hba.rules[0].address: type "local" takes no address',
    ],
    [
      'a cluster name that breaks units',
      'cluster = "a-b"',
      'h.toml:6: postgres.cluster: a cluster name has letters, digits, "_" and ".": "-" breaks unit names',
    ],
    [
      'a package that is an option',
      'packages = ["-x"]',
      'h.toml:6: postgres.packages[0]: this is no name of a Debian package',
    ],
    ['a key of another kind', 'url = "postgres://x/"', 'h.toml:6: postgres.url: "url" is for kind "remote"'],
    [
      'a locale provider of a later major',
      '[postgres.initdb]\nlocale_provider = "builtin"',
      'h.toml:7: postgres.initdb.locale_provider: locale provider "builtin" came with PostgreSQL 17, this is 15',
    ],
    [
      'a backup of a store that is not there',
      '[store.disk]\ntype = "dir"\npath = "/x"\n[backup.n]\nkind = "dump"\nstore = "disc"',
      'h.toml:11: backup.n.store: there is no [store.disc] (did you mean "disk"?)',
    ],
    [
      'WAL for a store that is not there',
      '[archive]\nstore = "disc"',
      'h.toml:7: archive.store: there is no [store.disc]',
    ],
    [
      'any moment of a week without its WAL',
      '[store.d]\ntype = "dir"\npath = "/x"\n[backup.n]\nkind = "base"\nstore = "d"\npitr = "7d"',
      'h.toml:12: backup.n.pitr: this needs the WAL: add [archive] store = "..."',
    ],
    [
      'any moment of a dump',
      '[store.d]\ntype = "dir"\npath = "/x"\n[archive]\nstore = "d"\n[backup.n]\nkind = "dump"\nstore = "d"\npitr = "7d"',
      'h.toml:14: backup.n.pitr: a dump is one moment: "pitr" is for kind "base" and "incr"',
    ],
    [
      'one database of a whole cluster',
      '[store.d]\ntype = "dir"\npath = "/x"\n[backup.n]\nkind = "base"\nstore = "d"\ndatabases = ["x"]',
      'h.toml:12: backup.n.databases: kind "base" has the whole cluster: "databases" is for kind "dump"',
    ],
    [
      'a secret key in clear',
      '[store.s]\ntype = "s3"\nbucket = "db-backups"\naccess_key = { env = "K" }\nsecret_key = "x"',
      'h.toml:10: store.s.secret_key: a secret is never in the file itself: use { file = "/path" }, { env = "NAME" }, { credential = "name" } or { command = [...] }',
    ],
    [
      'half of a pair of keys',
      '[store.s]\ntype = "s3"\nbucket = "db-backups"\naccess_key = { env = "K" }',
      'h.toml:6: store.s.secret_key: access_key and secret_key come together',
    ],
    [
      'an endpoint with a path',
      '[store.s]\ntype = "s3"\nbucket = "db-backups"\nendpoint = "https://x/bucket"',
      'h.toml:9: store.s.endpoint: an endpoint looks like "https://s3.example.org"',
    ],
    [
      'a private key where a public one belongs',
      '[encryption]\nrecipients = ["AGE-SECRET-KEY-1QQQ"]',
      'h.toml:7: encryption.recipients[0]: a recipient looks like "age1..."',
    ],
    [
      'the superuser is to go',
      '[roles.postgres]\nstate = "absent"',
      'h.toml:7: roles.postgres.state: this is the superuser that everything is done as',
    ],
    [
      'a table that waits for its script',
      '[drill.weekly]\nbackup = "x"',
      'h.toml:6: drill: unknown key: it waits for drill.ts, which does not exist in this version',
    ],
    [
      'a table that is there twice',
      '[roles.a]\n[roles.a]',
      'h.toml:7:2: this is not TOML: trying to redefine an already defined table or value',
    ],
    [
      'a key that is there twice',
      '[roles.a]\nlogin = true\nlogin = false',
      'h.toml:8:1: this is not TOML: trying to redefine an already defined table or value',
    ],
    ['a name that needs quotes', '[roles.é]', 'h.toml:6:8: this is not TOML: illegal character in key'],
    [
      'a number that is too big',
      '[roles.a]\nconnection_limit = 99999999999999999999',
      'h.toml:7:20: this is not TOML: integer value cannot be represented losslessly',
    ],
  ])('%s', (_, toml, message) => {
    expect(failOf(`${HEAD}${toml}`)).toMatchObject({
      code: 'host-file',
      message,
      hint: expect.stringContaining('conf/reference.toml'),
    })
  })

  test.each([
    [
      'a password in the URL',
      'url = "postgres://bob:hunter2@db/"',
      'h.toml:6: postgres.url: a URL must not hold a password: use password = { file = ... }',
    ],
    [
      'a password as a parameter',
      'url = "postgres://bob@db/?password=hunter2"',
      'h.toml:6: postgres.url: a URL must not hold a password: use password = { file = ... }',
    ],
    [
      'no URL',
      'url = "postgres://db:port/"',
      'h.toml:6: postgres.url: this is no URL: it looks like postgres://user@db.example.org:5432/',
    ],
    ['another protocol', 'url = "https://db/"', 'h.toml:6: postgres.url: a URL begins with postgres://'],
    ['no host', 'url = "postgres://"', 'h.toml:6: postgres.url: a URL needs a host: postgres://user@host/'],
    [
      'a stray percent sign',
      'url = "postgres://100%@db/"',
      'h.toml:6: postgres.url: a "%" in a URL is written as "%25"',
    ],
    ['no URL at all', '', 'h.toml:4: postgres.url: kind "remote" needs the key "url"'],
    [
      'a key of another kind',
      'url = "postgres://db/"\ndata_dir = "/x"',
      'h.toml:7: postgres.data_dir: "data_dir" is for kind "private"',
    ],
  ])('remote: %s', (_, toml, message) => {
    expect(failOf(`${REMOTE}${toml}`).message).toBe(message)
  })

  test('several: all of them at once, in the order of their lines', () => {
    const text = [
      '[roles.b]',
      'logn = true',
      '[roles.a]',
      'login = 1',
      'connection_limit = "5"',
      '[hsot]',
      '[postgres]',
      'major = 9',
    ].join('\n')
    expect(failOf(text).message).toBe(
      [
        '7 problems',
        '  h.toml:2: roles.b.logn: unknown key (did you mean "login"?)',
        '  h.toml:4: roles.a.login: must be a boolean, is a number',
        '  h.toml:5: roles.a.connection_limit: must be a number, is a text',
        '  h.toml:6: hsot: unknown key (did you mean "host"?)',
        '  h.toml:8: postgres.major: PostgreSQL 13 is the oldest that is supported',
        '  h.toml: format: this key is missing: it is 1',
        '  h.toml: host: this key is missing: it is a table',
      ].join('\n'),
    )
  })

  test('a newer format: is not guessed at', () => {
    expect(failOf(HEAD.replace('format = 1', 'format = 2')).message).toBe('h.toml:1: format: must be 1, is 2')
  })

  test.each([
    ['nothing', ''],
    ['only a comment', '# x'],
    ['no TOML', '{"format": 1}'],
    ['NUL bytes', '\0\0\0'],
  ])('%s: is a problem of the file, not a bug', (_, text) => {
    expect(failOf(text).code).toBe('host-file')
  })

  test('a byte order mark and lines of another system: lines are still right', () => {
    const text = `\uFEFF${HEAD}[roles.a]\nlogn = true`.replaceAll('\n', '\r\n')
    expect(failOf(text).message).toBe('h.toml:7: roles.a.logn: unknown key (did you mean "login"?)')
    expect(failOf('\uFEFFfrmat = 1').message).toContain(
      'h.toml:1: frmat: unknown key (did you mean "format"?)',
    )
    expect(parseHost(`\uFEFF${HEAD}`.replaceAll('\n', '\r\n')).host.name).toBe('x')
  })

  test('a hostile name in a message: is shown in quotes, without its control characters', () => {
    const text = String.raw`${HEAD}[roles."a\n\u001b[31m'; drop"]` + '\nlogn = 1'
    expect(failOf(text).message).toBe(
      String.raw`h.toml:7: roles."a\n\u001b[31m'; drop".logn: unknown key (did you mean "login"?)`,
    )
  })
})

describe('parseHost: what is right', () => {
  test('the least there can be: every default is filled in', () => {
    expect(parseHost(HEAD)).toMatchObject({
      host: { name: 'x', state_dir: '/var/lib/howdah' },
      postgres: {
        kind: 'debian',
        major: 15,
        cluster: 'main',
        port: 5432,
        superuser: 'postgres',
        packages: [],
        initdb: { locale: 'C.UTF-8', encoding: 'UTF8', data_checksums: true },
      },
      tablespaces: {},
      roles: {},
      databases: {},
      store: {},
      backup: {},
    } satisfies Partial<Record<keyof Host, unknown>>)
  })

  test('what the file does not have is not touched: settings, hba and tune are not there', () => {
    const host = parseHost(HEAD)
    expect([host.settings, host.hba, host.postgres.tune]).toEqual([undefined, undefined, undefined])
  })

  test('a role and a database: every default is filled in', () => {
    const host = parseHost(
      `${HEAD}[roles.a]\n[databases.d]\n[[databases.d.grants]]\nto = "a"\non = "tables"\nprivileges = ["ALL"]`,
    )
    expect(host.roles['a']).toEqual({
      state: 'present',
      login: false,
      superuser: false,
      createdb: false,
      createrole: false,
      inherit: true,
      replication: false,
      bypassrls: false,
      connection_limit: -1,
      member_of: [],
      settings: {},
      manage: 'add',
    })
    expect(host.databases['d']).toEqual({
      connection_limit: -1,
      allow_connections: true,
      settings: {},
      extensions: [],
      public: 'default',
      schemas: {},
      grants: [
        { to: ['a'], on: 'tables', schema: ['*'], privileges: ['ALL'], future: true, grantable: false },
      ],
      manage: 'add',
    })
  })

  test('short forms: become the long ones', () => {
    const host = parseHost(
      `${HEAD}[settings]\na = true\nb = 1\nc = "x"\nd = ["x"]\ne = false\n[databases.d]\nextensions = ["x"]\n[roles.a]\nmember_of = ["b"]`,
    )
    expect(host.settings).toEqual({ a: 'on', b: '1', c: 'x', d: ['x'], e: 'off' })
    expect(host.databases['d']!.extensions).toEqual([{ name: 'x' }])
    expect(host.roles['a']!.member_of).toEqual([{ role: 'b', admin: false }])
  })

  test.each([
    'a"b',
    'Ünï cødé',
    'with space',
    'n'.repeat(63),
    'é'.repeat(31),
    'select',
    "'; drop table x; --",
    '10',
    'constructor',
    'toString',
    '-',
  ])('the name %j: is kept as it is, for every kind of thing', (name) => {
    const key = JSON.stringify(name)
    const host = parseHost(
      `${HEAD}[roles.${key}]\nlogin = true\n[databases.${key}.schemas.${key}]\n[tablespaces.${key}]\nlocation = "/x"`,
    )
    expect(Object.keys(host.roles)).toEqual([name])
    expect(Object.keys(host.databases[name]!.schemas)).toEqual([name])
    expect(Object.keys(host.tablespaces)).toEqual([name])
    expect(host.roles[name]!.login).toBe(true)
  })

  test.each(['2027-01-01T00:00:00Z', '2027-01-01 00:00:00+02', '2027-01-01T12:30:00.5-05:30', 'infinity'])(
    'valid_until %s: is a time',
    (time) => {
      expect(parseHost(`${HEAD}[roles.a]\nvalid_until = "${time}"`).roles['a']!.valid_until).toBe(time)
    },
  )

  test.each([
    'postgres://db.example.org/',
    'postgresql://bob@10.0.0.1:6432',
    'postgres://b%40b@[::1]:5432/',
    'postgres:///?host=/run/x',
  ])('the URL %s: is one', (url) => {
    expect(parseHost(`${REMOTE}url = "${url}"`).postgres.url).toBe(url)
  })
})

describe('parseHost: overrides', () => {
  const read = (...overrides: readonly string[]) => parseHost(HEAD, { overrides })

  test.each([
    ['roles.a.login=true', (host: Host) => host.roles['a']!.login, true],
    ['roles.a.connection_limit=5', (host: Host) => host.roles['a']!.connection_limit, 5],
    ['host.state_dir=/x y', (host: Host) => host.host.state_dir, '/x y'],
    ['settings.work_mem=64MB', (host: Host) => host.settings!['work_mem'], '64MB'],
    ['settings.search_path=["a", "b c"]', (host: Host) => host.settings!['search_path'], ['a', 'b c']],
    ['settings.application_name=a=b', (host: Host) => host.settings!['application_name'], 'a=b'],
    ['settings.application_name="true"', (host: Host) => host.settings!['application_name'], 'true'],
    ['settings.application_name=', (host: Host) => host.settings!['application_name'], ''],
    ['roles.a.password={ env = "X" }', (host: Host) => host.roles['a']!.password, { env: 'X' }],
    ['roles.constructor.login=true', (host: Host) => host.roles['constructor']!.login, true],
  ])('%s', (override, look, value) => {
    expect(look(read(override))).toEqual(value)
  })

  test('over what the file says, and the last one wins', () => {
    expect(read('postgres.port=1', 'postgres.port=2').postgres.port).toBe(2)
    expect(read('postgres.port=2').postgres.major).toBe(15)
  })

  test('a text that is more than one line of TOML: sets nothing else', () => {
    expect(read('settings.application_name="a"\nformat = 3').settings).toEqual({ application_name: 'a' })
  })

  test.each([
    [
      'an unknown key',
      'roles.a.logn=true',
      'host-file',
      'h.toml: roles.a.logn: unknown key (did you mean "login"?)',
    ],
    [
      'a wrong type',
      'roles.a.login=maybe',
      'host-file',
      'h.toml: roles.a.login: must be a boolean, is a text',
    ],
    ['through a value', 'format.x=1', 'usage', 'cannot set "format.x=1": "format" is no table'],
    ['an empty key', 'roles..login=true', 'usage', 'cannot understand the override "roles..login=true"'],
    [
      'a key that would change objects',
      'roles.__proto__.login=true',
      'usage',
      'cannot understand the override "roles.__proto__.login=true"',
    ],
  ])('%s: is said, without a line of the file', (_, override, code, message) => {
    expect(failOf(HEAD, [override])).toMatchObject({ code, message })
  })

  test('a key of the file that is wrong beside an override: keeps its line', () => {
    expect(failOf(`${HEAD}[roles.a]\nlogn = true`, ['roles.a.login=5']).message).toBe(
      '2 problems\n  h.toml:7: roles.a.logn: unknown key (did you mean "login"?)\n  h.toml: roles.a.login: must be a boolean, is a number',
    )
  })

  test('nothing that an override does: stays for the next file', () => {
    read('roles.a.login=true')
    expect(({} as Record<string, unknown>)['login']).toBeUndefined()
    expect(parseHost(HEAD).roles).toEqual({})
  })
})
