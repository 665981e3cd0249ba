import { chmod, chown, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userId } from '../scripts/cluster/connect.ts'
import { openCluster } from '../scripts/cluster/open.ts'
import { parseHost } from '../scripts/host/host.ts'
import { runScript } from './support/script.ts'
import { newestMajor, startServer, type TestServer } from './support/server.ts'

const LONG = 'n'.repeat(63)
const NAMES = ['a"b', 'Ünï cødé', 'with space', LONG, 'select', "'; drop role x; --", '10']

let server: TestServer
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server[Symbol.asyncDispose]())

/** Writes a host file for the server and gives its path. */
async function hostFile(toml: string, header = server.header): Promise<string> {
  const path = join(server.dir, `host-${Math.random().toString(36).slice(2)}.toml`)
  await writeFile(path, `${header}${toml}`)
  return path
}

const provision = (...args: string[]) => runScript(['provision', ...args])

/** Everything of the server that a plan or a refused apply must not change. */
async function stateOfServer(): Promise<string> {
  const [row] = await server.query<{ state: string }>(
    'postgres',
    `select concat_ws('|', (select string_agg(rolname, ',' order by 1) from pg_roles),
            (select string_agg(datname, ',' order by 1) from pg_database)) as state`,
  )
  const files = await Promise.all(
    ['pg_hba.conf', 'postgresql.conf', 'conf.d'].map(async (name) => {
      const path = join(server.cluster.dataDir, name)
      return (await stat(path)).isDirectory() ? (await readdir(path)).join() : readFile(path, 'utf8')
    }),
  )
  return [row!.state, ...files].join('\n')
}

test('plan: it writes no WAL', async () => {
  const file = await hostFile('[roles.app]\nlogin = true\n[databases.postgres]\nextensions = ["pg_trgm"]\n')
  const position = async () =>
    (await server.query<{ lsn: string }>('postgres', 'select pg_current_wal_lsn()::text as lsn'))[0]!.lsn
  // The server writes records of its own now and then; a plan that wrote would do so each time.
  const moved: boolean[] = []
  for (let round = 0; round < 5 && moved.at(-1) !== false; round++) {
    const before = await position()
    expect((await provision('plan', '-c', file)).code).toBe(0)
    moved.push((await position()) !== before)
  }
  expect(moved.at(-1)).toBe(false)
})

type BadInput = [title: string, toml: string, code: number, message: string, ...args: string[]]

