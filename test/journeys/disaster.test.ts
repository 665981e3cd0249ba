import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bootHost, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'
import { type S3Server, startS3 } from '../support/s3.ts'
import { type AgeKey, ageKey } from '../support/age.ts'

// Two hosts and one bucket. The first one has a cluster, whose units take a base and incremental backups of it and
// store its WAL; then it is gone in the midst of work. The second one has this program, the URL of the store, and the
// private key. What was committed is counted outside of both.

const CHECKOUT = '/srv/howdah'
const HOWDAH = `${CHECKOUT}/scripts/howdah`
const KEY = '/root/key.txt'

/** The segment that is being written is stored each second; a busy machine takes longer. */
const MAX_LOSS_SECONDS = 15

let s3: S3Server
let bucket: string
let first: TestHost
let second: TestHost
let port: number
let key: AgeKey
let moment: { time: string; content: string }

beforeAll(async () => {
  s3 = await startS3()
  bucket = await s3.makeBucket()
  key = await ageKey(join(await mkdtemp(join(tmpdir(), 'howdah-key-')), 'key.txt'))
  port = await freePort()
  first = await bootHost({ suite: 'trixie' })
  await first.copyCheckout(CHECKOUT)
}, 300_000)

afterAll(async () => {
  await second?.[Symbol.asyncDispose]()
  await first?.[Symbol.asyncDispose]()
  if (key) await rm(dirname(key.path), { recursive: true })
})

test(
  'the first host: provisioned, archived and backed up, on top of a base too',
  { timeout: 480_000 },
  async () => {
    await first.run('install -d -m 0700 /etc/credstore && install -d /etc/howdah')
    for (const [name, content] of [
      ['s3_key', s3.owner.accessKey],
      ['s3_secret', s3.owner.secretKey],
    ] as const) {
      await first.run(`umask 077 && cat >/etc/credstore/${name}`, { input: content })
    }
    await writeFile(join(first.root, 'etc/howdah/host.toml'), hostFile())
    await howdah(first, ['provision', 'apply', '--yes'], 470)
    await first.run('chgrp postgres /etc/howdah/host.toml && chmod 0640 /etc/howdah/host.toml')
    await howdah(first, ['schedule', 'install', '--yes'])
    await first.run('until systemctl is-active howdah-archive; do sleep 0.2; done', { timeoutSeconds: 30 })
    await sql(first, 'create table telem (n bigint primary key, device text, data text)')
    await sql(first, insertRows(1, 20_000))
    await first.run(`until ${HOWDAH} archive status >/dev/null; do sleep 0.5; done`, { timeoutSeconds: 60 })
    expect(await kindTaken('full')).toBe('base')
    await sql(first, insertRows(20_001, 30_000))
    expect(await kindTaken('hourly')).toBe('incr')
    await sql(first, insertRows(30_001, 30_500))
    expect(await kindTaken('hourly')).toBe('incr') // on top of one that is itself on top of another
    await sql(first, insertRows(30_501, 31_000))
  },
)

test('a mistake: rows are deleted', { timeout: 120_000 }, async () => {
  await sql(first, 'select pg_sleep(0.01)')
  const time = (
    await sql(first, `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`)
  ).trim()
  moment = { time, content: await contentOf(first) }
  await sql(first, 'select pg_sleep(0.01); delete from telem where n % 2 = 0')
  await first.run(`until ${HOWDAH} archive status --json | grep -q '"bytes": *0'; do sleep 0.5; done`, {
    timeoutSeconds: 60,
  })
  await first.run(`umask 077 && cat >${KEY}`, { input: key.secret })
  const verified = await howdah(first, ['backup', 'verify', '--all', '--deep', '--identity', KEY])
  expect(verified.code).toBe(0)
})

/** What the server had said it has committed, and when. */
const ledger = { rows: 0, commits: [] as number[], gone: 0 }

test('the disaster: the first host goes while pgbench runs', { timeout: 120_000 }, async () => {
  const pgbench = '/usr/lib/postgresql/17/bin/pgbench'
  await first.run([pgbench, '-iq', '-s', '5', '-p', String(port), 'telemetry'], { user: 'postgres' })
  await sql(first, 'create table ledger (n bigint primary key); grant insert on ledger to telemetry')
  await first.run(`systemd-run --quiet --uid=postgres ${pgbench} -n -c 2 -T 600 -p ${port} telemetry`)
  const client = new pg.Client({ host: '127.0.0.1', port, user: 'telemetry', database: 'telemetry' })
  client.on('error', () => {}) // that is the disaster
  await client.connect()
  const writing = (async () => {
    for (;;) {
      await client.query('insert into ledger values ($1)', [ledger.rows + 1])
      ledger.rows += 1
      ledger.commits.push(Date.now())
    }
  })()
  const ended = writing.catch((error: unknown) => error)
  await sleep(10_000)
  ledger.gone = Date.now()
  await first[Symbol.asyncDispose]()
  expect(await ended).toBeInstanceOf(Error)
  expect(ledger.rows).toBeGreaterThan(200)
})

