import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
let between: { lsn: string; at: string; xid: string }

const query = (text: string) => source.server.query<Record<string, string>>('postgres', text)

beforeAll(async () => {
  source = await recoverSource()
  await query('create table t (n int)')
  await query('create table old (n int)')
  // More than the 64 whose numbers a server tells a standby: until it ends, nobody may read there.
  const client = await source.server.cluster.connect('postgres')
  await client.query('begin')
  for (let n = 0; n < 70; n++) await client.query(`savepoint s; insert into old values (${n})`)
  await source.take()
  await query('insert into t values (1)')
  between = (
    await query(
      `select pg_current_wal_lsn()::text as lsn, clock_timestamp()::text as at, txid_current()::text as xid`,
    )
  )[0]! as typeof between
  await query('insert into t values (2)')
  await client.query('commit')
  await client.end()
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

test.each(['at', 'lsn', 'xid'] as const)(
  'restore to a target (--%s) before which nobody may read, for a transaction has many subtransactions: it ends there, and is taken',
  async (kind) => {
    await using copy = await source.copy(`--${kind}`, between[kind])
    expect(await copy.query('postgres', 'select n from t order by n')).toEqual([{ n: 1 }])
    expect(await copy.query('postgres', 'select count(*)::int as n from old')).toEqual([{ n: 0 }])
    expect(copy.result).toMatchObject({ newTimeline: 2 })
  },
)

test('restore to the end of a backup in which nobody may read: it is restored alone', async () => {
  await using copy = await source.copy('--immediate')
  expect(await copy.query('postgres', 'select n from t')).toEqual([])
})
