import { copyFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Manifest, renderManifest } from '../../scripts/backup/manifest.ts'
import { openWalStore } from '../../scripts/backup/wal/wal-store.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { runCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { craft, type Crafted, flip } from './crafted.ts'
import { problemsOf, TOML, verified } from './verified.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer({ initdb: ['--wal-segsize=1'] })
})

afterAll(() => server[Symbol.asyncDispose]())

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
