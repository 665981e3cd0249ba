import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { PrunePhase } from '../../scripts/backup/prune.ts'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { runCode, saidBy, startCode } from '../support/code.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { craft, type Crafted } from './crafted.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer()
})

afterAll(() => server[Symbol.asyncDispose]())

const NIGHTLY = `[backup.nightly]
kind = "dump"
store = "local"
keep = { last = 2 }
`
const FULL = `[backup.full]
kind = "base"
store = "local"
keep = { last = 1 }
pitr = "7d"
`
const ARCHIVE = `[archive]
store = "local"
`

interface Result {
  readonly stores: readonly {
    readonly freedBytes: number
    readonly jobs: readonly {
      job: string
      kept: number
      removed: number
      keptSize: number
      removedSize: number
    }[]
    readonly backups: readonly { label: string; kept: boolean; reasons: readonly string[] }[]
    readonly wal: readonly {
      systemIdentifier: string
      segments: number
      first: string | null
      reason: string
    }[]
    readonly leftovers: readonly { label: string; reason: string }[]
    readonly warnings: readonly string[]
  }[]
}

/** Days ago: 5 dumps, of which two stay. */
async function fiveDumps(toml = NIGHTLY): Promise<{ host: Crafted; labels: string[] }> {
  const host = await craft(server, toml)
  const labels: string[] = []
  for (const day of [5, 4, 3, 2, 1]) labels.push((await host.dump(day)).label)
  return { host, labels }
}

describe('prune', () => {
  test('plan: each backup with its reason, what it frees and keeps; nothing is changed', async () => {
    const { host, labels } = await fiveDumps()
    const before = await host.files('.')
    const { stores } = await host.result<Result>('prune', '--plan')
    expect(stores[0]!.backups.map(({ label, kept, reasons }) => [label, kept, reasons.join(', ')])).toEqual([
      [labels[0], false, 'no rule keeps it'],
      [labels[1], false, 'no rule keeps it'],
      [labels[2], false, 'no rule keeps it'],
      [labels[3], true, 'last 2'],
      [labels[4], true, 'last good, last 1'],
    ])
    const [job] = stores[0]!.jobs
    expect(job).toMatchObject({ job: 'nightly', kept: 2, removed: 3 })
    expect(stores[0]!.freedBytes).toBe(job!.removedSize)
    const { stdout } = await host.run('prune', '--plan')
    expect(stdout).toContain('would remove 3')
    expect(stdout).toContain(`- ${labels[0]}`)
    expect(await host.files('.')).toEqual(before)
  })

  test('run: manifests and files of what goes are gone, those of what stays are there; the second run has nothing to do', async () => {
    const { host, labels } = await fiveDumps()
    expect((await host.run('prune')).stdout).toContain('removed 3')
    expect(await host.labels()).toEqual(labels.slice(3))
    expect(await readdir(join(host.folder, 'backup'))).toEqual(labels.slice(3))
    expect(await readdir(host.folder)).toEqual(['backup', 'catalog', 'owner.json'])
    expect((await host.run('prune')).stdout).toMatch(/^nothing to remove\n/)
  })

  test('job that is named: backups of the other jobs stay', async () => {
    const { host } = await fiveDumps(`${NIGHTLY}${NIGHTLY.replace('nightly', 'weekly')}`)
    for (const day of [9, 8, 7]) await host.dump(day, { job: 'weekly' })
    await host.run('prune', 'weekly')
    expect(await host.labels()).toHaveLength(7)
  })

  test('job without keep, and backups of a job that is gone from the host file: all stay', async () => {
    const { host } = await fiveDumps(NIGHTLY.replace('keep = { last = 2 }', ''))
    for (const day of [9, 8, 7]) await host.dump(day, { job: 'gone' })
    await host.run('prune')
    expect(await host.labels()).toHaveLength(8)
  })

  test('job that does not exist: usage, with the nearest name', async () => {
    const { host } = await fiveDumps()
    const { code, stderr } = await host.run('prune', 'nightyl')
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining('nightly') as string })
  })

  test('manifest that cannot be read: never pruned over, all of it is kept, and it is told', async () => {
    const { host, labels } = await fiveDumps()
    await writeFile(join(host.folder, 'catalog', `${labels[0]}.json`), '{')
    const { stores } = await host.result<Result>('prune')
    expect(stores[0]!.warnings).toEqual([expect.stringContaining(`the manifest of ${labels[0]} is not JSON`)])
    expect(await host.labels()).toEqual([labels[0], labels[3], labels[4]])
    expect(await host.files(`backup/${labels[0]}`)).toHaveLength(3)
  })

  test('newest backup lacks a file: it takes nobody’s place, so one more stays', async () => {
    const { host, labels } = await fiveDumps(NIGHTLY.replace('last = 2', 'last = 1'))
    await rm(join(host.folder, 'backup', labels[4]!, 'a.tar.zst'))
    const { stores } = await host.result<Result>('prune')
    expect(stores[0]!.warnings).toEqual([expect.stringContaining(`"a.tar.zst" is missing`)])
    expect(await host.labels()).toEqual(labels.slice(3))
  })

  test('clock that jumped: backups of the future stay, and those of the past are not older for it', async () => {
    const { host, labels } = await fiveDumps(NIGHTLY.replace('last = 2', 'within = "49h"'))
    const future = await host.dump(-4000)
    await host.run('prune')
    expect(await host.labels()).toEqual([...labels.slice(2), future.label])
  })

  test('list that fails half-way: refused, nothing is deleted', async () => {
    const { host, labels } = await fiveDumps()
    const closed = join(host.folder, 'backup', labels[4]!)
    const user = server.cluster.osUser
    if (process.getuid!() === 0) await run(['chown', '-R', user, server.dir])
    await chmod(closed, 0)
    const { uid } = userId(user)
    const { code, stderr } = await runScript(['backup', 'prune', '-c', host.file], { uid })
    await chmod(closed, 0o750)
    expect({ code, stderr }).toMatchObject({
      code: 51,
      stderr: expect.stringContaining('cannot list') as string,
    })
    expect(await host.labels()).toEqual(labels)
  })

  test('backups of another host or cluster under the same name: cluster-mismatch, nothing is deleted', async () => {
    const { host, labels } = await fiveDumps()
    const path = join(host.folder, 'owner.json')
    const owner = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
    for (const change of [{ hostId: 'other', machine: 'db2' }, { systemIdentifier: '1' }]) {
      await writeFile(path, JSON.stringify({ ...owner, ...change }))
      for (const args of [['prune'], ['prune', '--plan']]) expect((await host.run(...args)).code).toBe(33)
    }
    await rm(path)
    expect((await host.run('prune')).code).toBe(33)
    expect(await host.labels()).toEqual(labels)
  })

  test('store that has nothing of the cluster: nothing to remove', async () => {
    const host = await craft(server, NIGHTLY)
    await rm(host.folder, { recursive: true })
    expect((await host.run('prune')).stdout).toMatch(/^nothing to remove\n/)
  })
})

