import { createHash } from 'node:crypto'
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Manifest, renderManifest } from '../../scripts/backup/manifest.ts'
import type { Verified } from '../../scripts/backup/verify.ts'
import { isSegmentName } from '../../scripts/backup/wal/segment.ts'
import { openWalStore } from '../../scripts/backup/wal/wal-store.ts'
import { run } from '../../scripts/core/exec.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { backupHost } from '../support/backup.ts'
import { runCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { craft, type Crafted, flip } from './crafted.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer({ initdb: ['--wal-segsize=1'] })
  await server.query('postgres', 'create database app')
  await server.query('app', 'create table t as select i, md5(i::text) from generate_series(1, 5000) i')
})

afterAll(() => server[Symbol.asyncDispose]())

const TOML = `[backup.full]
kind = "base"
store = "local"
pitr = "7d"
[backup.nightly]
kind = "dump"
store = "local"
[archive]
store = "local"
`

async function verified(host: Pick<Crafted, 'run'>, ...args: string[]): Promise<Verified & { ok: boolean }> {
  const { code, stdout } = await host.run('verify', ...args, '--json')
  const document = JSON.parse(stdout) as { ok: boolean; result: Verified }
  expect(code).toBe(document.ok ? 0 : 1)
  return { ...document.result, ok: document.ok }
}

const problemsOf = ({ backups, wal, problems }: Verified) => [
  ...problems,
  ...[...backups, ...wal].flatMap(({ problems }) => problems),
]

const fileOf = (host: Crafted, { label, files }: Manifest, index = 0) =>
  join(host.folder, 'backup', label, files[index]!.name)

describe('files', () => {
  test('nothing wrong: everything is as it was written', async () => {
    const host = await craft(server, TOML)
    await host.dump(2)
    await host.base(1, 2)
    await host.wal(2, 4)
    const found = await verified(host)
    expect(problemsOf(found)).toEqual([])
    expect(found).toMatchObject({ ok: true, wal: [{ segments: 3 }] })
    expect(found.restorable).toEqual(await host.labels())
    expect((await host.run('verify')).stdout).toContain('everything is as it was written')
  })

  test.each<[string, (path: string) => Promise<unknown>, RegExp]>([
    ['with one bit turned over', flip, /SHA-256/],
    ['that is cut off', (path) => truncate(path, 100), /has 100 bytes/],
    ['that is longer', (path) => writeFile(path, 'x', { flag: 'a' }), /bytes, \d+ were written/],
    ['that is gone', (path) => rm(path), /is missing/],
  ])('file %s: found, the backup is not restorable, the other one is', async (_name, damage, message) => {
    const host = await craft(server, TOML)
    const bad = await host.dump(2)
    const good = await host.dump(1)
    await damage(fileOf(host, bad))
    const found = await verified(host)
    expect(found.ok).toBe(false)
    expect(problemsOf(found)).toEqual([expect.stringMatching(message)])
    expect(found.restorable).toEqual([good.label])
    expect((await host.run('verify')).stdout).toContain(`restorable: ${good.label}`)
  })

  test('one backup by its label, the latest, and of a job: the others are not looked at', async () => {
    const host = await craft(server, TOML)
    const bad = await host.dump(2)
    const good = await host.dump(1)
    const base = await host.base(3, 2)
    await host.wal(2, 2)
    await flip(fileOf(host, bad))
    expect(await verified(host, good.label)).toMatchObject({ ok: true, restorable: [good.label] })
    expect(await verified(host, 'latest')).toMatchObject({ ok: true, restorable: [good.label] })
    expect(await verified(host, '--job', 'full')).toMatchObject({ ok: true, restorable: [base.label] })
    expect(await verified(host, bad.label)).toMatchObject({ ok: false, restorable: [] })
    expect((await host.run('verify', '20200101T000000Z-dump-aaaaaa')).code).toBe(53)
    expect((await host.run('verify', 'latest', '--all')).code).toBe(2)
  })

  test('manifest that is no JSON, that is another backup’s, or of another cluster: found', async () => {
    const host = await craft(server, TOML)
    const one = await host.dump(3)
    const two = await host.dump(2)
    const three = await host.dump(1)
    const at = (label: string) => join(host.folder, 'catalog', `${label}.json`)
    await writeFile(at(one.label), '{')
    await copyFile(at(three.label), at(two.label))
    const found = await verified(host)
    expect(problemsOf(found)).toEqual([
      expect.stringContaining('is not JSON'),
      expect.stringContaining(`is that of ${three.label}`),
    ])
    await writeFile(at(three.label), renderManifest({ ...three, cluster: 'other/main' }))
    expect(problemsOf(await verified(host, three.label))).toEqual([
      expect.stringContaining('is of the cluster "other/main"'),
    ])
  })

  test('backup of another system among those of the owner: two clusters write to one place', async () => {
    const host = await craft(server, TOML)
    await host.dump(3, { systemIdentifier: '6000000000000000001' }) // before an upgrade
    await host.dump(2)
    expect((await verified(host)).ok).toBe(true)
    const foreign = await host.dump(1, { systemIdentifier: '6000000000000000002' })
    expect(problemsOf(await verified(host))).toEqual([
      expect.stringContaining(`backup ${foreign.label} is of the system 6000000000000000002`),
    ])
  })
})

