import { chmod, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { run, type RunResult } from '../../scripts/core/exec.ts'
import { type BackupHost, backupHost } from '../support/backup.ts'
import { startServer, type TestServer } from '../support/server.ts'

/** All that restore.sh may use: no Node, no Howdah. */
const PROGRAMS = ['sh', 'dirname', 'sha256sum', 'zstd', 'grep', 'mktemp', 'rm', 'cat']
const POSTGRES = ['psql', 'pg_restore']

let source: TestServer
let host: BackupHost
let manifest: Manifest
let folder: string

beforeAll(async () => {
  source = await startServer()
  await source.query('postgres', `create role app login password 'sehr geheim'`)
  await source.query('postgres', 'create database "with space" owner app')
  await source.query(
    'with space',
    `create table t as select i, md5(i::text) as x from generate_series(1, 20000) i; alter table t owner to app`,
  )
  await source.query('postgres', `alter database "with space" set work_mem = '5MB'`)
  await source.query('postgres', 'create table in_postgres as select 1 as x')
  host = await backupHost(source)
  manifest = await host.take()
  folder = join(host.store, 'test/main/backup', manifest.label)
})

afterAll(() => source[Symbol.asyncDispose]())

/** Runs the script of the backup against a server, with nothing on the PATH but what it says it needs. */
async function byHand(target: TestServer, ...args: readonly string[]): Promise<RunResult> {
  const bin = join(target.dir, 'bin')
  await mkdir(bin, { recursive: true })
  const missing = new Set([...PROGRAMS, ...POSTGRES])
  for (const name of await readdir(bin)) missing.delete(name)
  for (const name of missing) {
    const { stdout } = await run(['sh', '-c', 'command -v "$1"', 'sh', name])
    await symlink(
      POSTGRES.includes(name) ? join(target.cluster.bindir, name) : stdout.trim(),
      join(bin, name),
    )
  }
  await chmod(bin, 0o755)
  const variables = [`PATH=${bin}`, `PGHOST=${target.cluster.socketDir}`, 'PGUSER=postgres']
  const shell = join(bin, 'sh')
  const argv = ['env', '-i', ...variables, shell, join(folder, 'restore.sh'), ...args]
  return run(argv, { as: process.getuid?.() === 0 ? 'postgres' : undefined, okCodes: [0, 1, 2] })
}

test('restore.sh without Node and Howdah: roles with their passwords and all databases are back', async () => {
  await using target = await startServer()
  expect(await byHand(target)).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('restoring with%20space.dump.zst'),
  })
  const query = `select md5(string_agg(t::text, '|' order by i)) as hash from t`
  expect(await target.query('with space', query)).toEqual(await source.query('with space', query))
  expect(
    await target.query(
      'with space',
      `select current_setting('work_mem') as work_mem, tableowner::text from pg_tables where tablename = 't'`,
    ),
  ).toEqual([{ work_mem: '5MB', tableowner: 'app' }])
  expect(await target.query('postgres', 'select x from in_postgres')).toEqual([{ x: 1 }])
  const verifier = `select rolpassword from pg_authid where rolname = 'app'`
  expect(await target.query('postgres', verifier)).toEqual(await source.query('postgres', verifier))
})

test('restore.sh of one file: that database only', async () => {
  await using target = await startServer()
  await target.query('postgres', 'create role app')
  expect((await byHand(target, '--no-globals', 'with%20space.dump.zst')).code).toBe(0)
  expect(await target.query('with space', 'select count(*)::int as count from t')).toEqual([
    { count: 20_000 },
  ])
  expect(await target.query('postgres', `select from pg_tables where tablename = 'in_postgres'`)).toEqual([])
})

test('restore.sh where the database exists: it fails, and that database is not written to', async () => {
  await using target = await startServer()
  await target.query('postgres', 'create role app')
  await target.query('postgres', 'create database "with space"')
  const { code, stderr } = await byHand(target, '--no-globals', 'with%20space.dump.zst')
  expect(code).toBe(1)
  expect(stderr).toContain('database "with space" already exists')
  expect(await target.query('with space', `select from pg_tables where schemaname = 'public'`)).toEqual([])
})

test('restore.sh where roles cannot be made: it fails with the words of the server, before any database', async () => {
  await using target = await startServer()
  await target.query('postgres', 'create role weak login createdb createrole')
  await target.query('postgres', `alter database postgres owner to weak`)
  const hba = join(target.cluster.dataDir, 'pg_hba.conf')
  await writeFile(hba, `local all all trust\n`)
  await target.query('postgres', 'select pg_reload_conf()').catch(() => {})
  const bin = await byHandAs(target, 'weak')
  expect(bin.code).toBe(1)
  expect(bin.stderr).toMatch(/permission denied/)
  expect(await target.query('postgres', `select from pg_database where datname = 'with space'`)).toEqual([])
})

async function byHandAs(target: TestServer, role: string): Promise<RunResult> {
  await byHand(target, '--check')
  const bin = join(target.dir, 'bin')
  const variables = [`PATH=${bin}`, `PGHOST=${target.cluster.socketDir}`, `PGUSER=${role}`]
  return run(['env', '-i', ...variables, join(bin, 'sh'), join(folder, 'restore.sh')], {
    as: process.getuid?.() === 0 ? 'postgres' : undefined,
    okCodes: [0, 1, 2],
  })
}

test('restore.sh --check: says that every file is right; with one flipped byte it says which is not, and nothing is restored', async () => {
  await using target = await startServer()
  expect(await byHand(target, '--check')).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('every file is as it was written'),
  })
  const file = join(folder, 'with%20space.dump.zst')
  const bytes = await readFile(file)
  const flipped = Buffer.from(bytes)
  flipped[flipped.length >> 1]! ^= 1
  await writeFile(file, flipped)
  try {
    for (const args of [['--check'], [], ['--no-globals', 'with%20space.dump.zst']]) {
      const { code, stdout } = await byHand(target, ...args)
      expect([code, stdout]).toEqual([1, 'with%20space.dump.zst: FAILED\n'])
    }
    expect(await target.query('postgres', `select from pg_roles where rolname = 'app'`)).toEqual([])
  } finally {
    await writeFile(file, bytes)
  }
})

test('RESTORE.md: names every database with its file, and the commands', async () => {
  const text = await readFile(join(folder, 'RESTORE.md'), 'utf8')
  expect(text).toContain('| with%20space.dump.zst | with space |')
  expect(text).toContain('sh restore.sh')
  expect(text).toContain(`howdah restore database NAME --backup ${manifest.label}`)
})
