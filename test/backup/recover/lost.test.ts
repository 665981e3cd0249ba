import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../../scripts/core/exec.ts'
import {
  openCopy,
  ownFolder,
  type RecoverSource,
  recoverSource,
  SEGMENT_SIZE,
} from '../../support/recover.ts'

let source: RecoverSource
let space: string
let early: string
let late: string

const query = <Row extends object = Record<string, unknown>>(text: string) =>
  source.server.query<Row>('postgres', text)
const now = async () => (await query<{ now: string }>('select clock_timestamp()::text as now'))[0]!.now

beforeAll(async () => {
  source = await recoverSource()
  space = await ownFolder(source.server, 'space')
  await query(`create tablespace side location '${space}'`)
  await query('create table s (n int) tablespace side')
  await query('insert into s select 1')
  await query('create table t (n int)')
  await source.take()
  for (let batch = 0; batch < 5; batch++) {
    await query('insert into t select generate_series(1, 8000)')
    if (batch === 1) early = await now()
    await query('select pg_switch_wal()')
  }
  await query('insert into t select generate_series(1, 10)')
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

const aside = () => `--tablespace=${space}=${join(source.server.dir, 'copy space')}`

/** Takes what is stored of some segments away for a while. */
async function without(names: readonly string[], action: () => Promise<void>): Promise<void> {
  const folder = join(source.store, 'test/main/wal', source.systemIdentifier, '00000001')
  const away = await ownFolder(source.server, 'away')
  const files = (await readdir(folder)).filter((file) => names.some((name) => file.startsWith(name)))
  expect(files).not.toEqual([])
  for (const file of files) await rename(join(folder, file), join(away, file))
  try {
    await action()
  } finally {
    for (const file of files) await rename(join(away, file), join(folder, file))
  }
}

describe('restore of a cluster from a store that lost WAL at its end', () => {
  const plan = (...args: readonly string[]) =>
    source.restore('cluster', '--to', join(source.server.dir, 'lost'), aside(), '--plan', ...args)

  test('the newest segments: it is no shorter restore that succeeds, for the store was further once', async () => {
    const { segments, partials } = await source.wal.list()
    await without([segments.at(-1)!, ...partials], async () => {
      const { code, stderr } = await plan()
      expect({ code, stderr }).toEqual({
        code: 59,
        stderr: expect.stringMatching(
          new RegExp(`no WAL segment ${segments.at(-1)}, although the archive was at LSN 0/`),
        ),
      })
      expect(await plan('--at', early)).toMatchObject({ code: 0 })
    })
  })

  test('all of it, with what the archive says of itself: the backup alone only when it is asked for', async () => {
    const folder = join(source.store, 'test/main/wal')
    await rename(folder, join(source.server.dir, 'no wal'))
    try {
      const { code, stderr } = await plan()
      expect({ code, stderr }).toEqual({
        code: 59,
        stderr: expect.stringContaining('its WAL is archived to the store "local"'),
      })
      expect(await plan('--immediate')).toMatchObject({ code: 0 })
    } finally {
      await rename(join(source.server.dir, 'no wal'), folder)
    }
  })

  test('only the beginning of the segment that was being written: the same', async () => {
    const { partials } = await source.wal.list()
    expect(partials).toHaveLength(1)
    await without(partials, async () => {
      const { code, stderr } = await plan()
      expect({ code, stderr }).toEqual({
        code: 59,
        stderr: expect.stringContaining(`no WAL segment ${partials[0]}`),
      })
    })
  })

  test('the end of the segment that was being written, by a shorter beginning in its place: both positions are told, and how to take what is there', async () => {
    const [name] = (await source.wal.list()).partials
    const early = Buffer.concat(await Array.fromAsync(source.wal.getPartial(name!)))
    await query('insert into t select generate_series(1, 10)')
    const lsn = await source.ship()
    const late = Buffer.concat(await Array.fromAsync(source.wal.getPartial(name!)))
    const path = join(source.server.dir, 'beginning')
    await writeFile(path, Buffer.concat([early, Buffer.alloc(SEGMENT_SIZE - early.length)]))
    // As it was cut, and with room for the rest, as a server that is gone leaves it.
    for (const bytes of [early.length - 8, early.length, SEGMENT_SIZE]) {
      await source.wal.putPartial(name!, path, bytes)
      const { code, stderr } = await plan()
      expect({ code, stderr }).toEqual({
        code: 59,
        stderr: expect.stringMatching(
          new RegExp(`ends at LSN 0/[0-9A-F]+, although the archive was at LSN ${lsn}: .*lost`),
        ),
      })
      const [, accept] = /all the same: (--lsn 0\/[0-9A-F]+)/.exec(stderr) ?? []
      expect(await plan(...accept!.split(' '))).toMatchObject({ code: 0 })
    }
    await writeFile(path, late)
    await source.wal.putPartial(name!, path)
    expect(await plan()).toMatchObject({ code: 0 })
  })

  test('all of it: the same, and the backup alone only when that is asked for', async () => {
    const { segments, partials } = await source.wal.list()
    await without([...segments, ...partials], async () => {
      expect(await plan()).toMatchObject({ code: 59 })
      expect(await plan('--immediate')).toMatchObject({ code: 0 })
    })
  })
})

describe('restore of a cluster', () => {
  test('into a folder with the signs that restore_command expands: it is taken as it is', async () => {
    const dir = join(source.server.dir, "a%r %f 100%% 'c'")
    const { code, stderr } = await source.restore('cluster', '--to', dir, aside())
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    await using copy = await openCopy(source.server, dir)
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: 40_020 }])
    expect(await copy.query('postgres', 'show cron.launch_active_jobs')).toEqual([
      { 'cron.launch_active_jobs': 'off' },
    ])
    await rm(join(source.server.dir, 'copy space'), { recursive: true })
  })

  test('in its own place: the one set aside starts as it was, with its own tablespace', async () => {
    await query('insert into s select generate_series(2, 700)')
    const { bindir, osUser, dataDir } = source.server.cluster
    await source.server.cluster.stop()
    const { code, stderr } = await source.restore('cluster', '--yes', '--immediate')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(await query('select count(*)::int as n from s')).toEqual([{ n: 1 }])
    const names = await readdir(source.server.dir)
    const kept = join(
      source.server.dir,
      names.find((name) => name.startsWith('data.before-'))!,
    )
    await mkdir(`${kept}.socket`)
    await run(['chown', `--reference=${dataDir}`, `${kept}.socket`])
    const options = `-c listen_addresses='' -c unix_socket_directories='${kept}.socket'`
    const start = ['start', '-s', '-w', '-D', kept, '-l', `${kept}.socket/log`, '-o', options]
    await run([join(bindir, 'pg_ctl'), ...start], { as: osUser })
    await using old = await openCopy(source.server, kept)
    expect(await old.query('postgres', 'select count(*)::int as n from s')).toEqual([{ n: 700 }])
    await old.query('postgres', 'truncate s; checkpoint')
    expect(await query('select count(*)::int as n from s')).toEqual([{ n: 1 }])
  })

  test('of the timeline that was left, to a moment after its end: the new one’s clock proves nothing of it', async () => {
    await query('insert into t select 1')
    await source.ship()
    late = await now()
    await query('insert into t select 2')
    await source.ship()
    const to = ['--to', join(source.server.dir, 'left'), aside(), '--plan', '--at', late]
    expect(await source.restore('cluster', ...to)).toMatchObject({ code: 0 })
    const { code, stderr } = await source.restore('cluster', ...to, '--timeline', '1')
    expect({ code, stderr }).toEqual({ code: 59, stderr: expect.stringContaining('beyond the newest WAL') })
  })

  test('to a moment of the timeline that was left, with one that goes on elsewhere: both are offered', async () => {
    const to = ['--to', join(source.server.dir, 'fork'), aside(), '--plan', '--at', early]
    const { code, stderr } = await source.restore('cluster', ...to)
    expect({ code, stderr }).toEqual({
      code: 42,
      stderr: expect.stringMatching(
        /was on timeline 1, which timeline 2 left at LSN .*--timeline 1\b.*--timeline 2/s,
      ),
    })
    expect(await source.restore('cluster', ...to, '--timeline', '1')).toMatchObject({ code: 0 })
    expect(await source.restore('cluster', ...to, '--timeline', '2')).toMatchObject({ code: 0 })
  })
})
