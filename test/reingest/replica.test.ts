import { appendFile, cp, mkdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { line, telescope, writeOld } from './tree.ts'

vi.setConfig({ testTimeout: 30_000 })

let server: TestServer
let file: string
let telem: string
let drive: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  telem = join(server.dir, 'telem')
  drive = join(server.dir, 'drive')
  await writeFile(file, telescope(server, `data_dirs = ["${telem}"]`))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())

beforeEach(async () => {
  await server.query('xtelem', 'truncate telem, replicas, file_origins cascade')
  for (const folder of [telem, drive]) {
    await rm(folder, { recursive: true, force: true })
    await mkdir(folder)
  }
})

const NAMES = [
  'observers_20260314021530123456789.ndjson',
  "cam sci/it's_2026-03-14T021530.ndjson.gz",
  'd/a\nb_20260314031530.ndjson',
] as const
const textOf = (index: number) =>
  [0, 1, 2]
    .map((second) => line(`2026-03-14T0${index}:00:0${second}.123456789`, `{"n": ${index}}`))
    .join('') + 'bad\n'

async function writeAll(): Promise<void> {
  for (const [index, name] of NAMES.entries()) await writeOld(join(telem, name), textOf(index))
}

async function reingest(...args: string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await runScript(['reingest', ...args, '-c', file, '--json'])
  const { result } = JSON.parse(stdout) as { result?: Record<string, unknown> }
  return { code, stderr, ...result }
}

/** All that a refill makes, but for when and from where. */
async function contents(): Promise<unknown> {
  const [row] = await server.query(
    'xtelem',
    `select (select md5(string_agg(t::text, ',' order by ts, device)) from telem t) as telem,
            (select md5(string_agg(r::text, ',' order by origin_path, line)) from file_rejects r) as rejects,
            (select md5(string_agg(o::text, ',' order by origin_path)) from file_origins o) as origins,
            (select string_agg((origin_host, origin_path, state, size_bytes, modification_time, sha256, rows)::text, ','
               order by origin_path) from file_ingests) as ledger`,
  )
  return row
}

test('add, sync, list, verify: copies are what the originals are, and only what is new is copied again', async () => {
  await writeAll()
  expect(await reingest('inventory')).toMatchObject({ code: 0, added: 3 })
  expect(await reingest('replica', 'sync')).toMatchObject({ code: 2 })
  expect(await reingest('replica', 'add', 'drive')).toMatchObject({ code: 2 })
  expect(await reingest('replica', 'add', `${drive}/none`)).toMatchObject({ code: 11 })
  expect(await reingest('replica', 'add', `${drive}/`)).toMatchObject({ code: 0, prefix: drive })
  expect(await reingest('replica', 'list')).toMatchObject({
    replicas: [{ prefix: drive, copies: 0, missing: 3 }],
  })
  expect(await reingest('replica', 'sync', '--plan')).toMatchObject({ code: 0, copied: 3 })
  expect(await reingest('replica', 'sync')).toMatchObject({ code: 0, copied: 3, gone: 0, failed: [] })
  for (const name of NAMES) {
    const [from, to] = [join(telem, name), join(drive, 'aoc', telem, name)]
    expect(await readFile(to)).toEqual(await readFile(from))
    expect((await stat(to)).mtime).toEqual((await stat(from)).mtime)
  }
  expect(await reingest('replica', 'sync', 'telem', drive)).toMatchObject({ code: 0, copied: 0 })
  expect(await reingest('replica', 'verify')).toMatchObject({ code: 0, copies: 3, hashed: 3, differing: [] })
  await appendFile(join(telem, NAMES[0]), line('2026-03-14T09:00:00.5', '1'))
  await rm(join(telem, NAMES[1]))
  expect(await reingest('inventory')).toMatchObject({ changed: 1, vanished: 1 })
  expect(await reingest('replica', 'sync')).toMatchObject({ code: 0, copied: 1, gone: 0 })
  expect(await reingest('replica', 'list')).toMatchObject({ replicas: [{ copies: 3, missing: 0 }] })
})

test('copies that were changed, cut, or are gone: verify names each of them', async () => {
  await writeAll()
  await reingest('inventory')
  await reingest('ingest')
  await reingest('replica', 'add', drive)
  await reingest('replica', 'sync')
  const copies = NAMES.map((name) => join(drive, 'aoc', telem, name))
  const { atime, mtime } = await stat(copies[0]!)
  await writeFile(copies[0]!, textOf(9))
  await utimes(copies[0]!, atime, mtime)
  await appendFile(copies[1]!, 'x')
  await rm(copies[2]!)
  await rm(telem, { recursive: true })
  const { code, differing } = await reingest('replica', 'verify', drive)
  expect(code).toBe(1)
  expect((differing as { reason: string }[]).map(({ reason }) => reason).toSorted()).toEqual([
    expect.stringMatching(/^it has \d+ bytes, not \d+$/),
    'it has other bytes than the original had',
    'it is not there',
  ])
})

