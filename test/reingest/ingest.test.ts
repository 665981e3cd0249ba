import { appendFile, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { enrol, line, telescope, writeOld } from './tree.ts'

let server: TestServer
let file: string
let folder: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  folder = join(server.dir, 'telem')
  const decoders = `[reingest.telem.decoders]\n".bintel" = ["sh", "-c", 'cat "$1"; echo "no such schema" >&2; ! grep -q bad "$1"', "decode"]\n`
  await writeFile(file, telescope(server, decoders))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())

beforeEach(async () => {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  await rm(folder, { recursive: true, force: true })
})

interface Told {
  readonly ok: boolean
  readonly result: {
    readonly files: Readonly<Record<string, number>>
    readonly rows: number
    readonly known: number
    readonly conflicts: number
    readonly rejects: number
    readonly problems: readonly { path: string; state: string; reason: string }[]
  }
}

async function ingest(...args: string[]): Promise<{ code: number | null; stderr: string } & Told['result']> {
  const { code, stdout, stderr } = await runScript(['reingest', 'ingest', ...args, '-c', file, '--json'])
  return { code, stderr, ...(JSON.parse(stdout) as Told).result }
}

const query = <Row extends object>(text: string) => server.query<Row>('xtelem', text)
const rows = () =>
  query<{
    ts: string
    device: string
    ec: string
    msg: string
    prio: null
  }>(`select to_char(ts at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US') as ts, device, ec, msg::text, prio
    from telem order by device, telem.ts`)
const ledger = () =>
  query<{
    path: string
    state: string
    reason: string | null
    rows: number
    rejects: number
  }>(`select replace(origin_path, '${folder}/', '') as path, state, reason, rows::int, rejects::int
    from file_ingests order by origin_path collate "C"`)

/** Writes files and tells the database of them. */
async function put(files: Readonly<Record<string, string | Buffer>>): Promise<void> {
  for (const [name, text] of Object.entries(files)) await writeOld(join(folder, name), text)
  await enrol(
    server,
    Object.keys(files).map((name) => join(folder, name)),
  )
}

const A = line('2026-03-14T02:15:40.195911902', '{"a": 1.0,"big": 12345678901234567890}')
const B = line('2026-03-14T02:15:41.999999999', '{"b": "x\\\\y\\tz"}')

test('formats: packed or not, JSON or CSV, decoded: the same rows, and nothing is read twice', async () => {
  const csv = `ec,msg,ts\ntelem_cooler,"{""a"": 1.0,""big"": 12345678901234567890}",2026-03-14T02:15:40.195911902\n`
  await put({
    'd-one_20260314021530123456789.ndjson': A + B,
    'd_two_2026-03-14T021530.ndjson.gz': A + B,
    'd3_20260314021530123456789.ndjson.zst': zstdCompressSync(A + B),
    'd4_20260314021530123456789.csv': csv,
    'd5_20260314021530123456789.csv.gz': csv,
    'd6/2026_03_14/d6_20260314021530123456789.bintel': A + B,
    'isAOC_20260314021530123456789.binlog': 'no telemetry',
    'notes.ndjson': 'no telemetry',
  })
  expect(await ingest()).toMatchObject({ code: 0, rows: 10, conflicts: 0, rejects: 0, problems: [] })
  const both = [
    { ts: '2026-03-14T02:15:40.195911', msg: '{"a": 1.0, "big": 12345678901234567890}' },
    { ts: '2026-03-14T02:15:41.999999', msg: '{"b": "x\\\\y\\tz"}' },
  ]
  const of = (device: string, count: number) =>
    both.slice(0, count).map(({ ts, msg }) => ({ ts, device, ec: 'telem_cooler', msg, prio: null }))
  const devices = ['d-one', 'd3', 'd4', 'd5', 'd6', 'd_two']
  expect(await rows()).toEqual(devices.flatMap((device) => of(device, /d[45]/.test(device) ? 1 : 2)))
  expect(await ingest()).toMatchObject({ code: 0, rows: 0, files: { whole: 0 } })
  expect(await runScript(['reingest', 'verify', '-c', file])).toMatchObject({ code: 0 })
})

test('backfill: is the same by its old name; --plan reads nothing', async () => {
  await put({ 'd_20260314021530123456789.ndjson': A })
  const planned = await runScript(['reingest', 'backfill', '--plan', '-c', file])
  expect(planned).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('would be read: 1 files') as string,
  })
  expect(await rows()).toEqual([])
  const done = await runScript(['reingest', 'backfill', '-c', file])
  expect(done).toMatchObject({ code: 0, stderr: expect.stringContaining('as role xtelem') as string })
  expect(await rows()).toHaveLength(1)
  expect(await query(`select device, ts from file_ingest_times`)).toEqual([
    { device: 'd', ts: expect.stringMatching(/02:15:30\.123456\+00$/) as string },
  ])
})

