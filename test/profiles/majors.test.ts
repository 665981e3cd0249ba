import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { assertMajor } from '../../scripts/migrate/choose.ts'
import { parseMigration } from '../../scripts/migrate/file.ts'
import { bindirs } from '../support/majors.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { openProfile, type Profile } from './profile.ts'

// Every profile, from nothing, on every major that is here; what it makes is compared with a list.

const PROFILES = [
  { name: 'walt', database: 'walt', oldest: 13 },
  { name: 'openwec', database: 'openwec', oldest: 13 },
  { name: 'lablink', database: 'lablink_db', oldest: 13 },
  { name: 'xtelem', database: 'xtelem', oldest: 14 },
] as const

const MAJORS = await bindirs()

describe.each(MAJORS)('PostgreSQL $major', ({ major, bindir }) => {
  let server: TestServer

  beforeAll(async () => {
    server = await startServer({ bindir })
  })
  afterAll(() => server[Symbol.asyncDispose]())

  describe.each(PROFILES.filter(({ oldest }) => oldest <= major))('$name', ({ name, database }) => {
    let profile: Profile

    beforeAll(async () => {
      profile = await openProfile(server, name)
    })

    test('from nothing: what its list says, each thing with its owner; a second time there is nothing to do', async () => {
      expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 0 })
      expect(await profile.run('provision', 'plan', '--check')).toMatchObject({ code: 0 })
      const list = await readFile(join(import.meta.dirname, `${name}.catalog.txt`), 'utf8')
      expect(await catalogOf(server, database)).toEqual(list.split('\n').filter((line) => /^[^#]/.test(line)))
    })

    test('every version: goes down, and up to the same again', async () => {
      const before = await catalogOf(server, database)
      const down = await profile.run('migrate', 'down', '--to', '0', '--allow', 'deletes-data')
      expect(down).toMatchObject({ code: 0 })
      expect(
        (await catalogOf(server, database)).filter((line) => /^(column|function|enum)/.test(line)),
      ).toEqual(name === 'openwec' ? ['column __schema_migrations.version: bigint not null'] : [])
      expect(await profile.run('migrate', 'up')).toMatchObject({ code: 0 })
      expect(await catalogOf(server, database)).toEqual(before)
    })
  })

  test.each(PROFILES.filter(({ oldest }) => oldest > major))(
    '$name: is refused for its age, and nothing is made',
    async ({ name, database, oldest }) => {
      const profile = await openProfile(server, name)
      for (const verb of [['plan'], ['apply', '--yes']]) {
        const done = await profile.run('provision', ...verb)
        expect(done.stdout + done.stderr).toContain(
          `requires PostgreSQL ${oldest} or newer, and this is ${major}`,
        )
      }
      expect(await profile.run('provision', 'apply', '--yes')).toMatchObject({ code: 42 })
      expect(
        await server.query('postgres', 'select from pg_database where datname = $1', [database]),
      ).toEqual([])
      expect(await server.query('postgres', `select from pg_roles where rolname = 'xsup'`)).toEqual([])
    },
  )
})

describe('the oldest major of a file', () => {
  const file = (remark: string) => parseMigration('0001_a.sql', `${remark}\n-- migrate:up\nselect 1;\n`)

  test.each([
    ['-- requires: 14', 14],
    ['-- requires: 14', 18],
    ['', 9],
    ['-- requires something: 99', 13],
  ])('%j on %i: may be applied', (remark, major) => {
    expect(() => assertMajor([file(remark)], major)).not.toThrow()
  })

  test('on an older one: is refused, with what to change', () => {
    expect(() => assertMajor([file(''), file('-- requires: 14')], 13)).toThrow(
      '0001_a.sql requires PostgreSQL 14 or newer, and this is 13',
    )
  })
})

/** What a database has beyond PostgreSQL's own and our ledger, a line each. */
async function catalogOf(server: TestServer, database: string): Promise<string[]> {
  const rows = await server.query<{ line: string }>(database, CATALOG)
  return rows.map(({ line }) => line)
}

const CATALOG = `
  with own as (select oid from pg_namespace where nspname = 'public'),
  things as (
    select c.oid, c.relname::text as name, c.relkind, pg_get_userbyid(c.relowner)::text as owner
      from pg_class c where c.relnamespace in (select oid from own)
  ), lines as (
    select 'database ' || datname || ': ' || pg_get_userbyid(datdba) || ', ' || spcname as line
      from pg_database d join pg_tablespace t on t.oid = dattablespace where datname = current_database()
    union all
    select case relkind when 'r' then 'table ' when 'v' then 'view ' else 'sequence ' end || name || ': ' || owner
      from things where relkind in ('r', 'v', 'S')
    union all
    select 'column ' || t.name || '.' || attname || ': ' || format_type(atttypid, atttypmod)
           || case when attnotnull then ' not null' else '' end
           || coalesce(' default ' || pg_get_expr(adbin, adrelid), '')
      from things t join pg_attribute a on attrelid = t.oid left join pg_attrdef d on adrelid = attrelid and adnum = attnum
     where relkind in ('r', 'v') and attnum > 0 and not attisdropped
    union all
    select 'constraint ' || t.name || ': ' || pg_get_constraintdef(c.oid)
      from things t join pg_constraint c on conrelid = t.oid where contype <> 'n'
    union all
    select 'index ' || replace(pg_get_indexdef(i.indexrelid), 'public.', '')
      from things t join pg_index i on indrelid = t.oid
     where not exists (select from pg_constraint where conindid = i.indexrelid and contype in ('p', 'u'))
    union all
    select 'trigger ' || replace(pg_get_triggerdef(g.oid), 'public.', '')
      from things t join pg_trigger g on tgrelid = t.oid where not tgisinternal
    union all
    select 'function ' || proname || '(' || pg_get_function_identity_arguments(oid) || ') ' || pg_get_function_result(oid) || ': ' || pg_get_userbyid(proowner)
      from pg_proc where pronamespace in (select oid from own)
    union all
    select 'enum ' || typname || ': ' || (select string_agg(enumlabel, ', ' order by enumsortorder) from pg_enum where enumtypid = t.oid)
           || ': ' || pg_get_userbyid(typowner)
      from pg_type t where typtype = 'e' and typnamespace in (select oid from own)
    union all
    select 'role ' || rolname || ': ' || concat_ws(', ', case when rolcanlogin then 'login' end, case when rolcreatedb then 'createdb' end,
           case when rolsuper then 'superuser' end,
           (select 'in ' || string_agg(g.rolname, ', ' order by 1) from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid))
      from pg_roles r
     where oid >= 16384 and rolname <> current_user
       and (oid = (select datdba from pg_database where datname = current_database())
            or (current_database() = 'xtelem' and rolname = 'xsup'))
  )
  select line from lines order by line collate "C"`
