import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ListObjectsV2Command } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bootHost, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'
import { type S3Server, startS3 } from '../support/s3.ts'

// One Debian 12 host whose timers take backups into a bucket, each few seconds. Nobody does anything by hand:
// what people are told arrives in a file, by a program that stands for a mailer.

const CHECKOUT = '/srv/howdah'
const HOWDAH = '/opt/howdah/current/scripts/howdah'

let s3: S3Server
let bucket: string
let host: TestHost
let port: number

beforeAll(async () => {
  s3 = await startS3()
  bucket = await s3.makeBucket()
  port = await freePort()
  host = await bootHost({ suite: 'bookworm' })
  await host.copyCheckout(CHECKOUT)
}, 300_000)

afterAll(() => host?.[Symbol.asyncDispose]())

test('provisioned, with its timers installed', { timeout: 480_000 }, async () => {
  await host.run(
    'install -d -m 0700 /etc/credstore && install -d /etc/howdah && install -d -m 1777 /var/spool/mailer',
  )
  await credential('s3_key', s3.owner.accessKey)
  await credential('s3_secret', s3.owner.secretKey)
  await writeFile(join(host.root, 'usr/local/bin/mailer'), MAILER, { mode: 0o755 })
  await writeFile(join(host.root, 'etc/howdah/host.toml'), hostFile())
  await host.run([`${CHECKOUT}/scripts/howdah`, 'provision', 'apply', '--yes'], { timeoutSeconds: 470 })
  await host.run('chgrp postgres /etc/howdah/host.toml && chmod 0640 /etc/howdah/host.toml')
  await host.run('install -d -o postgres -g postgres /srv/metrics')
  const { stdout } = await host.run([`${CHECKOUT}/scripts/howdah`, 'schedule', 'install', '--yes'])
  expect(stdout).toMatch(/\ninstalled\n$/)
})

test(
  'the timer: takes backups into the bucket, and those that are not kept go',
  { timeout: 120_000 },
  async () => {
    const first = await until('a first backup', async () => (await labels())[0])
    await until('that one to be pruned', async () => !(await labels()).includes(first))
    const kept = await labels()
    expect(kept.length).toBeGreaterThanOrEqual(2)
    expect(kept.length).toBeLessThanOrEqual(3) // the newest may be there before another one goes
  },
)

test('the service: the WAL arrives in the bucket', async () => {
  await sql('create table telem as select i as n from generate_series(1, 100000) i')
  const segment = await sql('select pg_walfile_name(pg_switch_wal())')
  await until('the WAL', async () => {
    const list = new ListObjectsV2Command({ Bucket: bucket, Prefix: 'db1/main/wal/' })
    const { Contents = [] } = await s3.client.send(list)
    return Contents.some(({ Key }) => Key?.includes(segment))
  })
  await until('an archive that is well', async () => (await howdah(['archive', 'status'])).code === 0)
  expect((await host.run('systemctl is-active howdah-archive')).stdout).toBe('active\n')
})

test('whoever is to be told: is, by the installed alert', async () => {
  const { stdout } = await host.run([HOWDAH, 'schedule', 'notify', '--test'])
  expect(stdout).toBe('told mail: test, by howdah-alert@test.service\n')
  expect(await mails()).toEqual([
    expect.stringMatching(/^To: root\nSubject: \[howdah db1\] test is a trial: nothing has failed$/m),
  ])
  await host.run('rm /var/spool/mailer/*.mail')
})

test('a job of root with a store of its own in /var/tmp: is stored there, and the other store is pruned by nobody', async () => {
  const before = (await labels()).length
  await host.run('systemctl start howdah-backup-seldom')
  expect(await labels('/var/tmp/spare')).toHaveLength(1)
  expect((await labels()).length).toBeGreaterThanOrEqual(Math.min(before, 2))
  expect(
    (await host.run('stat -c "%a %U" /var/tmp/spare && ls /var/tmp/spare/db1/main/backup')).stdout,
  ).toMatch(/^750 postgres\n\S+\n$/)
  expect((await host.run('ls /srv/metrics')).stdout.split('\n')).toEqual(
    expect.arrayContaining(['howdah_backup-often.prom', 'howdah_backup-seldom.prom']),
  )
})

