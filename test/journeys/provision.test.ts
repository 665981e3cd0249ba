import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bootHost, type TestHost } from '../support/host.ts'

// One bare Debian 12 host goes the whole way; each test goes on where the one before it ended.

const CHECKOUT = '/srv/the checkout'
const HOWDAH = `${CHECKOUT}/scripts/howdah`
const PASSWORD = `it's "a" pässword`

let host: TestHost
let port: number

beforeAll(async () => {
  host = await bootHost({ suite: 'bookworm' })
  port = await freePort()
  await host.copyCheckout(CHECKOUT)
  await host.run('useradd --create-home ann && useradd --create-home sensor')
}, 300_000)

afterAll(() => host[Symbol.asyncDispose]())

describe('a bare host', () => {
  test('a user without rights: one line says what to install', async () => {
    const done = await howdah(['demo'], { user: 'ann', okCodes: [13] })
    expect(done.stdout).toBe('')
    expect(done.stderr).toMatch(
      /^howdah: error \[not-permitted\] not installed: postgresql zstd age npm .*\n$/,
    )
  })

  test('a unit of systemd: installs nothing', async () => {
    const done = await host.run(['systemd-run', '--quiet', '--wait', '--pipe', HOWDAH, 'demo'], {
      okCodes: [13],
    })
    expect(done.stderr).toContain('not installed: postgresql')
    expect(await exitCodeOf('command -v npm || ls /usr/lib/postgresql || ls -d .node')).not.toBe(0)
  })

  test(
    'the demo: installs what it needs and shows the main job, start to end',
    { timeout: 480_000 },
    async () => {
      const done = await howdah(['demo'], { timeoutSeconds: 470 })
      expect(done.stderr).toContain('howdah: installing the Debian packages postgresql zstd age npm')
      expect(done.stderr).toContain('howdah: installing Node.js 24')
      expect(done.stdout).toMatch(/^The disaster is survived: .*nothing pending/m)
    },
  )

  test('the installation: starts no cluster that nobody asked for', async () => {
    expect((await host.run(['pg_lsclusters', '--no-header'])).stdout).toBe('')
    expect((await host.run('ls /var/lib/postgresql')).stdout).toBe('')
  })

  test('the demo: leaves nothing behind', async () => {
    expect((await host.run('pgrep -a postgres || true')).stdout).toBe('')
    expect(
      (await host.run('ls -A /tmp /var/lib/howdah /etc/howdah 2>/dev/null | grep -i howdah || true')).stdout,
    ).toBe('')
  })

  test('a user without rights: everything in place: the demo runs', { timeout: 120_000 }, async () => {
    const done = await howdah(['demo'], { user: 'ann', cwd: '/home/ann' })
    expect(done.stderr).not.toContain('installing')
  })
})

