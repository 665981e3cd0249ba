import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { checkUpgrade, type Finding } from '../../scripts/upgrade/check.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { allPrograms } from '../support/upgrade.ts'

// What a healthy server refuses to make is written into its catalogs: so it looks after an accident.

async function found(server: TestServer): Promise<Finding[]> {
  const host = server.host('')
  const spec = {
    ...host.postgres,
    major: 18,
    bindir: await allPrograms(18),
    data_dir: `${server.dir}/data-18`,
  }
  return checkUpgrade(server.cluster, { host, spec, method: 'link', packageOf: () => 'postgresql-contrib' })
}

describe('a cluster of 17 to which things have happened', () => {
  let server: TestServer
  let findings: readonly Finding[]

  beforeAll(async () => {
    server = await startServer({ bindir: await allPrograms(17) })
    const { bindir, dataDir, osUser } = server.cluster
    await server.cluster.stop()
    await run([join(bindir, 'pg_checksums'), '--disable', '--no-sync', '-D', dataDir], { as: osUser })
    await server.cluster.start()
    for (const text of HAPPENED) await server.query('postgres', text)
    findings = await found(server)
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test.each([
    ['error', 'open-template0', 'template0 lets people connect'],
    ['error', 'invalid-database', 'halfway'],
    ['error', 'missing-database', 'template1'],
    ['error', 'reserved-role', 'pg_mine'],
    ['warning', 'subscription', '"The Feed" in postgres'],
    ['error', 'setting-refused', 'role "its own" sets work_mem = "many": invalid value'],
    ['warning', 'extension-version', 'extension hstore is 0.1'],
    ['error', 'column-option', 'marked.n have the option no_such'],
    ['note', 'large-objects', '100,001 large objects'],
    ['note', 'no-checksums', 'though 18 has them on by itself'],
  ])('check: %s %s: %s', (severity, code, text) => {
    const same = findings.filter((each) => each.code === code && each.severity === severity)
    const told = { message: expect.stringContaining(text), hint: expect.stringMatching(/./) }
    expect(same).toContainEqual(expect.objectContaining(told))
  })

  test('check: what it says to do about an option of columns takes it away', async () => {
    const { hint } = findings.find(
      ({ code, message }) => code === 'column-option' && message.includes('no_such'),
    )!
    await server.query('postgres', hint.slice(hint.indexOf('update pg_attribute')))
    const options = (await found(server)).filter(({ code }) => code === 'column-option')
    expect(options.map(({ message }) => message).join()).not.toContain('no_such')
  })

  test('check: initdb of the new major refuses what the old cluster is: that is said, and why', async () => {
    await server.query(
      'postgres',
      `update pg_database set datctype = 'xx_XX.UTF-8' where datname = 'template0'`,
    )
    const refused = (await found(server)).filter(({ code }) => code === 'initdb')
    expect(refused).toHaveLength(1)
    expect(refused[0]!.message).toMatch(/18 makes no cluster that is like the old one.*xx_XX\.UTF-8/s)
  })
})

const HAPPENED = [
  `alter database template0 allow_connections true`,
  `create database halfway`,
  `update pg_database set datconnlimit = -2 where datname = 'halfway'`,
  `alter database template1 is_template false`,
  `drop database template1`,
  `create role mine`,
  `update pg_authid set rolname = 'pg_mine' where rolname = 'mine'`,
  `create subscription "The Feed" connection 'host=/nowhere' publication p with (connect = false, slot_name = none)`,
  `create role "its own"; alter role "its own" set work_mem to '1MB'`,
  `update pg_db_role_setting set setconfig = '{work_mem=many}'`,
  `create extension hstore; update pg_extension set extversion = '0.1' where extname = 'hstore'`,
  `create table marked (n int); update pg_attribute set attoptions = '{no_such=1}'
    where attrelid = 'marked'::regclass and attname = 'n'`,
  `select count(lo_create(0)) from generate_series(1, 100001)`,
]
