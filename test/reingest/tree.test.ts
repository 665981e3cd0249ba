import { createHash } from 'node:crypto'
import { chmod, chown, mkdir, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { ODDITIES, type Oddity } from '../support/oddities.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { telescope, writeOld } from './tree.ts'

// The folders of a telescope, with everything in them that such folders were ever seen with: what becomes of each
// file is spelled out beside the file itself, in test/support/oddities.ts.

vi.setConfig({ testTimeout: 60_000 })

/** Five instruments, by where each puts its files: as C++ and Python do, and did. */
const PLACES: Readonly<Record<string, (name: string) => string>> = {
  observers: (name) => name,
  camsci1: (name) => `camsci1/2026_03_14/${name}`,
  lab_rules: (name) => `lab_rules/${name}`,
  'fx-gen_b-2': (name) => `fx-gen_b-2/2026_03_14/${name}`,
  'dbIngest AOC_"ä"\\': (name) => `odd\tname\n/${name}`,
}

interface File extends Oddity {
  readonly device: string
  readonly number: number
  readonly path: string
}

let server: TestServer
let file: string
let telem: string
let files: readonly File[]
/** Not root: to whom no folder is closed. */
let user: { uid: number; gid: number }

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  telem = join(server.dir, 'telem')
  user = process.getuid?.() === 0 ? userId('postgres') : { uid: process.getuid!(), gid: process.getgid!() }
  const decoder = [process.execPath, join(import.meta.dirname, '../support/logdump.ts'), '-F']
  const more = `data_dirs = ["${telem}"]\njobs = 1\n[reingest.telem.decoders]\n".bintel" = ${JSON.stringify(decoder)}\n`
  await writeFile(file, telescope(server, more))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
  files = Object.entries(PLACES).flatMap(([device, place]) =>
    ODDITIES.map((oddity, number) => ({ ...oddity, device, number, path: pathOf(device, place, number) })),
  )
  files = [...files, ofNoDay()]
  for (const { path, content, isLive } of files) {
    await writeOld(path, content)
    if (isLive) await writeFile(path, content)
  }
  await makeRest()
})
afterAll(async () => {
  await chmod(join(telem, 'closed'), 0o755)
  await server[Symbol.asyncDispose]()
})

/** Its name has the shape of one of telemetry, and is none. */
function ofNoDay(): File {
  const path = join(telem, 'x_20260230000000.ndjson')
  const content = Buffer.from('x')
  const of = { title: 'of a day that is none', device: 'x', number: 0, path }
  return { ...of, ending: '.ndjson', content, state: 'failed', reason: 'its name holds no time' }
}

/** Half of the files are named as C++ names them, half as Python did. */
function pathOf(device: string, place: (name: string) => string, number: number): string {
  const { ending, copyOf } = ODDITIES[number]!
  const minute = String(copyOf ?? number).padStart(2, '0')
  const time = minute.endsWith('1') ? `2026-03-14T02${minute}30` : `2026031402${minute}30123456789`
  return join(telem, copyOf === undefined ? '' : 'old', place(`${device}_${time}${ending}`))
}

/** What is no telemetry, and what cannot be looked at. */
async function makeRest(): Promise<void> {
  const names = ['notes.ndjson', 'isAOC_20260314021530123456789.binlog', 'camwfs_avg_20260314021530.xrif']
  for (const name of [...names, 'x_2026031402.ndjson']) await writeOld(join(telem, name), 'x')
  for (const name of ['.DS_Store', 'a_20260314021530.ndjson.swp', 'a_20260314021530.ndjson~', '.git/config'])
    await writeOld(join(telem, name), 'x')
  await symlink('/nowhere/d_20260314021530.ndjson', join(telem, 'broken_20260314021530.ndjson'))
  await symlink('..', join(telem, 'camsci1/loop'))
  await run(['mkfifo', join(telem, 'pipe_20260314021530.ndjson')])
  await run(['sh', '-c', String.raw`touch "$1/$(printf 'bad\377_20260314021530.ndjson')"`, 'sh', telem])
  await writeOld(
    join(telem, ...Array.from({ length: 5 }, () => 'y'.repeat(220)), 'd_20260314021530.ndjson'),
    '',
  )
  await writeOld(join(telem, 'closed/d_20260314021530.ndjson'), '')
  await chown(join(telem, 'closed'), user.uid, user.gid)
  await chmod(join(telem, 'closed'), 0)
}

