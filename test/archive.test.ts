import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseLsn, segmentsBetween, segmentStart } from '../scripts/backup/wal/segment.ts'
import { run } from '../scripts/core/exec.ts'
import { openWalStore } from '../scripts/backup/wal/wal-store.ts'
import { renderManifest } from '../scripts/backup/manifest.ts'
import { sampleManifest } from './backup/sample.ts'
import { type ArchiveHost, archiveHost, receiverPid, storedBytes } from './support/archive.ts'
import { startServer, type TestServer } from './support/server.ts'

const SIZE = 1024 * 1024

let server: TestServer

beforeAll(async () => {
  server = await startServer({
    initdb: ['--wal-segsize=1'],
    // The server keeps its WAL, so that what is stored can be compared with it.
    settings: {
      wal_keep_size: '300MB',
      autovacuum: 'off',
      max_wal_size: '1GB',
      max_wal_senders: '20',
      max_replication_slots: '20',
    },
  })
  await server.query('postgres', 'create table t (x text)')
})

afterAll(() => server[Symbol.asyncDispose]())

/** Writes about this many segments. */
async function write(segments: number): Promise<void> {
  await server.query(
    'postgres',
    `select pg_logical_emit_message(false, 'test', repeat('x', 500000)) from generate_series(1, ${segments * 2})`,
  )
}

async function currentLsn(): Promise<bigint> {
  const [row] = await server.query<{ lsn: string }>(
    'postgres',
    'select pg_current_wal_flush_lsn()::text as lsn',
  )
  return parseLsn(row!.lsn)!
}

const slots = (name: string) =>
  server.query<{ active_pid: number | null }>(
    'postgres',
    'select active_pid from pg_replication_slots where slot_name = $1',
    [name],
  )

async function dropSlot(name: string): Promise<void> {
  await server.query(
    'postgres',
    'select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active',
    [name],
  )
  await expect
    .poll(
      () =>
        server.query('postgres', 'select pg_drop_replication_slot($1)', [name]).then(
          () => true,
          () => false,
        ),
      {
        interval: 5,
        timeout: 5000,
      },
    )
    .toBe(true)
}

/** Every segment from the first that is stored up to the position, byte for byte what the server has. */
async function expectContiguous(host: ArchiveHost): Promise<void> {
  const position = (await host.wal.readPosition())!
  const { segments } = await host.wal.list()
  const end = parseLsn(position.lsn)!
  const names = [...segmentsBetween(position.timeline, segmentStart(segments[0]!, SIZE), end, SIZE)]
  for (const name of names) {
    const what = await host.wal.has(name)
    const isRight = what === 'whole' || (what === 'partial' && name === names.at(-1))
    expect([name, what, isRight]).toEqual([name, what, true])
    if (what === undefined) continue
    const stored = await storedBytes(host.wal, name, what)
    const length = Math.min(SIZE, Number(end - segmentStart(name, SIZE)))
    const original = await readFile(join(server.cluster.dataDir, 'pg_wal', name))
    expect(stored.length >= length && stored.subarray(0, length).equals(original.subarray(0, length))).toBe(
      true,
    )
  }
}

const isAlive = async (pid: number) =>
  /^State:\s+[^Z]/m.test(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''))

