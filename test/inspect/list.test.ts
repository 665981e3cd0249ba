import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Table } from '../../scripts/inspect/list.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  const folder = join(server.dir, 'sql/shop/migrations')
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, '0001_none.sql'), '-- migrate:up\nselect 1;\n-- migrate:down\n')
  const owner = `[roles."o'wner"]\n[databases.shop]\nowner = "o'wner"\n`
  await writeFile(file, `${server.header}\n${owner}[databases.shop.migrations]\ndir = "${folder}"\n`)
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
  await server.query(
    'shop',
    `set role "o'wner";
     create schema "odd schema";
     create table "odd schema"."a.b" (
       "x""y" bigint generated always as identity primary key,
       twice bigint generated always as (a * 2) stored, a int not null default 7, mood "char"[],
       unique (a), parent bigint references "odd schema"."a.b", check (a > 0));
     create index on "odd schema"."a.b" (abs(parent)) where a > 1;
     create table parts (at timestamptz not null) partition by range (at);
     create table parts_1 partition of parts for values from ('2026-01-01') to ('2027-01-01');
     create view "line
break" as select 1 as one;
     insert into "odd schema"."a.b" (a) values (1), (2); analyze "odd schema"."a.b"`,
  )
})
afterAll(() => server[Symbol.asyncDispose]())

const list = (...args: string[]) => runScript(['inspect', 'list', 'shop', ...args, '-c', file])

async function tables(...args: string[]): Promise<Table[]> {
  const { code, stdout, stderr } = await list(...args, '--json')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return (JSON.parse(stdout) as { result: { tables: Table[] } }).result.tables
}

test('tables: each with its owner and what it is, but neither our ledger nor those of the catalog', async () => {
  const found = await tables()
  expect(found.map(({ schema, name, kind, owner }) => [schema, name, kind, owner])).toEqual([
    ['odd schema', 'a.b', 'table', "o'wner"],
    ['public', 'line\nbreak', 'view', "o'wner"],
    ['public', 'parts', 'partitioned table', "o'wner"],
    ['public', 'parts_1', 'table', "o'wner"],
  ])
  expect(found[0]!.rows).toBe(2)
  expect(found[0]!.bytes).toBe(
    (
      await server.query<{ size: number }>(
        'shop',
        `select pg_total_relation_size('"odd schema"."a.b"')::int as size`,
      )
    )[0]!.size,
  )
  expect((await list()).stdout.split('\n').slice(0, 3)).toEqual([
    expect.stringMatching(/^name +kind +owner +rows, about +size$/),
    expect.stringMatching(/^"odd schema"\."a\.b" +table +o'wner +2 +/),
    expect.stringMatching(/^public\."line\\u000abreak" +view/),
  ])
})

test('one table: its columns, keys and indexes, a constraint in place of its index', async () => {
  const [table] = await tables('odd schema.a.b')
  expect(table).toMatchObject({
    columns: [
      { name: 'x"y', type: 'bigint', isNullable: false, default: 'generated always as identity' },
      { name: 'twice', type: 'bigint', isNullable: true, default: 'generated always as ((a * 2))' },
      { name: 'a', type: 'integer', isNullable: false, default: '7' },
      { name: 'mood', type: '"char"[]', isNullable: true, default: null },
      { name: 'parent' },
    ],
    constraints: [
      { name: 'a.b_pkey', definition: 'PRIMARY KEY ("x""y")' },
      { name: 'a.b_a_check', definition: 'CHECK ((a > 0))' },
      { name: 'a.b_a_key', definition: 'UNIQUE (a)' },
      {
        name: 'a.b_parent_fkey',
        definition: 'FOREIGN KEY (parent) REFERENCES "odd schema"."a.b"("x""y")',
      },
    ],
    indexes: [{ name: 'a.b_abs_idx', definition: expect.stringContaining('WHERE (a > 1)') }],
    triggers: [],
  })
  expect((await list('a.b')).stdout).toMatch(
    /^table "odd schema"\."a\.b", owned by o'wner\n\nx"y +bigint +not null/,
  )
})

test('an index that a broken CREATE INDEX CONCURRENTLY left: is called INVALID', async () => {
  await server.query(
    'shop',
    'insert into parts_1 values (timestamptz $$2026-02-01$$), (timestamptz $$2026-02-01$$)',
  )
  await expect(server.query('shop', 'create unique index concurrently torn on parts_1 (at)')).rejects.toThrow(
    'could not create unique index',
  )
  const [table] = await tables('parts_1')
  expect(table!.indexes).toEqual([{ name: 'torn', definition: expect.stringMatching(/ INVALID$/) }])
})

test('a name that is nearly one: is told', async () => {
  expect(await list('prats')).toMatchObject({
    code: 2,
    stdout: '',
    stderr: expect.stringContaining('there is no table "prats" (did you mean "parts"?)'),
  })
})
