import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { ROOT, runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

// Queries that stand beside a host file of one's own, and what may be wrong with them.

let server: TestServer
let file: string
let queries: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  queries = join(server.dir, 'queries')
  await writeFile(file, `${server.header}\n[databases.postgres.migrations]\ndir = "migrations"\n`)
})
afterAll(() => server[Symbol.asyncDispose]())

beforeEach(async () => {
  await rm(queries, { recursive: true, force: true })
  await mkdir(queries)
})

const inspect = (...args: string[]) => runScript(['inspect', 'query', ...args, '-c', file])
const put = (name: string, sql: string) => writeFile(join(queries, `${name}.sql`), `-- summary: x\n${sql}\n`)

test('a folder of migrations that has no profile above it: its database is the name', async () => {
  expect(await inspect('nope')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('There is: postgres\n') as string,
  })
  await put('one', 'select 1 as n')
  expect((await inspect('postgres', 'one')).stdout).toBe('n\n1\n1 row\n')
})

test('a query that is not there: where it would be is said', async () => {
  expect((await inspect('postgres', 'two')).stderr).toContain(`Write one: ${join(queries, 'two.sql')}`)
})

test.each([
  ['two statements', 'create table gone (); drop table pg_class'],
  ['none that the server can read', 'selct 1'],
])('%s: the file is named, and nothing is done', async (_, sql) => {
  await put('odd', `-- changes: any\n${sql}`)
  const done = await inspect('postgres', 'odd')
  expect(done.code).toBe(11)
  expect(done.stderr).toContain('query "odd.sql" is not one statement')
  expect(await server.query('postgres', `select from pg_class where relname = 'gone'`)).toEqual([])
})

test('two columns of one name: no value is lost', async () => {
  await put('twice', 'select 1 as a, 2 as a, 3 as a_2')
  const { stdout } = await inspect('postgres', 'twice', '--json')
  expect(JSON.parse(stdout)).toMatchObject({ result: { rows: [{ a: 1, a_2: 2, a_2_2: 3 }] } })
})

test('the first migration: its folder is made beside the host file, and not in the program', async () => {
  const made = await runScript(['migrate', 'new', 'first', '-c', file])
  expect(made).toMatchObject({
    code: 0,
    stdout: `made ${join(server.dir, 'migrations/0001_first.sql')}\n`,
  })
  await rm(join(server.dir, 'migrations'), { recursive: true })
  const missing = await runScript(['migrate', 'status', '-c', file])
  expect(missing.stderr).toContain(`the folder of migrations "${server.dir}/migrations"`)
  expect(missing.stderr).not.toContain(ROOT)
})
