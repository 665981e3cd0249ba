import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { planReset, runReset } from '../../scripts/migrate/reset.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { parseMigration } from '../../scripts/migrate/file.ts'
import { type Migrating, openMigrating } from '../support/migrating.ts'

let it: Migrating
beforeAll(async () => {
  it = await openMigrating()
})
afterAll(() => it[Symbol.asyncDispose]())
beforeEach(() => it.begin())

const TEXT = `create schema "My app";
create type "My app".state as enum ('a');
create table "My app".t (s "My app".state);
create collation public.german (provider = icu, locale = 'de');
create function public.eq(int, text) returns boolean language sql as 'select true';
create operator public.=== (function = public.eq, leftarg = int, rightarg = text);
create operator family public.fam using btree;
create text search dictionary public.dict (template = pg_catalog.simple);
create text search configuration public.conf (copy = pg_catalog.simple);
create publication mine for table "My app".t;
create extension pg_trgm;`

test('what migrations make, whatever it is: is gone after level 2, so that they can make it again', async () => {
  const migration = parseMigration('0001_a.sql', `-- migrate:up\n${TEXT}\n`)
  const host = parseHost(
    `${it.server.header}\n[databases.telemetry]\n[databases.telemetry.schemas.kept]\n[databases.telemetry.migrations]\ndir = "migrations"\n`,
  )
  await it.query('create schema kept; create table kept.t (); create publication of_somebody_else')
  for (let time = 0; time < 2; time++) {
    await it.query(TEXT)
    const scope = { database: 'telemetry', level: '2', migrations: [migration] } as const
    await runReset(it.server.cluster, await planReset(it.server.cluster, host, scope))
  }
  expect(await it.query('select pubname::text as name from pg_publication')).toEqual([
    { name: 'of_somebody_else' },
  ])
  expect(
    await it.query(
      `select nspname::text as name from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1`,
    ),
  ).toEqual([{ name: 'kept' }, { name: 'public' }])
  expect(await it.query(`select to_regclass('kept.t') is not null as there`)).toEqual([{ there: false }])
})