test(
  'a credential that is gone: the job that opens all stores to prune is told of',
  { timeout: 120_000 },
  async () => {
    await host.run(
      'systemctl stop howdah-backup-often.timer howdah-check.timer && mv /etc/credstore/s3_key /root/',
    )
    await host.run('systemctl start howdah-backup-seldom', { okCodes: [1] })
    const mail = await mailed(/^Subject: .*backup-seldom failed/m)
    expect(mail).toContain('s3_key')
    await host.run('mv /root/s3_key /etc/credstore/ && systemctl start howdah-backup-seldom')
    await mailed(/^Subject: .*backup-seldom is well again/m)
  },
)

test(
  'a disk that is not mounted, and a sandbox that mounts its mount point upon itself: nothing is stored there, and it is told',
  { timeout: 120_000 },
  async () => {
    const before = await mails()
    const stored = await labels('/var/tmp/spare')
    await host.run(`echo 'LABEL=gone /var/tmp/spare ext4 noauto 0 0' >>/etc/fstab`)
    await host.run('systemctl start howdah-backup-seldom', { okCodes: [1] })
    expect(await mailed(/^Subject: .*backup-seldom failed/m, before)).toContain(
      'the store "/var/tmp/spare" is to be on "/var/tmp/spare", on which nothing is mounted',
    )
    await host.run(`sed -i '/LABEL=gone/d' /etc/fstab`)
    expect(await labels('/var/tmp/spare')).toEqual(stored)
    await host.run('systemctl start howdah-backup-seldom')
    await mailed(/^Subject: .*backup-seldom is well again/m, before)
    await host.run(
      'rm /var/spool/mailer/*.mail; systemctl start howdah-backup-often.timer howdah-check.timer',
    )
  },
)

test('schedule list and check: say that all is well', async () => {
  const { stdout } = await howdah(['schedule', 'list'])
  expect(stdout).toMatch(/^backup-often +\S+ +2.* (success|runs) /m)
  expect((await howdah(['schedule', 'check'])).code).toBe(0)
})

test(
  'a job that fails: is told, with the reason, once; its recovery is told, too',
  { timeout: 120_000 },
  async () => {
    await credential('s3_secret', 'wrong')
    await until('a mail', async () => (await mails()).length > 0)
    const [mail] = await mails()
    expect(mail).toMatch(/^To: root$/m)
    expect(mail).toMatch(/^Subject: \[howdah db1\] backup-often failed/m)
    expect(mail).toContain('store-denied')
    expect(mail).not.toContain(s3.owner.secretKey)
    expect((await howdah(['schedule', 'check'])).code).toBe(1)
    await credential('s3_secret', s3.owner.secretKey)
    await until('a second mail', async () =>
      (await mails()).some((mail) => /^Subject: .*backup-often.*well again/m.test(mail)),
    )
    expect((await mails()).filter((mail) => /backup-often failed/.test(mail))).toHaveLength(1)
  },
)

test(
  'a unit that systemd cannot begin: is told, although no program of it has run',
  { timeout: 120_000 },
  async () => {
    const before = await mails()
    const drop = '/etc/systemd/system/howdah-backup-often.service.d/override.conf'
    await host.run(
      `install -d ${dirname(drop)} && printf '[Service]\\nUser=gone\\n' >${drop} && systemctl daemon-reload`,
    )
    const mail = await mailed(/^Subject: .*backup-often failed: .*it could not be begun/m)
    expect(mail).toContain('journalctl --unit=howdah-backup-often.service')
    await host.run(`rm -r ${dirname(drop)} && systemctl daemon-reload`)
    await mailed(/^Subject: .*backup-often is well again/m, before)
  },
)

