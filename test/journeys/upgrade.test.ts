import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bootHost, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'
import { richStatements } from '../support/rich.ts'

// A Debian 12 host with a cluster of 15, backups by timers and texts in several orders becomes Debian 13, with another
// C library; then its cluster goes to 17. From the disk as it was before that it goes once more, and back.

const CHECKOUT = '/srv/howdah'
const HOWDAH = '/opt/howdah/current/scripts/howdah'

let host: TestHost
let port: number

beforeAll(async () => {
  port = await freePort()
  host = await bootHost({ suite: 'bookworm' })
  await host.copyCheckout(CHECKOUT)
}, 300_000)

afterAll(() => host?.[Symbol.asyncDispose]())

test('Debian 12: a cluster of 15 with everything in it, and its timers', { timeout: 480_000 }, async () => {
  await host.run(
    'apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install --no-install-recommends locales',
    {
      timeoutSeconds: 200,
    },
  )
  await host.run(`echo 'en_US.UTF-8 UTF-8' >/etc/locale.gen && locale-gen && install -d /etc/howdah`)
  await writeFile(join(host.root, 'etc/howdah/host.toml'), hostFile())
  await host.run([`${CHECKOUT}/scripts/howdah`, 'provision', 'apply', '--yes'], { timeoutSeconds: 470 })
  await host.run('install -d -o postgres -g postgres /srv/space /srv/metrics')
  for (const { database, text } of richStatements(15, '/srv/space')) await psql(database, text)
  await psql('The Shop', WORDS)
  // Set by hand, in the three places where people do so.
  await psql('postgres', `alter system set log_min_duration_statement = '4321ms'`)
  await host.run(`echo "deadlock_timeout = '3s'" >/etc/postgresql/15/main/conf.d/20-ours.conf`)
  await host.run(
    `echo "idle_in_transaction_session_timeout = '1h'" >>/etc/postgresql/15/main/postgresql.conf`,
  )
  await host.run(`sed -i '1i host all old_client 127.0.0.1/32 md5' /etc/postgresql/15/main/pg_hba.conf`)
  await psql('postgres', 'select pg_reload_conf()')
  await logins()
  await host.run('pg_createcluster 15 spare --port=54999 --start-conf=manual')
  await host.run('chgrp postgres /etc/howdah/host.toml && chmod 0640 /etc/howdah/host.toml')
  await host.run([`${CHECKOUT}/scripts/howdah`, 'schedule', 'install', '--yes'])
  await until('a first backup', async () => (await backups()) > 0)
  expect(await clusters()).toEqual({ ...SPARE, '15/main': `${port} online` })
})

test('Debian 13: the cluster of 15 serves on the new libraries', { timeout: 480_000 }, async () => {
  await howdah(['upgrade', 'prepare-os', '--to', '17'])
  expect((await howdah(['upgrade', 'status'])).stdout).toContain('prepared: jobs are paused')
  await host.run(
    `sed -i 's/bookworm/trixie/g' /etc/apt/sources.list $(ls /etc/apt/sources.list.d/*.sources 2>/dev/null || true)`,
  )
  const apt = 'DEBIAN_FRONTEND=noninteractive apt-get -qqy -o Dpkg::Options::=--force-confold'
  await host.run('apt-get -qq update')
  const told = await howdah(['upgrade', 'prepare-os', '--to', '17', '--plan'])
  expect(told.stdout).toMatch(/^apt .*trixie/m)
  await host.run(`${apt} full-upgrade`, { timeoutSeconds: 470 })
  await host.keepDisk()
  expect((await host.run('cat /etc/debian_version')).stdout).toMatch(/^13/)
  expect(await clusters()).toEqual({ ...SPARE, '15/main': `${port} online` })
})

test('upgrade run: 17 takes its place, and everything is as it was', { timeout: 480_000 }, async () => {
  const hba = await psql('postgres', HBA)
  const done = await howdah([
    'upgrade',
    'run',
    '--to',
    '17',
    '--allow',
    'install',
    '--method',
    'copy',
    '--json',
  ])
  const { result } = JSON.parse(done.stdout)
  expect(result.finished.problems).toEqual([])
  expect(result.finished.resorted.verified.length + result.finished.resorted.rebuilt.length).toBeGreaterThan(
    3,
  )
  expect(result.backup).toMatch(/^\d{8}T/)
  expect(await clusters()).toEqual({
    ...SPARE,
    '15/main': expect.stringMatching(/down/),
    '17/main': `${port} online`,
  })
  expect(await psql('postgres', `show server_version_num`)).toMatch(/^17/)
  expect(await psql('postgres', HBA)).toBe(hba)
  expect(await psql('postgres', 'show log_min_duration_statement')).toBe('4321ms')
  expect(await psql('postgres', 'show deadlock_timeout')).toBe('3s')
  expect(await psql('postgres', 'show idle_in_transaction_session_timeout')).toBe('1h')
  expect(await psql('postgres', 'show work_mem')).toBe('5MB')
  await logins()
})

test(
  'afterwards: nothing is to be provisioned, and the timers take backups again',
  { timeout: 120_000 },
  async () => {
    expect((await howdah(['provision', 'plan', '--check'])).stdout).toBe('nothing to do\n')
    const before = await backups()
    await until('another backup', async () => (await backups()) > before)
  },
)

