import { readdir, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { parseLsn, segmentsBetween } from '../../scripts/backup/wal/segment.ts'
import { ageKey } from '../support/age.ts'
import { type ArchiveHost, archiveHost } from '../support/archive.ts'
import { runScript, type ScriptResult } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { flip } from './crafted.ts'

const JOBS = `[backup.full]
kind = "base"
store = "local"
pitr = "7d"
[backup.alone]
kind = "base"
store = "local"
`

let server: TestServer
let host: ArchiveHost

beforeAll(async () => {
  server = await startServer({ settings: { wal_level: 'replica' } })
  host = await archiveHost(server, '', JOBS)
  await server.query('postgres', 'create table t as select i from generate_series(1, 1000) i')
})

afterAll(() => server[Symbol.asyncDispose]())

/** Ends the segment in which a take begins while it streams, and does something to it as soon as it is stored. */
async function takeWhile(
  harm: (segment: string) => Promise<void>,
  job: string,
  ...overrides: readonly string[]
): Promise<{ readonly segment: string } & ScriptResult> {
  const begun = take(job, `backup.${job}.rate_limit=700kB`, ...overrides)
  const isStreaming = `select from pg_stat_activity where backend_type = 'walsender' and query ~ '^BASE_BACKUP'`
  await expect.poll(() => server.query('postgres', isStreaming), { timeout: 20_000 }).not.toEqual([])
  const [{ segment }] = (await server.query<{ segment: string }>(
    'postgres',
    'select pg_walfile_name(pg_switch_wal()) as segment',
  )) as [{ segment: string }]
  await expect.poll(() => host.wal.has(segment), { timeout: 20_000 }).toBe('whole')
  await harm(segment)
  return { segment, ...(await begun) }
}

const bodyOf = async (segment: string) => {
  const folder = join(host.storeDir, 'test/main/wal')
  const names = await readdir(folder, { recursive: true })
  return join(
    folder,
    names.find((name) => name.includes(`${segment}.zst`))!,
  )
}

const take = (job = 'full', ...overrides: readonly string[]) =>
  runScript(['backup', 'take', job, '--json', '-c', host.file, ...overrides])

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

describe('a segment of the backup is damaged in the store', () => {
  const flipByte = async (segment: string) => flip(await bodyOf(segment))

  test('of a job that wants any moment back: the take fails and says which, and nothing counts', async () => {
    await using _service = host.run()
    await host.caughtUp()
    const catalog = join(host.storeDir, 'test/main/catalog')
    const before = await readdir(catalog).catch(() => [])
    const { segment, code, stderr } = await takeWhile(flipByte, 'full')
    expect([code, stderr]).toEqual([
      55,
      expect.stringContaining(`WAL segment ${segment} of the backup cannot be read in the store`),
    ])
    expect(await readdir(catalog).catch(() => [])).toEqual(before)
  })

  test('of a job whose backups restore alone: it is taken, and the user is warned', async () => {
    await using _service = host.run()
    await host.caughtUp()
    const { segment, code, stderr } = await takeWhile(flipByte, 'alone')
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(
        `it restores alone, but no moment after it: WAL segment ${segment} .* cannot be read`,
      ),
    ])
  })

  test('of an encrypted archive, whose key is not on this host: what can be seen is looked at', async () => {
    const key = await ageKey(join(server.dir, 'key.txt'))
    const recipients = `encryption.recipients=["${key.recipient}"]`
    await using _service = host.run(recipients)
    await host.caughtUp()
    const whole = await takeWhile(async () => {}, 'full', recipients)
    expect(whole).toMatchObject({ code: 0 })
    const damaged = await takeWhile(async (segment) => truncate(await bodyOf(segment)), 'full', recipients)
    expect([damaged.code, damaged.stderr]).toEqual([
      55,
      expect.stringContaining(`WAL segment ${damaged.segment} of the backup cannot be read`),
    ])
  })
})

test('a job whose backups restore alone, and no archive runs: it is taken at once, and the user is warned', async () => {
  const { code, stderr } = await take('alone')
  expect([code, stderr]).toEqual([
    0,
    expect.stringMatching(
      /it restores alone, but no moment after it: WAL segment \w+ .* is not in the store/,
    ),
  ])
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
