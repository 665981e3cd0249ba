import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource

beforeAll(async () => {
  source = await recoverSource()
  await source.server.query('postgres', 'create table t (n int)')
  await source.server.query('postgres', 'insert into t select generate_series(1, 1000)')
  await source.take()
})

afterAll(() => source[Symbol.asyncDispose]())

describe('restore of a cluster', () => {
  test('to the newest WAL: every row that was shipped is there', async () => {
    await source.server.query('postgres', 'insert into t select generate_series(1001, 30000)')
    await source.ship()
    await using copy = await source.copy()
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: 30_000 }])
  })
})
