import { open, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { run } from '../../scripts/core/exec.ts'
import { ageKey } from '../support/age.ts'
import { queryRestored, restoreByScript } from '../support/by-hand.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let file: string
let backups: string

beforeAll(async () => {
  server = await startServer({
    settings: { allow_in_place_tablespaces: 'on', idle_session_timeout: '700ms' },
  })
  await server.query(
    'postgres',
    'create table t as select i as n, md5(i::text) as x from generate_series(1, 5000) i',
  )
  file = join(server.dir, 'host.toml')
  backups = join(server.dir, 'store/test/main/backup')
  await writeFile(
    file,
    `${server.header}
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.full]
kind = "base"
store = "local"
`,
  )
})

afterAll(() => server[Symbol.asyncDispose]())

const take = (...overrides: string[]) =>
  runScript(['backup', 'take', 'full', '--json', '-c', file, ...overrides])

async function taken(...overrides: string[]): Promise<{ manifest: Manifest; stderr: string }> {
  const { code, stdout, stderr } = await take(...overrides)
  if (code !== 0) throw new Error(stdout + stderr)
  return { manifest: (JSON.parse(stdout) as { result: Manifest }).result, stderr }
}

const manifests = () => readdir(join(server.dir, 'store/test/main/catalog'))

test('an encrypted base: its script asks for the key, refuses another one, and restores with it', async () => {
  const key = await ageKey(join(server.dir, 'key.txt'))
  const other = await ageKey(join(server.dir, 'other.txt'))
  for (const { path } of [key, other]) await run(['chown', server.cluster.osUser, path])
  const recipients = `encryption.recipients=["${key.recipient}"]`
  const { manifest } = await taken(recipients)
  expect(manifest.encrypted).toBe(true)
  const from = join(backups, manifest.label)
  const target = join(server.dir, 'decrypted')
  expect(await restoreByScript(server, from, ['--target', target])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('--identity FILE') as string,
  })
  const wrong = ['--target', join(server.dir, 'wrong'), '--identity', other.path]
  expect(await restoreByScript(server, from, wrong)).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('could not be unpacked') as string,
  })
  const right = ['--target', target, '--identity', key.path]
  expect(await restoreByScript(server, from, right)).toMatchObject({ code: 0 })
  expect(await queryRestored(server, target, 'select count(*) from t')).toEqual(['5000'])
})

test('a tablespace within the data directory, which PostgreSQL 15 leaves out of its stream: refused', async () => {
  await server.query('postgres', `create tablespace inside location ''`)
  try {
    const { code, stderr } = await take()
    expect([code, stderr]).toEqual([55, expect.stringContaining('tablespace "inside"')])
  } finally {
    await server.query('postgres', 'drop tablespace inside')
  }
})

test('a pg_wal that is a link to elsewhere: the WAL is in the backup, and it restores', async () => {
  await server.cluster.stop()
  const { dataDir, osUser: as } = server.cluster
  const elsewhere = join(server.dir, 'wal elsewhere')
  await run(['mv', join(dataDir, 'pg_wal'), elsewhere], { as })
  await run(['ln', '-s', elsewhere, join(dataDir, 'pg_wal')], { as })
  await server.cluster.start()
  const { manifest } = await taken()
  const target = join(server.dir, 'with wal')
  const from = join(backups, manifest.label)
  expect(await restoreByScript(server, from, ['--target', target])).toMatchObject({ code: 0 })
  expect(await queryRestored(server, target, 'select count(*) from t')).toEqual(['5000'])
})

test('a server that ends idle sessions: the connection that holds the WAL lives on through a slow take', async () => {
  const { manifest } = await taken('backup.full.rate_limit=1MB')
  expect(Date.parse(manifest.ended) - Date.parse(manifest.begun)).toBeGreaterThan(1500)
  expect(await readFile(join(server.cluster.socketDir, 'server.log'), 'utf8')).not.toContain(
    'terminating connection due to idle-session timeout',
  )
})

test('the server stops in mid-take: no manifest, no file is left, and the next take succeeds', async () => {
  const [before, files] = [await manifests(), await readdir(backups)]
  let stopped: Promise<void> | undefined
  const taking = runScript(['backup', 'take', 'full', '-c', file, 'backup.full.rate_limit=300kB'], {
    onStart: () => {
      stopped = (async () => {
        const isStreaming = `select from pg_stat_activity where backend_type = 'walsender' and query ~ '^BASE_BACKUP'`
        for (
          let tries = 0;
          (await server.query('postgres', isStreaming)).length === 0 && tries < 500;
          tries++
        )
          await sleep(20)
        await run(
          [
            join(server.cluster.bindir, 'pg_ctl'),
            '-s',
            '-D',
            server.cluster.dataDir,
            '-m',
            'immediate',
            'stop',
          ],
          { as: server.cluster.osUser },
        )
      })()
    },
  })
  const { code, stderr } = await taking
  await stopped
  expect([code, stderr]).toEqual([55, expect.stringMatching(/broke off the backup/)])
  expect(await manifests()).toEqual(before)
  expect(await readdir(backups)).toEqual(files)
  await server.cluster.start()
  await taken()
})

test('a page whose checksum is wrong: the backup is kept, says so, and the user is warned', async () => {
  await server.query('postgres', 'create table broken as select i from generate_series(1, 2000) i')
  const [row] = await server.query<{ path: string }>(
    'postgres',
    `select pg_relation_filepath('broken') as path`,
  )
  await server.cluster.stop()
  const handle = await open(join(server.cluster.dataDir, row!.path), 'r+')
  await handle.write('x', 4000)
  await handle.close()
  await server.cluster.start()
  const { manifest, stderr } = await taken()
  expect(manifest.physical).toMatchObject({ hasBadChecksums: true })
  expect(stderr).toMatch(/verification failed in file .*pages of .* have wrong checksums/s)
  const { stdout } = await runScript(['backup', 'show', manifest.label, '-c', file])
  expect(stdout).toMatch(/^checksums +WRONG ON SOME PAGES$/m)
})

test('too few of max_wal_senders are free: said before a byte is read', async () => {
  await server.query('postgres', 'alter system set max_wal_senders = 1')
  await server.cluster.restart()
  const { code, stderr } = await take()
  expect([code, stderr]).toEqual([55, expect.stringContaining('1 of max_wal_senders are free, 2 needed')])
})