test('a reboot: 17 comes up, 15 does not', { timeout: 120_000 }, async () => {
  await host.reboot()
  expect(await clusters()).toEqual({
    ...SPARE,
    '15/main': expect.stringMatching(/down/),
    '17/main': `${port} online`,
  })
})

test('from the disk before: upgraded once more, and taken back', { timeout: 480_000 }, async () => {
  await host.resetDisk()
  await howdah(['upgrade', 'run', '--to', '17', '--allow', 'install', '--method', 'copy', '--json'])
  await psql('The Shop', 'create table since ()')
  const refused = await howdah(['upgrade', 'rollback'], [40])
  expect(refused.stderr).toMatch(/going back loses what was written since .* of WAL/)
  await howdah(['upgrade', 'rollback', '--allow', 'loses-writes'])
  expect(await clusters()).toEqual({ ...SPARE, '15/main': `${port} online` })
  expect(await psql('The Shop', `select count(*), to_regclass('since') from "Häuser"."a.b"`)).toBe('2000|')
  await howdah(['provision', 'plan', '--check'])
  const before = await backups()
  await until('a backup of 15', async () => (await backups()) > before)
  const rehearsed = await howdah(['upgrade', 'rehearse', '--to', '17', '--from-backup'])
  expect(rehearsed.stdout).toMatch(/\bThe Shop\b/)
  expect(await clusters()).toEqual({ ...SPARE, '15/main': `${port} online` })
})

test(
  'the host goes down in the midst of an upgrade: at the next boot the old cluster serves, and what was begun is undone',
  { timeout: 240_000 },
  async () => {
    await host.run(`
      ${HOWDAH} upgrade run --to 17 --method copy --json >/tmp/out 2>&1 &
      goes_on() { kill -0 $! 2>/dev/null || { cat /tmp/out >&2; exit 1; }; sleep 0.02; }
      until grep -q '"phase": "transfer"' /var/lib/howdah/journal/upgrade-main.json 2>/dev/null; do goes_on; done
      until [ -e /var/lib/postgresql/17/main/pg_upgrade_output.d ]; do goes_on; done
      kill -KILL $!
      pkill -KILL pg_upgrade || true`)
    await host.reboot()
    await until(
      'the end of it',
      async () => (await howdah(['upgrade', 'status'])).stdout === 'no upgrade is under way\n',
    )
    expect(await clusters()).toEqual({ ...SPARE, '15/main': `${port} online` })
    expect(await psql('The Shop', 'select count(*) from "Häuser"."a.b"')).toBe('2000')
    expect((await host.run('ls /etc/systemd/system')).stdout).not.toContain('howdah-upgrade')
    const before = await backups()
    await until('a backup of 15', async () => (await backups()) > before)
  },
)

const HBA = `select type, database, user_name, address, auth_method from pg_hba_file_rules order by line_number`

// Texts that glibc sorts, in an index of each kind.
const WORDS = `
  create table words (w text collate "en_US.utf8" primary key, v text);
  create index on words using brin (v);
  insert into words select md5(g::text) || chr(97 + g % 26) || 'é', chr(97 + g % 26) from generate_series(1, 5000) g`

function hostFile(): string {
  return `format = 1
[host]
name = "db1"
[postgres]
major = 15
port = ${port}
[postgres.initdb]
locale = "en_US.UTF-8"
[settings]
work_mem = "5MB"
[roles.app]
login = true
[databases.app]
owner = "app"
[store.disk]
type = "dir"
path = "/srv/backup"
[backup.often]
kind = "dump"
store = "disk"
schedule = "*:*:0/5"
keep = { last = 50 }
`
}

async function psql(database: string, text: string): Promise<string> {
  const { stdout } = await host.run(
    ['psql', '-X', '-At', '-q', '-v', 'ON_ERROR_STOP=1', '-p', String(port), '-d', database, '-f', '-'],
    { user: 'postgres', input: text },
  )
  return stdout.trim()
}

async function howdah(
  args: readonly string[],
  okCodes: readonly number[] = [0],
): Promise<{ stdout: string; stderr: string }> {
  return host.run([HOWDAH, ...args], { okCodes, timeoutSeconds: 400 })
}

/** Each role with a password comes in by it, as before: one has a verifier of SCRAM, one of md5. */
async function logins(): Promise<void> {
  await psql('The Shop', 'grant connect on database "The Shop" to "odd ""Role"')
  for (const [user, password] of [
    ['old_client', 'secret-of-old'],
    ['odd "Role', 'secret-of-odd'],
  ]) {
    const place = ['-h', '127.0.0.1', '-p', String(port), '-U', user!, '-d', 'The Shop']
    const { stdout } = await host.run(['psql', '-X', '-At', ...place, '-c', 'select 1'], {
      env: { PGPASSWORD: password! },
    })
    expect(stdout).toBe('1\n')
  }
}

/** Another cluster of the host, with which nobody has anything to do. */
const SPARE = { '15/spare': '54999 down' }

/** Port and state of each cluster of the host. */
async function clusters(): Promise<Record<string, string>> {
  const { stdout } = await host.run('pg_lsclusters --no-header')
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(/ +/))
  return Object.fromEntries(
    lines.map(([major, name, port, state]) => [`${major}/${name}`, `${port} ${state}`]),
  )
}

/** How many backups there are. */
async function backups(): Promise<number> {
  const { stdout } = await host.run('ls /srv/backup/db1/main/backup 2>/dev/null | wc -l || true')
  return Number(stdout)
}

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 60_000
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`waited for ${what} for a minute`)
    await sleep(200)
  }
}
