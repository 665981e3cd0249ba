import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Manifest } from '../../../scripts/backup/manifest.ts'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
let manifest: Manifest
/** The one before it. */
let older: Manifest
let early: string
let middle: string

beforeAll(async () => {
  source = await recoverSource()
  const { server } = source
  await server.query('postgres', 'create table t as select generate_series(1, 1000) as n')
  early = (await server.query<{ now: string }>('postgres', 'select clock_timestamp()::text as now'))[0]!.now
  older = await source.take()
  manifest = await source.take()
  for (let batch = 0; batch < 5; batch++) {
    await server.query('postgres', 'insert into t select generate_series(1, 8000)')
    if (batch === 1)
      middle = (await server.query<{ now: string }>('postgres', 'select clock_timestamp()::text as now'))[0]!
        .now
    await server.query('postgres', 'select pg_switch_wal()')
  }
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

const target = () => join(source.server.dir, 'refused')

/** Runs a restore that must fail, and after which nothing must be there. */
async function refused(...args: readonly string[]): Promise<{ code: number | null; stderr: string }> {
  const before = (await readdir(source.server.dir)).toSorted()
  const { code, stderr } = await source.restore('cluster', '--to', target(), ...args)
  const after = (await readdir(source.server.dir)).toSorted()
  expect(after.filter((name) => name !== 'state')).toEqual(before.filter((name) => name !== 'state'))
  expect(await readdir(join(source.server.dir, 'state/journal')).catch(() => [])).toEqual([])
  return { code, stderr }
}

describe('restore of a cluster is refused', () => {
  test('a target before the end of every backup, at which a server would stop without an error', async () => {
    const { code, stderr } = await refused('--at', early)
    expect({ code, stderr }).toEqual({
      code: 53,
      stderr: expect.stringContaining(`${manifest.label} ended at`),
    })
    expect(await refused('--lsn', '0/28')).toMatchObject({ code: 53 })
  })

  test('a target in the future, for which a server would start and end later', async () => {
    const { code, stderr } = await refused('--at', '2999-01-01T00:00:00Z')
    expect({ code, stderr }).toEqual({ code: 42, stderr: expect.stringContaining('is in the future') })
  })

  test('a target beyond the newest WAL: it says where that ends', async () => {
    const lsn = await refused('--lsn', '7/1000028')
    expect(lsn).toEqual({ code: 59, stderr: expect.stringContaining('beyond the newest WAL in the store') })
    const { code, stderr } = await refused('--at', new Date().toISOString())
    expect({ code, stderr }).toEqual({ code: 59, stderr: expect.stringContaining('beyond the newest WAL') })
  })

  test('a time without an offset, which the server would take for its own zone', async () => {
    const { code, stderr } = await refused('--at', '2026-11-22 10:00')
    expect(code).toBe(2)
    expect(stderr).toContain('--at 2026-11-22T10:00:00Z')
  })

  test('a transaction that is in no WAL after the newest backup: nothing is handed over, and the backups before it are named', async () => {
    const { stdout } = await source.restore('cluster', '--to', target(), '--xid', '4000000', '--plan')
    expect(stdout).toMatch(
      new RegExp(`restore cluster of ${manifest.label}.*assumes .*--backup ${older.label}`, 's'),
    )
    const { code, stderr } = await refused('--xid', '4000000')
    expect({ code, stderr }).toEqual({
      code: 61,
      stderr: expect.stringMatching(
        new RegExp(
          `before transaction 4000000.*before the end of ${manifest.label}, take an older backup: --backup ${older.label}\\.`,
          's',
        ),
      ),
    })
  })

  test('a segment that is missing in the middle, at which a server would promote: it is named', async () => {
    const { segments } = await source.wal.list()
    const gone = segments.at(-2)!
    const folder = join(source.store, 'test/main/wal', source.systemIdentifier, '00000001')
    const files = (await readdir(folder)).filter((name) => name.startsWith(gone))
    const aside = join(source.server.dir, 'state', 'aside')
    await mkdir(aside, { recursive: true })
    for (const name of files) await rename(join(folder, name), join(aside, name))
    try {
      const { code, stderr } = await refused()
      expect({ code, stderr }).toEqual({
        code: 59,
        stderr: expect.stringContaining(`no WAL segment ${gone}`),
      })
      // What is before it can be restored.
      const plan = await source.restore('cluster', '--to', target(), '--at', middle, '--plan')
      expect(plan).toMatchObject({ code: 0, stderr: '' })
    } finally {
      for (const name of files) await rename(join(aside, name), join(folder, name))
    }
  })

  test('a target folder that is not empty, without touching what is in it', async () => {
    await mkdir(target())
    await writeFile(join(target(), 'precious'), 'x')
    const { code, stderr } = await refused()
    expect({ code, stderr }).toEqual({ code: 56, stderr: expect.stringContaining('is not empty') })
    const plan = await source.restore('cluster', '--to', target(), '--plan')
    expect(plan).toMatchObject({
      code: 1,
      stdout: expect.stringContaining(`x the run would refuse: "${target()}" is not empty`),
    })
    expect(await readdir(target())).toEqual(['precious'])
    await rm(target(), { recursive: true })
  })

  test('the data directory of a live server, even with consent', async () => {
    const { code, stderr } = await source.restore('cluster', '--yes')
    expect({ code, stderr }).toEqual({ code: 56, stderr: expect.stringContaining('a server runs in') })
    expect(await source.restore('cluster', '--plan')).toMatchObject({
      code: 1,
      stdout: expect.stringContaining('x the run would refuse: a server runs in'),
    })
    expect(await source.server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
  })

  test('a backup of which a byte was changed, or that is too short', async () => {
    const base = join(source.store, 'test/main/backup', manifest.label, manifest.physical!.file)
    const whole = await readFile(base)
    try {
      const flipped = Buffer.from(whole)
      flipped[Math.floor(flipped.length / 2)]! ^= 1
      await writeFile(base, flipped)
      expect(await refused()).toMatchObject({ code: 54 })
      await writeFile(base, whole.subarray(0, whole.length - 5000))
      expect(await refused()).toMatchObject({ code: 54 })
    } finally {
      await writeFile(base, whole)
    }
  })

  test('a segment of WAL in which a byte was changed: the recovery does not go round it', async () => {
    const { segments } = await source.wal.list()
    const name = join(
      source.store,
      'test/main/wal',
      source.systemIdentifier,
      '00000001',
      `${segments.at(-2)!}.zst`,
    )
    const whole = await readFile(name)
    try {
      const flipped = Buffer.from(whole)
      flipped[Math.floor(flipped.length / 2)]! ^= 1
      await writeFile(name, flipped)
      expect(await refused()).toMatchObject({ code: 54 })
    } finally {
      await writeFile(name, whole)
    }
  })
})
