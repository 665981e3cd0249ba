import { randomBytes } from 'node:crypto'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { nothingFound, rowsOf } from '../../scripts/reingest/rows.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { enrol, line, telescope, writeOld } from './tree.ts'

// Files that are not what they were when they were written: what can be read of them is read, and why not all of it is said.

vi.setConfig({ testTimeout: 60_000 })

const LINES = 3000

let server: TestServer
let file: string
let folder: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  folder = join(server.dir, 'telem')
  await writeFile(file, telescope(server))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())
beforeEach(async () => {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  await rm(folder, { recursive: true, force: true })
})

const lines = Array.from({ length: LINES }, (_, index) =>
  line(`2026-03-14T02:15:40.${String(index).padStart(6, '0')}999`, `"${randomBytes(60).toString('hex')}"`),
)
const text = lines.join('')

/** Lines that are whole in the first part of a file, as any other unpacker of the kind has them. */
function wholeLines(bytes: number): number {
  return text.slice(0, bytes).split('\n').length - 1
}

async function ingest(name: string, content: Buffer): Promise<Record<string, unknown>> {
  await writeOld(join(folder, name), content)
  await enrol(server, [join(folder, name)])
  const { code, stdout } = await runScript(['reingest', 'ingest', '-c', file, '--json'])
  return { code, ...(JSON.parse(stdout) as { result: Record<string, unknown> }).result }
}

test('a gzip that is damaged in its middle: the lines before stay, and the file is partial with the reason', async () => {
  // Stored blocks: where a byte is in the file is where it is in the text, but for a few headers.
  const packed = gzipSync(text, { level: 0 })
  const half = Math.floor(packed.length / 2)
  packed.fill(0xff, half)
  const done = await ingest('d_20260314021540.ndjson.gz', packed)
  expect(done).toMatchObject({ code: 11, files: { partial: 1 } })
  expect(done['problems']).toMatchObject([{ reason: expect.stringMatching(/damaged/) as string }])
  const rows = await server.query<{ count: number }>('xtelem', 'select count(*)::int as count from telem')
  expect(rows[0]!.count).toBe(done['rows'])
  expect(done['rows']).toBeGreaterThan(0)
  // No more than a stored block of 64 kB is lost before it, and nothing behind it is made up.
  expect(done['rows']).toBeGreaterThanOrEqual(wholeLines(half - 65_600))
  expect(done['rows']).toBeLessThanOrEqual(wholeLines(half))
  expect(await runScript(['reingest', 'verify', '-c', file])).toMatchObject({ code: 0 })
})

test('packed lines with a byte changed: only good lines become rows', async () => {
  const packed = gzipSync(text)
  const at = Math.floor(packed.length * 0.7)
  packed.fill(0, at, at + 200)
  const done = await ingest('d_20260314021540.ndjson.gz', packed)
  expect(done).toMatchObject({ code: 11, files: { partial: 1 } })
  expect(done['rows']).toBeGreaterThan(LINES / 2)
})

test('a .zst that is cut: the lines before stay', async () => {
  const packed = zstdCompressSync(text)
  const done = await ingest(
    'd_20260314021540.ndjson.zst',
    packed.subarray(0, Math.floor(packed.length * 0.8)),
  )
  expect(done).toMatchObject({ code: 11, files: { partial: 1 } })
  expect(done['problems']).toMatchObject([{ reason: expect.stringMatching(/has no end/) as string }])
  expect(done['rows']).toBeGreaterThan(LINES / 4)
})

test.each(['.ndjson.gz', '.ndjson.zst'])(
  '%s of nothing but garbage: the file fails, with why',
  async (ending) => {
    const done = await ingest(`d_20260314021540${ending}`, Buffer.from('garbage, and no stream of any kind'))
    expect(done).toMatchObject({ code: 11, rows: 0, files: { failed: 1 } })
    expect(done['problems']).toMatchObject([{ reason: expect.stringMatching(/damaged/) as string }])
  },
)

test('a line of 100 MB: is one reject, the others are rows, and little of it is ever in memory', async () => {
  const block = Buffer.alloc(64 * 1024, 'x')
  let most = 0
  const blocks = async function* () {
    yield Buffer.from(lines[0]!)
    for (let bytes = 0; bytes < 100 * 1024 ** 2; bytes += block.length) {
      yield block
      most = Math.max(most, process.memoryUsage().arrayBuffers)
    }
    yield Buffer.from(`\n${lines[1]!}`)
  }
  const found = nothingFound()
  const before = process.memoryUsage().arrayBuffers
  for await (const _ of rowsOf(blocks(), { format: 'ndjson', device: 'd', zone: 'UTC' }, found));
  expect(found).toMatchObject({
    lines: 3,
    rows: 2,
    rejected: 1,
    rejects: [{ line: 2, reason: 'longer than 16 MB' }],
  })
  expect(most - before).toBeLessThan(64 * 1024 ** 2)
})
