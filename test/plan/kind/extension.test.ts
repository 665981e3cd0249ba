import { stringify } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ident } from '../../../scripts/cluster/sql.ts'
import { packageOf } from '../../../scripts/plan/extension-facts.ts'
import { database } from '../../../scripts/plan/kind/database.ts'
import { extension } from '../../../scripts/plan/kind/extension.ts'
import { schema } from '../../../scripts/plan/kind/schema.ts'
import { exportedToml, HOSTILE_NAMES } from '../../support/exported.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = [database, extension, schema]
let server: TestServer

beforeAll(async () => {
  server = await startServer()
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

async function installed(name: string): Promise<Record<string, string>> {
  const rows = await server.query<{ name: string; at: string }>(
    name,
    `select extname::text as name, nspname || ' ' || extversion as at
       from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname <> 'plpgsql'`,
  )
  return Object.fromEntries(rows.map(({ name, at }) => [name, at]))
}

async function findingsOf(toml: string): Promise<string[]> {
  const { findings } = await server.plan(KINDS, toml)
  return findings.map(({ level, name, text }) => `${level} ${name}: ${text}`)
}

test.each(HOSTILE_NAMES)(
  'extension in database and schema %j: apply, plan again: nothing to do',
  async (name) => {
    const toml = stringify({
      databases: { [name]: { extensions: [{ name: 'hstore', schema: name, version: 'latest' }, 'pg_trgm'] } },
    })
    await server.apply(KINDS, toml)
    expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
    expect(await installed(name)).toMatchObject({
      hstore: expect.stringMatching(/^.+ \d/),
      pg_trgm: expect.stringMatching(/^public \d/),
    })
    const exported = await exportedToml(server, KINDS)
    expect((await server.plan(KINDS, exported)).changes).toEqual([])
    expect(server.host(exported).databases[name]!.extensions).toEqual([
      { name: 'hstore', schema: name },
      { name: 'pg_trgm' },
    ])
    await server.query('postgres', `drop database ${ident(name)}`)
  },
)

test('what an extension requires: comes along, also when it is named later in the file', async () => {
  const toml = '[databases.needs]\nextensions = ["earthdistance", "cube"]\n'
  await server.apply(KINDS, toml)
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  expect(Object.keys(await installed('needs')).toSorted()).toEqual(['cube', 'earthdistance'])
})

test('an extension that is there and not named: is left alone', async () => {
  await server.apply(KINDS, '[databases.keeps]\nextensions = ["citext"]\n')
  expect('drop' in extension).toBe(false)
  expect((await server.plan(KINDS, '[databases.keeps]\nextensions = ["pg_trgm"]\n')).changes).toHaveLength(1)
  expect((await server.plan(KINDS, '[databases.keeps]\n')).changes).toEqual([])
})

test('version: an older one is updated to the latest or to the one that is named', async () => {
  await server.apply(KINDS, '[databases.old]\nextensions = [{ name = "hstore", version = "1.4" }]\n')
  expect(await installed('old')).toEqual({ hstore: 'public 1.4' })
  expect((await server.plan(KINDS, '[databases.old]\nextensions = ["hstore"]\n')).changes).toEqual([])
  const named = '[databases.old]\nextensions = [{ name = "hstore", version = "1.6" }]\n'
  expect(linesOf((await server.apply(KINDS, named)).changes)).toEqual([
    '~ extension old.hstore: version 1.4 -> 1.6',
  ])
  const latest = '[databases.old]\nextensions = [{ name = "hstore", version = "latest" }]\n'
  expect((await server.apply(KINDS, latest)).changes).toHaveLength(1)
  expect(await server.plan(KINDS, latest)).toMatchObject({ changes: [], findings: [] })
})

test('version: one that is not installed or cannot be reached: is impossible', async () => {
  await server.apply(KINDS, '[databases.back]\nextensions = ["hstore"]\n')
  expect(await findingsOf('[databases.back]\nextensions = [{ name = "hstore", version = "9.9" }]\n')).toEqual(
    ['impossible back.hstore: there is no version 9.9'],
  )
  const older = await findingsOf('[databases.back]\nextensions = [{ name = "hstore", version = "1.4" }]\n')
  expect(older).toEqual([
    expect.stringMatching(/^impossible back.hstore: there is no way from version .* to 1.4$/),
  ])
})

test('schema: a relocatable one is moved, another one is reported', async () => {
  await server.apply(KINDS, '[databases.moves]\nextensions = ["hstore"]\n')
  const moved = '[databases.moves]\nextensions = [{ name = "hstore", schema = "Ext" }]\n'
  const { changes } = await server.apply(KINDS, moved)
  expect(linesOf(changes)).toEqual(['~ extension moves.hstore: schema public -> "Ext"'])
  expect(await server.plan(KINDS, moved)).toMatchObject({ changes: [], findings: [] })
  await server.query(
    'moves',
    'create extension pgrowlocks; create schema other; update pg_extension set extrelocatable = false',
  )
  const stuck = '[databases.moves]\nextensions = [{ name = "hstore", schema = "other" }]\n'
  const planned = await server.plan(KINDS, stuck)
  expect(planned.changes).toEqual([])
  expect(planned.findings).toMatchObject([
    { level: 'warning', text: 'is in schema "Ext" and cannot be moved to other' },
  ])
})

test('an extension whose control file names its schema: is made there', async () => {
  const [fixed] = await server.query<{ name: string; schema: string }>(
    'postgres',
    `select name::text, schema::text from pg_available_extension_versions
      where schema is not null and name !~ '^pl' and requires is null and not installed order by name limit 1`,
  )
  if (!fixed) return // newer majors have none among their own
  const toml = `[databases.fixed]\nextensions = ["${fixed.name}"]\n`
  await server.apply(KINDS, toml)
  expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [], findings: [] })
  expect(await installed('fixed')).toEqual({ [fixed.name]: expect.stringMatching(`^${fixed.schema} `) })
  expect(server.host(await exportedToml(server, KINDS)).databases['fixed']!.extensions).toEqual([
    { name: fixed.name },
  ])
})