describe('a host file', () => {
  test('apply: makes the cluster and all that is in it', { timeout: 120_000 }, async () => {
    await host.run('install -d -m 0750 /etc/howdah/secrets && (umask 377 && cat >/etc/howdah/secrets/app)', {
      input: PASSWORD,
    })
    await writeFile(join(host.root, 'etc/howdah/host.toml'), hostFile())
    await howdah(['secret', 'generate'])
    expect((await howdah(['provision', 'plan', '--check'], { okCodes: [1] })).stdout).toContain('telemetry')
    expect((await host.run(['pg_lsclusters', '--no-header'])).stdout).toBe('')
    const done = await howdah(['provision', 'apply', '--yes'])
    expect(done.stdout + done.stderr).not.toContain(PASSWORD)
    expect((await host.run(['pg_lsclusters', '--no-header'])).stdout).toMatch(
      new RegExp(`^15 +telemetry +${port} +online +postgres `),
    )
    await howdah(['provision', 'plan', '--check'])
  })

  test('TCP: the password lets in, another one does not', async () => {
    expect(await select('select current_user', { password: PASSWORD })).toBe('app\n')
    await expect(select('select 1', { password: 'wrong' })).rejects.toThrow('password authentication failed')
  })

  test('TCP: a password that was generated lets in', async () => {
    const password = await readFile(join(host.root, 'etc/howdah/secrets/viewer'), 'utf8')
    expect(await select('select current_user', { role: 'viewer', password: password.trim() })).toBe(
      'viewer\n',
    )
  })

  test('TCP: a role that no rule names: is refused', async () => {
    await expect(select('select 1', { role: 'sensor', password: PASSWORD })).rejects.toThrow(
      'no pg_hba.conf entry',
    )
  })

  test('peer: the user of the same name needs no password, another is refused', async () => {
    const psql = ['psql', '-XAtd', 'telemetry', '-p', String(port), '-c', 'select current_user']
    expect((await host.run(psql, { user: 'sensor' })).stdout).toBe('sensor\n')
    await expect(host.run([...psql, '-U', 'sensor'], { user: 'ann' })).rejects.toThrow(
      'Peer authentication failed',
    )
  })

  test('rows: stand in the tablespace, and the grant holds for a table made later', async () => {
    await select('create table reading as select generate_series(1, 1000) as value', { password: PASSWORD })
    const path = await select(
      `select pg_tablespace_location(oid) from pg_tablespace where spcname = 'readings'`,
      {
        password: PASSWORD,
      },
    )
    expect(path).toBe('/srv/readings\n')
    const psql = ['psql', '-XAtd', 'telemetry', '-p', String(port), '-c', 'select count(*) from reading']
    expect((await host.run(psql, { user: 'sensor' })).stdout).toBe('1000\n')
    expect((await host.run('find /srv/readings -type f | wc -l')).stdout).not.toBe('0\n')
  })

  test('timers: are installed, and a second time there is nothing to install', async () => {
    await host.run('chown root:postgres /etc/howdah/host.toml && chmod 0640 /etc/howdah/host.toml')
    await howdah(['schedule', 'install', '--yes'])
    expect(await timers()).toEqual(['howdah-backup-nightly.timer', 'howdah-check.timer'])
    expect((await howdah(['schedule', 'install', '--plan'])).stdout).toMatch(/^nothing to do$/m)
    await howdah(['schedule', 'diff'])
  })

  test(
    'a reboot: the cluster and the timers come back by themselves, and nothing is pending',
    { timeout: 120_000 },
    async () => {
      await host.reboot()
      expect(await timers()).toEqual(['howdah-backup-nightly.timer', 'howdah-check.timer'])
      await host.run(`until pg_isready -q -p ${port}; do sleep 0.1; done`, { timeoutSeconds: 60 })
      expect(await select('select count(*) from reading', { password: PASSWORD })).toBe('1000\n')
      await howdah(['provision', 'plan', '--check'])
      expect((await host.run(['systemctl', '--failed', '--no-legend', '--plain'])).stdout).not.toContain(
        'postgresql',
      )
      expect((await howdah(['schedule', 'install', '--plan'])).stdout).toMatch(/^nothing to do$/m)
    },
  )

  test('the job of a timer: takes a backup as its unit does', async () => {
    await host.run('systemctl start howdah-backup-nightly')
    expect((await howdah(['backup', 'list'])).stdout).toMatch(/-dump-\w+ +nightly +dump .* telemetry/)
    expect((await howdah(['schedule', 'list'])).stdout).toMatch(/^backup-nightly .*success/m)
  })
})

/** Our timers that are active. */
async function timers(): Promise<string[]> {
  const list = [
    'systemctl',
    'list-units',
    '--type=timer',
    '--state=active',
    '--no-legend',
    '--plain',
    'howdah-*',
  ]
  return (await host.run(list)).stdout
    .trim()
    .split('\n')
    .map((line) => line.split(' ')[0]!)
}

function howdah(
  args: readonly string[],
  options: Parameters<TestHost['run']>[1] = {},
): ReturnType<TestHost['run']> {
  return host.run([HOWDAH, ...args], options)
}

async function exitCodeOf(script: string): Promise<number> {
  return (await host.run(script, { cwd: CHECKOUT, okCodes: [0, 1, 2] })).code
}

/** A query over TCP, as `app` unless said otherwise. */
async function select(
  sql: string,
  { role = 'app', password }: { role?: string; password: string },
): Promise<string> {
  const url = `host=127.0.0.1 port=${port} dbname=telemetry user=${role}`
  return (await host.run(['psql', '-XAtwc', sql, url], { env: { PGPASSWORD: password } })).stdout
}

function hostFile(): string {
  return `
format = 1
[host]
name = "db1"
[postgres]
kind = "debian"
major = 15
cluster = "telemetry"
port = ${port}
[postgres.tune]
memory = "1GB"
connections = 50
[settings]
log_min_duration_statement = "1s"

[hba]
mode = "file"
[[hba.rules]]
type = "local"
method = "peer"
[[hba.rules]]
type = "host"
database = "telemetry"
user = ["app", "viewer"]
address = "127.0.0.1/32"
method = "scram-sha-256"

[tablespaces.readings]
location = "/srv/readings"

[roles.app]
login = true
password = { file = "/etc/howdah/secrets/app" }
[roles.sensor]
login = true
[roles.viewer]
login = true
password = { file = "/etc/howdah/secrets/viewer" }
member_of = ["sensor"]

[databases.telemetry]
owner = "app"
tablespace = "readings"
[databases.telemetry.schemas.public]
owner = "app"
[[databases.telemetry.grants]]
to = ["sensor"]
on = "tables"
privileges = ["SELECT"]

[store.local]
type = "dir"
path = "/var/backups/howdah"
[backup.nightly]
kind = "dump"
store = "local"
schedule = "0 2 * * *"
`
}

/** Hosts share the network of this machine. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}
