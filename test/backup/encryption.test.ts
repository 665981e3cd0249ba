import { chmod, chown, copyFile, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { userId } from '../../scripts/cluster/connect.ts'
import { run, type RunResult } from '../../scripts/core/exec.ts'
import { type AgeKey, ageKey } from '../support/age.ts'
import { type BackupHost, backupHost } from '../support/backup.ts'
import type { ScriptResult } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

/** All that restore.sh may use: no Node, no Howdah. */
const PROGRAMS = ['sh', 'dirname', 'sha256sum', 'zstd', 'age', 'grep', 'mktemp', 'rm', 'cat']
const POSTGRES = ['psql', 'pg_restore']

const isRoot = process.getuid?.() === 0
const MARKER = 'a text that must not be read'

let source: TestServer
let host: BackupHost
let manifest: Manifest
/** Of the backup. */
let folder: string
let alice: AgeKey
let bob: AgeKey
let eve: AgeKey

beforeAll(async () => {
  source = await startServer()
  ;[alice, bob, eve] = [await keyFor('alice'), await keyFor('bob'), await keyFor('eve')]
  await source.query('postgres', `create role app login password 'sehr geheim'`)
  await source.query('postgres', 'create database app owner app')
  await source.query(
    'app',
    `create table t as select i, md5(i::text) || '${MARKER}' as x from generate_series(1, 20000) i; alter table t owner to app`,
  )
  await source.query('postgres', 'create table in_postgres as select 1 as x')
  host = await encryptedHost()
  manifest = await host.take()
  folder = join(host.store, 'test/main/backup', manifest.label)
})

afterAll(() => source[Symbol.asyncDispose]())

/** A key that the server's OS user may read: it runs restore.sh. */
async function keyFor(name: string): Promise<AgeKey> {
  const key = await ageKey(join(source.dir, name))
  if (isRoot) await chown(key.path, userId('postgres').uid, userId('postgres').gid)
  return key
}

/** A host whose file has public keys only, unless more is said. */
function encryptedHost(more = ''): Promise<BackupHost> {
  return backupHost(source, `[encryption]\nrecipients = ["${alice.recipient}", "${bob.recipient}"]\n${more}`)
}

const hash = (server: TestServer, database: string) =>
  server.query(database, `select md5(string_agg(t::text, '|' order by i)) as hash from t`)

const databases = async (server: TestServer) =>
  (
    await server.query<{ name: string }>(
      'postgres',
      'select datname::text as name from pg_database order by 1',
    )
  ).map(({ name }) => name)

const restoreAs = (name: string, ...args: string[]): Promise<ScriptResult> =>
  host.restore('database', 'app', '--as', name, ...args)

describe('encrypted dump', () => {
  test('every file but those that a finder needs is encrypted, and nothing of the rows is in clear', async () => {
    expect(manifest.encrypted).toBe(true)
    const plain = manifest.files.map(({ name }) => name).filter((name) => !name.endsWith('.zst.age'))
    expect(plain.toSorted()).toEqual(['RESTORE.md', 'SHA256SUMS', 'restore.sh'])
    for (const { name } of manifest.files.filter(({ name }) => name.endsWith('.age'))) {
      const head = (await readFile(join(folder, name))).subarray(0, 21)
      expect([name, head.toString('latin1')]).toEqual([name, 'age-encryption.org/v1'])
    }
    const { code } = await run(['grep', '-rq', '-e', MARKER, '-e', 'SCRAM-SHA-256', host.store], {
      okCodes: [0, 1],
    })
    expect(code).toBe(1)
  })

  test('a stolen host with its host file only: it cannot read its own backups, and nothing is changed', async () => {
    const before = await databases(source)
    for (const args of [[], ['--plan']]) {
      const { code, stderr } = await restoreAs('stolen', ...args)
      expect(code).toBe(62)
      expect(stderr).toContain('--identity FILE')
    }
    expect(await databases(source)).toEqual(before)
  })

  test('the key of somebody else: wrong-key, nothing is changed, and no key is printed', async () => {
    const before = await databases(source)
    const { code, stdout, stderr } = await restoreAs('mine', '--identity', eve.path)
    expect(code).toBe(62)
    expect(stdout + stderr).not.toContain('AGE-SECRET-KEY')
    expect(await databases(source)).toEqual(before)
  })

  test('a key file that holds no key: wrong-key; one that is missing: secret', async () => {
    const path = join(source.dir, 'public')
    await writeFile(path, alice.recipient)
    expect((await restoreAs('mine', '--identity', path)).code).toBe(62)
    expect((await restoreAs('mine', '--identity', join(source.dir, 'nowhere'))).code).toBe(12)
  })

  test('several recipients: the key of each restores it, and no key is in the arguments of any program', async () => {
    const expected = await hash(source, 'app')
    for (const [name, key] of [
      ['by_alice', alice],
      ['by_bob', bob],
    ] as const) {
      const seen: string[] = []
      let isDone = false
      const looking = (async () => {
        while (!isDone) {
          for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry)))
            seen.push(await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''))
        }
      })()
      const { code, stdout, stderr } = await restoreAs(name, '--identity', key.path)
      isDone = true
      await looking
      expect([code, stderr]).toEqual([0, ''])
      expect(stdout).not.toContain(key.secret)
      expect(seen.filter((text) => text.includes(key.secret))).toEqual([])
      expect(seen.some((text) => text.includes(key.path))).toBe(true)
      expect(await hash(source, name)).toEqual(expected)
    }
  })

  test('a host that is to read its own: the identity of its host file is enough', async () => {
    const own = await encryptedHost(`identity = { file = "${alice.path}" }`)
    await own.take()
    const { code, stderr } = await own.restore('database', 'app', '--as', 'by_host')
    expect([code, stderr]).toEqual([0, ''])
    expect(await hash(source, 'by_host')).toEqual(await hash(source, 'app'))
  })

  test('an identity that is no file: no copy of it is left', async () => {
    const own = await encryptedHost(`identity = { command = ["cat", "${alice.path}"] }`)
    await own.take()
    expect((await own.restore('database', 'app', '--as', 'by_command')).code).toBe(0)
    const { code } = await run(['grep', '-rlqs', alice.secret, '/dev/shm'], { okCodes: [0, 1] })
    expect(code).toBe(1)
  })

  test('one in clear on a host whose identity is gone: restores all the same', async () => {
    const clear = await backupHost(source)
    await clear.take()
    const text = await readFile(clear.file, 'utf8')
    const encryption = `[encryption]\nrecipients = ["${alice.recipient}"]\nidentity = { file = "/nowhere/key" }\n`
    await writeFile(clear.file, text + encryption)
    expect((await clear.restore('database', 'app', '--as', 'from_clear')).code).toBe(0)
  })

  test.each<[string, (bytes: Buffer) => Buffer]>([
    ['a flipped byte', (bytes) => Buffer.from(bytes.with(bytes.length >> 1, bytes[bytes.length >> 1]! ^ 1))],
    ['a flipped byte where it names its recipient', (bytes) => Buffer.from(bytes.with(40, bytes[40]! ^ 1))],
    ['its second half missing', (bytes) => bytes.subarray(0, bytes.length >> 1)],
  ])('%s: backup-damaged, and no database is left', async (_name, damage) => {
    const before = await databases(source)
    const file = join(folder, 'app.dump.zst.age')
    const bytes = await readFile(file)
    await writeFile(file, damage(bytes))
    try {
      expect((await restoreAs('broken', '--identity', alice.path)).code).toBe(54)
      expect(await databases(source)).toEqual(before)
    } finally {
      await writeFile(file, bytes)
    }
  })
})

