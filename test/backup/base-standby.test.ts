import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import type { Cluster } from '../../scripts/cluster/cluster.ts'
import { run } from '../../scripts/core/exec.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { queryRestored, restoreByScript } from '../support/by-hand.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let primary: TestServer
let standby: Cluster
let file: string

beforeAll(async () => {
  primary = await startServer({ settings: { full_page_writes: 'on', wal_keep_size: '256MB' } })
  await primary.query(
    'postgres',
    'create table t as select i as n, md5(i::text) as x from generate_series(1, 5000) i',
  )
  // More than what is on its way between a server and a store.
  await primary.query(
    'postgres',
    `create table noise as select (select string_agg(uuid_send(gen_random_uuid()), '') from generate_series(1, 1000) where i > 0) from generate_series(1, 1500) i`,
  )
  const { bindir, osUser: as, socketDir } = primary.cluster
  const data = join(primary.dir, 'standby')
  const from = ['-h', socketDir, '-p', '5432', '-U', primary.cluster.superuser]
  await run([join(bindir, 'pg_basebackup'), ...from, '-D', data, '-R', '--checkpoint=fast'], { as })
  const conf = join(data, 'conf.d/00-test.conf')
  await writeFile(conf, `${await readFile(conf, 'utf8')}unix_socket_directories = '${data}'\nport = 5433\n`)
  file = join(primary.dir, 'standby.toml')
  const header = primary.header
    .replace(`${primary.dir}/data`, data)
    .replace('port = 5432', 'port = 5433')
    .replace(`${primary.dir}/state`, `${primary.dir}/state-of-standby`)
  await writeFile(
    file,
    `${header}
[store.local]
type = "dir"
path = "${primary.dir}/store"
[backup.full]
kind = "base"
store = "local"
`,
  )
  const open = async () => (await openCluster(parseHost(await readFile(file, 'utf8'))))!
  await (await open()).start()
  standby = await open() // it says where it listens only when it does
})

afterAll(async () => {
  await standby?.stop().catch(() => {})
  await primary?.[Symbol.asyncDispose]()
})

const take = (...overrides: string[]) =>
  runScript(['backup', 'take', 'full', '--json', '-c', file, ...overrides])

async function onStandby<Row extends object>(sql: string): Promise<Row[]> {
  const client = await standby.connect('postgres')
  try {
    return (await client.query<Row>(sql)).rows
  } finally {
    await client.end()
  }
}

test('a standby: its backup restores by its own script to a server that follows nobody', async () => {
  const { code, stdout, stderr } = await take()
  expect({ code, stderr }).toMatchObject({ code: 0 })
  const { label, physical } = (JSON.parse(stdout) as { result: Manifest }).result
  expect(physical).toMatchObject({ isFromStandby: true })
  await primary.query('postgres', 'insert into t values (-1)')
  const target = join(primary.dir, 'by-hand')
  const from = join(primary.dir, 'store/test/main/backup', label)
  expect(await restoreByScript(primary, from, ['--target', target])).toMatchObject({ code: 0 })
  expect(await queryRestored(primary, target, 'select count(*), pg_is_in_recovery() from t')).toEqual([
    '5000|f',
  ])
})

test('a standby whose primary has full_page_writes off: refused before a byte is read', async () => {
  await primary.query('postgres', 'alter system set full_page_writes = off')
  await primary.query('postgres', 'select pg_reload_conf()')
  try {
    const refused = async () => {
      await primary.query('postgres', 'checkpoint')
      const { code, stderr } = await take()
      return [code, stderr] as const
    }
    let [code, stderr] = await refused()
    for (let tries = 0; code === 0 && tries < 20; tries++) {
      await sleep(200) // until the standby has replayed it
      ;[code, stderr] = await refused()
    }
    expect([code, stderr]).toEqual([55, expect.stringMatching(/full_page_writes/)])
  } finally {
    await primary.query('postgres', 'alter system reset full_page_writes')
    await primary.query('postgres', 'select pg_reload_conf()')
    await untilPagesAreFull()
  }
})

/** Until the standby has begun to replay from a checkpoint that was made with full_page_writes on. */
async function untilPagesAreFull(): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    await primary.query('postgres', 'checkpoint')
    await onStandby('checkpoint')
    const [row] = await onStandby<{ full: boolean }>(
      'select full_page_writes as full from pg_control_checkpoint()',
    )
    if (row!.full) return
    await sleep(100)
  }
}

test('a standby that is promoted in mid-take: nothing counts', async () => {
  const before = await run(['ls', join(primary.dir, 'store/test/main/catalog')])
  let promoted: Promise<void> | undefined
  const { code, stderr } = await runScript(
    ['backup', 'take', 'full', '-c', file, 'backup.full.rate_limit=2MB'],
    {
      onStart: () => {
        promoted = (async () => {
          const isStreaming = `select from pg_stat_activity where backend_type = 'walsender' and query ~ '^BASE_BACKUP'`
          for (let tries = 0; (await onStandby(isStreaming)).length === 0 && tries < 500; tries++)
            await sleep(20)
          await onStandby('select pg_promote(false)')
        })()
      },
    },
  )
  await promoted
  expect([code, stderr]).toEqual([55, expect.stringMatching(/promoted/)])
  expect(await run(['ls', join(primary.dir, 'store/test/main/catalog')])).toEqual(before)
})

test('a standby that was promoted: its next backup is of the new timeline', async () => {
  const { code, stdout, stderr } = await take()
  expect({ code, stderr }).toMatchObject({ code: 0 })
  expect((JSON.parse(stdout) as { result: Manifest }).result).toMatchObject({
    timeline: 2,
    physical: { isFromStandby: false },
  })
})