test(
  'the second host: from the URL and the key alone: has all that the store was sent',
  { timeout: 480_000 },
  async () => {
    second = await bootHost({ suite: 'trixie' })
    await second.copyCheckout(CHECKOUT)
    await second.run(`umask 077 && cat >${KEY}`, { input: key.secret })
    const planned = await restore(['--plan'], { timeoutSeconds: 470 })
    expect(planned.stdout + planned.stderr).not.toContain(s3.owner.secretKey)
    expect((await second.run('pg_lsclusters --no-header')).stdout).toBe('')
    const begun = Date.now()
    await restore(['--yes'])
    const rows = Number(await sql(second, 'select count(*) from ledger'))
    const seconds = (Date.now() - begun) / 1000
    expect((await second.run('pg_lsclusters --no-header')).stdout).toMatch(
      /^17 +main +\d+ +online +postgres /,
    )
    // None is missing in between, and none is there that was not asked for.
    expect((await sql(second, 'select coalesce(max(n), 0) from ledger')).trim()).toBe(String(rows))
    expect(rows).toBeLessThanOrEqual(ledger.rows + 1)
    const lost = rows >= ledger.rows ? 0 : (ledger.gone - ledger.commits[rows]!) / 1000
    console.log(
      `disaster: ${ledger.rows} commits, ${Math.max(0, ledger.rows - rows)} lost, of the last ${lost.toFixed(2)} s; ` +
        `restored in ${seconds.toFixed(1)} s`,
    )
    expect(lost).toBeLessThan(MAX_LOSS_SECONDS)
    const balanced =
      'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)'
    expect((await sql(second, balanced)).trim()).toBe('t')
    expect((await sql(second, `select rolname from pg_roles where rolname = 'telemetry'`)).trim()).toBe(
      'telemetry',
    )
  },
)

test(
  'a moment before the rows were deleted, in its place: not while it runs; what was there is kept',
  { timeout: 240_000 },
  async () => {
    const at = ['--at', moment.time]
    const refused = await restore([...at, '--yes'], { okCodes: [42, 56] })
    expect(refused.stderr).toMatch(/runs/)
    expect(await contentOf(second)).not.toBe(moment.content)
    await second.run('systemctl stop postgresql@17-main')
    await restore([...at, '--yes'])
    expect(await contentOf(second)).toBe(moment.content)
    expect((await second.run('systemctl is-active postgresql@17-main')).stdout).toBe('active\n')
    expect((await second.run('ls /var/lib/postgresql/17')).stdout).toMatch(/^main\nmain\.before-/)
  },
)

/** The restore from the URL and the key alone. */
function restore(
  more: readonly string[],
  options: Parameters<TestHost['run']>[1] = {},
): ReturnType<TestHost['run']> {
  const from = ['--from', `s3://${bucket}/hosts?endpoint=${s3.endpoint}`, '--cluster', 'db1/main']
  return second.run([HOWDAH, 'restore', 'cluster', ...from, '--identity', KEY, ...more], {
    env: { AWS_ACCESS_KEY_ID: s3.owner.accessKey, AWS_SECRET_ACCESS_KEY: s3.owner.secretKey },
    timeoutSeconds: 300,
    ...options,
  })
}

function howdah(host: TestHost, args: readonly string[], timeoutSeconds = 120): ReturnType<TestHost['run']> {
  return host.run([HOWDAH, ...args], { timeoutSeconds })
}

/** Lets the unit of a job take a backup, as its timer does. */
async function kindTaken(job: string): Promise<string> {
  await first.run(`systemctl start howdah-backup-${job}`)
  const { stdout } = await howdah(first, ['backup', 'list', '--job', job, '--json'])
  return (JSON.parse(stdout) as { result: { backups: { kind: string }[] } }).result.backups.at(-1)!.kind
}

async function sql(host: TestHost, text: string): Promise<string> {
  return (
    await host.run(
      ['psql', '-XAt', '-v', 'ON_ERROR_STOP=1', '-p', String(port), '-d', 'telemetry', '-c', text],
      { user: 'postgres' },
    )
  ).stdout
}

function insertRows(from: number, to: number): string {
  return `insert into telem select n, 'device' || n % 7, md5(n::text) from generate_series(${from}, ${to}) n`
}

async function contentOf(host: TestHost): Promise<string> {
  const rows = await sql(host, 'select * from telem order by n')
  return `${rows.split('\n').length - 1} rows, ${createHash('sha256').update(rows).digest('hex')}`
}

function hostFile(): string {
  return `
format = 1
[host]
name = "db1"
[postgres]
kind = "debian"
major = 17
port = ${port}
packages = ["postgresql-17"]
[settings]
wal_level = "replica"
summarize_wal = true
listen_addresses = "127.0.0.1"
[[hba.rules]]
type = "host"
database = "telemetry"
user = "telemetry"
address = "127.0.0.1/32"
method = "trust"
[roles.telemetry]
login = true
[databases.telemetry]
owner = "telemetry"
[store.s3]
type = "s3"
bucket = "${bucket}"
prefix = "hosts"
endpoint = "${s3.endpoint}"
access_key = { credential = "s3_key" }
secret_key = { credential = "s3_secret" }
[encryption]
recipients = ["${key.recipient}"]
[backup.full]
kind = "base"
store = "s3"
pitr = "7d"
keep = { daily = 7 }
schedule = "0 2 * * *"
[backup.hourly]
kind = "incr"
store = "s3"
schedule = "5 * * * *"
[archive]
store = "s3"
partial_every = "1s"
`
}
