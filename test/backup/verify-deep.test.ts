import { createHash } from 'node:crypto'
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Manifest, renderManifest } from '../../scripts/backup/manifest.ts'
import { isSegmentName } from '../../scripts/backup/wal/segment.ts'
import { openWalStore } from '../../scripts/backup/wal/wal-store.ts'
import { run } from '../../scripts/core/exec.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { backupHost } from '../support/backup.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { craft, type Crafted, flip } from './crafted.ts'
import { problemsOf, TOML, verified } from './verified.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer({ initdb: ['--wal-segsize=1'] })
  await server.query('postgres', 'create database app')
  await server.query('app', 'create table t as select i, md5(i::text) from generate_series(1, 5000) i')
})

afterAll(() => server[Symbol.asyncDispose]())

describe('deep', () => {
  /** Writes a manifest again that knows of the files as they are now, as a writer of damaged ones would. */
  async function signAgain(folder: string, manifest: Manifest): Promise<void> {
    const files = await Promise.all(
      manifest.files.map(async ({ name, plainSize, plainSha256, ...file }) => {
        const bytes = await readFile(join(folder, 'backup', manifest.label, name))
        const sha256 = createHash('sha256').update(bytes).digest('hex')
        const plain = sha256 === file.sha256 ? { plainSize, plainSha256 } : {}
        return { name, size: bytes.length, sha256, ...plain }
      }),
    )
    await writeFile(join(folder, 'catalog', `${manifest.label}.json`), renderManifest({ ...manifest, files }))
  }

  test('dump whose hash is right and whose content is none: shallow sees nothing, deep finds it', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const manifest = await host.take()
    const folder = join(host.store, 'test/main')
    const both = { run: (...args: readonly string[]) => host.backup(...args) }
    expect(await verified(both, '--deep')).toMatchObject({ ok: true, backups: [{ deep: true }] })
    const path = join(folder, 'backup', manifest.label, 'app.dump.zst')
    await run(['sh', '-c', 'echo this is no dump | zstd -q -f -o "$1"', 'sh', path])
    await signAgain(folder, manifest)
    expect((await verified(both)).ok).toBe(true)
    expect(problemsOf(await verified(both, '--deep'))).toEqual([expect.stringContaining('pg_restore')])
    expect(await readdir(join(server.dir, 'state'))).not.toContain('verify')
  })

  /** A base backup with a tablespace, by pg_basebackup, in a store. */
  async function realBase(host: Crafted): Promise<Manifest> {
    const dir = join(server.dir, `base-${Date.now()}`)
    await run(['install', '-d', '-o', server.cluster.osUser, dir])
    const client = server.cluster.clientArguments('postgres').argv.slice(0, -2)
    await run(
      [
        join(server.cluster.bindir, 'pg_basebackup'),
        ...client,
        '-D',
        dir,
        '-Ft',
        '-X',
        'fetch',
        '-c',
        'fast',
        '--manifest-checksums=SHA256',
      ],
      { as: server.cluster.osUser },
    )
    const made = await host.base(0.001, 1)
    await rm(join(host.folder, 'backup', made.label), { recursive: true })
    await mkdir(join(host.folder, 'backup', made.label))
    const names = await readdir(dir)
    const files = await Promise.all(
      names.map(async (name) => {
        const to = join(host.folder, 'backup', made.label, `${name}.zst`)
        await run(['zstd', '-q', join(dir, name), '-o', to])
        const sha256 = createHash('sha256')
          .update(await readFile(to))
          .digest('hex')
        return { name: `${name}.zst`, size: (await stat(to)).size, sha256 }
      }),
    )
    const ranges = JSON.parse(await readFile(join(dir, 'backup_manifest'), 'utf8')) as {
      'WAL-Ranges': { 'Start-LSN': string; 'End-LSN': string }[]
    }
    const [range] = ranges['WAL-Ranges']
    const oid = names.find((name) => /^\d+\.tar$/.test(name))!.replace('.tar', '')
    const manifest: Manifest = {
      ...made,
      files,
      postgres: { version: '', major: server.major },
      physical: {
        ...made.physical!,
        startLsn: range!['Start-LSN'],
        stopLsn: range!['End-LSN'],
        file: 'base.tar.zst',
        tablespaces: [{ oid, name: 'extra', location: '', size: 1, file: `${oid}.tar.zst` }],
        dataSize: 50_000_000,
      },
    }
    await writeFile(join(host.folder, 'catalog', `${made.label}.json`), renderManifest(manifest))
    return manifest
  }

  /** Ships the WAL that the server has. */
  async function shipWal(host: Crafted): Promise<string[]> {
    await server.query('postgres', 'select pg_switch_wal()')
    await server.query('postgres', 'checkpoint')
    const [row] = await server.query<{ name: string }>(
      'postgres',
      'select pg_walfile_name(pg_current_wal_lsn()) as name',
    )
    const wal = openWalStore({
      store: dirStore(join(host.folder, '../..')),
      prefix: `test/main/wal/${host.systemIdentifier}/`,
      level: 1,
    })
    const names = (await readdir(join(server.cluster.dataDir, 'pg_wal'))).filter(isSegmentName).sort()
    const whole = names.filter((name) => name < row!.name)
    for (const name of whole) await wal.put(name, join(server.cluster.dataDir, 'pg_wal', name))
    return whole
  }

  async function deepHost(): Promise<{ host: Crafted; manifest: Manifest; segments: string[] }> {
    const host = await craft(server, TOML)
    const manifest = await realBase(host)
    await server.query(
      'app',
      'create table if not exists more (x text); insert into more select md5(i::text) from generate_series(1, 20000) i',
    )
    return { host, manifest, segments: await shipWal(host) }
  }

  beforeAll(async () => {
    await run(['install', '-d', '-o', server.cluster.osUser, join(server.dir, 'extra')])
    await server.query('postgres', `create tablespace extra location '${join(server.dir, 'extra')}'`)
    await server.query('app', 'create table far tablespace extra as select i from generate_series(1, 1000) i')
    await server.query('postgres', `alter system set wal_keep_size = '64MB'`)
    await server.query('postgres', 'select pg_reload_conf()')
  })

  test('base backup with a tablespace, and its WAL: unpacked, proven by pg_verifybackup and pg_waldump, nothing is left', async () => {
    const { host, segments } = await deepHost()
    const found = await verified(host, '--deep')
    expect(problemsOf(found)).toEqual([])
    expect(found).toMatchObject({ backups: [{ deep: true }], wal: [{ deep: true, last: segments.at(-1) }] })
    expect(await server.query('app', 'select count(*)::int as count from far')).toEqual([{ count: 1000 }])
  })

  test('base backup whose files differ from its backup_manifest: shallow sees nothing, pg_verifybackup finds it', async () => {
    const { host, manifest } = await deepHost()
    const tar = join(host.folder, 'backup', manifest.label, manifest.physical!.tablespaces[0]!.file)
    await run([
      'sh',
      '-c',
      'd=$(mktemp -d) && cd "$d" && zstd -dqc "$1" | tar x && f=$(find . -type f -size +8k | head -1) && printf X | dd of="$f" bs=1 seek=5000 conv=notrunc status=none && tar c * | zstd -qf -o "$1" && rm -r "$d"',
      'sh',
      tar,
    ])
    await signAgain(host.folder, manifest)
    expect((await verified(host)).ok).toBe(true)
    const found = await verified(host, '--deep')
    expect(found.backups[0]!.problems).toEqual([expect.stringContaining('checksum mismatch')])
    expect(found.restorable).toEqual([])
  })

  test('segment with a flipped bit, under a foreign name, and with wrong records: shallow sees nothing, deep finds each', async () => {
    const { host, segments } = await deepHost()
    const folder = join(host.folder, 'wal', host.systemIdentifier, '00000001')
    const name = segments.at(-2)!
    const path = join(folder, `${name}.zst`)
    const hash = join(folder, `${name}.sha256`)
    const keep = { body: await readFile(path), hash: await readFile(hash) }
    await flip(path)
    expect((await verified(host)).ok).toBe(true)
    expect(problemsOf(await verified(host, '--deep'))).toEqual([expect.stringContaining(`WAL ${name}: `)])

    const other = segments.at(-1)!
    await copyFile(join(folder, `${other}.zst`), path)
    await copyFile(join(folder, `${other}.sha256`), hash)
    expect(problemsOf(await verified(host, '--deep'))).toEqual([expect.stringContaining('its name says')])

    await writeFile(path, keep.body)
    const plain = join(server.dir, 'plain')
    await run(['zstd', '-dqf', path, '-o', plain])
    const bytes = await readFile(plain)
    bytes.fill(0x55, 8192 + 100, 8192 + 4000)
    await writeFile(plain, bytes)
    await run(['zstd', '-qf', plain, '-o', path])
    await writeFile(hash, `${createHash('sha256').update(bytes).digest('hex')}  ${name}\n`)
    expect((await verified(host)).ok).toBe(true)
    expect(problemsOf(await verified(host, '--deep'))).toEqual([expect.stringContaining('pg_waldump')])
    await rename(plain, `${plain}.old`)
  })

  describe('encrypted base backup with a tablespace, as it is taken', () => {
    const key = async (name: string) => {
      const path = join(server.dir, name)
      await rm(path, { force: true })
      await run(['age-keygen', '-o', path])
      return { path, recipient: (await run(['age-keygen', '-y', path])).stdout.trim() }
    }

    test('without the key its bytes are looked at, with it its contents, and another key is told', async () => {
      const right = await key('right.key')
      const wrong = await key('wrong.key')
      const job = '[backup.full]\nkind = "base"\nstore = "local"\n'
      const host = await craft(server, `${job}[encryption]\nrecipients = ["${right.recipient}"]\n`)
      const { label, encrypted } = await host.result<Manifest>('take', 'full')
      expect(encrypted).toBe(true)
      const shallow = await verified(host)
      expect(shallow).toMatchObject({ ok: true, restorable: [label] })
      expect(shallow.notes).toEqual([expect.stringContaining('were not looked at')])
      expect((await host.run('verify', '--deep')).code).toBe(62)
      expect((await host.run('verify', '--deep', '--identity', wrong.path)).code).toBe(62)
      expect(await verified(host, '--deep', '--identity', right.path)).toMatchObject({
        ok: true,
        backups: [{ deep: true }],
        notes: [],
      })
    })
  })

  test('no room in the state folder: no-space, before anything is unpacked', async () => {
    const { host, manifest } = await deepHost()
    const physical = { ...manifest.physical!, dataSize: 1e15 }
    await writeFile(
      join(host.folder, 'catalog', `${manifest.label}.json`),
      renderManifest({ ...manifest, physical }),
    )
    expect((await host.run('verify', '--deep')).code).toBe(57)
  })
})