test('bad lines: each is kept with its number and why, good ones are stored, and the exit code says so', async () => {
  const text = [
    A,
    'garbage\n',
    '\n',
    line('2026-03-14T02:15:41', '{"v": nan,"w": -inf,"x": "nan",  "y": [Infinity, -nan]}'),
    line('2026-03-14T02:15:59000', '"a text"'),
    line('2026-02-30T00:00:00.5', '{}'),
    '{"ts": "2026-03-14T02:16:00", "msg": {}}\n',
    line('2026-03-14T02:16:01.5', '{}', 'e'.repeat(21)),
    line('2026-03-14T02:16:02.5', String.raw`"nul \u0000"`),
    line('2026-03-14T02:16:03.5', '1e99999999'),
    line('2026-03-14T02:16:04.5+01:00', '0'),
  ].join('')
  await put({
    'd_20260314021530.ndjson.gz': gzipSync(Buffer.concat([Buffer.from(text), Buffer.from([0xff, 10])])),
  })
  expect(await ingest()).toMatchObject({ code: 11, rows: 4, rejects: 7, files: { partial: 1 } })
  expect(await query('select line::int, reason from file_rejects order by 1')).toEqual([
    { line: 2, reason: 'no JSON' },
    { line: 6, reason: '"ts" is no time: 2026-02-30T00:00:00.5' },
    { line: 7, reason: 'without "ec"' },
    { line: 8, reason: '"ec" has more than 20 characters' },
    { line: 9, reason: 'a text holds a NUL or half a character, which the server cannot store' },
    { line: 10, reason: 'a number is larger than the server can store' },
    { line: 12, reason: 'not UTF-8' },
  ])
  expect((await rows()).map(({ ts, msg }) => [ts, msg])).toEqual([
    ['2026-03-14T01:16:04.500000', '0'],
    ['2026-03-14T02:15:40.195911', '{"a": 1.0, "big": 12345678901234567890}'],
    ['2026-03-14T02:15:41.000000', '{"v": null, "w": null, "x": "nan", "y": [null, null]}'],
    ['2026-03-14T02:15:59.000000', '"a text"'],
  ])
})

test('two records of a device in one microsecond: the first one stays, and the other is counted', async () => {
  await put({
    'd_20260314021530.ndjson':
      line('2026-03-14T02:15:40.1234561', '1') + line('2026-03-14T02:15:40.1234569', '2') + A + A,
  })
  expect(await ingest()).toMatchObject({ code: 0, rows: 2, known: 1, conflicts: 1 })
  expect((await rows()).map(({ msg }) => msg)[0]).toBe('1')
  expect(await runScript(['reingest', 'verify', '-c', file])).toMatchObject({ code: 0 })
})

test('a gzip stream without its end: what is there is stored; while it is written that is no error', async () => {
  const whole = gzipSync((A + B).repeat(1) + line('2026-03-14T02:15:43.5', `"${'x1y2'.repeat(5000)}"`))
  const cut = whole.subarray(0, whole.length - 9)
  await put({ 'd_20260314021530.ndjson.gz': cut })
  await writeFile(join(folder, 'live_20260314021530.ndjson.gz'), cut)
  await enrol(server, [join(folder, 'live_20260314021530.ndjson.gz')])
  const done = await ingest()
  expect(done).toMatchObject({ code: 11, files: { partial: 1, open: 1, whole: 0 } })
  expect(done.rows).toBeGreaterThanOrEqual(4)
  expect(done.problems.map(({ state, reason }) => `${state}: ${reason}`).toSorted()[0]).toMatch(
    /^open: the packed stream has no end/,
  )
  await writeFile(join(folder, 'live_20260314021530.ndjson.gz'), whole)
  await enrol(server, [join(folder, 'live_20260314021530.ndjson.gz')])
  expect(await ingest()).toMatchObject({ code: 0, known: done.rows / 2, files: { whole: 1 } })
  expect(await query(`select from telem where device = 'live'`)).toHaveLength(3)
})

test('a file that grew: its new rows are stored, those that are there are known', async () => {
  const path = join(folder, 'd_20260314021530.ndjson')
  await put({ 'd_20260314021530.ndjson': A })
  expect(await ingest()).toMatchObject({ code: 0, rows: 1 })
  await appendFile(path, `${B}{"ts": "2026-03-14T02:15:47.5`)
  await enrol(server, [path])
  expect(await ingest()).toMatchObject({ code: 0, rows: 1, known: 1, rejects: 0, files: { open: 1 } })
})

test('a second copy of a file under another path: is recognised, and not read for ever', async () => {
  await put({ 'd_20260314021530.ndjson': A, 'old/d_20260314021530.ndjson': A })
  const done = await ingest('reingest.telem.jobs=1')
  expect(done).toMatchObject({ code: 0, rows: 1, files: { whole: 1, same: 1 } })
  expect(await ingest()).toMatchObject({ code: 0, files: { whole: 0, same: 0 } })
})

