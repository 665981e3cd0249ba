import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { ROOT, runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { line, telescope, writeOld } from './tree.ts'

// Two databases, and a job for each.

vi.setConfig({ testTimeout: 60_000 })

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  const second = `data_dirs = ["${join(server.dir, 'one')}"]
[databases.second]
owner = "xtelem"
[databases.second.migrations]
dir = "${ROOT}/sql/xtelem/migrations"
role = "xtelem"
[reingest.second]
database = "second"
hostname = "aoc"
data_dirs = ["${join(server.dir, 'two')}"]
`
  await writeFile(file, telescope(server, second))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
  for (const [folder, count] of [
    ['one', 3],
    ['two', 2],
  ] as const) {
    for (let index = 0; index < count; index++) {
      const path = join(server.dir, folder, `cam_2026031402154${index}.ndjson`)
      await writeOld(path, line(`2026-03-14T02:15:4${index}.000001`, '1'))
    }
  }
})
afterAll(() => server[Symbol.asyncDispose]())

const reingest = (...args: string[]) => runScript(['reingest', ...args, '-c', file])

async function rows(database: string): Promise<number> {
  const [row] = await server.query<{ count: number }>(database, 'select count(*)::int as count from telem')
  return row!.count
}

test('limit: a run reads so many files, and the next one the next', async () => {
  expect(await reingest('inventory', 'telem')).toMatchObject({ code: 0 })
  const planned = await reingest('ingest', 'telem', '--plan', '--json', 'reingest.telem.limit=2')
  expect(JSON.parse(planned.stdout).result.files).toHaveLength(2)
  expect(await reingest('ingest', 'telem', 'reingest.telem.limit=2')).toMatchObject({ code: 0 })
  expect(await rows('xtelem')).toBe(2)
  expect(await reingest('ingest', 'telem', 'reingest.telem.limit=2')).toMatchObject({ code: 0 })
  expect(await rows('xtelem')).toBe(3)
})

test('--all: each job in one run, under its name; verify, too', async () => {
  const done = await reingest('run', '--all')
  expect(done).toMatchObject({ code: 0 })
  expect(done.stdout).toMatch(/^telem:\n(  .*\n)+second:\n(  .*\n)+$/)
  expect([await rows('xtelem'), await rows('second')]).toEqual([3, 2])
  const verified = await reingest('verify', '--all', '--json')
  expect(verified.code).toBe(0)
  const { jobs } = JSON.parse(verified.stdout).result
  expect(jobs).toMatchObject([
    { job: 'telem', differing: [] },
    { job: 'second', differing: [] },
  ])
})

test('--all: a job that fails keeps none of the others, and is told; one table that differs is, too', async () => {
  await server.query('xtelem', 'alter table file_ingests rename to away; truncate telem')
  await server.query('second', 'truncate telem, file_ingests, file_origins cascade')
  const done = await reingest('run', '--all')
  expect(done.stderr).toContain('lacks the tables of the profile xtelem')
  expect(done.code).toBe(33)
  expect(await rows('second')).toBe(2)
  await server.query('xtelem', 'alter table away rename to file_ingests')
  expect((await reingest('verify', '--all')).code).toBe(1)
})

test('--all and a name: one of them is wrong', async () => {
  expect(await reingest('run', 'telem', '--all')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('--all is each [reingest.NAME]') as string,
  })
})