describe('takes in progress', () => {
  test('take on another host: nothing of its job goes, and its files, which no manifest names yet, stay', async () => {
    const { host, labels } = await fiveDumps()
    await mkdir(join(host.folder, 'backup/20261122T020000Z-dump-aaaaaa'))
    await writeFile(join(host.folder, 'backup/20261122T020000Z-dump-aaaaaa/x.zst'), 'x')
    await host.marker(23, 'nightly')
    const { stores } = await host.result<Result>('prune')
    expect(stores[0]!.backups.every(({ kept }) => kept)).toBe(true)
    expect(stores[0]!.warnings).toEqual([expect.stringContaining('20261122T020000Z-dump-aaaaaa')])
    expect(await host.labels()).toEqual(labels)
    expect(await host.files('backup/20261122T020000Z-dump-aaaaaa')).toEqual(['x.zst'])
    expect(await host.files('running')).toHaveLength(1)
  })

  test('mark older than a day by the store’s clock: its take is dead, mark and files are swept', async () => {
    const { host, labels } = await fiveDumps()
    await mkdir(join(host.folder, 'backup/20261122T020000Z-dump-aaaaaa'))
    await writeFile(join(host.folder, 'backup/20261122T020000Z-dump-aaaaaa/x.zst'), 'x')
    await host.marker(25, 'nightly')
    await host.result<Result>('prune')
    expect(await host.labels()).toEqual(labels.slice(3))
    expect(await readdir(host.folder)).toEqual(['backup', 'catalog', 'owner.json'])
    expect(await readdir(join(host.folder, 'backup'))).toEqual(labels.slice(3))
  })

  test('take on this machine that was killed just now: its job is pruned, its files wait for their day', async () => {
    const { host, labels } = await fiveDumps()
    await mkdir(join(host.folder, 'backup/20261122T020000Z-dump-aaaaaa'))
    await writeFile(join(host.folder, 'backup/20261122T020000Z-dump-aaaaaa/x.zst'), 'x')
    await host.marker(0, 'nightly', hostname())
    await host.result<Result>('prune')
    expect(await host.labels()).toEqual(labels.slice(3))
    expect(await host.files('backup/20261122T020000Z-dump-aaaaaa')).toEqual(['x.zst'])
    expect(await host.files('running')).toHaveLength(1)
  })

  test('mark that says nothing: may be of any job, so nothing goes', async () => {
    const { host, labels } = await fiveDumps()
    await mkdir(join(host.folder, 'running'))
    await writeFile(join(host.folder, 'running/20261122T020000Z-dump-aaaaaa.json'), '')
    await host.result<Result>('prune')
    expect(await host.labels()).toEqual(labels)
  })

  test('two at once: the second one ends with lock-held, or waits', async () => {
    const { host, labels } = await fiveDumps()
    const first = startCode(`
      import { loadHost } from 'scripts/cluster/open.ts'
      import { prune } from 'scripts/backup/prune.ts'
      const { host } = await loadHost(${JSON.stringify(host.file)})
      await prune({ host }, { confirm: () => new Promise((resolve) => {
        console.log('planned')
        process.stdin.once('data', () => resolve(true))
      }) })
      process.stdin.destroy()`)
    await saidBy(first, 'planned')
    expect((await host.run('prune')).code).toBe(20)
    expect(await host.labels()).toEqual(labels)
    const waiting = host.run('prune', '--wait', '30s')
    first.stdin!.write('go\n')
    await new Promise((resolve) => first.once('close', resolve))
    expect(await host.labels()).toEqual(labels.slice(3))
    expect((await waiting).stdout).toMatch(/^nothing to remove\n/)
  })
})

