import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { scanWal } from '../../../scripts/backup/recover/scan.ts'
import { fetchWalFile } from '../../../scripts/backup/recover/wal-file.ts'
import { formatLsn, parseLsn, segmentStart } from '../../../scripts/backup/wal/segment.ts'
import { type RecoverSource, recoverSource, SEGMENT_SIZE } from '../../support/recover.ts'

let source: RecoverSource
let folder: string
let newest: string
let end: string

beforeAll(async () => {
  source = await recoverSource()
  folder = await mkdtemp(join(tmpdir(), 'howdah-test-scan-'))
  await source.server.query('postgres', 'create table t as select generate_series(1, 8000) as n')
  await source.server.query('postgres', 'select pg_switch_wal()')
  await source.server.query('postgres', 'insert into t select 1')
  end = await source.ship()
  const { segments, partials } = await source.wal.list()
  newest = partials[0]!
  for (const name of [segments.at(-1)!, newest])
    await fetchWalFile(source.wal, name, { folder, segmentSize: SEGMENT_SIZE })
})

afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
  await source[Symbol.asyncDispose]()
})

const scan = (bindir: string, from?: bigint) =>
  scanWal(bindir, folder, { first: newest, last: newest, from, segmentSize: SEGMENT_SIZE })

/** A folder of programs with a pg_waldump of our own. */
async function programs(script: string): Promise<string> {
  const bindir = join(source.server.dir, 'programs')
  await mkdir(bindir, { recursive: true })
  await writeFile(join(bindir, 'pg_waldump'), `#!/bin/sh\n${script}\n`)
  await chmod(join(bindir, 'pg_waldump'), 0o755)
  return bindir
}

describe('scanWal', () => {
  test('the beginning of a segment: its last record ends where the server was, and begins before that', async () => {
    const found = await scan(source.server.cluster.bindir)
    expect(formatLsn(found!.end)).toBe(end)
    expect(found!.lastRecord).toBeLessThan(parseLsn(end)!)
    expect(found!.lastRecord).toBeGreaterThanOrEqual(segmentStart(newest, SEGMENT_SIZE))
    expect(found!.firstCommit! <= found!.lastCommit!).toBe(true)
  })

  test('from a position after all of it: there is nothing', async () => {
    expect(await scan(source.server.cluster.bindir, parseLsn(end))).toBeUndefined()
  })

  test('two segments: the first transaction is of the first one, the last of the last', async () => {
    const [first] = (await readdir(folder)).toSorted()
    const { bindir } = source.server.cluster
    const both = await scanWal(bindir, folder, {
      first: first!,
      last: newest,
      segmentSize: SEGMENT_SIZE,
    })
    const last = await scan(bindir)
    expect({ end: both!.end, lastCommit: both!.lastCommit }).toEqual({
      end: last!.end,
      lastCommit: last!.lastCommit,
    })
    expect(both!.firstCommit! < last!.firstCommit!).toBe(true)
  })

  test('a pg_waldump that is killed: an error, not an earlier end of the WAL', async () => {
    const real = join(source.server.cluster.bindir, 'pg_waldump')
    const bindir = await programs(`"${real}" "$@" 2>&1 | head -n 1; kill -9 $$`)
    await expect(scan(bindir)).rejects.toMatchObject({ code: 'command-failed' })
  })
})

test('a beginning that becomes whole while the store is listed, so that the list has neither: it is no proof of absence', async () => {
  const into = { folder, segmentSize: SEGMENT_SIZE }
  let looks = 0
  // What a list of a folder says that is read before the whole one came, and ends after the beginning went.
  const busy = {
    ...source.wal,
    has: async (name: string) => (looks++ === 0 ? undefined : source.wal.has(name)),
  }
  expect(await fetchWalFile(busy, newest, into)).toBe('partial')
  expect(await fetchWalFile(source.wal, '0000000100000000000000FF', into)).toBe('absent')
})
