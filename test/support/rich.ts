import type { TestServer } from './server.ts'

/** A statement, or several, and the database that they are for. */
export interface Statements {
  readonly database: string
  readonly text: string
}

/** As much of what a cluster can hold as fits: what an upgrade, by whatever method, must bring over. */
export async function makeRich(server: TestServer, space: string): Promise<void> {
  for (const { database, text } of richStatements(server.major, space)) await server.query(database, text)
}

/**
 * The same as statements, each for a transaction of its own.
 * @param space an empty folder of the server's
 */
export function richStatements(major: number, space: string): Statements[] {
  const on = (database: string) => (text: string) => ({ database, text })
  return [
    ...GLOBALS.map(on('postgres')),
    ...[
      `create tablespace "far away" owner crew location '${space}'`,
      `create database "The Shop" owner crew encoding 'UTF8' template template0`,
      ...SETTINGS,
    ].map(on('postgres')),
    on('The Shop')(SCHEMA),
    ...(major >= 14 ? [on('The Shop')(ATOMIC)] : []),
    ...(major === 17 ? [on('The Shop')(UNMARKED)] : []),
  ]
}

// Debian's 17.12 marks each column that it makes, and its 18.6 does not know that mark: no upgrade takes such a
// table. One from before has none.
const UNMARKED = `update pg_attribute set attoptions = null where attoptions::text like '{pg_attver=%'`

const GLOBALS = [
  `create role crew`,
  `set password_encryption to 'scram-sha-256'; create role "odd ""Role" login password 'secret-of-odd' valid until '2031-01-01 00:00:00+00'`,
  `set password_encryption to 'md5'; create role old_client login password 'secret-of-old' connection limit 3`,
  `grant crew to "odd ""Role" with admin option`,
  `alter role crew set work_mem to '7MB'`,
  `grant pg_monitor to old_client`,
]

const SETTINGS = [
  `alter database "The Shop" set statement_timeout to '1h'`,
  `alter role "odd ""Role" in database "The Shop" set search_path to 'Häuser', public`,
  `revoke connect on database "The Shop" from public`,
  `grant connect on database "The Shop" to old_client`,
]

const SCHEMA = `
  create extension pg_trgm; create extension pgcrypto;
  create schema "Häuser" authorization crew;
  create type "Häuser".mood as enum ('sad', 'it''s ok', 'happy');
  create domain price as numeric(10, 2) check (value >= 0);
  create collation german (provider = icu, locale = 'de');
  create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
  create table "Häuser"."a.b" (id int generated always as identity primary key, name text collate german not null,
    loosely text collate loose, feels "Häuser".mood, paid price default 1, at timestamptz default now(),
    twice numeric generated always as (paid * 2) stored, gone int) tablespace "far away";
  alter table "Häuser"."a.b" drop column gone;
  create index "an index" on "Häuser"."a.b" (lower(name)) where paid > 0;
  create index by_name on "Häuser"."a.b" (name) tablespace "far away";
  create index by_loosely on "Häuser"."a.b" (loosely);
  create index by_plain on "Häuser"."a.b" (name collate "C");
  create index by_letters on "Häuser"."a.b" using gin (name gin_trgm_ops);
  create table parts (k text collate german, n int) partition by range (k);
  create table parts_a partition of parts for values from ('a') to ('m');
  create table parts_z partition of parts default tablespace "far away";
  create unlogged table passing (n int);
  create view looks as select a.name, count(*) from "Häuser"."a.b" a join parts p on p.k = a.name group by a.name;
  create materialized view kept as select k, count(*) from parts group by k;
  create function f(a int) returns int language plpgsql as $$ begin return a; end $$;
  create trigger unchanged before update on "Häuser"."a.b" for each row execute function suppress_redundant_updates_trigger();
  create policy own on parts to crew using (k = current_user); alter table parts enable row level security;
  create statistics st (dependencies) on k, n from parts;
  create sequence counting increment 7 cache 20; select nextval('counting'), nextval('counting');
  comment on column "Häuser"."a.b".name is 'what it''s called';
  grant select (name) on "Häuser"."a.b" to public;
  grant insert on parts to "odd ""Role" with grant option;
  grant execute on function pg_read_file(text) to crew;
  create publication pub for table parts;
  alter default privileges for role crew in schema "Häuser" grant select on tables to "odd ""Role";
  insert into "Häuser"."a.b" (name, loosely, feels)
    select chr(97 + g % 26) || 'ä' || g, 'L' || g, 'happy' from generate_series(1, 2000) g;
  insert into parts select chr(97 + g % 26), g from generate_series(1, 500) g;
  insert into passing values (1);
  refresh materialized view kept;
  select lo_from_bytea(4711, '\\x00ff')`

const ATOMIC = `
  create function held(w text) returns bigint begin atomic select count(*) from parts where k = w; end`