describe('run', () => {
  test('whole segments and the one that is being written: in the store within moments; SIGTERM ends it with 0 and nothing is left behind', async () => {
    const host = await archiveHost(server)
    await using service = host.run()
    await expect.poll(() => slots(host.slot), { timeout: 10_000 }).toHaveLength(1)
    await write(3)
    await host.caughtUp()
    await expectContiguous(host)
    await server.query('postgres', `insert into t values ('just before the end')`)
    const end = await currentLsn()
    expect(await service.end()).toBe(0)
    expect(parseLsn((await host.wal.readPosition())!.lsn)! >= end).toBe(true)
    await expectContiguous(host)
    expect(await isAlive(await receiverPid(host))).toBe(false)
    // The newest whole segment stays: pg_receivewal goes on after it.
    const spool = (await readdir(host.spool)).toSorted()
    expect(spool.filter((name) => !name.endsWith('.partial'))).toHaveLength(1)
    expect(service.log()).not.toMatch(/wal-missing|error/)
    await dropSlot(host.slot)
  })

  test('--plan: says what would be made, makes nothing', async () => {
    const host = await archiveHost(server)
    const { code, stdout } = await host.archive('run', '--plan')
    expect([code, stdout.split('\n')[0]]).toEqual([0, expect.stringContaining(`+ slot "${host.slot}"`)])
    expect(await slots(host.slot)).toEqual([])
    expect((await readdir(host.dir)).toSorted()).toEqual(['host.toml'])
  })

  test('the beginning of a segment: deleted when the whole one is stored', async () => {
    const host = await archiveHost(server)
    await using service = host.run()
    await server.query('postgres', `insert into t values ('a')`)
    await expect.poll(async () => (await host.wal.list()).partials, { timeout: 10_000 }).toHaveLength(1)
    const [name] = (await host.wal.list()).partials
    await server.query('postgres', 'select pg_switch_wal()')
    await expect.poll(async () => (await host.wal.list()).segments, { timeout: 10_000 }).toContain(name)
    const keys = async () => (await Array.fromAsync(host.store.list('test/main/wal/'))).map(({ key }) => key)
    await expect.poll(async () => (await keys()).filter((key) => key.includes(`${name}.partial`))).toEqual([])
    expect(await service.end()).toBe(0)
    await dropSlot(host.slot)
  })

  test('a server with segments of 1 MB: the slot never lets go of WAL that is not flushed in the spool', async () => {
    const host = await archiveHost(server)
    await using _service = host.run()
    await host.caughtUp()
    for (let round = 0; round < 5; round++) {
      await write(1)
      const [row] = await server.query<{ restart: string }>(
        'postgres',
        'select restart_lsn::text as restart from pg_replication_slots where slot_name = $1',
        [host.slot],
      )
      const restart = parseLsn(row!.restart)!
      const names = await readdir(host.spool)
      const held = names.some(
        (name) =>
          segmentStart(name.slice(0, 24), SIZE) <= restart &&
          segmentStart(name.slice(0, 24), SIZE) + BigInt(SIZE) >= restart,
      )
      const stored = parseLsn((await host.wal.readPosition())!.lsn)! >= restart
      expect(held || stored).toBe(true)
    }
    await dropSlot(host.slot)
  })

  test(
    'killed at random moments under load: no hole in the store, and the position is never ahead of the bytes',
    { timeout: 120_000 },
    async () => {
      const seed = Date.now() % 100_000
      let state = seed
      const random = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648
      const host = await archiveHost(server)
      let isOver = false
      const load = (async () => {
        while (!isOver) {
          await write(1)
          await server.query('postgres', `insert into t select md5(i::text) from generate_series(1, 500) i`)
          await sleep(20)
        }
      })()
      const faults: string[] = []
      const watch = (async () => {
        while (!isOver) {
          const fault = await faultOfPosition(host)
          if (fault) faults.push(fault)
          await sleep(30)
        }
      })()
      try {
        for (let kill = 0; kill < 8; kill++) {
          const service = host.run()
          await sleep(400 + random() * 1200)
          const pid = await receiverPid(host).catch(() => undefined)
          await service.end('SIGKILL')
          if (pid === undefined) continue
          await expect.poll(() => isAlive(pid), { timeout: 5000 }).toBe(false)
        }
      } finally {
        isOver = true
        await Promise.all([load, watch])
      }
      await using service = host.run()
      await host.caughtUp()
      await expectContiguous(host)
      expect([`seed ${seed}`, faults]).toEqual([`seed ${seed}`, []])
      expect(await service.end()).toBe(0)
      expect(service.log()).not.toContain('wal-missing')
      expect((await host.status()).gap).toBeNull()
      await dropSlot(host.slot)
    },
  )
})