describe('WAL', () => {
  const TOML = `${FULL}${ARCHIVE}`

  test('WAL that a backup within the window needs for a recovery stays, older goes; a backup outside stands alone', async () => {
    const host = await craft(server, TOML)
    await host.base(30, 2)
    const old = await host.base(9, 10)
    await host.base(1, 20)
    await host.wal(1, 25)
    await host.result('prune')
    expect(await host.labels()).toHaveLength(2)
    expect((await host.labels())[0]).toBe(old.label)
    expect(await host.segments()).toEqual(Array.from({ length: 16 }, (_, index) => index + 10))
    expect((await host.files('wal')).some((name) => name.includes('000000000009'))).toBe(false)
  })

  test('backup that is kept for a year: needs no WAL, and holds none', async () => {
    const host = await craft(server, TOML.replace('last = 1', 'yearly = 5'))
    const old = await host.base(400, 2)
    await host.base(9, 10)
    await host.base(1, 20)
    await host.wal(1, 25)
    await host.result('prune')
    expect((await host.labels())[0]).toBe(old.label)
    expect((await host.segments())[0]).toBe(10)
  })

  test('no job says pitr, or none has a backup yet: all of it stays', async () => {
    for (const toml of [TOML.replace('pitr = "7d"', ''), TOML]) {
      const host = await craft(server, toml)
      await host.wal(1, 3)
      if (!toml.includes('pitr')) await host.base(1, 3)
      await host.result('prune')
      expect(await host.segments()).toEqual([1, 2, 3])
    }
  })

  test('manifest of a base that cannot be read: its WAL may be needed, so all stays', async () => {
    const host = await craft(server, TOML)
    const unread = await host.base(9, 5)
    await host.base(8.5, 10)
    await host.base(1, 20)
    await host.wal(1, 25)
    await writeFile(join(host.folder, 'catalog', `${unread.label}.json`), '{"format": 99}')
    await host.result('prune')
    expect(await host.segments()).toHaveLength(25)
  })

  test('after a major upgrade: WAL of the old system stays while a window reaches into it, then goes; the new one is never touched for it', async () => {
    const host = await craft(server, TOML)
    const old = { systemIdentifier: '6000000000000000001', timeline: 9 }
    await host.base(9, 900, old)
    await host.wal(899, 902, old)
    await host.base(3, 1)
    await host.wal(1, 4)
    await host.result('prune')
    expect(await host.segments(old)).toEqual([900, 901, 902])
    expect(await host.segments()).toEqual([1, 2, 3, 4])
    const later = await craft(server, TOML)
    await later.base(30, 900, old)
    await later.wal(899, 902, old)
    await later.base(9, 1)
    await later.base(1, 3)
    await later.wal(1, 4)
    await later.result('prune')
    expect(await later.files(`wal/${old.systemIdentifier}`)).toEqual([])
    expect(await later.segments()).toEqual([1, 2, 3, 4])
  })

  test('beginning of a segment that is there as a whole: swept; that of the newest one stays', async () => {
    const host = await craft(server, TOML)
    await host.base(1, 1)
    await host.wal(1, 2)
    const partial = (name: string) =>
      join(host.folder, 'wal', host.systemIdentifier, '00000001', `${name}.partial.zst`)
    await writeFile(partial('000000010000000000000002'), 'x')
    await writeFile(partial('000000010000000000000003'), 'x')
    await host.result('prune')
    expect((await host.files('wal')).filter((name) => name.includes('partial'))).toEqual([
      `${host.systemIdentifier}/00000001/000000010000000000000003.partial.zst`,
    ])
    expect(await host.segments()).toEqual([1, 2])
  })

  test('parents of an incremental backup within the window: stay, and their WAL does not hold more', async () => {
    const host = await craft(server, TOML)
    const base = await host.base(20, 2)
    const incr = await host.base(9, 10, { parent: base.label })
    await host.base(1, 20, { parent: incr.label })
    await host.base(15, 5)
    await host.wal(1, 25)
    await host.result('prune')
    expect(await host.labels()).toHaveLength(3)
    expect((await host.labels())[0]).toBe(base.label)
    expect((await host.segments())[0]).toBe(10)
  })
})