describe('encrypted dump by hand', () => {
  /** Runs the script of the backup against a server, with nothing on the PATH but what it says it needs. */
  async function byHand(target: TestServer, ...args: readonly string[]): Promise<RunResult> {
    const bin = await programs(target)
    const variables = [`PATH=${bin}`, `PGHOST=${target.cluster.socketDir}`, 'PGUSER=postgres']
    const argv = ['env', '-i', ...variables, join(bin, 'sh'), join(folder, 'restore.sh'), ...args]
    return run(argv, { as: isRoot ? 'postgres' : undefined, okCodes: [0, 1, 2] })
  }

  async function programs(target: TestServer): Promise<string> {
    const bin = join(target.dir, 'bin')
    await mkdir(bin, { recursive: true })
    const there = new Set(await readdir(bin))
    for (const name of [...PROGRAMS, ...POSTGRES].filter((name) => !there.has(name))) {
      const { stdout } = await run(['sh', '-c', 'command -v "$1"', 'sh', name])
      await symlink(
        POSTGRES.includes(name) ? join(target.cluster.bindir, name) : stdout.trim(),
        join(bin, name),
      )
    }
    await chmod(bin, 0o755)
    return bin
  }

  const emptiness = `select (select count(*)::int from pg_roles where rolname = 'app') as roles,
    (select count(*)::int from pg_database where datname = 'app') as databases, to_regclass('in_postgres') is null as is_clean`
  const EMPTY = [{ roles: 0, databases: 0, is_clean: true }]

  test('restore.sh with the key, without Node: roles with their passwords and all databases are back', async () => {
    await using target = await startServer()
    const { code, stderr } = await byHand(target, '--identity', alice.path)
    expect([code, stderr]).toEqual([0, expect.stringContaining('restoring app.dump.zst.age')])
    expect(await hash(target, 'app')).toEqual(await hash(source, 'app'))
    expect(await target.query('postgres', 'select x from in_postgres')).toEqual([{ x: 1 }])
    const verifier = `select rolpassword from pg_authid where rolname = 'app'`
    expect(await target.query('postgres', verifier)).toEqual(await source.query('postgres', verifier))
  })

  test('restore.sh of one file: that database only', async () => {
    await using target = await startServer()
    await target.query('postgres', 'create role app')
    const { code } = await byHand(target, '--identity', bob.path, '--no-globals', 'app.dump.zst.age')
    expect(code).toBe(0)
    expect(await hash(target, 'app')).toEqual(await hash(source, 'app'))
    expect(await target.query('postgres', `select to_regclass('in_postgres') is null as is_clean`)).toEqual([
      { is_clean: true },
    ])
  })

  test('restore.sh with a wrong key, none, a missing file, a misspelt option: it fails and restores nothing', async () => {
    await using target = await startServer()
    for (const args of [
      ['--identity', eve.path],
      [],
      ['--identity', join(source.dir, 'nowhere')],
      ['--identity'],
      ['--identiy', alice.path],
      ['--identity', alice.path, 'nothing.dump.zst.age'],
      ['--identity', eve.path, '--no-globals', 'app.dump.zst.age'],
    ]) {
      const { code, stderr } = await byHand(target, ...args)
      expect([args, code]).toEqual([args, args.length === 1 && args[0] === '--identity' ? 2 : 1])
      expect(stderr).not.toContain('done')
      expect(stderr).not.toContain('AGE-SECRET-KEY')
      expect(await target.query('postgres', emptiness)).toEqual(EMPTY)
    }
  })

  test('restore.sh --check: needs no key', async () => {
    expect(await byHand(source, '--check')).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('every file is as it was written'),
    })
  })

  test('restore.sh where age dies midway of roles after good output: it does not look like a good end', async () => {
    await using target = await startServer()
    const bin = await programs(target)
    const { stdout } = await run(['sh', '-c', 'command -v age'])
    await run(['rm', join(bin, 'age')])
    // The first call proves the key; the second one ends its output well and then fails.
    const script = `#!/bin/sh\n${stdout.trim()} "$@" || exit\n[ -e ${target.dir}/second ] && exit 1\n: >${target.dir}/second\n`
    await writeFile(join(bin, 'age'), script, { mode: 0o755 })
    const { code, stderr } = await byHand(target, '--identity', alice.path)
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining('globals.sql.zst.age could not be read to its end'),
    ])
    expect(await target.query('postgres', emptiness)).toEqual([{ roles: 1, databases: 0, is_clean: true }])
  })

  test('RESTORE.md: its line of decryption, pasted, restores a database', async () => {
    const text = await readFile(join(folder, 'RESTORE.md'), 'utf8')
    expect(text).toContain('sh restore.sh --identity KEY.txt')
    expect(text).toContain(`howdah restore database NAME --backup ${manifest.label} --identity KEY.txt`)
    const line = /^ {4}(age --decrypt .*)$/m.exec(text)![1]!
    await using target = await startServer()
    await target.query('postgres', 'create role app')
    const key = join(target.dir, 'KEY.txt')
    await copyFile(alice.path, key)
    if (isRoot) await chown(key, userId('postgres').uid, userId('postgres').gid)
    const command = line.replace('KEY.txt', key).replace('NAME', 'app')
    const { bindir, socketDir } = target.cluster
    await run(
      [
        'env',
        `PATH=${bindir}:/usr/bin:/bin`,
        `PGHOST=${socketDir}`,
        'sh',
        '-ec',
        `cd ${folder} && ${command}`,
      ],
      {
        as: isRoot ? 'postgres' : undefined,
      },
    )
    expect(await hash(target, 'app')).toEqual(await hash(source, 'app'))
  })
})
