import { appendFile, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { line, telescope, writeOld } from './tree.ts'

let server: TestServer
let file: string
let folder: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  folder = join(server.dir, 'telem')
  await writeFile(file, telescope(server, `data_dirs = ["${folder}"]`))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())

beforeEach(async () => {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder)
})

const at = (name: string) => join(folder, name)

async function inventory(...args: string[]): Promise<Record<string, unknown>> {
  const done = await runScript(['reingest', 'inventory', ...args, '-c', file, '--json'])
  return { code: done.code, ...(JSON.parse(done.stdout) as { result: Record<string, unknown> }).result }
}

async function origins(): Promise<string[]> {
  const rows = await server.query<{ path: string }>(
    'xtelem',
    'select origin_path as path from file_origins order by 1',
  )
  return rows.map(({ path }) => path.replace(`${folder}/`, ''))
}

test('new, changed, moved and vanished files: each is told, and a file that grew is read again', async () => {
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => `x/${name}_20260314021530123456789.ndjson`) as [
    string,
    string,
    string,
    string,
  ]
  const text = (second: number) => line(`2026-03-14T02:15:${second}.5`, '1')
  for (const [index, name] of [a, b, c, d].entries()) await writeOld(at(name), text(10 + index))
  expect(await inventory('--plan')).toMatchObject({ code: 0, added: 4 })
  expect(await origins()).toEqual([])
  expect(await inventory()).toMatchObject({ code: 0, files: 4, added: 4, changed: 0 })
  expect(
    await server.query('xtelem', `select distinct origin_host, creation_time::text from file_origins`),
  ).toEqual([{ origin_host: 'aoc', creation_time: expect.stringMatching(/:15:30\.123456/) as string }])
  expect(await runScript(['reingest', 'ingest', '-c', file])).toMatchObject({ code: 0 })
  await appendFile(at(a), text(30))
  await rename(at(b), at('b_20260314021530123456789.ndjson'))
  await rm(at(c))
  expect(await inventory()).toMatchObject({
    code: 0,
    files: 3,
    added: 1,
    changed: 1,
    moved: [{ from: at(b), to: at('b_20260314021530123456789.ndjson') }],
    vanished: 1,
    vanishedPaths: [at(c)],
  })
  const again = await runScript(['reingest', 'ingest', '-c', file, '--json'])
  expect((JSON.parse(again.stdout) as { result: unknown }).result).toMatchObject({
    files: { whole: 1, same: 1, failed: 0 },
    rows: 1,
  })
  expect(await inventory()).toMatchObject({ code: 0, added: 0, changed: 0, moved: [] })
})

test('what is no file that can be read: is told and passed over, and the rest is found', async () => {
  await writeOld(at('good'), '')
  await writeOld(at('tab\tand "quote"\nand \\ line'), '')
  for (const name of ['.DS_Store', 'x.swp', 'x~', '.git/config']) await writeOld(at(name), '')
  await symlink('/nowhere', at('broken'))
  await symlink(folder, at('loop'))
  await symlink('good', at('link'))
  await run(['mkfifo', at('pipe')])
  await run(['sh', '-c', String.raw`touch "$1/$(printf 'bad\377name')"`, 'sh', folder])
  const deep = join(folder, ...Array.from({ length: 5 }, () => 'y'.repeat(220)))
  await writeOld(join(deep, 'long'), '')
  const found = await inventory()
  expect(found).toMatchObject({ code: 11, added: 3 })
  expect((found['skipped'] as { reason: string }[]).map(({ reason }) => reason).toSorted()).toEqual([
    'a link to what is not there',
    'its name is not UTF-8',
    'its path has more than 1024 characters',
  ])
  expect(await origins()).toEqual(['good', 'link', 'tab\tand "quote"\nand \\ line'])
})

test('a folder that is not there: nothing in it is called vanished', async () => {
  await writeOld(at('a'), '')
  await inventory()
  await rename(folder, `${folder}-away`)
  expect(await inventory()).toMatchObject({ code: 11, files: 0, vanished: 0 })
  await rename(`${folder}-away`, folder)
})

test('twenty thousand files that are known: none of their rows is written again', async () => {
  await run(['sh', '-c', 'mkdir "$1"/d; cd "$1"/d; seq -f f%.0f 20000 | xargs touch', 'sh', folder])
  await inventory()
  const written = 'select count(*)::int as rows, max(xmin::text::bigint)::text as last from file_origins'
  const before = await server.query('xtelem', written)
  expect(await inventory()).toMatchObject({ code: 0, files: 20_000, added: 0, changed: 0 })
  expect(await server.query('xtelem', written)).toEqual(before)
})
