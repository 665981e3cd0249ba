import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Migrating, openMigrating } from '../support/migrating.ts'

// What an application asks before it starts: has the database exactly the versions that there are?

let it: Migrating
beforeAll(async () => {
  it = await openMigrating()
})
afterAll(() => it[Symbol.asyncDispose]())
beforeEach(async () => {
  await it.begin()
  await it.put('0001_a', 'create table a ();')
  await it.put('0002_b', 'create table b ();')
  expect(await it.migrate('up')).toMatchObject({ code: 0 })
})

const check = () => it.migrate('check')

test('neither more nor less: 0', async () => {
  expect(await check()).toMatchObject({ code: 0, stdout: 'all is applied\n', stderr: '' })
})

test('a version that the database has not: 1, and the command that applies it', async () => {
  await it.put('0003_c', 'create table c ();')
  expect(await check()).toMatchObject({
    code: 1,
    stdout: 'telemetry: 0003 is pending; run: howdah migrate up\n',
  })
})

test('a version that only the database has: 1, although nothing is pending', async () => {
  // As an older checkout finds it.
  await it.query(
    `insert into howdah.migration (version, name, state, up_checksum, applied_with) values (3, 'c', 'applied', 'x', 'x')`,
  )
  const { code, stdout } = await check()
  expect(code).toBe(1)
  expect(stdout).toBe('telemetry: 3 is missing; run: howdah migrate status\n')
  expect((await it.migrate('status')).stdout).toContain('applied, and there is no file of it')
})

test('--owners: a table that somebody has given to another role: 1, and whose it is', async () => {
  expect(await it.migrate('check', '--owners')).toMatchObject({ code: 0, stdout: 'all is applied\n' })
  await it.query('alter table b owner to postgres')
  expect(await check()).toMatchObject({ code: 0 })
  expect(await it.migrate('check', '--owners')).toMatchObject({
    code: 1,
    stdout: 'telemetry: public.b belongs to postgres, not to app\n',
  })
})

test('nothing is written by it', async () => {
  await it.query('drop schema howdah cascade')
  expect(await check()).toMatchObject({ code: 1 })
  expect(await it.query(`select from pg_namespace where nspname = 'howdah'`)).toEqual([])
})
