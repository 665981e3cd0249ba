import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { compareManifests } from '../../scripts/upgrade/compare.ts'
import { type Manifest, takeManifest } from '../../scripts/upgrade/manifest.ts'
import { bindirs } from '../support/majors.ts'
import { startServer, type TestServer } from '../support/server.ts'

const GLOBALS = `
  create role "odd ""Role" login password 'secret-of-odd' valid until '2031-01-01 00:00:00+00';
  create role crew; grant crew to "odd ""Role" with admin option;
  alter role crew set work_mem to '7MB';
  create database shop owner crew`

const SCHEMA = `
  alter database shop set datestyle to 'German';
  alter role "odd ""Role" in database shop set search_path to 'Häuser', public;
  create extension pg_trgm;
  create schema "Häuser" authorization crew;
  create type "Häuser".mood as enum ('sad', 'it''s ok', 'happy');
  create domain price as numeric(10, 2) check (value >= 0);
  create table "Häuser"."a.b" (id int generated always as identity, name text collate "C" not null,
    paid price default 1, at timestamptz default now(), twice numeric generated always as (paid * 2) stored, gone int);
  alter table "Häuser"."a.b" drop column gone;
  alter table "Häuser"."a.b" add primary key (id);
  create index "an index" on "Häuser"."a.b" (lower(name)) where paid > 1;
  create table parts (k text, n int) partition by range (k);
  create table parts_a partition of parts for values from ('a') to ('m');
  create view looks as select a.name, count(*) from "Häuser"."a.b" a join parts p on p.k = a.name group by a.name;
  create view one as select 1 as n;
  create materialized view kept as select * from parts;
  create function f(a int) returns int language plpgsql as $$ begin return a; end $$;
  create function held(w text) returns bigint begin atomic select count(*) from parts where k = w; end;
  create trigger kept_up before update on "Häuser"."a.b" for each row execute function suppress_redundant_updates_trigger();
  create policy own on parts to crew using (k = current_user);
  create statistics st (dependencies) on k, n from parts;
  create publication pub for table parts;
  create publication whole for tables in schema "Häuser";
  create view few as select parts.k, 'parts.n' as said from parts where parts.n > 1 and exists (select from "Häuser"."a.b" b where b.id = parts.n);
  create materialized view paired as select a.k, b.n from parts a join parts b on a.k = b.k where a.n < b.n;
  create rule noted as on insert to one do instead insert into parts values ('b', new.n);
  create collation phonebook (provider = icu, locale = 'de_DE@collation=phonebook;colStrength=secondary', deterministic = false);
  create operator family fam using btree;
  create function less(int, int) returns boolean language sql immutable as 'select $1 < $2';
  create operator <<< (function = less, leftarg = int, rightarg = int);
  alter operator family fam using btree add operator 1 < (int, int), function 1 btint4cmp(int, int);
  create operator class ordered for type int using btree as operator 1 <<<, function 1 btint4cmp(int, int);
  create text search dictionary plain_words (template = simple, accept = false);
  create text search configuration words (copy = simple);
  alter text search configuration words alter mapping for word with plain_words, simple;
  comment on column "Häuser"."a.b".name is 'what it''s called';
  grant select (name) on "Häuser"."a.b" to public;
  grant insert on parts to "odd ""Role" with grant option;
  alter default privileges for role crew in schema "Häuser" grant select on tables to "odd ""Role";
  insert into "Häuser"."a.b" (name, at) select 'n' || g, '2026-01-01'::timestamptz + g * interval '1 h' from generate_series(1, 9) g;
  insert into parts values ('b', 1), ('c', 2), ('c', 2);
  select lo_from_bytea(4711, '\\x00ff')`

async function make(server: TestServer): Promise<void> {
  for (const text of GLOBALS.split(';\n')) await server.query('postgres', text)
  await server.query('shop', SCHEMA)
}

const content = (server: TestServer): Promise<Manifest> => takeManifest(server.cluster, { verify: 'content' })

