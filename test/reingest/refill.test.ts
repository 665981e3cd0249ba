import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { line, telescope, writeOld } from './tree.ts'

vi.setConfig({ testTimeout: 60_000 })

const DEVICES = ['camsci1', 'tt_mod', 'cooler-a', 'labrules', 'observers'] as const
const FILES = 4

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  const more = `data_dirs = ["${server.dir}/telem"]
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.nightly]
kind = "dump"
store = "local"`
  await writeFile(file, telescope(server, more))
  for (const device of DEVICES) {
    for (let number = 0; number < FILES; number++) {
      const ts = (index: number) => `2026-03-14T0${number}:00:0${index}.123456789`
      const lines = [
        line(ts(0), '{"a": 1.50}'),
        line(ts(1), '{"b": nan}'),
        line(`2026-03-14T0${number}:00:02000`, '"text"'),
        line(ts(0), '{"second": "with that time"}'),
        'bad\n',
      ]
      const ending = number % 2 === 0 ? '.ndjson' : '.ndjson.gz'
      await writeOld(
        join(server.dir, `telem/${device}/${device}_2026031400000${number}${ending}`),
        lines.join(''),
      )
    }
  }
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())

/** Inventory and ingest, and what the database holds then. */
async function refilled(): Promise<unknown> {
  expect(await runScript(['reingest', 'inventory', '-c', file])).toMatchObject({ code: 0 })
  const { code, stdout } = await runScript(['reingest', 'ingest', '-c', file, '--json'])
  expect(code).toBe(11) // some lines are bad
  const files = DEVICES.length * FILES
  expect((JSON.parse(stdout) as { result: unknown }).result).toMatchObject({
    files: { partial: files, failed: 0 },
    rows: files * 3,
    conflicts: files,
    rejects: files,
  })
  expect(await runScript(['reingest', 'verify', '-c', file])).toMatchObject({ code: 0 })
  const [row] = await server.query(
    'xtelem',
    `select (select md5(string_agg(t::text, ',' order by ts, device)) from telem t) as telem,
            (select md5(string_agg(r::text, ',' order by origin_path, line)) from file_rejects r) as rejects,
            (select string_agg(distinct state || rows || conflicts || rejects, ',') from file_ingests) as ledger`,
  )
  return row
}

test('rows, tables or the whole database are lost: the same rows are there again from the same files', async () => {
  const before = await refilled()
  for (const level of ['1', '2', '3']) {
    const reset = await runScript([
      'migrate',
      'reset',
      '--level',
      level,
      '--allow',
      'deletes-data',
      '-c',
      file,
    ])
    expect(reset).toMatchObject({ code: 0 })
    expect(await server.query('xtelem', 'select count(*)::int as count from telem')).toEqual([{ count: 0 }])
    expect(await refilled()).toEqual(before)
  }
})