test('its package is not installed: is impossible, with the package that most likely has it', async () => {
  const { findings } = await server.plan(KINDS, '[databases.none]\nextensions = ["postgis", "vector"]\n')
  expect(findings).toMatchObject([
    {
      level: 'impossible',
      name: 'none.postgis',
      text: `the server has no extension postgis for PostgreSQL ${server.major}`,
      hint: `It is most likely in: apt-get install postgresql-${server.major}-postgis-3`,
    },
    { name: 'none.vector', hint: expect.stringContaining(`postgresql-${server.major}-pgvector`) },
  ])
})

test('its package is to be installed by the same file: is no obstacle', async () => {
  const host = server.host('[databases.none]\nextensions = ["postgis"]\n')
  const packages = [`postgresql-${server.major}-postgis-3`]
  const planned = { ...host, postgres: { ...host.postgres, packages } }
  const found = await server.observe('[databases.none]\nextensions = ["postgis"]\n', async (observe) => {
    const wanted = extension.wanted(planned, observe.facts)
    const actual = await extension.actual({ ...observe, host: planned })
    const context = { host: planned, facts: observe.facts }
    return [...wanted].flatMap(([name, one]) => extension.findings!(name, one, actual.get(name), context))
  })
  expect(found).toMatchObject([{ level: 'warning' }])
})

test('it needs a library from the start: is said unless the file or the server loads it', async () => {
  const toml = '[databases.pre]\nextensions = ["pg_stat_statements"]\n'
  expect(await findingsOf(toml)).toEqual([
    'warning pre.pg_stat_statements: needs pg_stat_statements in shared_preload_libraries',
  ])
  const list = '[settings]\nshared_preload_libraries = ["auto_explain", "pg_stat_statements"]\n'
  expect(await findingsOf(`${list}${toml}`)).toEqual([])
  const text = '[settings]\nshared_preload_libraries = "$libdir/pg_stat_statements, auto_explain"\n'
  expect(await findingsOf(`${text}${toml}`)).toEqual([])
})

describe('packageOf', () => {
  test.each([
    ['postgis', 'postgresql-15-postgis-3'],
    ['pg_cron', 'postgresql-15-cron'],
    ['pg_qualstats', 'postgresql-15-pg-qualstats'],
    ['plpython3u', 'postgresql-plpython3-15'],
    ['hstore', 'postgresql-contrib'],
    ['tds_fdw', 'postgresql-15-tds-fdw'],
    ['x; rm -rf /', 'postgresql-15-xrm-rf'],
    ['constructor', 'postgresql-15-constructor'],
  ])('%s: is most likely in %s', (name, expected) => {
    expect(packageOf(name, 15)).toBe(expected)
  })
})
