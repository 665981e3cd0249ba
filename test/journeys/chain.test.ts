import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { bootHost, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'

// Debian 13 has PostgreSQL 17, with pg_combinebackup: a base, two backups on top of it, and nothing but
// their own script to restore them.

const CHECKOUT = '/srv/howdah'
const BACKUPS = '/var/backups/howdah/db1/main/backup'
const SPACES = ['/srv/a = b', String.raw`/srv/c\d`]

let host: TestHost
let port: number
let last: Manifest

beforeAll(async () => {
  host = await bootHost({ suite: 'trixie' })
  port = await freePort()
  await host.copyCheckout(CHECKOUT)
  await host.run('install -d /etc/howdah')
  await writeFile(join(host.root, 'etc/howdah/host.toml'), HOST())
  await howdah(['provision', 'apply', '--yes'], 470)
}, 600_000)

afterAll(() => host[Symbol.asyncDispose]())

const HOST = () => `
format = 1
[host]
name = "db1"
[postgres]
kind = "debian"
major = 17
port = ${port}
[settings]
summarize_wal = "on"
[store.local]
type = "dir"
path = "/var/backups/howdah"
[backup.day]
kind = "incr"
store = "local"
`

const howdah = (args: readonly string[], timeoutSeconds = 120) =>
  host.run([`${CHECKOUT}/scripts/howdah`, ...args], { timeoutSeconds })

const sql = (text: string) =>
  host.run(['psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-p', String(port), '-f', '-'], {
    user: 'postgres',
    input: text,
  })

async function take(): Promise<Manifest> {
  const { stdout } = await howdah(['backup', 'take', 'day', '--json'])
  return (JSON.parse(stdout) as { result: Manifest }).result
}

test(
  'a base and two backups on top of it, with tablespaces that come and grow',
  { timeout: 120_000 },
  async () => {
    for (const path of SPACES) await host.run(['install', '-d', '-o', 'postgres', path])
    await sql(`create tablespace s0 location '${SPACES[0]}';
    create table t0 tablespace s0 as select i as n from generate_series(1, 20000) i;
    create table kept as select i as n from generate_series(1, 50000) i`)
    const base = await take()
    await sql(`create tablespace s1 location '${SPACES[1]}';
    create table t1 tablespace s1 as select i as n from generate_series(1, 1000) i; update t0 set n = 0 where n = 1`)
    const second = await take()
    await sql('insert into t1 values (0); delete from kept where n <= 10')
    last = await take()
    expect([base.kind, second.kind, last.kind]).toEqual(['base', 'incr', 'incr'])
    expect(last.physical!.parent).toBe(second.label)
    await sql('truncate t0, t1, kept') // later than the backup
  },
)

const script = (...args: readonly string[]) =>
  host.run(['env', '-i', 'PATH=/usr/bin:/bin', 'sh', `/srv/fetched/${last.label}/restore.sh`, ...args], {
    user: 'postgres',
    okCodes: [0, 1],
  })

test('the script of the last one: without one of the others beside it: says which, and unpacks nothing', async () => {
  await host.run('mv /usr/bin/node /usr/bin/node.away')
  await host.run(`cp -r ${BACKUPS} /srv/fetched && chown -R postgres: /srv/fetched`)
  await host.run(`chown postgres: /srv`)
  const { parent } = last.physical!
  await host.run(`mv /srv/fetched/${parent} /srv/elsewhere`)
  expect(await script('--target', '/srv/restored')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining(`${parent}, which is not beside it`) as string,
  })
  await host.run(`mv /srv/elsewhere /srv/fetched/${parent}`)
  expect(await script('--target', '/srv/restored')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('--bindir') as string,
  })
  await host.run('test ! -e /srv/restored && test ! -e /srv/restored.parts')
})

test(
  'the script of the last one: restores rows and tablespaces of that moment, elsewhere',
  { timeout: 120_000 },
  async () => {
    const bindir = '/usr/lib/postgresql/17/bin'
    const moves = SPACES.flatMap((path, index) => ['--tablespace', `${path}=/srv/moved = ${index}`])
    const done = await script('--target', '/srv/restored', '--bindir', bindir, ...moves)
    expect(done).toMatchObject({ code: 0 })
    const options = `-c listen_addresses='' -c unix_socket_directories=/srv/restored -c port=5999 -c archive_mode=off`
    const pgCtl = [`${bindir}/pg_ctl`, '-s', '-w', '-D', '/srv/restored']
    await host.run([...pgCtl, '-l', '/srv/restored.log', '-o', options, 'start'], { user: 'postgres' })
    const found = await host.run(
      [
        'psql',
        '-XAt',
        '-h',
        '/srv/restored',
        '-p',
        '5999',
        '-c',
        `select count(*), sum(n) from t0 union all select count(*), sum(n) from t1 union all select count(*), min(n) from kept`,
        '-c',
        `select pg_tablespace_location(oid) from pg_tablespace where spcname ~ '^s' order by spcname`,
      ],
      { user: 'postgres' },
    )
    await host.run([...pgCtl, 'stop'], { user: 'postgres' })
    expect(found.stdout.trim().split('\n')).toEqual([
      '20000|200009999',
      '1001|500500',
      '49990|11',
      '/srv/moved = 0',
      '/srv/moved = 1',
    ])
    await host.run('test ! -e /srv/restored.parts')
    expect((await sql('select count(*) from kept')).stdout).toBe('0\n') // the living one is as it was
  },
)
