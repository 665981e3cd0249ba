import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { parseLsn, segmentsBetween } from '../../scripts/backup/wal/segment.ts'
import { type ArchiveHost, archiveHost } from '../support/archive.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let host: ArchiveHost

beforeAll(async () => {
  server = await startServer({ settings: { wal_level: 'replica' } })
  host = await archiveHost(server, '', '[backup.full]\nkind = "base"\nstore = "local"\npitr = "7d"\n')
  await server.query('postgres', 'create table t as select i from generate_series(1, 1000) i')
})

afterAll(() => server[Symbol.asyncDispose]())

const take = () => runScript(['backup', 'take', 'full', '--json', '-c', host.file])

test('a job that wants any moment back: when the take is over, each segment of it is in the store', async () => {
  await using _service = host.run()
  await host.caughtUp()
  const { code, stdout, stderr } = await take()
  expect({ code, stderr }).toMatchObject({ code: 0 })
  const { physical, timeline } = (JSON.parse(stdout) as { result: Manifest }).result
  const [start, stop] = [parseLsn(physical!.startLsn)!, parseLsn(physical!.stopLsn)!]
  const needed = [...segmentsBetween(timeline, start, stop, physical!.walSegmentSize)]
  expect(needed.length).toBeGreaterThan(0)
  for (const segment of needed) expect([segment, await host.wal.has(segment)]).not.toContain(undefined)
})

test('the archive ended a moment ago: the take fails with the segment that is missing and why, and nothing counts', async () => {
  const catalog = join(host.storeDir, 'test/main/catalog')
  const before = await readdir(catalog)
  const { code, stderr } = await take()
  expect([code, stderr]).toEqual([
    55,
    expect.stringMatching(
      /WAL segment [0-9A-F]{24} of the backup is not in the store: nobody receives from slot "slot\d+"/,
    ),
  ])
  expect(await readdir(catalog)).toEqual(before)
})
