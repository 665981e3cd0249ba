import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { enrol, line, telescope, writeOld } from './tree.ts'

// Runs that do the same at the same time, and runs that die.

vi.setConfig({ testTimeout: 60_000 })

const FILES = 8
const LINES = 500

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  // Slow enough to be caught at it: half of a file, a while, and the other half.
  const decoder = `h=$(($(wc -l <"$1") / 2)); head -n $h "$1"; sleep 0.15; tail -n +$((h + 1)) "$1"`
  const decoders = `[reingest.telem.decoders]\n".bintel" = ["sh", "-c", '${decoder}', "decode"]\n`
  await writeFile(file, telescope(server, `jobs = 1\n${decoders}`))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
  const paths: string[] = []
  for (let number = 0; number < FILES; number++) {
    const path = join(server.dir, `telem/device-${number % 3}_202603140215${10 + number}.bintel`)
    const lines = Array.from({ length: LINES }, (_, index) =>
      line(`2026-03-14T02:${10 + number}:00.${String(index).padStart(6, '0')}999`, `{"number": ${index}}`),
    )
    await writeOld(path, lines.join(''))
    paths.push(path)
  }
  await enrol(server, paths)
})
afterAll(() => server[Symbol.asyncDispose]())
beforeEach(() => server.query('xtelem', 'truncate telem, file_ingests, file_rejects, file_ingest_times'))

const ingest = (...args: string[]) => runScript(['reingest', 'ingest', '-c', file, ...args])

async function count(table: string): Promise<number> {
  const [row] = await server.query<{ count: number }>('xtelem', `select count(*)::int as count from ${table}`)
  return row!.count
}

/** Runs until something holds, and is killed then. */
async function killedWhen(holds: () => Promise<boolean>): Promise<void> {
  let pid = 0
  const running = runScript(['reingest', 'ingest', '-c', file], { onStart: (started) => (pid = started) })
  await vi.waitUntil(holds, { timeout: 20_000, interval: 20 })
  process.kill(pid, 'SIGKILL')
  expect(await running).toMatchObject({ signal: 'SIGKILL' })
}

async function checkAllOnce(): Promise<void> {
  expect(await count('telem')).toBe(FILES * LINES)
  expect(
    await server.query(
      'xtelem',
      'select state, sum(rows)::int as rows, sum(known)::int as known, count(*)::int as files from file_ingests group by 1',
    ),
  ).toEqual([{ state: 'whole', rows: FILES * LINES, known: 0, files: FILES }])
  expect(await runScript(['reingest', 'verify', '-c', file])).toMatchObject({ code: 0 })
}

test('killed in the midst of a file: nothing of it is there, and the next run stores each row once', async () => {
  const isAtWork = async () => {
    const rows = await server.query(
      'postgres',
      `select from pg_stat_progress_copy where tuples_processed > 0 and relid <> 0`,
    )
    return rows.length > 0 && (await count('file_ingests')) >= 2
  }
  await killedWhen(isAtWork)
  await vi.waitUntil(
    async () => (await server.query('postgres', 'select from pg_stat_progress_copy')).length === 0,
    { timeout: 10_000 },
  )
  expect((await count('telem')) % LINES).toBe(0)
  expect(await count('telem')).toBe((await count('file_ingests')) * LINES)
  expect(await ingest()).toMatchObject({ code: 0 })
  await checkAllOnce()
})

test('three at once, one of them killed: the others do its work, and no file is stored twice', async () => {
  const others = [ingest('--json'), ingest('--json')]
  await killedWhen(async () => (await count('file_ingests')) >= 2)
  const summaries = (await Promise.all(others)).map(({ code, stdout }) => {
    expect(code).toBe(0)
    return (JSON.parse(stdout) as { result: { files: { whole: number } } }).result.files.whole
  })
  expect(Math.min(...summaries)).toBeGreaterThan(0)
  await checkAllOnce()
})

test('connections are cut while it runs: it goes on by itself, and each row is there once', async () => {
  const running = ingest()
  await vi.waitUntil(async () => (await count('file_ingests')) >= 2, { timeout: 20_000, interval: 20 })
  await server.query(
    'postgres',
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'howdah reingest%'`,
  )
  expect(await running).toMatchObject({ code: 0 })
  await checkAllOnce()
})