describe('one server', () => {
  let server: TestServer
  let before: Manifest

  beforeAll(async () => {
    server = await startServer({ settings: { wal_level: 'logical' } })
    await make(server)
    before = await content(server)
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test('manifest: taken twice, once through a file: no difference, and no password is in it', async () => {
    const text = JSON.stringify(before)
    expect(compareManifests(JSON.parse(text) as Manifest, await content(server))).toEqual([])
    expect(text).not.toMatch(/secret-of-odd|SCRAM-SHA/)
  })

  test('manifest: rows in another order: no difference', async () => {
    await server.query(
      'shop',
      `begin; create temp table t as select * from parts; truncate parts;
      insert into parts select * from t order by k desc; drop table t; commit`,
    )
    expect(compareManifests(before, await content(server))).toEqual([])
  })

  test.each([
    ['a role', 'postgres', 'alter role crew createdb', 'alter role crew nocreatedb', 'role crew'],
    ['a password', 'postgres', `alter role crew password 'x'`, 'alter role crew password null', 'role crew'],
    [
      'a setting of a role',
      'postgres',
      `alter role crew set work_mem to '8MB'`,
      `alter role crew set work_mem to '7MB'`,
      'setting work_mem of crew in every database',
    ],
    [
      'a column',
      'shop',
      'alter table "Häuser"."a.b" alter paid set default 5',
      'alter table "Häuser"."a.b" alter paid set default 1',
      'column "Häuser"."a.b".paid in database shop',
    ],
    [
      'a view',
      'shop',
      'create or replace view one as select 2 as n',
      'create or replace view one as select 1 as n',
      'view public.one in database shop',
    ],
    [
      'an invalid index',
      'shop',
      `update pg_index set indisvalid = false where indexrelid = '"Häuser"."an index"'::regclass`,
      `update pg_index set indisvalid = true where indexrelid = '"Häuser"."an index"'::regclass`,
      'index "Häuser"."an index" in database shop',
    ],
    [
      'the value of a row',
      'shop',
      `update "Häuser"."a.b" set name = 'm1' where name = 'n1'`,
      `update "Häuser"."a.b" set name = 'n1' where name = 'm1'`,
      'rows "Häuser"."a.b" in database shop',
    ],
    [
      'a sequence',
      'shop',
      `select setval('"Häuser"."a.b_id_seq"', 99)`,
      `select setval('"Häuser"."a.b_id_seq"', 9)`,
      'sequence value "Häuser"."a.b_id_seq" in database shop',
    ],
    [
      'a large object',
      'shop',
      `select lo_put(4711, 0, '\\x01')`,
      `select lo_put(4711, 0, '\\x00')`,
      'large objects in database shop',
    ],
    [
      'a column grant',
      'shop',
      'grant update (k) on parts to crew',
      'revoke update (k) on parts from crew',
      'grant column public.parts.k: UPDATE to crew in database shop',
    ],
    [
      'what an operator family has for a strategy',
      'shop',
      'alter operator family fam using btree drop operator 1 (int, int); alter operator family fam using btree add operator 1 <<< (int, int)',
      'alter operator family fam using btree drop operator 1 (int, int); alter operator family fam using btree add operator 1 < (int, int)',
      'operator of access method operator 1 (integer, integer) of public.fam USING btree in database shop',
    ],
    [
      'the function of an operator family',
      'shop',
      'alter operator family fam using btree drop function 1 (int, int)',
      'alter operator family fam using btree add function 1 btint4cmp(int, int)',
      'function of access method function 1 (integer, integer) of public.fam USING btree in database shop',
    ],
    [
      "what is in a family of initdb's, which no dump brings over",
      'shop',
      'alter operator family char_ops using hash add operator 1 = (int, int)',
      'alter operator family char_ops using hash drop operator 1 (int, int)',
      'operator of access method operator 1 (integer, integer) of pg_catalog.char_ops USING hash in database shop',
    ],
    [
      'the dictionaries of a kind of word, in another order',
      'shop',
      'alter text search configuration words alter mapping for word with simple, plain_words',
      'alter text search configuration words alter mapping for word with plain_words, simple',
      'text search mapping word in public.words in database shop',
    ],
    [
      'an option of a dictionary',
      'shop',
      'alter text search dictionary plain_words (accept = true)',
      'alter text search dictionary plain_words (accept = false)',
      'text search dictionary public.plain_words in database shop',
    ],
    [
      'a schema of a publication',
      'shop',
      'alter publication whole drop tables in schema "Häuser"',
      'alter publication whole add tables in schema "Häuser"',
      'publication schema "Häuser" in whole in database shop',
    ],
    [
      'who granted a membership',
      'postgres',
      `update pg_auth_members set grantor = 'crew'::regrole where roleid = 'crew'::regrole`,
      `update pg_auth_members set grantor = 10 where roleid = 'crew'::regrole`,
      'membership grantor "odd ""Role" in crew',
    ],
    [
      'a trigger that is off',
      'shop',
      'alter table "Häuser"."a.b" disable trigger kept_up',
      'alter table "Häuser"."a.b" enable trigger kept_up',
      'trigger kept_up on "Häuser"."a.b" in database shop',
    ],
  ])(
    'compare: %s is another one: that is the one difference',
    async (_, ...[database, change, back, what]) => {
      await server.query(database, change)
      const after = await content(server)
      await server.query(database, back)
      expect(compareManifests(before, after).map((each) => each.what)).toEqual([what])
    },
  )

  test('compare: taken in two ways: refused', async () => {
    const counts = await takeManifest(server.cluster, { verify: 'counts' })
    expect(() => compareManifests(before, counts)).toThrow('content cannot be compared with one of counts')
  })
})

const NEWER = (await bindirs()).filter(({ major }) => major > 15)

test.each(NEWER)(
  'manifest: a cluster of 15 dumped into one of $major: no difference, though views are shown otherwise, MAINTAIN is new and a stale view is filled anew',
  async ({ bindir }) => {
    await using old = await startServer({ settings: { wal_level: 'logical' } })
    await using other = await startServer({ bindir, settings: { wal_level: 'logical' } })
    await make(old)
    const programs = old.cluster.bindir
    const from = old.cluster.clientArguments('postgres')
    const to = other.cluster.clientArguments('postgres')
    const dump = await run([join(programs, 'pg_dumpall'), ...from.argv.slice(0, -2)], {
      env: from.env,
      as: old.cluster.osUser,
    })
    await run([join(programs, 'psql'), '-qX', ...to.argv], {
      env: to.env,
      as: old.cluster.osUser,
      input: dump.stdout,
    })
    expect(compareManifests(await content(old), await content(other))).toEqual([])
  },
)