describe('bad input: one clear error, a hint, an exit code, nothing changed', () => {
  test.each<BadInput>([
    ['unknown key', '[roles.app]\nlogn = true\n', 10, 'roles.app.logn: unknown key (did you mean "login"?)'],
    ['wrong type', '[roles.app]\nlogin = "yes"\n', 10, 'roles.app.login: must be a boolean, is a text'],
    ['bad size', '[postgres.tune]\nmemory = "2 GiB"\n', 10, 'a size is a number with a unit, such as "64MB"'],
    ['duplicate table', '[roles.app]\n[roles.app]\n', 10, 'this is not TOML'],
    [
      'name over 63 bytes',
      `[roles."${'é'.repeat(32)}"]\n`,
      10,
      'a name has at most 63 bytes: this one has 64',
    ],
    ['name with NUL', String.raw`[roles."a\u0000b"]` + '\n', 10, 'a name must not hold a NUL byte'],
    [
      'key of a script that is not there yet',
      '[drill.weekly]\n',
      10,
      'it waits for drill.ts, which does not exist in this version',
    ],
    [
      'password in the file',
      '[roles.app]\npassword = "hunter2"\n',
      10,
      'a secret is never in the file itself',
    ],
    [
      'secret file missing',
      '[roles.app]\npassword = { file = "/nowhere/x" }\n',
      12,
      '"/nowhere/x" does not exist',
    ],
    [
      'default password',
      '[roles.app]\npassword = { env = "APP_PASSWORD" }\n',
      42,
      'is a placeholder or a well-known default',
    ],
    [
      'a name that JavaScript reserves',
      '[roles.__proto__]\n',
      10,
      'roles.__proto__: this name is not supported',
    ],
    ['no such kind', '', 2, 'there is no kind "rols" (did you mean "role"?)', '--only', 'rols'],
    ['no kind at all', '', 2, '--only names no kind', '--only', ' ,'],
    ['no such hazard', '', 2, 'there is no hazard "fire"', '--allow', 'fire'],
    ['unknown option', '', 2, "unknown option '--alow'", '--alow', 'x'],
  ])('%s', async (_title, toml, code, message, ...args) => {
    const file = await hostFile(toml)
    const before = await stateOfServer()
    const result = await runScript(['provision', 'apply', '-c', file, '--yes', ...args], {
      env: { APP_PASSWORD: 'changeme' },
    })
    expect(result.stderr).toContain(message)
    expect(result.stderr).toContain('hint: ')
    expect(result.stderr).not.toMatch(/^ +at /m)
    expect([result.code, result.stdout]).toEqual([code, ''])
    expect(await stateOfServer()).toBe(before)
  })

  test('--only without the cluster, where there is none: nothing is made', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'howdah-test-'))
    const header = `format = 1\n[host]\nname = "x"\nstate_dir = "${dir}/new/state"\n[postgres]\nkind = "private"\n`
    const file = await hostFile(
      `major = ${server.major}\ndata_dir = "${dir}/new/data"\n[[hba.rules]]\ntype = "local"\nmethod = "peer"\n`,
      header,
    )
    const result = await provision('apply', '-c', file, '--only', 'hba')
    expect([result.code, result.stderr]).toEqual([33, expect.stringContaining('there is no cluster yet')])
    expect(await readdir(dir)).toEqual([])
    await rm(dir, { recursive: true })
  })

  test('export of a folder that is no data directory: is said', async () => {
    const result = await provision('export', '--data-dir', server.dir)
    expect([result.code, result.stdout]).toEqual([33, ''])
    expect(result.stderr).toContain(`there is no cluster in "${server.dir}": it has no PG_VERSION`)
  })

  test('no host file: it is named', async () => {
    const result = await provision('plan', '-c', '/nowhere/host.toml')
    expect([result.code, result.stderr]).toEqual([
      11,
      'provision: error [file-unreadable] cannot read "/nowhere/host.toml": no such file\n' +
        'provision: hint: Name the host file with -c FILE; conf/demo.toml is an example.\n',
    ])
  })

  test('no verb: usage', async () => {
    expect((await provision()).code).toBe(2)
  })

  test('a remote server that is down', async () => {
    const header =
      'format = 1\n[host]\nname = "x"\n[postgres]\nkind = "remote"\nurl = "postgres://u@127.0.0.1:1/"\nsslmode = "disable"\n'
    const result = await provision('plan', '-c', await hostFile('', header))
    expect(result.code).toBe(30)
    expect(result.stderr).toContain('no server listens there')
  })

  test('a cluster of another major', async () => {
    const header = server.header.replace(/major = \d+/, 'major = 14')
    const result = await provision('apply', '-c', await hostFile('', header))
    expect([result.code, result.stderr]).toEqual([
      33,
      expect.stringContaining(`is of major ${server.major}, the host file says 14`),
    ])
  })

  test.runIf(process.getuid?.() === 0)('the wrong OS user: who is needed is said', async () => {
    const file = await hostFile('')
    const result = await runScript(['provision', 'plan', '-c', file], { uid: userId('nobody').uid })
    expect(result.code).toBe(13)
    expect(result.stderr).toMatch(/hint: Run this as root/)
  })

  test('a database that refuses connections, with something wanted in it', async () => {
    await server.query('postgres', 'create database shut allow_connections false')
    const result = await provision(
      'apply',
      '-c',
      await hostFile('[databases.shut]\nallow_connections = false\nextensions = ["pg_trgm"]\n'),
    )
    expect(result.code).toBe(42)
    expect(result.stderr).toContain('shut')
    await server.query('postgres', 'drop database shut')
  })
})

