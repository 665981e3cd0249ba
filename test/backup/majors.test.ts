import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createStatement, propertyStatements } from '../../scripts/backup/properties.ts'
import { countObjects, surveyCluster, surveyDatabase, surveyProperties } from '../../scripts/backup/survey.ts'
import { swapDatabases } from '../../scripts/backup/swap.ts'
import { targetFacts } from '../../scripts/backup/target.ts'
import { planRestore } from '../../scripts/backup/restore-plan.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { bindirs } from '../support/majors.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { sampleDatabase, sampleManifest } from './sample.ts'

// What is asked of the server and told to it differs by major. pg_dump of every major is not at hand,
// so the rest is proven on the one that is installed.

/** Clauses of CREATE DATABASE, by the first major that knows them. */
const LOCALES = [
  { since: 13, clause: `lc_collate 'C' lc_ctype 'C.UTF-8'` },
  { since: 15, clause: `locale_provider icu icu_locale 'de' lc_collate 'C' lc_ctype 'C'` },
  {
    since: 16,
    clause: `locale_provider icu icu_locale 'und' icu_rules '&a < g' lc_collate 'C' lc_ctype 'C'`,
  },
  { since: 17, clause: `locale_provider builtin builtin_locale 'C.UTF-8' lc_collate 'C' lc_ctype 'C'` },
] as const

describe.each(await bindirs())('PostgreSQL $major', ({ bindir, major }) => {
  let server: TestServer

  beforeAll(async () => {
    server = await startServer({ bindir })
    await server.query('postgres', 'create role app')
    await server.query('postgres', 'create role reader')
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test.each(LOCALES.filter(({ since }) => since <= major))(
    'database with $clause: made anew from its survey, it is the same',
    async ({ clause }) => {
      await server.query(
        'postgres',
        `create database first template template0 owner app encoding 'UTF8' ${clause}`,
      )
      await server.withClient('postgres', async (client) => {
        await client.query('grant create on database first to reader with grant option')
        await client.query(`alter database first set search_path = "A b", public`)
        await client.query(`alter role reader in database first set work_mem = '5MB'`)
        await client.query(`comment on database first is 'it''s'`)
      })
      const survey = await server.withClient('first', surveyDatabase)
      const properties = await server.withClient('first', surveyProperties)
      await server.query('postgres', createStatement('second', { ...survey, file: 'x' }, major))
      await server.withClient('second', async (client) => {
        await client.query('begin')
        for (const statement of propertyStatements('second', survey.owner, properties))
          await client.query(statement)
        await client.query('commit')
      })
      const { size: _size, name: _name, ...wanted } = survey
      expect(await server.withClient('second', surveyDatabase)).toMatchObject(wanted)
      expect(await server.withClient('second', surveyProperties)).toEqual(properties)
      expect(wanted.roles).toEqual(['app', 'reader'])
      for (const name of ['first', 'second']) await server.query('postgres', `drop database ${name}`)
    },
  )

  test('survey of the cluster: its version, its identity, its databases', async () => {
    const survey = await server.withClient('postgres', surveyCluster)
    expect(survey).toMatchObject({ major, timeline: 1, isSuperuser: true })
    expect(survey.systemIdentifier).toMatch(/^\d{19}$/)
    expect(survey.databases.map(({ name, allowsConnections }) => [name, allowsConnections])).toEqual([
      ['postgres', true],
      ['template0', false],
      ['template1', true],
    ])
  })

  test('objects: counted as a dump brings them back, not what a server makes by itself', async () => {
    await server.query('postgres', 'create database counted')
    await server.query(
      'counted',
      `create table t (id int primary key, x text);
       create table p (k int) partition by range (k);
       create table p1 partition of p for values from (0) to (10);
       create function tell() returns trigger language plpgsql as 'begin return new; end';
       create trigger tr after insert on p for each row execute function tell();
       create type span as range (subtype = int);
       create temp table hidden (x int);
       select lo_create(0)`,
    )
    expect(await server.withClient('counted', countObjects)).toEqual({
      functions: 1,
      indexes: 1,
      'large objects': 1,
      tables: 3,
      triggers: 1,
    })
    await server.query('postgres', 'drop database counted')
  })

  test('restore plan on this server, then the swap: the names are exchanged in one transaction', async () => {
    for (const name of ['app', 'app_restored_0123ab']) {
      await server.query('postgres', `create database ${name}`)
      await server.query(name, `create table t as select '${name}' as x`)
    }
    const source = {
      manifest: sampleManifest({
        databases: [sampleDatabase({ name: 'app' })],
        postgres: { version: '', major: 13 },
      }),
      store: dirStore(join(tmpdir(), 'howdah-no-such-store')),
    }
    const request = { database: 'app', as: undefined, swap: true, dropOld: false }
    const facts = await targetFacts(server.cluster, source, request)
    expect(facts.freeBytes).toBeGreaterThan(0)
    const plan = planRestore(source.manifest, request, facts, { now: new Date(), random: '0123ab' })
    expect(plan.findings.map(({ code }) => code)).toEqual(['backup-damaged', 'backup-damaged'])
    await swapDatabases(server.cluster, plan)
    expect(await server.query('app', 'select x from t')).toEqual([{ x: 'app_restored_0123ab' }])
    expect(await server.query(plan.before!, 'select x from t')).toEqual([{ x: 'app' }])
    for (const name of ['app', plan.before!]) await server.query('postgres', `drop database ${name}`)
  })
})