describe('refused', () => {
  test('a clone of the host with the same name: its WAL does not come into the store', async () => {
    const host = await archiveHost(server)
    await using first = host.run()
    await host.caughtUp()
    expect(await first.end()).toBe(0)
    const clone = await archiveHost(server)
    await rm(clone.file)
    const toml = (await readFile(host.file, 'utf8')).replaceAll(`${host.dir}/state`, `${clone.dir}/state`)
    await writeFile(clone.file, toml)
    const before = await Array.fromAsync(host.store.list(''))
    await using second = clone.run()
    expect(await second.ended).toBe(33)
    expect(second.log()).toContain('--take-over')
    expect(await Array.fromAsync(host.store.list(''))).toEqual(before)
    await dropSlot(host.slot)
  })

  test('another segment of that name in the store: the service ends with 58, what is stored stays', async () => {
    const host = await archiveHost(server)
    await using first = host.run()
    await host.caughtUp()
    const name = (await host.wal.list()).partials[0]!
    await first.end()
    const wrong = join(host.dir, 'wrong')
    await writeFile(wrong, Buffer.alloc(SIZE, 'x'))
    await host.wal.put(name, wrong)
    await write(1)
    await using second = host.run()
    expect(await second.ended).toBe(58)
    expect(second.log()).toContain(`the store has another "${name}"`)
    expect((await storedBytes(host.wal, name, 'whole')).equals(Buffer.alloc(SIZE, 'x'))).toBe(true)
    await dropSlot(host.slot)
  })

  test('a segment of another system in the spool: not stored', async () => {
    const host = await archiveHost(server)
    await using first = host.run()
    await write(1)
    await host.caughtUp()
    await first.end()
    const name = (await readdir(host.spool)).find((each) => !each.endsWith('.partial'))!
    const bytes = await readFile(join(host.spool, name))
    bytes.writeBigUInt64LE(42n, 24)
    await host.wal.delete([name])
    await writeFile(join(host.spool, name), bytes)
    await using second = host.run()
    expect(await second.ended).toBe(33)
    expect(await host.wal.has(name)).toBeUndefined()
    await dropSlot(host.slot)
  })

  test('a second service of the same cluster: locked out; a foreign receiver on the slot: waited for', async () => {
    const host = await archiveHost(server)
    await using first = host.run()
    await host.caughtUp()
    await using second = host.run()
    expect(await second.ended).toBe(20)
    // The same slot from another state folder: another lock, the same slot.
    const other = await archiveHost(server)
    const toml = (await readFile(other.file, 'utf8')).replace(other.slot, host.slot)
    await writeFile(other.file, toml)
    await using third = other.run()
    await expect.poll(() => third.log(), { timeout: 10_000 }).toContain('the slot is in use')
    expect(await first.end()).toBe(0)
    await expect.poll(() => third.log(), { timeout: 20_000 }).toContain('receives on slot')
    expect(await third.end()).toBe(0)
    await dropSlot(host.slot)
  })
})

