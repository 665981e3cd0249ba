import { readdir } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Manifest } from '../../../scripts/backup/manifest.ts'
import { type Copy, type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
let manifest: Manifest
/** What was noted between two batches of rows. */
let between: { lsn: string; at: string; xid: string }
let end: { at: string }

const query = (text: string) => source.server.query<Record<string, string>>('postgres', text)
const noted = async () =>
  (
    await query(
      `select pg_current_wal_lsn()::text as lsn, clock_timestamp()::text as at, txid_current()::text as xid`,
    )
  )[0]! as { lsn: string; at: string; xid: string }
const insert = (batch: number) => query(`insert into t select ${batch}, generate_series(1, 5000)`)
const batches = async (copy: Copy) =>
  (
    await copy.query<{ b: number; n: number }>(
      'postgres',
      'select b, count(*)::int as n from t group by 1 order by 1',
    )
  )
    .map(({ b, n }) => `${b}:${n}`)
    .join(' ')

beforeAll(async () => {
  source = await recoverSource()
  await query('create table t (b int, n int)')
  await insert(1)
  manifest = await source.take()
  await insert(2)
  await query('select pg_switch_wal()')
  between = await noted()
  await query(`select pg_create_restore_point('before the third')`)
  await insert(3)
  end = await noted()
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

describe('restore of a cluster', () => {
  test('to the newest WAL: every row that was shipped is there, on a timeline of its own', async () => {
    await using copy = await source.copy()
    expect(await batches(copy)).toBe('1:5000 2:5000 3:5000')
    expect(copy.result).toMatchObject({ label: manifest.label, newTimeline: 2, before: null })
    expect(await copy.query('postgres', 'show archive_mode')).toEqual([{ archive_mode: 'off' }])
    expect(await copy.query('postgres', 'show listen_addresses')).toEqual([{ listen_addresses: '' }])
    expect(await copy.query('postgres', 'show restore_command')).toEqual([{ restore_command: '' }])
    expect(await readdir(copy.dir)).not.toContain('recovery.signal')
  })

  test('to a moment between two committed batches: the first is whole, of the second there is nothing', async () => {
    await using copy = await source.copy('--at', between.at)
    expect(await batches(copy)).toBe('1:5000 2:5000')
  })

  test('to a position between two batches: nothing of the later one is there', async () => {
    await using copy = await source.copy('--lsn', between.lsn)
    expect(await batches(copy)).toBe('1:5000 2:5000')
  })

  test('to a transaction: it is the last one', async () => {
    await using copy = await source.copy('--xid', between.xid)
    expect(await batches(copy)).toBe('1:5000 2:5000')
  })

  test('to a restore point: what came after it is not there', async () => {
    await using copy = await source.copy('--name', 'before the third')
    expect(await batches(copy)).toBe('1:5000 2:5000')
  })

  test('to the end of the backup: it is restored alone', async () => {
    await using copy = await source.copy('--immediate')
    expect(await batches(copy)).toBe('1:5000')
  })

  test('to a moment after the last transaction, which a server alone calls unreached: all is there', async () => {
    await using copy = await source.copy('--at', end.at)
    expect(await batches(copy)).toBe('1:5000 2:5000 3:5000')
  })

  test('without a start: the data directory is ready, and no server runs', async () => {
    await using copy = await source.copy('--no-start', '--immediate')
    expect(await copy.cluster.isRunning()).toBe(false)
  })
})
