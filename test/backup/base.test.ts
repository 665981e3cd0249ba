import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { literal } from '../../scripts/cluster/sql.ts'
import { run } from '../../scripts/core/exec.ts'
import { queryRestored, restoreByScript, serverFolder } from '../support/by-hand.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let file: string
let store: string
const spaces = ['plain', 'a "b c\\d']

beforeAll(async () => {
  server = await startServer({ settings: { wal_level: 'replica', full_page_writes: 'on' } })
  for (const [index, name] of spaces.entries()) {
    const location = await folder(`space${index} ${name.replaceAll('/', '')}`)
    await server.query('postgres', `create tablespace "s${index}" location ${literal(location)}`)
    await server.query('postgres', `create table t${index} (n int, x text) tablespace "s${index}"`)
    await server.query(
      'postgres',
      `insert into t${index} select i, md5(i::text) from generate_series(1, 5000) i`,
    )
  }
  await server.query('postgres', `create database "a""b"`)
  await server.query('postgres', 'create unlogged table gone as select 1 as n')
  file = join(server.dir, 'host.toml')
  store = join(server.dir, 'store')
  await writeFile(file, HOST())
})

afterAll(() => server[Symbol.asyncDispose]())

const HOST = (job = '') => `${server.header}
[store.local]
type = "dir"
path = "${store}"
[backup.full]
kind = "base"
store = "local"
${job}
[backup.small]
kind = "dump"
store = "local"
`

const folder = (name: string) => serverFolder(server, name)

async function take(job = 'full'): Promise<Manifest> {
  const { code, stdout, stderr } = await runScript(['backup', 'take', job, '--json', '-c', file])
  if (code !== 0) throw new Error(stdout + stderr)
  return (JSON.parse(stdout) as { result: Manifest }).result
}

const filesOf = (label: string) => readdir(join(store, 'test/main/backup', label), { recursive: true })
const manifests = () => readdir(join(store, 'test/main/catalog'))

const byHand = (label: string, target: string, ...more: string[]) =>
  restoreByScript(server, join(store, 'test/main/backup', label), ['--target', target, ...more])

test('base: with hostile tablespaces: restores by its own script beside the living cluster, rows equal, the living tablespaces untouched', async () => {
  const { label, physical, files } = await take()
  expect(physical).toMatchObject({
    parent: null,
    isFromStandby: false,
    hasBadChecksums: false,
    dataChecksums: true,
  })
  expect(physical!.tablespaces.map(({ name }) => name)).toEqual(['s0', 's1'])
  expect(physical!.databases.map(({ name }) => name)).toContain('a"b')
  expect(files.map(({ name }) => name)).toEqual(
    expect.arrayContaining([
      'base.tar.zst',
      'backup_manifest.zst',
      'host.toml.zst',
      'RESTORE.md',
      'restore.sh',
      'SHA256SUMS',
    ]),
  )
  await server.query('postgres', 'insert into t0 values (-1, $1), (-2, $1)', ['later than the backup'])
  const living = await server.query<{ location: string }>(
    'postgres',
    `select pg_tablespace_location(oid) as location from pg_tablespace where spcname ~ '^s' order by spcname`,
  )
  const target = await folder('by-hand')
  const moves = living.flatMap(({ location }, index) => [
    '--tablespace',
    `${location}=${server.dir}/moved${index} x`,
  ])
  const { code, stderr } = await byHand(label, target, ...moves)
  expect({ code, stderr }).toMatchObject({ code: 0 })
  expect((await stat(target)).mode & 0o777).toBe(0o700)
  const rows = await queryTarget(
    target,
    `select count(*) || ' ' || sum(n) from t0 union all select count(*) || ' ' || sum(n) from t1`,
  )
  expect(rows).toEqual(['5000 12502500', '5000 12502500'])
  expect(await queryTarget(target, 'select count(*) from gone')).toEqual(['0']) // unlogged tables come back empty
  expect(await server.query('postgres', 'select count(*)::int as n from t0')).toEqual([{ n: 5002 }])
})

const queryTarget = (target: string, sql: string) => queryRestored(server, target, sql)

test('base: restored by hand into a folder that is not empty, or without mapping onto the living tablespaces: refused', async () => {
  const { label } = await take()
  const target = await folder('full')
  await writeFile(join(target, 'somebody'), 'x')
  expect(await byHand(label, target)).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('is not empty') as string,
  })
  expect(await readdir(target)).toEqual(['somebody'])
  const { code, stderr } = await byHand(label, join(server.dir, 'fresh'))
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: expect.stringMatching(/space0 plain is not empty/) as string,
  })
})

test('base: one byte of a stored file flipped: its script says so and unpacks nothing', async () => {
  const { label } = await take()
  const path = join(store, 'test/main/backup', label, 'base.tar.zst')
  const bytes = await readFile(path)
  bytes[Math.floor(bytes.length / 2)]! ^= 1
  await writeFile(path, bytes)
  const { code } = await byHand(label, join(server.dir, 'flipped'))
  expect(code).toBe(1)
  expect(await readdir(server.dir)).not.toContain('flipped')
})

test('plan: what would be taken, and nothing is written', async () => {
  const before = await manifests()
  const { code, stdout } = await runScript(['backup', 'take', 'full', '--plan', '-c', file])
  expect([code, stdout]).toEqual([
    0,
    expect.stringMatching(/^base of private cluster .*\n(.*\n)*  tablespace s0 in .*/),
  ])
  expect(await manifests()).toEqual(before)
})

