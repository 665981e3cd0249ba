import { appendFile, mkdir, open, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { exists } from '../../scripts/core/file.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { line, telescope, writeOld } from './tree.ts'

// What goes wrong around a file while it is read: it fails, or is read again; the others are stored, nothing is lost
// and nothing is there twice.

vi.setConfig({ testTimeout: 60_000 })

/** Half of a file; the other half when the test says so, and at once when it is read again. */
const HALF = `h=$(($(wc -l <"$1") / 2)); head -n $h "$1"; touch "$0/halfway"
until [ -e "$0/go" ]; do sleep 0.05; done; tail -n +$((h + 1)) "$1"`

let server: TestServer
let file: string
let telem: string
let gate: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  telem = join(server.dir, 'telem')
  gate = join(server.dir, 'gate')
  const decoders = { '.half': ['sh', '-c', HALF, gate], '.gone': ['/nowhere/logdump', '-F'] }
  const lines = Object.entries(decoders).map(([ending, argv]) => `"${ending}" = ${JSON.stringify(argv)}\n`)
  const more = `data_dirs = ["${telem}"]\njobs = 1\n[reingest.telem.decoders]\n${lines.join('')}`
  await writeFile(file, telescope(server, more))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())
beforeEach(async () => {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  for (const folder of [telem, gate]) await rm(folder, { recursive: true, force: true })
  await mkdir(gate)
})

/** Lines of a file: one microsecond after the other. */
function linesOf(count: number, from = 0): string {
  return Array.from({ length: count }, (_, index) =>
    line(`2026-03-14T02:15:40.${String(from + index).padStart(6, '0')}999`, String(from + index)),
  ).join('')
}

const path = (device: string, ending = '.ndjson') => join(telem, `${device}_20260314021530${ending}`)

/** Looks for files and reads them. */
async function readAll(onStart?: (pid: number) => void): Promise<number | null> {
  const done = await runScript(['reingest', 'run', '-c', file], onStart ? { onStart } : {})
  return done.code
}

/** How many rows each device has, and none of them twice: the key is the time. */
async function rowsByDevice(): Promise<Record<string, number>> {
  const rows = await server.query<{ device: string; rows: number }>(
    'xtelem',
    `select device, count(*)::int as rows from telem
      where ts = '2026-03-14 02:15:40Z'::timestamptz + msg::int * interval '1 microsecond' group by 1`,
  )
  return Object.fromEntries(rows.map(({ device, rows: count }) => [device, count]))
}

/** What stands in the ledger, by the name of the file up to its time. */
async function ledger(): Promise<
  Record<string, readonly [state: string, reason: string | null, rows: number]>
> {
  const rows = await server.query<{ name: string; state: string; reason: string | null; rows: number }>(
    'xtelem',
    `select substring(origin_path from '([^/]*)_[^/]*$') as name, state, reason, rows::int from file_ingests`,
  )
  return Object.fromEntries(
    rows.map(({ name, state, reason, rows: count }) => [name, [state, reason, count]]),
  )
}

const isVerified = async () => (await runScript(['reingest', 'verify', '-c', file])).code === 0

test.runIf(process.getuid?.() === 0)(
  'the disk of the server is full: the file fails with that, what was stored stays, and all is there once there is room',
  async () => {
    const small = join(server.dir, 'small')
    const { uid, gid } = userId('postgres')
    await mkdir(small)
    await run(['mount', '-t', 'tmpfs', '-o', `size=2m,mode=0700,uid=${uid},gid=${gid}`, 'tmpfs', small])
    try {
      await server.query('postgres', `create tablespace small location '${small}'`)
      await server.query('xtelem', 'alter table telem set tablespace small')
      await writeOld(path('a'), linesOf(100))
      await writeOld(path('b'), linesOf(60_000))
      await writeOld(path('c'), linesOf(100))
      expect(await readAll()).toBe(11)
      const entries = await ledger()
      expect(entries).toMatchObject({
        a: ['whole', null, 100],
        b: ['failed', expect.stringMatching(/no room.*No space left on device/) as string, 0],
      })
      // What was written of b takes the room until the server has cleaned up: c may be stored or not, but not in part.
      const [state, , rows] = entries['c']!
      expect([state, rows]).toEqual(state === 'whole' ? ['whole', 100] : ['failed', 0])
      expect(await rowsByDevice()).toEqual(rows === 0 ? { a: 100 } : { a: 100, c: 100 })
      await run(['mount', '-o', 'remount,size=64m', small])
      expect(await readAll()).toBe(0)
      expect(await rowsByDevice()).toEqual({ a: 100, b: 60_000, c: 100 })
      expect(await isVerified()).toBe(true)
    } finally {
      await server.query('xtelem', 'alter table telem set tablespace pg_default')
      await server.query('postgres', 'drop tablespace small')
      await run(['umount', '--lazy', small])
    }
  },
)