async function reingest(verb: string): Promise<{ code: number | null; result: Record<string, unknown> }> {
  const { code, stdout } = await runScript(['reingest', verb, '-c', file, '--json'], user)
  return { code, result: (JSON.parse(stdout) as { result: Record<string, unknown> }).result }
}

const short = (path: string) => path.replace(`${telem}/`, '')
const byText = (a: object, b: object) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)

async function expectStored(): Promise<void> {
  const rows = await server.query(
    'xtelem',
    `select device, to_char(ts at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US') as ts, ec, msg::text, prio from telem`,
  )
  const wanted = files.flatMap(({ device, rows: of = [] }) =>
    of.map(([time, ec, msg]) => ({
      device,
      ts: time.includes('T') ? time : `2026-03-14T${time}`,
      ec,
      msg,
      prio: null,
    })),
  )
  expect(rows.toSorted(byText)).toEqual(wanted.toSorted(byText))
}

async function expectRejects(): Promise<void> {
  const rejects = await server.query(
    'xtelem',
    'select origin_path as path, line::int, reason, content from file_rejects',
  )
  const wanted = files.flatMap(({ path, rejects: of = [] }) =>
    of.map(([line, reason, content]) => ({ path, line, reason, content })),
  )
  expect(rejects.toSorted(byText)).toEqual(wanted.toSorted(byText))
}

async function expectLedger(): Promise<void> {
  const entries = await server.query<{ path: string }>(
    'xtelem',
    `select origin_host as host, origin_path as path, state, reason, device, size_bytes::int as bytes, sha256,
            rows::int, known::int, conflicts::int, rejects::int from file_ingests`,
  )
  const found = entries.map(({ path, ...entry }) => ({ path: short(path), ...entry }))
  const wanted = files.map((one) => {
    const isFailed = one.state === 'failed'
    return {
      path: short(one.path),
      host: 'aoc',
      state: one.state,
      reason: reasonOf(one),
      device: isFailed ? null : one.device,
      bytes: one.content.length,
      sha256: isFailed ? null : createHash('sha256').update(one.content).digest('hex'),
      rows: one.rows?.length ?? 0,
      known: one.known ?? 0,
      conflicts: one.conflicts ?? 0,
      rejects: one.rejects?.length ?? 0,
    }
  })
  expect(found.toSorted(byText)).toEqual(wanted.toSorted(byText))
}

function reasonOf({ device, copyOf, reason }: File): string | null {
  if (copyOf !== undefined) return `the same as aoc:${pathOf(device, PLACES[device]!, copyOf)}`
  return reason?.replace('DECODER', process.execPath) ?? null
}

const count = (state: Oddity['state']) => files.filter((one) => one.state === state).length

test('inventory: what can be read is known, and of everything else it is said why not', async () => {
  const { code, result } = await reingest('inventory')
  const skipped = (result['skipped'] as { path: string; reason: string }[]).map(({ path, reason }) => [
    short(path).replace(/y{220}.*/, 'y'),
    reason,
  ])
  expect(skipped.toSorted(byText)).toEqual([
    ['bad\uFFFD_20260314021530.ndjson', 'its name is not UTF-8'],
    ['broken_20260314021530.ndjson', 'a link to what is not there'],
    ['closed', expect.stringMatching(/denied|permission/i)],
    ['y', 'its path has more than 1024 characters'],
  ])
  expect([code, result['added']]).toEqual([11, 105])
})

test('ingest: exactly these rows, these rejects, and this of each file', async () => {
  const { code, result } = await reingest('ingest')
  const states = ['whole', 'open', 'partial', 'same', 'failed'] as const
  expect([code, result['files']]).toEqual([
    11,
    Object.fromEntries(states.map((state) => [state, count(state)])),
  ])
  await expectStored()
  await expectRejects()
  await expectLedger()
})

test('again: only what failed is read, and all is as it was; verify finds nothing', async () => {
  const { code, result } = await reingest('ingest')
  expect([code, result]).toMatchObject([
    11,
    { rows: 0, files: { whole: 0, partial: 0, same: 0, failed: 16 } },
  ])
  await expectStored()
  await expectRejects()
  await expectLedger()
  expect(await reingest('verify')).toMatchObject({ code: 0 })
})

test('the table is lost: the same rows come back from the same files', async () => {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  await rm(dirname(join(telem, 'closed/x')), { recursive: true })
  await mkdir(join(telem, 'closed'))
  expect(await reingest('run')).toMatchObject({ code: 11 })
  await expectStored()
  await expectRejects()
  await expectLedger()
})