describe('killed with SIGKILL', () => {
  const PHASES: readonly PrunePhase[] = [
    'planned',
    'manifest',
    'manifests',
    'file',
    'files',
    'segment',
    'wal',
    'swept',
  ]

  test.each(PHASES)(
    'when it has done %s: nothing needed is gone, and the next run finishes it',
    async (phase) => {
      const host = await craft(server, `${FULL}${ARCHIVE}`)
      for (const [day, segment] of [
        [30, 2],
        [20, 5],
        [9, 10],
        [1, 20],
      ] as const)
        await host.base(day, segment)
      await host.wal(1, 25)
      await host.marker(25)
      const labels = await host.labels()
      const dead = await runCode(`
      import { loadHost } from 'scripts/cluster/open.ts'
      import { prune } from 'scripts/backup/prune.ts'
      const { host } = await loadHost(${JSON.stringify(host.file)})
      await prune({ host }, { onPhase: (phase) => phase === '${phase}' && process.kill(process.pid, 'SIGKILL') })`)
      expect(dead.signal).toBe('SIGKILL')
      expect(await host.labels()).toEqual(expect.arrayContaining(labels.slice(2)))
      expect(await host.segments()).toEqual(
        expect.arrayContaining(Array.from({ length: 16 }, (_, index) => index + 10)),
      )
      // A take that began meanwhile elsewhere keeps what it finds without a manifest, but not what we deleted.
      await host.marker(0, 'other')
      await host.result('prune')
      expect(await host.labels()).toEqual(labels.slice(2))
      expect(await readdir(join(host.folder, 'backup'))).toEqual(labels.slice(2))
      expect(await host.segments()).toEqual(Array.from({ length: 16 }, (_, index) => index + 10))
      expect(await host.files('wal')).toHaveLength(32)
    },
  )

  test('then the rules keep more: what still has its manifest stays', async () => {
    const { host, labels } = await fiveDumps()
    await runCode(`
      import { loadHost } from 'scripts/cluster/open.ts'
      import { prune } from 'scripts/backup/prune.ts'
      const { host } = await loadHost(${JSON.stringify(host.file)})
      await prune({ host }, { onPhase: (phase) => phase === 'manifest' && process.kill(process.pid, 'SIGKILL') })`)
    await host.run('prune', 'backup.nightly.keep.last=9')
    expect(await host.labels()).toEqual([labels[0], labels[1], labels[3], labels[4]])
    expect(await readdir(join(host.folder, 'backup'))).toEqual([labels[0], labels[1], labels[3], labels[4]])
  })
})

test('objects under a lock, which the store will not delete: counted as kept, told, and the rest goes', async () => {
  const { host, labels } = await fiveDumps()
  // As an object under a lock: nobody may unlink it, not even root.
  const manifest = join(host.folder, 'catalog', `${labels[1]}.json`)
  const file = join(host.folder, 'backup', labels[2]!, 'restore.sh')
  await run(['chattr', '+i', manifest, file])
  try {
    const { denied } = await host.result<{ denied: string[] }>('prune')
    expect(denied).toEqual([labels[1], labels[2]])
    expect(await host.labels()).toEqual([labels[1], labels[3], labels[4]])
    expect(await host.files(`backup/${labels[1]}`)).toHaveLength(3)
    expect((await host.run('prune')).stdout).toContain(
      `! the store would not delete ${labels[1]}: it is kept`,
    )
  } finally {
    await run(['chattr', '-i', manifest, file])
  }
  await host.run('prune')
  expect(await readdir(join(host.folder, 'backup'))).toEqual(labels.slice(3))
})
