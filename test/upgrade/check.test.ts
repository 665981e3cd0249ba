import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CheckTarget, checkUpgrade, type Finding } from '../../scripts/upgrade/check.ts'
import { allPrograms } from '../support/upgrade.ts'
import { startServer, type TestServer } from '../support/server.ts'

/** What is found when a server is to go to another major. */
async function found(
  server: TestServer,
  major: number,
  method: CheckTarget['method'] = 'copy',
): Promise<Finding[]> {
  const host = server.host('')
  const spec = {
    ...host.postgres,
    major,
    bindir: await allPrograms(major),
    data_dir: `${server.dir}/data-${major}`,
  }
  return checkUpgrade(server.cluster, { host, spec, method, packageOf: (name) => `postgresql-${name}` })
}

const one = (findings: readonly Finding[], code: string) => findings.find((each) => each.code === code)

describe('a cluster of 13 with every trap', () => {
  let server: TestServer
  let findings: readonly Finding[]
  let dumping: readonly Finding[]

  beforeAll(async () => {
    server = await startServer({
      bindir: await allPrograms(13),
      settings: { max_prepared_transactions: '5', wal_level: 'logical' },
    })
    for (const text of GLOBALS) await server.query('postgres', text)
    for (const text of OBJECTS) await server.query('The "Shop"', text)
    findings = await found(server, 18)
    dumping = await found(server, 18, 'dump')
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
  ])(
    'check: %s %s is found in "%s", by the name %s, and something is to be done',
    (severity, code, ...rest) => {
      const [database, name] = rest
      expect(one(findings, code)).toMatchObject({ severity, code, database })
      expect(one(findings, code)!.message).toContain(name)
      expect(one(findings, code)!.hint).not.toBe('')
    },
  )

  test('check: columns of regclass and of a type of its own are none of them', () => {
    expect(findings.map(({ message }) => message).join('\n')).not.toMatch(/"Häuser"\.fine/)
  })

  test('check --method dump: what only pg_upgrade refuses is no error, what 18 refuses still is', () => {
    const codes = dumping.map(({ code }) => code)
    expect(codes).not.toContain('reg-column')
    expect(codes).toContain('postfix-operator')
    expect(codes).toContain('prepared-transaction')
  })

  test('check: errors come first', () => {
    const order = findings.map(({ severity }) => ['error', 'warning', 'note'].indexOf(severity))
    expect(order).toEqual(order.toSorted((a, b) => a - b))
  })
})

const GLOBALS = [
  `create database "The ""Shop"""`,
  `create database "it's closed"`,
  `alter database "it's closed" allow_connections false`,
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
]