test('a refill from a backup drive only: tables, rejects and ledger are what they were', async () => {
  await writeAll()
  expect(await reingest('inventory')).toMatchObject({ code: 0 })
  expect(await reingest('ingest')).toMatchObject({ code: 11, files: { partial: 3 }, rows: 9, rejects: 3 })
  const before = await contents()
  await reingest('replica', 'add', drive)
  await reingest('replica', 'sync')
  await rm(telem, { recursive: true })
  await server.query('xtelem', 'truncate telem, replicas, file_origins cascade')
  expect(await reingest('enroll', drive, '--plan')).toMatchObject({ code: 0, origins: 3 })
  expect(await server.query('xtelem', 'select from file_origins')).toEqual([])
  expect(await reingest('enroll', drive)).toMatchObject({ code: 0, copies: 3, hosts: ['aoc'], origins: 3 })
  expect(await reingest('ingest')).toMatchObject({ code: 11, files: { partial: 3 }, rows: 9, rejects: 3 })
  expect(await contents()).toEqual(before)
  expect(await reingest('verify')).toMatchObject({ code: 0, files: 3 })
  expect(await reingest('enroll', drive)).toMatchObject({ code: 0, changed: 0, origins: 0, vanished: 0 })
})

test('a drive of another host, with what is on any drive: its files are those of that host', async () => {
  await writeOld(join(drive, 'exao1/opt/MagAOX/telem', NAMES[0]), textOf(1))
  await writeOld(join(drive, 'exao1/opt/.0123.howdah-part'), 'left by a run that was killed')
  await writeOld(join(drive, 'lost+found/1_20260314021530.ndjson'), textOf(1))
  await writeOld(join(drive, '.Trash/1_20260314021530.ndjson'), textOf(1))
  await writeOld(join(drive, 'readme.txt'), 'no host')
  expect(await reingest('enroll', drive)).toMatchObject({ code: 0, copies: 1, hosts: ['exao1'], skipped: [] })
  expect(await reingest('ingest')).toMatchObject({ code: 11, rows: 3 })
  expect(await server.query('xtelem', 'select origin_host, origin_path, state from file_ingests')).toEqual([
    { origin_host: 'exao1', origin_path: `/opt/MagAOX/telem/${NAMES[0]}`, state: 'partial' },
  ])
  await mkdir(join(drive, "o'brien; drop"))
  expect(await reingest('enroll', drive)).toMatchObject({ code: 11, copies: 1 })
  await rm(join(drive, 'exao1/opt/MagAOX'), { recursive: true })
  expect(await reingest('enroll', drive)).toMatchObject({ vanished: 1 })
  expect(await reingest('enroll', `${drive}-away`)).toMatchObject({ code: 11 })
})

test('a copy that is not what it was, or older than the original: is not taken for it', async () => {
  const path = join(telem, NAMES[0])
  const copy = join(drive, 'aoc', path)
  await writeOld(path, textOf(1))
  await reingest('inventory')
  await cp(telem, join(drive, 'aoc', telem), { recursive: true, preserveTimestamps: true })
  await appendFile(path, line('2026-03-14T09:00:00.5', '1'))
  await reingest('inventory')
  await rename(path, `${path}.away`)
  expect(await reingest('enroll', drive)).toMatchObject({ code: 0, differing: 1, origins: 0 })
  const older = await reingest('ingest')
  expect(older).toMatchObject({ code: 11, rows: 3, files: { partial: 1 } })
  expect(older['problems']).toMatchObject([
    { reason: expect.stringMatching(/not what the original was/) as string },
  ])
  // It is there again: all of it is read.
  await rename(`${path}.away`, path)
  expect(await reingest('ingest')).toMatchObject({ rows: 1, known: 3 })
  await rename(path, `${path}.away`)
  await appendFile(copy, line('2026-03-14T09:00:00.5', '2'))
  await server.query('xtelem', 'truncate telem, file_ingests, file_ingest_times')
  const changed = await reingest('ingest')
  expect(changed).toMatchObject({ code: 11, rows: 0, files: { failed: 1 } })
  expect(changed['problems']).toMatchObject([
    { reason: expect.stringMatching(/another size or time/) as string },
  ])
})

test('a drive that is full: says so, keeps what was copied, and no half of a file is there', async () => {
  await run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', drive])
  try {
    await writeOld(join(telem, 'a_20260314021530.ndjson'), textOf(1))
    await writeOld(join(telem, 'b_20260314021531.ndjson'), 'x'.repeat(100_000))
    await reingest('inventory')
    await reingest('replica', 'add', drive)
    expect(await reingest('replica', 'sync')).toMatchObject({
      code: 57,
      stderr: expect.stringContaining('is full') as string,
    })
    expect(await reingest('replica', 'list')).toMatchObject({ replicas: [{ copies: 1, missing: 1 }] })
    expect((await run(['find', drive, '-type', 'f'])).stdout.trim().split('\n')).toHaveLength(1)
    expect(await reingest('replica', 'verify')).toMatchObject({ code: 0, copies: 1 })
  } finally {
    await run(['umount', drive])
  }
})