test('backup that is pruned while it is looked at: no finding', async () => {
  const host = await craft(server, TOML)
  const staying = await host.dump(2)
  const going = await host.dump(1)
  const child = await runCode(`
    import { rmSync } from 'node:fs'
    import { loadHost } from 'scripts/cluster/open.ts'
    import { verify, isSound } from 'scripts/backup/verify.ts'
    const { host } = await loadHost(${JSON.stringify(host.file)})
    const gone = ${JSON.stringify([join(host.folder, 'catalog', `${going.label}.json`), join(host.folder, 'backup', going.label)])}
    let once = true
    const found = await verify({ host, deep: false, onBytes() {
      if (once) for (const path of gone) rmSync(path, { recursive: true })
      once = false
    } })
    console.log(JSON.stringify([isSound(found), found.restorable]))`)
  expect(JSON.parse(child.stdout)).toEqual([true, [staying.label]])
})

describe('chains', () => {
  test('incremental backup: those that it is on top of are looked at with it', async () => {
    const host = await craft(server, TOML)
    const base = await host.base(3, 2)
    const incr = await host.base(2, 3, { parent: base.label })
    await host.wal(2, 4)
    expect(await verified(host, incr.label)).toMatchObject({ ok: true, restorable: [base.label, incr.label] })
    await flip(fileOf(host, base))
    expect(await verified(host, incr.label)).toMatchObject({ ok: false, restorable: [] })
  })

  test.each<[string, (host: Crafted, parent: string) => Promise<unknown>, string]>([
    ['is gone', (host, parent) => rm(join(host.folder, 'catalog', `${parent}.json`)), 'is missing'],
    [
      'cannot be read',
      (host, parent) => writeFile(join(host.folder, 'catalog', `${parent}.json`), ''),
      'cannot be read',
    ],
  ])('parent that %s: the incremental backup is not restorable', async (_name, damage, message) => {
    const host = await craft(server, TOML)
    const base = await host.base(3, 2)
    const incr = await host.base(2, 3, { parent: base.label })
    await host.wal(2, 4)
    await damage(host, base.label)
    const found = await verified(host)
    expect(problemsOf(found)).toContainEqual(expect.stringContaining(`its parent ${base.label} ${message}`))
    expect(found.restorable).not.toContain(incr.label)
  })

  test('parent that is a dump, of another system, or younger: wrong', async () => {
    const host = await craft(server, TOML)
    const parents = [
      await host.dump(9),
      await host.base(8, 2, { systemIdentifier: '6000000000000000001' }),
      await host.base(1, 3),
    ]
    for (const { label } of parents) {
      const incr = await host.base(2, 3, { parent: label })
      expect(problemsOf(await verified(host, incr.label))).toContainEqual(
        expect.stringContaining(`its parent ${label} is `),
      )
    }
  })
})