/** A host that uses everything, under names that break careless quoting. */
async function hostileHost(dir: string): Promise<string> {
  const quoted = NAMES.map((name) => JSON.stringify(name))
  const secret = join(dir, 'secret')
  await writeFile(secret, 'correct horse ß battery\n', { mode: 0o400 })
  const roles = quoted.flatMap((name, index) => [
    `[roles.${name}]`,
    'login = true',
    `password = { file = ${JSON.stringify(secret)} }`,
    `connection_limit = ${index}`,
    ...(index > 0 ? [`member_of = [${quoted[0]}]`] : []),
    `[roles.${name}.settings]`,
    `search_path = [${quoted[0]}, "public"]`,
  ])
  const spaces = quoted
    .slice(0, 3)
    .flatMap((name, index) => [`[tablespaces.${name}]`, `location = "${dir}/space ${index}"`])
  const databases = quoted.flatMap((name, index) => [
    `[databases.${name}]`,
    `owner = ${quoted[(index + 1) % quoted.length]}`,
    ...(index < 2 ? [`tablespace = ${quoted[index]}`] : []),
    'extensions = ["pg_trgm"]',
    'public = "revoke"',
    `[databases.${name}.settings]`,
    'timezone = "UTC"',
    `[databases.${name}.schemas.${name}]`,
    `owner = ${name}`,
    `[[databases.${name}.grants]]`,
    `to = [${quoted[2]}]`,
    'on = "schema"',
    `schema = ${name}`,
    'privileges = ["USAGE"]',
    `[[databases.${name}.grants]]`,
    `to = [${quoted[3]}, "public"]`,
    'on = "tables"',
    'privileges = ["SELECT"]',
  ])
  return [
    '[settings]',
    'work_mem = "17MB"',
    'max_connections = 42',
    '[hba]',
    '[[hba.rules]]',
    'type = "host"',
    `database = [${quoted[0]}, ${quoted[2]}]`,
    `user = [${quoted[1]}, ${quoted[5]}]`,
    'address = "192.168.0.0/16"',
    'method = "scram-sha-256"',
    ...spaces,
    ...roles,
    ...databases,
    '',
  ].join('\n')
}