describe('trouble', () => {
  test('the store is away: receiving goes on up to the limit of the spool, the slot holds the rest, and all of it comes into the store afterwards', async () => {
    const host = await archiveHost(server, 'spool_limit = "5MB"')
    await using service = host.run()
    await host.caughtUp()
    await rm(host.storeDir, { recursive: true })
    await writeFile(host.storeDir, 'a file stands here')
    await write(12)
    await expect.poll(() => service.log(), { timeout: 20_000 }).toContain('cannot ship')
    await expect.poll(() => service.log(), { timeout: 20_000 }).toContain('above its limit')
    const size = async () =>
      (await Promise.all((await readdir(host.spool)).map((name) => stat(join(host.spool, name))))).reduce(
        (sum, { size }) => sum + size,
        0,
      )
    await expect.poll(async () => (await slots(host.slot))[0]!.active_pid, { timeout: 10_000 }).toBeNull()
    const held = await size()
    await write(2)
    await sleep(700)
    expect(await size()).toBe(held)
    await rm(host.storeDir)
    await host.caughtUp()
    await expectContiguous(host)
    expect(service.log()).toContain('below its limit')
    expect(service.log()).not.toContain('wal-missing')
    expect(await service.end()).toBe(0)
    await dropSlot(host.slot)
  })

  test('the slot is dropped: alarm, made again; WAL that the server still has comes without a gap', async () => {
    const host = await archiveHost(server)
    await using service = host.run()
    await host.caughtUp()
    await dropSlot(host.slot)
    await write(2)
    await expect.poll(() => service.log(), { timeout: 10_000 }).toMatch(/\[wal-missing\] slot .* was dropped/)
    await host.caughtUp()
    await expectContiguous(host)
    expect((await host.status()).gap).toBeNull()
    expect(await service.end()).toBe(0)
    await dropSlot(host.slot)
  })

  test('the receiver of a crashed run, which the kernel did not end: ended; a process that only has its number: left alone', async () => {
    const host = await archiveHost(server)
    await using first = host.run()
    await host.caughtUp()
    expect(await first.end()).toBe(0)
    const orphan = spawn('sleep', ['60'])
    const ended = once(orphan, 'close')
    const stat = await readFile(`/proc/${orphan.pid}/stat`, 'utf8')
    const started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
    await writeFile(host.pidFile, JSON.stringify({ pid: orphan.pid, started: `${started}0` }))
    await using second = host.run()
    await expect.poll(() => second.log(), { timeout: 10_000 }).toContain('receives on slot')
    expect(await second.end()).toBe(0)
    expect(orphan.exitCode).toBeNull()
    await writeFile(host.pidFile, JSON.stringify({ pid: orphan.pid, started }))
    await using third = host.run()
    expect(await ended).toEqual([null, 'SIGTERM'])
    await expect.poll(() => third.log(), { timeout: 10_000 }).toContain(`process ${orphan.pid}`)
    expect(await third.end()).toBe(0)
    await dropSlot(host.slot)
  })

  test('with a recipient: what is stored can be read with the identity only', async () => {
    const keys = join(server.dir, 'key')
    await run(['age-keygen', '-o', keys])
    const recipient = /public key: (\S+)/.exec(await readFile(keys, 'utf8'))![1]!
    const host = await archiveHost(server, '', `[encryption]\nrecipients = ["${recipient}"]`)
    await using service = host.run()
    await host.caughtUp()
    await write(2)
    await host.caughtUp()
    expect(await service.end()).toBe(0)
    const bodies = (await Array.fromAsync(host.store.list('test/main/wal/')))
      .map(({ key }) => key)
      .filter((key) => key.includes('.zst'))
    expect(bodies.length).toBeGreaterThan(2)
    expect(bodies.filter((key) => !key.endsWith('.zst.age'))).toEqual([])
    await expectContiguous({
      ...host,
      wal: openWalStore({
        ...host,
        prefix: `test/main/wal/${basename(host.spool)}/`,
        level: 1,
        identity: keys,
      }),
    })
    await dropSlot(host.slot)
  })
})

