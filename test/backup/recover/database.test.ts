import { readdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ownFolder, type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
let at: string

const query = (text: string, database = 'shop') => source.server.query(database, text)

beforeAll(async () => {
  source = await recoverSource()
  const space = await ownFolder(source.server, 'space')
  await query(`create tablespace fast location '${space}'`, 'postgres')
  await query('create database shop', 'postgres')
  await query('create table t (n int primary key) tablespace fast')
  await source.take()
  await query('insert into t select generate_series(1, 700)')
  at = (await source.server.query<{ now: string }>('postgres', 'select clock_timestamp()::text as now'))[0]!
    .now
  await query('delete from t')
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

const nothingIsLeft = async () => {
  expect(await readdir(join(source.server.dir, 'state'))).not.toContain('scratch')
  expect(await readdir(join(source.server.dir, 'state/journal'))).toEqual([])
}

describe('restore of a database out of a backup of the whole cluster', () => {
  test('as it was before a mistake, beside the one that is there: the rest of the cluster is not touched', async () => {
    const { code, stderr } = await source.restore('database', 'shop', '--at', at, '--as', 'shop_before')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(await query('select count(*)::int as n from t', 'shop_before')).toEqual([{ n: 700 }])
    expect(await query('select count(*)::int as n from t')).toEqual([{ n: 0 }])
    await nothingIsLeft()
  })

  test('into its place: the one that was there is kept', async () => {
    const { code, stdout } = await source.restore('database', 'shop', '--at', at, '--swap')
    expect(code).toBe(0)
    expect(stdout).toContain('is kept as shop_before_')
    expect(await query('select count(*)::int as n from t')).toEqual([{ n: 700 }])
    await nothingIsLeft()
  })

  test('without a target, when no dump has it: as it is in the newest WAL', async () => {
    const { code, stdout } = await source.restore('database', 'shop', '--as', 'shop_newest', '--json')
    expect(code).toBe(0)
    const { milliseconds } = (JSON.parse(stdout) as { result: { milliseconds: object } }).result
    expect(Object.keys(milliseconds)).toEqual(['fetch', 'recovery', 'handover', 'fill', 'analyze', 'swap'])
    expect(await query('select count(*)::int as n from t', 'shop_newest')).toEqual([{ n: 0 }])
  })

  test('its plan: what is recovered first; nothing is made', async () => {
    const { code, stdout } = await source.restore('database', 'shop', '--at', at, '--swap', '--plan')
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining('out of a scratch cluster') })
    await nothingIsLeft()
  })

  test('that exists, without a word of what becomes of it: refused before anything is recovered', async () => {
    const backups = join(source.store, 'test/main/backup')
    await rename(backups, `${backups}.away`)
    try {
      for (const args of [['shop'], ['shop', '--as', 'postgres']]) {
        const { code, stderr } = await source.restore('database', ...args, '--at', at)
        expect({ code, stderr }).toEqual({
          code: 56,
          stderr: expect.stringMatching(/database "(shop|postgres)" exists/),
        })
      }
    } finally {
      await rename(`${backups}.away`, backups)
    }
    await nothingIsLeft()
    const plan = await source.restore('database', 'shop', '--at', at, '--plan')
    expect(plan).toMatchObject({
      code: 1,
      stdout: expect.stringContaining('x the run would refuse: database "shop" exists (To go on, add --swap'),
    })
  })

  test('a database that it does not have: it says which it has', async () => {
    const { code, stderr } = await source.restore('database', 'shoe', '--at', at)
    expect({ code, stderr }).toEqual({ code: 53, stderr: expect.stringContaining('It has: postgres, shop') })
    await nothingIsLeft()
  })
})