test('list and show: a base beside a dump, with what is in it', async () => {
  await take('small')
  const { stdout: list } = await runScript(['backup', 'list', '-c', file])
  expect(list).toMatch(/ full +base .* a"b, postgres/)
  expect(list).toMatch(/ small +dump /)
  const { stdout: shown } = await runScript(['backup', 'show', '--job', 'full', '-c', file])
  expect(shown).toMatch(/^wal +[0-9A-F]+\/[0-9A-F]+ to [0-9A-F]+\/[0-9A-F]+ is inside$/m)
})

test('a restore of one database: the latest dump is chosen, although a base is newer', async () => {
  await take('small')
  await take('full')
  const { code, stdout } = await runScript([
    'restore',
    'database',
    'a"b',
    '--as',
    'copy',
    '--plan',
    '-c',
    file,
  ])
  expect([code, stdout]).toEqual([0, expect.stringContaining('job small')])
})

test('the connection that streams is ended in mid-take: no manifest, and no file is left', async () => {
  const before = await manifests()
  const files = new Set(await readdir(join(store, 'test/main/backup')))
  const taking = runScript(['backup', 'take', 'full', '-c', file], {})
  for (let tries = 0; tries < 600; tries++) {
    const [row] = await server.query<{ ended: boolean }>(
      'postgres',
      `select pg_terminate_backend(pid) as ended from pg_stat_activity where backend_type = 'walsender' and query ~ '^BASE_BACKUP'`,
    )
    if (row?.ended) break
    await sleep(5)
  }
  const { code, stderr } = await taking
  expect([code, stderr]).toEqual([
    55,
    expect.stringMatching(/error \[backup-failed\] .* broke off the backup/),
  ])
  expect(await manifests()).toEqual(before)
  expect((await readdir(join(store, 'test/main/backup'))).filter((label) => !files.has(label))).toEqual([])
})

/** What a body does while a take that is held back streams; then it is sent a signal. */
async function whileTaking<T>(
  signal: NodeJS.Signals,
  body: () => Promise<T>,
): Promise<{ result: T; code: number | null }> {
  const isStreaming = `select from pg_stat_activity where backend_type = 'walsender' and query ~ '^BASE_BACKUP'`
  const streaming = () => server.query('postgres', isStreaming)
  await expect.poll(streaming, { timeout: 10_000 }).toEqual([]) // of a take that was just killed
  let result: Promise<T> | undefined
  const { code } = await runScript(['backup', 'take', 'full', '-c', file, 'backup.full.rate_limit=300kB'], {
    onStart: (pid) => {
      result = (async () => {
        for (let tries = 0; tries < 2000; tries++) {
          if ((await streaming()).length > 0) break
          await sleep(10)
        }
        try {
          return await body()
        } finally {
          process.kill(pid, signal)
        }
      })()
    },
  })
  return { result: await result!, code }
}

test('the user interrupts a take: exit 130, nothing counts, and the server has no slot left', async () => {
  await take()
  const before = await manifests()
  const { code } = await whileTaking('SIGINT', async () => {})
  expect(code).toBe(130)
  expect(await manifests()).toEqual(before)
  expect(await server.query('postgres', 'select slot_name from pg_replication_slots')).toEqual([])
})

test('two takes at once into one store: the second is told that the first holds it', async () => {
  const { result } = await whileTaking('SIGTERM', () => runScript(['backup', 'take', 'full', '-c', file]))
  expect([result.code, result.stderr]).toEqual([20, expect.stringContaining('another run holds')])
})

test.runIf(process.getuid?.() === 0)(
  'a store on a disk that is full: no-space, and nothing counts',
  async () => {
    const small = join(server.dir, 'small')
    await mkdir(small)
    await run(['mount', '-t', 'tmpfs', '-o', 'size=3m,mode=0777', 'tmpfs', small])
    try {
      const { code, stderr } = await runScript([
        'backup',
        'take',
        'full',
        '-c',
        file,
        `store.local.path=${small}/s`,
      ])
      expect([code, stderr]).toEqual([57, expect.stringContaining('error [no-space]')])
      expect(await readdir(join(small, 's/test/main')).catch(() => [])).not.toContain('catalog')
    } finally {
      await run(['umount', small])
    }
  },
)

test('a job that wants any moment back, and no WAL in the store: said before a byte is read', async () => {
  const { code, stderr } = await runScript([
    'backup',
    'take',
    'full',
    '-c',
    file,
    'backup.full.pitr=1d',
    'archive.store=local',
  ])
  expect([code, stderr]).toEqual([
    55,
    expect.stringMatching(/no WAL of this cluster is in the store[^]*howdah archive run/),
  ])
})

test('the take holds its WAL: a checkpoint and many segments later it still ends whole', async () => {
  const taking = runScript(['backup', 'take', 'full', '--json', '-c', file, 'backup.full.rate_limit=2MB'])
  for (let round = 0; round < 6; round++) {
    await server.query(
      'postgres',
      `select pg_switch_wal() from pg_logical_emit_message(false, 'x', repeat('y', 1000))`,
    )
    await server.query('postgres', 'checkpoint')
  }
  const { code, stdout, stderr } = await taking
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const { label } = (JSON.parse(stdout) as { result: Manifest }).result
  expect(await filesOf(label)).toContain('base.tar.zst')
})