describe('status', () => {
  test('nothing stored yet: exit 1', async () => {
    const host = await archiveHost(server)
    const status = await host.status()
    expect(status).toMatchObject({ code: 1, position: null, loss: null, slot: null })
  })

  test('an idle server: the loss is 0, however old the newest WAL is', async () => {
    const host = await archiveHost(server, 'max_loss = "1s"')
    // The server writes a little by itself, now and then: it is not idle then.
    let status: Awaited<ReturnType<typeof host.status>> | undefined
    for (let attempt = 1, before = -1n; before !== (await currentLsn()); attempt++) {
      expect(attempt).toBeLessThan(5)
      await using service = host.run()
      await host.caughtUp()
      expect(await service.end()).toBe(0)
      before = await currentLsn()
      await sleep(1500)
      status = await host.status()
    }
    expect(status).toMatchObject({
      code: 0,
      loss: { seconds: 0, bytes: 0 },
      slot: { walStatus: 'reserved', isActive: false },
      problems: [],
    })
    await server.query('postgres', `insert into t values ('not stored')`)
    await sleep(1100)
    const after = await host.status()
    expect(after.code).toBe(1)
    expect(after.loss!.seconds).toBeGreaterThan(1)
    expect(after.loss!.bytes).toBeGreaterThan(0)
    await dropSlot(host.slot)
  })

  test('the store has lost what its position speaks of: exit 1, whatever the service was told', async () => {
    const host = await archiveHost(server)
    await using service = host.run()
    await host.caughtUp()
    expect(await service.end()).toBe(0)
    const name = (await host.wal.list()).partials[0]!
    await host.wal.deletePartial(name)
    expect(await host.status()).toMatchObject({ code: 1, isStored: false })
    await dropSlot(host.slot)
  })
})

describe('a server of its own', () => {
  test('the slot was given up: alarm, the gap is known until a base backup has begun after it', async () => {
    await using own = await startServer({
      initdb: ['--wal-segsize=1'],
      settings: {
        max_slot_wal_keep_size: '2MB',
        max_wal_size: '2MB',
        min_wal_size: '2MB',
        wal_recycle: 'off',
      },
    })
    const host = await archiveHost(own)
    await using first = host.run()
    await host.caughtUp()
    expect(await first.end()).toBe(0)
    const before = (await host.wal.readPosition())!
    for (let round = 0; round < 10; round++)
      await own.query(
        'postgres',
        `select pg_logical_emit_message(true, 'test', repeat('x', 700000)), pg_switch_wal()`,
      )
    await own.query('postgres', 'checkpoint')
    expect((await host.status()).problems.join()).toContain('the slot is lost')
    await using second = host.run()
    await expect.poll(() => second.log(), { timeout: 20_000 }).toContain('has given up slot')
    await expect.poll(() => second.log(), { timeout: 20_000 }).toContain('was never stored')
    await own.query('postgres', `select pg_logical_emit_message(true, 'test', 'x')`)
    await host.caughtUp()
    const status = await host.status()
    expect(status).toMatchObject({ code: 1, gap: { timeline: 1 } })
    expect(parseLsn(status.gap!.from)! <= parseLsn(before.lsn)! + BigInt(SIZE)).toBe(true)
    expect(parseLsn(status.gap!.to)! > parseLsn(status.gap!.from)!).toBe(true)
    await putBase(host, status.gap!.from)
    expect((await host.status()).gap).not.toBeNull()
    await putBase(host, status.gap!.to)
    expect(await host.status()).toMatchObject({ code: 0, gap: null })
    expect(await second.end()).toBe(0)
  })

  test('stopped, started, promoted, and set back in time: one service goes on with each, and no byte of another way is mixed in', async () => {
    await using own = await startServer({ initdb: ['--wal-segsize=1'], settings: { wal_keep_size: '100MB' } })
    const emit = (text: string) =>
      own.query('postgres', 'select pg_logical_emit_message(true, $1, $1)', [text])
    const host = await archiveHost(own)
    await using service = host.run()
    await host.caughtUp()
    await emit('the last words')
    await own.cluster.stop()
    // The server has told nobody about the end of its WAL: it comes nevertheless.
    const name = (await host.wal.list()).partials.at(-1)!
    await expect
      .poll(async () => (await storedBytes(host.wal, name, 'partial')).includes('the last words'), {
        timeout: 10_000,
      })
      .toBe(true)
    expect(await host.status()).toMatchObject({ server: null, slot: null })

    const data = own.cluster.dataDir
    const copy = join(own.dir, 'copy')
    await cp(data, copy, { recursive: true, preserveTimestamps: true })
    await own.cluster.start()
    for (let round = 0; round < 4; round++) {
      await emit('x'.repeat(400_000))
      await own.query('postgres', 'select pg_switch_wal()')
    }
    await host.caughtUp()
    expect((await host.wal.readPosition())!.timeline).toBe(1)
    await own.cluster.stop()
    await writeFile(join(data, 'standby.signal'), '')
    await own.cluster.start()
    await own.query('postgres', 'select pg_promote()')
    await emit('of the second timeline')
    await host.caughtUp()
    await expect.poll(async () => (await host.wal.readPosition())!.timeline, { timeout: 20_000 }).toBe(2)
    const { histories, segments } = await host.wal.list()
    expect(histories).toEqual(['00000002.history'])
    expect(segments.length).toBeGreaterThan(3)
    expect(await service.end()).toBe(0)
    await own.cluster.stop()

    // Back to the copy, on a timeline that is not taken yet.
    await rm(data, { recursive: true })
    await run(['cp', '-a', copy, data])
    await run(['chown', '-R', `--reference=${own.dir}`, data])
    await rm(join(data, 'pg_replslot', host.slot), { recursive: true })
    for (const each of ['00000002.history']) {
      await writeFile(join(data, 'pg_wal', each), await storedBytes(host.wal, each, 'whole'))
    }
    await run(['chown', '-R', `--reference=${own.dir}`, data])
    await writeFile(join(data, 'standby.signal'), '')
    await own.cluster.start()
    await own.query('postgres', 'select pg_promote()')
    await emit('of the third timeline')
    await using again = host.run()
    await expect.poll(() => again.log(), { timeout: 20_000 }).toContain('the server was set back')
    await host.caughtUp()
    await expect.poll(async () => (await host.wal.readPosition())!.timeline, { timeout: 20_000 }).toBe(3)
    expect((await host.wal.list()).histories).toContain('00000003.history')
    const aside = (await readdir(join(host.spool, '..'))).filter((each) => each.includes('.before-'))
    expect(aside).toHaveLength(1)
    expect(await again.end()).toBe(0)
  })
})

