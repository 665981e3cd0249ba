import { readdir } from 'node:fs/promises'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { RestorePhase } from '../../scripts/backup/restore.ts'
import { type BackupHost, backupHost } from '../support/backup.ts'
import { ROOT } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let host: BackupHost

beforeAll(async () => {
  server = await startServer()
  await server.query('postgres', 'create database app')
  await server.query(
    'app',
    `create table t (x text); insert into t select md5(i::text) from generate_series(1, 100000) i`,
  )
  host = await backupHost(server, 'databases = ["app"]')
  await host.take()
  await server.query('app', `update t set x = 'newer than the backup'`)
})

afterAll(() => server[Symbol.asyncDispose]())

const PHASES: readonly RestorePhase[] = [
  'planned',
  'created',
  'filled',
  'analyzed',
  'decided',
  'swapped',
  'dropped',
]

/** A restore that puts the backup in the place of the database and is killed as soon as it has done something. */
async function killAt(phase: RestorePhase | 'copying'): Promise<void> {
  const script = `
    import { loadHost } from '${ROOT}/scripts/cluster/open.ts'
    import { restoreDatabase } from '${ROOT}/scripts/backup/restore.ts'
    const { host } = await loadHost(${JSON.stringify(host.file)})
    const die = () => process.kill(process.pid, 'SIGKILL')
    let bytes = 0
    await restoreDatabase(
      { host, request: { database: 'app', as: undefined, swap: true, dropOld: true }, choice: { label: 'latest' } },
      {
        onPhase: (phase) => phase === '${phase}' && die(),
        onBytes: (count) => '${phase}' === 'copying' && (bytes += count) > 1_000_000 && die(),
      },
    )`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const [, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  expect(signal).toBe('SIGKILL')
}

const names = async () =>
  (
    await server.query<{ name: string }>(
      'postgres',
      `select datname::text as name from pg_database where datname like 'app%' order by 1`,
    )
  ).map(({ name }) => name)

const journals = () => readdir(join(server.dir, 'state/journal'))

const isRestored = async () => {
  const [row] = await server.query<{ count: string }>(
    'app',
    `select count(*) from t where x <> 'newer than the backup'`,
  )
  return row!.count === '100000'
}

test.each(['copying' as const, ...PHASES])(
  'restore killed with SIGKILL when it has %s: the database is there, old or new; the next restore ends with the same state',
  async (phase) => {
    await server.query('app', `update t set x = 'newer than the backup'`)
    await killAt(phase)
    expect(await names()).toContain('app')
    expect(await isRestored()).toBe(phase === 'swapped' || phase === 'dropped')
    expect(await journals()).toHaveLength(1)

    const again = await host.restore('database', 'app', '--swap', '--drop-old', '--allow', 'deletes-data')
    expect(again.code).toBe(0)
    expect(again.stderr).toMatch(/^restore: a restore of "app" (did not end: |ended without a last word)/)
    expect(await names()).toEqual(['app'])
    expect(await isRestored()).toBe(true)
    expect(await journals()).toEqual([])
  },
)

test('scratch database of a restore that died: "restore clean" drops it, once', async () => {
  await killAt('copying')
  expect((await names()).filter((name) => name !== 'app')).toHaveLength(1)
  const plan = await host.restore('clean', '--plan')
  expect(plan).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/to database "app": .* would be removed/),
  })
  expect(await names()).toHaveLength(2)
  expect((await host.restore('clean')).stdout).toMatch(/to database "app": .* was removed/)
  expect(await names()).toEqual(['app'])
  expect((await host.restore('clean')).stdout).toBe('nothing was left\n')
})

test('scratch database of a restore that died: no part of the next backup of all databases', async () => {
  await killAt('filled')
  expect(await names()).toEqual(['app', expect.stringMatching(/^app_restored_/)])
  const all = await backupHost(server)
  expect((await all.take()).databases.map(({ name }) => name)).toEqual(['app', 'postgres', 'template1'])
  expect((await host.restore('database', 'app', '--as', 'app2')).code).toBe(0)
  expect(await names()).toEqual(['app', 'app2'])
  await server.query('postgres', 'drop database app2')
})

test('restore that dies while another cluster has a journal in the same folder: that one is left alone', async () => {
  await killAt('created')
  await using other = await startServer()
  await other.query('postgres', 'create database app')
  await other.query('app', 'create table t (x int)')
  const theirs = await backupHost(other, 'databases = ["app"]')
  await theirs.take()
  const before = await names()
  const shared = `host.state_dir=${join(server.dir, 'state')}`
  const { code, stderr } = await theirs.restore('database', 'app', '--as', 'app2', shared)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(await names()).toEqual(before)
  expect(await journals()).toHaveLength(1)
  expect((await host.restore('database', 'app', '--as', 'app3')).stderr).toContain('its scratch database')
  expect(await names()).toEqual(['app', 'app3'])
})