describe('the connection is lost within a file', () => {
  const losses: readonly (readonly [string, () => Promise<void>])[] = [
    [
      'its session is ended',
      async () => {
        await server.query(
          'postgres',
          `select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name like 'howdah reingest%'`,
        )
      },
    ],
    [
      'the server dies, and is started again',
      async () => {
        const { bindir, dataDir } = server.cluster
        const as = process.getuid?.() === 0 ? 'postgres' : undefined
        await run([join(bindir, 'pg_ctl'), '-s', '-D', dataDir, '-m', 'immediate', 'stop'], { as })
        await server.cluster.start()
      },
    ],
  ]

  test.each(losses)('%s: the file is read again, and the others after it', async (_, lose) => {
    await writeOld(path('a'), linesOf(100))
    await writeOld(path('b', '.half'), linesOf(2000))
    await writeOld(path('c'), linesOf(100))
    const reading = readAll()
    await vi.waitUntil(() => exists(join(gate, 'halfway')), { timeout: 20_000, interval: 20 })
    await lose()
    expect(await rowsByDevice()).toEqual({ a: 100 })
    await writeFile(join(gate, 'go'), '')
    expect(await reading).toBe(0)
    expect(await ledger()).toEqual({
      a: ['whole', null, 100],
      b: ['whole', null, 2000],
      c: ['whole', null, 100],
    })
    expect(await rowsByDevice()).toEqual({ a: 100, b: 2000, c: 100 })
  })
})

describe('a file changes while it is read', () => {
  const changes: readonly (readonly [string, number, (name: string) => Promise<void>, RegExp])[] = [
    ['it grows', 150, (name) => appendFile(name, linesOf(50, 100)), /^it was changed while it was read$/],
    ['it is cut', 100, (name) => truncate(name, linesOf(60).length - 5), /cut off; it was changed/],
  ]

  test.each(changes)(
    '%s: that is said, and the next run reads what it is then',
    async (_, last, change, reason) => {
      await writeOld(path('a'), linesOf(100))
      await writeOld(path('b'), linesOf(100))
      await server.withClient('xtelem', async (client) => {
        // Whoever reads has opened the file before, and waits for the table.
        await client.query('begin; lock table telem in share mode')
        const reading = readAll()
        await vi.waitUntil(
          async () =>
            (
              await server.query(
                'postgres',
                `select from pg_locks where not granted and mode = 'RowExclusiveLock'`,
              )
            ).length === 1,
          { timeout: 20_000, interval: 20 },
        )
        await change(path('a'))
        await client.query('commit')
        expect(await reading).toBe(0)
      })
      expect(await ledger()).toMatchObject({
        a: ['open', expect.stringMatching(reason) as string, expect.any(Number) as number],
        b: ['whole', null, 100],
      })
      await writeOld(path('a'), linesOf(last))
      expect(await readAll()).toBe(0)
      expect((await ledger())['a']![0]).toBe('whole')
      expect(await rowsByDevice()).toEqual({ a: last, b: 100 })
      expect(await isVerified()).toBe(true)
    },
  )
})

test('a decoder that is not there, and one that nobody named: their files fail, and the others are stored', async () => {
  await writeOld(path('a', '.gone'), 'x')
  await writeOld(path('b', '.bintel'), 'x')
  await writeOld(path('c'), linesOf(100))
  expect(await readAll()).toBe(11)
  expect(await ledger()).toEqual({
    a: ['failed', expect.stringContaining('/nowhere/logdump') as string, 0],
    b: ['failed', 'there is no decoder for ".bintel"', 0],
    c: ['whole', null, 100],
  })
  expect(await rowsByDevice()).toEqual({ c: 100 })
})

test('a line of 100 MB, packed or not, ended or not: is one reject, and 250 MB of memory are enough', async () => {
  const long = Buffer.alloc(100 * 1024 ** 2, 'x')
  await writeOld(path('a'), '')
  await using handle = await open(path('a'), 'w')
  for (const part of [linesOf(1), long, '\n', linesOf(1, 1)]) await handle.appendFile(part)
  await writeOld(
    path('b', '.ndjson.gz'),
    gzipSync(Buffer.concat([Buffer.from(linesOf(1)), long]), { level: 1 }),
  )
  await writeOld(path('c'), linesOf(2))
  const then = Date.now() / 1000 - 86_400
  await handle.utimes(then, then)
  let most = 0
  let isOver = false
  const measured = async (pid: number) => {
    while (!isOver) {
      const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
      most = Math.max(most, Number(/^VmHWM:\s*(\d+) kB/m.exec(status)?.[1] ?? 0))
      await sleep(20)
    }
  }
  let measuring: Promise<void> | undefined
  const code = await readAll((pid) => (measuring = measured(pid)))
  isOver = true
  await measuring
  expect(code).toBe(11)
  expect(await ledger()).toEqual({
    a: ['partial', '1 lines are no rows', 2],
    b: ['partial', 'the last line is cut off', 1],
    c: ['whole', null, 2],
  })
  expect(
    await server.query('xtelem', 'select line::int, reason from file_rejects order by origin_path'),
  ).toEqual([
    { line: 2, reason: 'longer than 16 MB' },
    { line: 2, reason: 'the last line is cut off' },
  ])
  expect(await rowsByDevice()).toEqual({ a: 2, b: 1, c: 2 })
  expect(most).toBeGreaterThan(0)
  expect(most / 1024).toBeLessThan(250)
})