/** A manifest of a base backup that begins at a position. */
async function putBase(host: ArchiveHost, startLsn: string): Promise<void> {
  const random = startLsn
    .replaceAll(/[^0-9A-F]/g, '')
    .toLowerCase()
    .replaceAll(/[0189]/g, 'a')
    .padStart(6, 'b')
    .slice(-6)
  const label = `20261122T020000Z-base-${random}`
  const manifest = sampleManifest({
    label,
    kind: 'base',
    databases: [],
    files: [],
    systemIdentifier: basename(host.spool),
    physical: {
      startLsn,
      stopLsn: startLsn,
      walSegmentSize: SIZE,
      blockSize: 8192,
      dataChecksums: true,
      isFromStandby: false,
      parent: null,
      file: 'base.tar.zst',
      backupManifest: 'backup_manifest.zst',
      hasBadChecksums: false,
      tablespaces: [],
      dataSize: 0,
      databases: [],
      settings: {},
    },
  })
  await host.store.create(`test/main/catalog/${label}.json`, renderManifest(manifest))
}

/** What is wrong with the position of a store that is written to meanwhile: nothing, or a line. */
async function faultOfPosition(host: ArchiveHost): Promise<string | undefined> {
  const position = await host.wal.readPosition()
  if (position === undefined) return undefined
  const lsn = parseLsn(position.lsn)!
  const name = [...segmentsBetween(position.timeline, lsn - 1n, lsn, SIZE)][0]!
  const wanted = Number(lsn - segmentStart(name, SIZE))
  for (let attempt = 0; ; attempt++) {
    try {
      const what = await host.wal.has(name)
      const length = what === undefined ? 0 : (await storedBytes(host.wal, name, what)).length
      return length >= wanted ? undefined : `${position.lsn}: ${name} has ${length} bytes, not ${wanted}`
    } catch (error) {
      // A beginning that has become whole between the two looks.
      if (attempt === 3) return String(error)
    }
  }
}
