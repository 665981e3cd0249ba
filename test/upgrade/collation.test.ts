import { afterAll, beforeAll, expect, test } from 'vitest'
import { resort } from '../../scripts/upgrade/collation.ts'
import { type Manifest, takeManifest } from '../../scripts/upgrade/manifest.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { allPrograms } from '../support/upgrade.ts'

// Another library is not at hand in both directions: an index that was sorted by bytes, of which the catalog then
// says that it was sorted as Germans do, is just as wrong as one that an older library had sorted.

const ALL = { names: ['postgres', 'template1'], jobs: 2 }

let server: TestServer
let before: Manifest

beforeAll(async () => {
  server = await startServer({ bindir: await allPrograms(17) })
  await server.query('postgres', SCHEMA)
  for (const text of [SWAPPED, ...MISPLACED]) await server.query('postgres', text)
  const taken = await takeManifest(server.cluster, { verify: 'catalog' })
  const versions = taken.versions.map((entry) =>
    entry.name === 'public.german' ? { ...entry, value: '1.0' } : entry,
  )
  before = { ...taken, versions }
})
afterAll(() => server[Symbol.asyncDispose]())

const SCHEMA = `
  create collation german (provider = icu, locale = 'de');
  create collation french (provider = icu, locale = 'fr');
  create table words (w text collate german);
  insert into words select case g % 2 when 0 then upper(md5(g::text)) else md5(g::text) end from generate_series(1, 3000) g;
  create index right_one on words (w);
  create index wrong_one on words (w collate "C");
  create index by_bytes on words (w collate "C");
  create index ranges on words using brin (w);
  create extension pg_trgm;
  create index by_letters on words using gin (w gin_trgm_ops);
  create table lists (l text[] collate german);
  create index by_element on lists using gin (l);
  create index french_one on words (w collate french);
  create table parted (k text collate german) partition by range (k);
  create table parted_a partition of parted for values from ('A') to ('Z');
  create table parted_rest partition of parted default`

const SWAPPED = `
  update pg_index set indcollation = (select oid::text::oidvector from pg_collation where collname = 'german')
    where indexrelid = 'wrong_one'::regclass`

// Rows that were put where they belong by bytes.
const MISPLACED = [
  `update pg_partitioned_table set partcollation = '950'`,
  `insert into parted values ('B'), ('b')`,
  `update pg_partitioned_table set partcollation = (select oid::text::oidvector from pg_collation where collname = 'german')`,
]

test('resort: what is right is verified, what is wrong or cannot be verified is built anew, and nothing else is touched', async () => {
  const node = (name: string) => `select pg_relation_filenode('${name}') as node`
  const nodes = async (names: readonly string[]) =>
    Promise.all(
      names.map(async (name) => (await server.query<{ node: number }>('postgres', node(name)))[0]!.node),
    )
  const kept = ['right_one', 'by_bytes', 'by_letters', 'french_one']
  const was = await nodes(kept)
  const done = await resort(server.cluster, before, ALL)
  expect(done.verified).toEqual(['public.right_one in database postgres'])
  expect(done.rebuilt).toEqual([
    'public.by_element in database postgres',
    'public.ranges in database postgres',
    'public.wrong_one in database postgres',
  ])
  expect(done.broken).toEqual([
    '1 rows of public.parted_rest are in the wrong partition in database postgres',
  ])
  expect(await nodes(kept)).toEqual(was)
  expect(await server.query('postgres', `select 1 from pg_extension where extname = 'amcheck'`)).toEqual([])
  expect(
    await server.query('postgres', `select 1 from pg_namespace where nspname = 'howdah_amcheck'`),
  ).toEqual([])
})

test('resort: with the versions of before nothing is looked at', async () => {
  const now = await takeManifest(server.cluster, { verify: 'catalog' })
  expect(await resort(server.cluster, now, ALL)).toEqual({ verified: [], rebuilt: [], broken: [] })
})

test('resort: two texts that are one by now: the index is named, and the text', async () => {
  for (const text of TWICE) await server.query('postgres', text)
  const failed = resort(server.cluster, before, ALL)
  await expect(failed).rejects.toThrow(/index public\.one_only in database postgres cannot be built/)
  await expect(failed).rejects.toMatchObject({ hint: expect.stringContaining('(w)=(') })
})

const TWICE = [
  `create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
  `create table twice (w text collate loose)`,
  `insert into twice values ('a'), ('B'), ('same'), ('SAME')`,
  `create unique index one_only on twice (w collate "C")`,
  `update pg_index set indcollation = (select oid::text::oidvector from pg_collation where collname = 'loose')
    where indexrelid = 'one_only'::regclass`,
]
