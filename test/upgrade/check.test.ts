import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { type CheckTarget, checkUpgrade, type Finding, packagesIn } from '../../scripts/upgrade/check.ts'
import { makeRich } from '../support/rich.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { allPrograms } from '../support/upgrade.ts'

afterEach(() => {
  vi.unstubAllEnvs()
})

/** What is found when a server is to go to another major. */
async function found(
  server: TestServer,
  major: number,
  more: Partial<FoundOptions> = {},
): Promise<Finding[]> {
  const { bindir = await allPrograms(major), method = 'copy', debian = 'postgresql-contrib' } = more
  const host = server.host('')
  const spec = { ...host.postgres, major, bindir, data_dir: `${server.dir}/data-${major}` }
  return checkUpgrade(server.cluster, { host, spec, method, packageOf: () => debian })
}

interface FoundOptions {
  readonly method: CheckTarget['method']
  readonly bindir: string
  /** The package that every extension is said to be in. */
  readonly debian: string
}

describe('a cluster of 13 with every trap', () => {
  let server: TestServer
  let findings: readonly Finding[]
  let dumping: readonly Finding[]

  beforeAll(async () => {
    server = await startServer({
      bindir: await allPrograms(13),
      settings: {
        max_prepared_transactions: '5',
        wal_level: 'logical',
        operator_precedence_warning: 'on',
        shared_preload_libraries: 'pg_stat_statements, adminpack',
      },
    })
    await makeTablespaces(server)
    for (const text of GLOBALS) await server.query('postgres', text)
    for (const text of OBJECTS) await server.query('The "Shop"', text)
    findings = await found(server, 18)
    dumping = await found(server, 18, { method: 'dump', debian: 'postgresql-common' })
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test.each([
    ['error', 'closed-database', '', '"it\'s closed"'],
    ['error', 'prepared-transaction', '', `'left; behind' of postgres in postgres`],
    ['warning', 'md5-password', '', '"Old ""Client"'],
    ['warning', 'replication-slot', '', 'ours (physical), theirs (logical)'],
    ['error', 'reg-column', 'The "Shop"', '"Häuser".holds.f, "Häuser".holds.many, "Häuser".inside.v'],
    ['error', 'aclitem-column', 'The "Shop"', '"Häuser".holds.a'],
    ['error', 'catalog-row-column', 'The "Shop"', '"Häuser".holds.c'],
    ['error', 'postfix-operator', 'The "Shop"', '"Häuser".!!('],
    ['error', 'polymorphic-function', 'The "Shop"', 'aggregate "Häuser".gathered('],
    ['error', 'encoding-conversion', 'The "Shop"', '"Häuser"."turned round"'],
    ['error', 'inherited-not-null', 'The "Shop"', '"Häuser".child.n'],
    ['warning', 'invalid-index', 'The "Shop"', '"Häuser"."half built"'],
    ['error', 'tablespace-inside', '', 'tablespace within'],
    ['error', 'tablespace-held', '', 'tablespace held'],
    ['error', 'locale', '', 'xx_XX.UTF-8 of "it\'s closed"'],
    ['warning', 'collation-version', 'The "Shop"', '"Häuser".german (was 1.2, is '],
    ['warning', 'setting-gone', '', 'operator_precedence_warning = "on": 18 has no such setting'],
    ['error', 'setting-gone', '', 'role "Old ""Client" in database "The ""Shop""" sets force_parallel_mode'],
    [
      'error',
      'setting-gone',
      'The "Shop"',
      'function "Häuser".twice(integer) sets vacuum_cleanup_index_scale',
    ],
    [
      'error',
      'view',
      'The "Shop"',
      '"Häuser".written shows what 18 does not have: pg_stat_bgwriter.buffers_ba',
    ],
    ['error', 'extension', 'The "Shop"', '18 has no extension adminpack'],
    ['error', 'library', '', 'the server loads adminpack'],
    ['error', 'pg-upgrade', '', 'pg_upgrade --check says no'],
    ['note', 'default', '', 'checkpoint_completion_target 0.5 -> 0.9'],
  ])(
    'check: %s %s is found in "%s", by the name %s, and something is to be done',
    (severity, code, ...rest) => {
      const [database, name] = rest
      const same = findings.filter((each) => each.code === code && each.severity === severity)
      const told = { database, message: expect.stringContaining(name), hint: expect.stringMatching(/./) }
      expect(same).toContainEqual(expect.objectContaining(told))
    },
  )

  test('check: columns of regclass and of a type of its own are none of them', () => {
    const ours = findings.filter(({ code }) => code !== 'pg-upgrade')
    expect(ours.map(({ message }) => message).join('\n')).not.toMatch(/"Häuser"\.fine/)
  })

  test('check --method dump: what only pg_upgrade refuses is no error, what 18 refuses still is', () => {
    const codes = dumping.map(({ code }) => code)
    expect(codes).not.toContain('reg-column')
    expect(codes).not.toContain('pg-upgrade')
    expect(codes).toContain('postfix-operator')
    expect(codes).toContain('prepared-transaction')
  })

  test('check: what apt has for an extension and a library is named once, what it does not have is not', () => {
    expect(packagesIn(dumping)).toEqual(['postgresql-common'])
    expect(packagesIn(findings)).toEqual([])
  })

  test('check: errors come first', () => {
    const order = findings.map(({ severity }) => ['error', 'warning', 'note'].indexOf(severity))
    expect(order).toEqual(order.toSorted((a, b) => a - b))
  })
})

async function makeTablespaces(server: TestServer): Promise<void> {
  const places = { within: join(server.dir, 'data/within'), held: join(server.dir, 'held') }
  for (const [name, path] of Object.entries(places)) {
    await run(['mkdir', path], { as: server.cluster.osUser })
    await server.query('postgres', `create tablespace ${name} location '${path}'`)
  }
  await run(['mkdir', join(places.held, 'PG_18_202506291')])
}

const GLOBALS = [
  `create database "The ""Shop"""`,
  `create database "it's closed"`,
  `alter database "it's closed" allow_connections false`,
  `update pg_database set datcollate = 'xx_XX.UTF-8' where datname = 'it''s closed'`,
  `set password_encryption to md5; create role "Old ""Client" login password 'x'`,
  `select pg_create_physical_replication_slot('ours')`,
  `select pg_create_logical_replication_slot('theirs', 'pgoutput')`,
  // After the slot: its making waits for the end of every transaction.
  `begin; create table kept (); prepare transaction 'left; behind'`,
]

const OBJECTS = [
  `create schema "Häuser"; alter database "The ""Shop""" set search_path to "Häuser"`,
  `create domain "Häuser".named as regproc; create type "Häuser".pair as (n int, f regoperator)`,
  `create table "Häuser".holds (f regproc, many "Häuser".named[], a aclitem, c pg_catalog.pg_class)`,
  `create table "Häuser".inside (v "Häuser".pair)`,
  `create type "Häuser".own as (n int); create table "Häuser".fine (c regclass, r regrole, t regtype, o "Häuser".own)`,
  `create function "Häuser".twice(int) returns int language sql immutable as 'select $1 * 2'`,
  `create operator "Häuser".!! (leftarg = int, function = "Häuser".twice)`,
  `create aggregate "Häuser".gathered(anyelement) (sfunc = array_append, stype = anyarray, initcond = '{}')`,
  `create conversion "Häuser"."turned round" for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8`,
  `create table "Häuser".parent (n int not null); create table "Häuser".child () inherits ("Häuser".parent);
    alter table "Häuser".child alter n drop not null`,
  `create table "Häuser".twins (n int); create index "half built" on "Häuser".twins (n);
    update pg_index set indisvalid = false where indexrelid = '"Häuser"."half built"'::regclass`,
  `create extension adminpack`,
  `create view "Häuser".written as select buffers_backend, stats_reset from pg_stat_bgwriter`,
  `alter function "Häuser".twice set vacuum_cleanup_index_scale_factor to 0.1`,
  `alter role "Old ""Client" in database "The ""Shop""" set force_parallel_mode to on`,
  `create collation "Häuser".german (provider = icu, locale = 'de');
    update pg_collation set collversion = '1.2' where collname = 'german'`,
]

test.each([
  [13, 15],
  [15, 17],
  [17, 18],
] as const)(
  'check: a rich cluster of %i that goes to %i: no error, and nothing is left behind',
  async (from, to) => {
    await using server = await startServer({ bindir: await allPrograms(from) })
    await run(['mkdir', join(server.dir, 'space')], { as: server.cluster.osUser })
    await makeRich(server, join(server.dir, 'space'))
    const own = join(server.dir, 'tmp')
    await run(['mkdir', '-m', '1777', own])
    vi.stubEnv('TMPDIR', own)
    const findings = await found(server, to)
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
    expect(findings.map(({ code }) => code)).toContain('md5-password')
    expect(await readdir(own)).toEqual([])
  },
)

test('check: the new major is not there, and something is in the place of its cluster: both are said', async () => {
  await using server = await startServer()
  await run(['mkdir', '-p', join(server.dir, 'data-18/base')])
  const findings = await found(server, 18, { bindir: '/nowhere/bin' })
  const errors = findings.filter(({ severity }) => severity === 'error')
  expect(errors.map(({ code }) => code).toSorted()).toEqual(['programs', 'target-not-empty'])
  expect(errors.map(({ hint }) => hint).join('\n')).toContain('--bindir DIR')
})