test('a mistake in the host file: is told to whom it named before', { timeout: 120_000 }, async () => {
  const before = await mails()
  const file = join(host.root, 'etc/howdah/host.toml')
  const toml = await readFile(file, 'utf8')
  await writeFile(file, toml.replace('keep = {', 'keeep = {'))
  await mailed(/^Subject: \[howdah db1\] backup-often failed: before it began: .*keeep/m, before)
  await writeFile(file, toml)
  expect(await mailed(/^Subject: .*backup-often is well again/m, before)).toContain('it succeeded')
})

test('a timer that was stopped: is noticed, and told', { timeout: 120_000 }, async () => {
  const before = await mails()
  await host.run('systemctl stop howdah-backup-often.timer')
  const checked = await howdah(['schedule', 'check'])
  expect(checked.code).toBe(1)
  expect(checked.stdout).toMatch(/backup-often\.timer is not active/)
  await mailed(/^Subject: \[howdah db1\] backup-often is overdue/m, before)
  await host.run('systemctl start howdah-backup-often.timer')
  await mailed(/^Subject: .*backup-often is well again/m, before)
  await until('a check that is content', async () => (await howdah(['schedule', 'check'])).code === 0)
})

test(
  'a state folder that cannot be written to: the backups go on, and it is told once, and of the recovery',
  { timeout: 120_000 },
  async () => {
    const before = await mails()
    const kept = await labels()
    await host.run('chown root: /var/lib/howdah/jobs && chmod 0555 /var/lib/howdah/jobs')
    const failed = /^Subject: .*backup-often failed: .*cannot be recorded/m
    await mailed(failed, before)
    await until('backups that are all newer', async () =>
      (await labels()).every((one) => !kept.includes(one)),
    )
    await until('a check that is not content', async () => (await howdah(['schedule', 'check'])).code === 1)
    await host.run('chown postgres: /var/lib/howdah/jobs && chmod 0750 /var/lib/howdah/jobs')
    await mailed(/^Subject: .*backup-often is well again/m, before)
    const told = (await mails()).filter((mail) => !before.includes(mail))
    expect(told.filter((mail) => failed.test(mail))).toHaveLength(1)
    expect(
      told.filter((mail) => /backup-often is (overdue|well again)/.test(mail)).length,
    ).toBeLessThanOrEqual(2)
  },
)

test(
  'an archiver that ends again and again, and one that was stopped: are told, and that it runs again',
  { timeout: 240_000 },
  async () => {
    const before = await mails()
    const drop = '/etc/systemd/system/howdah-archive.service.d/loop.conf'
    await host.run(`install -d ${dirname(drop)}`)
    await writeFile(join(host.root, drop), '[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=1s\n')
    await host.run('systemctl daemon-reload && systemctl restart --no-block howdah-archive')
    await mailed(
      /^Subject: \[howdah db1\] archive failed: .*it was started again \d+ times, and ended/m,
      before,
    )
    await host.run(`rm -r ${dirname(drop)} && systemctl daemon-reload && systemctl restart howdah-archive`)
    await mailed(/^Subject: .*archive is well again/m, before)
    const meanwhile = await mails()
    await host.run('systemctl stop howdah-archive')
    const mail = await mailed(/^Subject: \[howdah db1\] archive failed: it was stopped/m, meanwhile)
    expect(mail).toContain('journalctl --unit=howdah-archive.service')
    await host.run('systemctl start howdah-archive')
    await mailed(/^Subject: .*archive is well again/m, meanwhile)
    // Its timer may have looked just while the archive was down, and looks again a quarter of an hour later.
    await host.run('systemctl start howdah-archive-check')
    await until('a check that is content', async () => (await howdah(['schedule', 'check'])).code === 0)
  },
)