describe('files that cannot be read', () => {
  test('each fails with its reason, the others are stored, and what is mended is stored the next time', async () => {
    const damaged = gzipSync(A + B.repeat(50))
    damaged.writeUInt32LE(0, damaged.length - 8)
    await put({
      'bad1_20260314021530.ndjson.gz': damaged,
      'bad2_20260314021530.csv': 'a,b\n1,2\n',
      'bad3_20260314021530.bintel': `${A}bad\n`,
      'bad4_20260314021530.ndjson': Buffer.from([1, 2, 3, 10, 255, 10]),
      'good_20260314021530.ndjson': A,
    })
    await mkdir(join(folder, 'bad5_20260314021530.ndjson'))
    await enrol(
      server,
      ['bad5', 'bad6'].map((name) => join(folder, `${name}_20260314021530.ndjson`)),
    )
    expect(await ingest()).toMatchObject({ code: 11, rows: 3, files: { failed: 5, partial: 1, whole: 1 } })
    expect((await ledger()).map(({ path, reason }) => [path, reason])).toEqual([
      [
        'bad1_20260314021530.ndjson.gz',
        expect.stringMatching(/^what is packed is damaged: incorrect data check/),
      ],
      ['bad2_20260314021530.csv', 'wrong columns: there is no ts, ec, msg'],
      ['bad3_20260314021530.bintel', 'sh ended with exit code 1: no such schema'],
      ['bad4_20260314021530.ndjson', 'none of its 2 lines is a row: no JSON'],
      ['bad5_20260314021530.ndjson', expect.stringContaining('it is no file') as string],
      ['bad6_20260314021530.ndjson', 'it is not there any more, and has no copy here'],
      ['good_20260314021530.ndjson', null],
    ])
    await put({
      'bad2_20260314021530.csv': 'ts,ec,msg\n2026-03-14T02:15:40,e,{}\n',
      'bad6_20260314021530.ndjson': A,
    })
    expect(await ingest()).toMatchObject({ code: 11, rows: 2, files: { failed: 3, whole: 2 } })
  })

  test('a line of 40 MB: is one reject', async () => {
    await put({ 'd_20260314021530.ndjson': `${A}${'x'.repeat(40_000_000)}\n${B}` })
    expect(await ingest()).toMatchObject({ code: 11, rows: 2, rejects: 1 })
    expect(await query('select line::int, reason from file_rejects')).toEqual([
      { line: 2, reason: 'longer than 16 MB' },
    ])
  })

  test('an original that is gone: is read from a copy of it that this host has', async () => {
    const [path, copy] = [
      join(folder, 'd_20260314021530.ndjson'),
      join(folder, 'drive/aoc/d_20260314021530.ndjson'),
    ]
    await put({ 'd_20260314021530.ndjson': A, 'drive/aoc/x': '' })
    await rename(path, copy)
    await server.query(
      'xtelem',
      `insert into file_replicas (hostname, replica_path, origin_host, origin_path) values ('aoc', $1, 'aoc', $2)`,
      [copy, path],
    )
    expect(await ingest()).toMatchObject({ code: 0, rows: 1 })
    expect(await ingest()).toMatchObject({ code: 0, rows: 0, files: { whole: 0 } })
  })
})

describe('verify', () => {
  test('a row that was changed, one that is gone and one of no file: each is found', async () => {
    await put({
      'a_20260314021530.ndjson': A + B,
      'b_20260314021530.ndjson': A,
      'c_20260314021530.ndjson': A,
    })
    await ingest()
    await query(`update telem set msg = '7' where device = 'a'`)
    await query(`delete from telem where device = 'b'`)
    await query(`insert into telem (ts, device) values (now(), 'c')`)
    const { code, stdout } = await runScript(['reingest', 'verify', '-c', file])
    expect(code).toBe(1)
    expect(stdout.replaceAll(`${folder}/`, '')).toBe(`3 files, 4 rows
1 rows of these devices are in no file of this host
differs: a_20260314021530.ndjson: 2 of its rows are otherwise in the table
differs: b_20260314021530.ndjson: 1 of its 1 rows are not in the table
`)
  })

  test('a row that was changed in files with conflicts: is found, and the conflicts themselves are not told', async () => {
    const at = (msg: string) => line('2026-03-14T02:15:40.5', msg)
    await put({
      'a_20260314021530.ndjson': at('1') + at('2'),
      'a_20260314021531.ndjson': at('3') + B,
    })
    await ingest('reingest.telem.jobs=1')
    const verify = () => runScript(['reingest', 'verify', '-c', file])
    expect(await verify()).toMatchObject({ code: 0 })
    for (const msg of ['2', '4']) {
      await query(`update telem set msg = '${msg}' where msg <> '{}' and jsonb_typeof(msg) = 'number'`)
      expect(await verify()).toMatchObject({
        code: 1,
        stdout: expect.stringContaining('1 of its rows are otherwise in the table') as string,
      })
    }
  })
})