describe('a whole host, made from nothing', () => {
  let dir: string
  let file: string
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'howdah-host-'))
    const { uid, gid } =
      process.getuid?.() === 0 ? userId('postgres') : { uid: process.getuid!(), gid: process.getgid!() }
    await chmod(dir, 0o755)
    await chown(dir, uid, gid)
    const header = `format = 1\n[host]\nname = "db1"\nstate_dir = "${dir}/state"\n[postgres]\nkind = "private"\nmajor = ${await newestMajor()}\ndata_dir = "${dir}/pg/data"\n`
    file = join(dir, 'host.toml')
    await writeFile(file, header + (await hostileHost(dir)))
  })
  afterAll(async () => {
    const cluster = await openCluster(parseHost(await readFile(file, 'utf8'))).catch(() => undefined)
    if (cluster && (await cluster.isRunning())) await cluster.stop()
    await rm(dir, { recursive: true, force: true })
  })

  test('plan: the cluster and everything in it are to be made, and nothing is', async () => {
    const result = await provision('plan', '-c', file, '--check')
    expect([result.code, result.stderr]).toEqual([1, ''])
    expect(result.stdout).toMatch(/^\+ cluster .*data checksums/m)
    expect(result.stdout).toContain('+ database select: ')
    expect(await readdir(dir)).toEqual(['host.toml', 'secret'])
  })

  test('apply, plan again: nothing to do', async () => {
    const applied = await provision('apply', '-c', file, '--yes')
    expect([applied.code, applied.stderr]).toEqual([0, ''])
    const again = await provision('plan', '-c', file, '--check')
    expect([again.code, again.stdout.split('\n').filter((line) => /^[+~-]/.test(line))]).toEqual([0, []])
  })

  test('export, plan against it: nothing to do', async () => {
    const exported = await provision('export', '-c', file)
    expect([exported.code, exported.stderr]).toEqual([0, ''])
    const path = join(dir, 'exported.toml')
    await writeFile(path, exported.stdout)
    const plan = await provision('plan', '-c', path, '--check')
    expect([plan.code, plan.stdout.split('\n').filter((line) => /^[+~-]/.test(line))]).toEqual([0, []])
    for (const name of NAMES) expect(parseHost(exported.stdout).roles).toHaveProperty([name])
  })

  test('no clear text and no verifier in plan, saved plan or output', async () => {
    const cluster = (await openCluster(parseHost(await readFile(file, 'utf8'))))!
    const client = await cluster.connect('postgres')
    await client.query('alter role "with space" password null')
    const { rows } = await client.query<{ verifier: string }>(
      `select rolpassword as verifier from pg_authid where rolname = 'select'`,
    )
    await client.end()
    const saved = join(dir, 'plan.json')
    const plan = await provision('plan', '-c', file, '--out', saved, '--steps', '--json')
    const text = plan.stdout + plan.stderr + (await readFile(saved, 'utf8'))
    expect(text).toContain('password :verifier')
    expect(text).not.toContain('correct horse')
    expect(text).not.toContain('SCRAM-SHA-256$')
    expect(rows[0]!.verifier).toMatch(/^SCRAM-SHA-256\$/)
    expect((await stat(saved)).mode & 0o777).toBe(0o600)
    const applied = await provision('apply', saved, '-c', file)
    expect([applied.code, applied.stdout]).toEqual([
      0,
      expect.stringContaining('~ role "with space": password'),
    ])
  })

  test('a saved plan: refused when the host has moved on', async () => {
    const saved = join(dir, 'plan.json')
    const host = await readFile(file, 'utf8')
    const other = join(dir, 'other.toml')
    await writeFile(other, host.replace('connection_limit = 2', 'connection_limit = 22'))
    await provision('plan', '-c', other, '--out', saved)
    const cluster = (await openCluster(parseHost(host)))!
    const client = await cluster.connect('postgres')
    await client.query('alter role "select" connection limit 99')
    await client.end()
    const stale = await provision('apply', saved, '-c', other)
    expect([stale.code, stale.stderr]).toEqual([
      41,
      expect.stringContaining('the host has moved on since it was made'),
    ])
    const wrongFile = await provision('apply', saved, '-c', file)
    expect([wrongFile.code, wrongFile.stderr]).toEqual([
      41,
      expect.stringContaining('the host file, or an override, has changed'),
    ])
    expect((await provision('apply', '-c', file)).code).toBe(0)
  })

  test('a hazard: refused until it is allowed by name', async () => {
    const override = 'settings.max_connections=43'
    const refused = await provision('apply', '-c', file, override)
    expect([refused.code, refused.stderr]).toEqual([40, expect.stringContaining('--allow restarts-server')])
    const allowed = await provision('apply', '-c', file, override, '--allow', 'restarts-server')
    expect([allowed.code, allowed.stderr]).toEqual([0, ''])
    expect((await provision('plan', '-c', file, override, '--check')).code).toBe(0)
    expect((await provision('apply', '-c', file, '--allow', 'restarts-server')).code).toBe(0)
  })

  test('--only: other kinds are left alone', async () => {
    const override = 'roles.select.connection_limit=7'
    const settings = await provision('plan', '-c', file, override, '--only', 'settings,hba', '--check')
    expect([settings.code, settings.stdout]).toEqual([0, 'nothing to do\n'])
    const roles = await provision('plan', '-c', file, override, '--only', 'roles', '--check', '--json')
    const document = JSON.parse(roles.stdout) as { ok: boolean; result: { changes: { name: string }[] } }
    expect([roles.code, document.ok, document.result.changes.map(({ name }) => name)]).toEqual([
      1,
      false,
      ['select'],
    ])
  })

  test('a saved plan of some kinds: applies to these, without saying them again', async () => {
    const saved = join(server.dir, 'only.json')
    const override = 'roles.select.connection_limit=8'
    expect((await provision('plan', '-c', file, override, '--only', 'roles', '--out', saved)).code).toBe(0)
    const other = await provision('apply', saved, '-c', file, override, '--only', 'hba')
    expect([other.code, other.stderr]).toEqual([41, expect.stringContaining('another --only')])
    const applied = await provision('apply', saved, '-c', file, override)
    expect([applied.code, applied.stderr]).toEqual([0, ''])
    expect(applied.stdout).toMatch(/^1 change in /m)
    expect((await provision('apply', '-c', file)).code).toBe(0)
  })

  test('plan --check: what is wanted and impossible: the check says no', async () => {
    const result = await provision('plan', '-c', file, 'settings.no_such_setting=1', '--check')
    expect([result.code, result.stdout]).toEqual([1, expect.stringContaining('impossible')])
  })

  test('a stopped cluster: plan says that it is to be started, apply starts it', async () => {
    const cluster = (await openCluster(parseHost(await readFile(file, 'utf8'))))!
    await cluster.stop()
    const plan = await provision('plan', '-c', file)
    expect(plan.stdout).toContain('start it')
    expect(plan.stdout).toContain('the rest is planned when it runs')
    // Nobody could look, so nothing says that the roles are as they should be.
    const reason = 'does not answer, and --only leaves out "cluster", which starts it'
    const check = await provision('plan', '-c', file, '--only', 'roles', '--check')
    expect([check.code, check.stdout]).toEqual([1, expect.stringContaining(reason)])
    const roles = await provision('apply', '-c', file, '--only', 'roles')
    expect([roles.code, roles.stderr]).toEqual([30, expect.stringContaining(reason)])
    expect((await provision('apply', '-c', file)).code).toBe(0)
    expect(await cluster.isRunning()).toBe(true)
  })
})