test('a take that is killed: is told, and the next one succeeds', { timeout: 120_000 }, async () => {
  const before = await mails()
  // pg_dump waits for the table as long as this session has it.
  const sleeping = sql('begin; lock table telem; select pg_sleep(30)').catch(() => {})
  await until('pg_dump to wait', async () =>
    sql(`select 1 from pg_stat_activity where application_name = 'pg_dump' and wait_event_type = 'Lock'`),
  )
  await host.run('systemctl kill --signal=KILL howdah-backup-often.service')
  await sql(
    `select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(30)%' and pid <> pg_backend_pid()`,
  )
  await sleeping
  await mailed(/^Subject: \[howdah db1\] backup-often failed: .*KILL/m, before)
  await mailed(/^Subject: \[howdah db1\] backup-often is well again/m, before)
  expect((await howdah(['schedule', 'check'])).code).toBe(0)
})

const MAILER = `#!/bin/sh
file=$(mktemp /var/spool/mailer/XXXXXX) && cat >"$file" && mv "$file" "$file.mail"
`

async function credential(name: string, content: string): Promise<void> {
  await host.run(
    `umask 077 && cat >/etc/credstore/${name}.new && mv /etc/credstore/${name}.new /etc/credstore/${name}`,
    {
      input: content,
    },
  )
}

function howdah(args: readonly string[]): ReturnType<TestHost['run']> {
  return host.run([HOWDAH, ...args], { okCodes: [0, 1] })
}

/** Labels of the backups that a store has, the bucket if none is named, oldest first. */
async function labels(where = 's3://'): Promise<string[]> {
  const { stdout } = await howdah(['backup', 'list', '--json'])
  const { result } = JSON.parse(stdout) as { result: { backups: { label: string; store: string }[] } }
  return result.backups.filter((backup) => backup.store.includes(where)).map(({ label }) => label)
}

/** What was mailed, oldest first. */
async function mails(): Promise<string[]> {
  const { stdout } = await host.run('ls -tr /var/spool/mailer/*.mail 2>/dev/null || true')
  const names = stdout.split('\n').filter(Boolean)
  return Promise.all(names.map((name) => readFile(join(host.root, name), 'utf8')))
}

/** Waits for a mail that is none of those that were there before. */
async function mailed(pattern: RegExp, before: readonly string[] = []): Promise<string> {
  return until(`a mail of ${pattern.source}`, async () =>
    (await mails()).find((mail) => pattern.test(mail) && !before.includes(mail)),
  )
}

/** Waits until something is there, and gives it. */
async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  for (const deadline = Date.now() + 90_000; Date.now() < deadline; await sleep(500)) {
    const found = await look()
    if (found) return found
  }
  const { stdout } = await host.run(
    `systemctl list-units --all --no-pager 'howdah*'; journalctl --no-pager -n 60 -u 'howdah*'`,
  )
  throw new Error(`waited in vain for ${what}\n${stdout}`)
}

async function sql(text: string): Promise<string> {
  const psql = ['psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-p', String(port), '-d', 'telemetry', '-c', text]
  return (await host.run(psql, { user: 'postgres' })).stdout.trim()
}

function hostFile(): string {
  return `
format = 1
[host]
name = "db1"
[postgres]
kind = "debian"
major = 15
port = ${port}
[databases.telemetry]
[store.s3]
type = "s3"
bucket = "${bucket}"
endpoint = "${s3.endpoint}"
access_key = { credential = "s3_key" }
secret_key = { credential = "s3_secret" }
[backup.often]
kind = "dump"
store = "s3"
schedule = "*:*:0/5"
keep = { last = 2 }
[store.spare]
type = "dir"
path = "/var/tmp/spare"
[backup.seldom]
kind = "dump"
store = "spare"
schedule = "0 0 29 2 *"
user = "root"
keep = { last = 1 }
[archive]
store = "s3"
partial_every = "1s"
[schedule]
grace = "10s"
check = "*:*:0/5"
on_failure = ["mail"]
metrics_dir = "/srv/metrics"
[notify.mail]
command = ["/usr/local/bin/mailer"]
`
}