describe('WAL', () => {
  const walFile = (host: Crafted, name: string) =>
    join(host.folder, 'wal', host.systemIdentifier, name.slice(0, 8), name)

  test.each([
    ['body of one in the middle', '000000010000000000000004.zst'],
    ['hash of one in the middle', '000000010000000000000004.sha256'],
  ])('%s is missing: a hole is found, although newer segments are there', async (_name, file) => {
    const host = await craft(server, TOML)
    const base = await host.base(1, 2)
    await host.wal(2, 6)
    await rm(walFile(host, file))
    const found = await verified(host)
    expect(problemsOf(found)).toEqual([`from ${base.label} on: WAL is missing: 000000010000000000000004`])
    expect(found.restorable).toEqual([base.label])
    expect((await host.run('verify')).stdout).toContain('NOT WHOLE')
  })

  test('first segments that a backup needs, and a range: missing', async () => {
    const host = await craft(server, TOML)
    const base = await host.base(1, 2)
    await host.wal(5, 6)
    expect(problemsOf(await verified(host))).toEqual([
      `from ${base.label} on: WAL is missing: 000000010000000000000002 to 000000010000000000000004 (3 segments)`,
    ])
  })

  test('newest segments gone that the store had: missing by the position that it was at', async () => {
    const host = await craft(server, TOML)
    const base = await host.base(1, 2)
    await host.wal(2, 6)
    const position = {
      format: 1,
      systemIdentifier: host.systemIdentifier,
      timeline: 1,
      lsn: '0/650000',
      time: '2026-11-22T02:00:00Z',
      segmentSize: 1024 * 1024,
    }
    await writeFile(
      join(host.folder, 'wal', host.systemIdentifier, 'position.json'),
      JSON.stringify(position),
    )
    expect((await verified(host)).ok).toBe(true)
    await rm(walFile(host, '000000010000000000000006.zst'))
    expect(problemsOf(await verified(host))).toEqual([
      `from ${base.label} on: WAL is missing: 000000010000000000000006, although the store was at 0/650000 of timeline 1`,
    ])
    await writeFile(walFile(host, '000000010000000000000006.partial.zst'), 'x')
    expect((await verified(host)).ok).toBe(true)
  })

  test('backup outside of the window: stands alone, the WAL that was pruned is not missed', async () => {
    const host = await craft(server, TOML)
    await host.base(30, 2)
    await host.base(9, 10)
    await host.base(1, 20)
    await host.wal(1, 22)
    await host.result('prune')
    expect(await host.segments()).toHaveLength(13)
    expect((await verified(host)).ok).toBe(true)
  })

  test('timeline that left another one: followed from the segment of the switch on, and needs its history', async () => {
    const host = await craft(server, TOML)
    await host.base(1, 2)
    await host.wal(2, 4)
    await host.wal(5, 7, { timeline: 2 })
    const store = openWalStore({
      store: dirStore(join(host.folder, '../..')),
      prefix: `test/main/wal/${host.systemIdentifier}/`,
      level: 1,
    })
    const history = join(server.dir, '00000002.history')
    await writeFile(history, '1\t0/580000\tno recovery target specified\n')
    expect(problemsOf(await verified(host))).toEqual([
      expect.stringContaining('"00000002.history" is missing'),
    ])
    await store.put('00000002.history', history)
    expect(await verified(host)).toMatchObject({ ok: true, wal: [{ segments: 6 }] })
    await rm(walFile(host, '000000020000000000000005.zst'))
    expect(problemsOf(await verified(host))).toEqual([
      expect.stringContaining('WAL is missing: 000000020000000000000005'),
    ])
  })
})

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
