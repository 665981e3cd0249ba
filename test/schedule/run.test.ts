import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { holdResource } from '../../scripts/cluster/lock.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { holdTable, scheduleHost, untilDumpWaits, user, WAIT } from '../support/schedule.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer({ settings: { wal_level: 'replica' } })
  await server.query('postgres', 'create database app')
  await server.query('app', 'create table t (id int)')
})
afterAll(() => server[Symbol.asyncDispose]())

describe('schedule run', () => {
  test('every other second: runs again and again, one at a time; SIGTERM ends it with 0, and nothing is left', async () => {
    const host = await scheduleHost(server, { schedule: '*:*:0/2' })
    await using running = host.run()
    await expect.poll(() => host.labels(), WAIT).toHaveLength(2)
    expect((await runScript(['schedule', 'run', '-c', host.file])).code).toBe(20)
    expect(await running.end()).toBe(0)
    expect(await host.processes()).toEqual([])
    expect(running.log()).toContain('backup-nightly: ')
    expect(running.log()).not.toContain('another run holds')
    expect(await host.state()).toMatchObject({ lastSuccess: expect.stringContaining('T') })
  })

  test('run that was missed: is made up for at once, once; SIGTERM in the middle is passed on, recorded, and nothing is due again', async () => {
    const host = await scheduleHost(server)
    await using _holder = await holdTable(server)
    await using running = host.run()
    await untilDumpWaits(server)
    expect(await running.end()).toBe(0)
    expect(await host.processes()).toEqual([])
    expect(await host.labels()).toEqual([])
    expect(await host.state()).toMatchObject({
      failures: 1,
      last: { result: 'failed', reason: 'exit code 130: ended by a signal' },
    })
    await using again = host.run()
    await expect.poll(() => again.log(), WAIT).toContain('jobs and')
    expect(await again.end()).toBe(0)
    expect(again.log()).not.toContain('backup-nightly: ')
    const planned = await runScript(['schedule', 'run', '--plan', '--json', '-c', host.file])
    const { result } = JSON.parse(planned.stdout) as { result: { runs: { times: string[] }[] } }
    expect(Date.parse(result.runs[0]!.times[0]!)).toBeGreaterThan(Date.now())
  })

  test('another run has the store: is skipped, which is no failure', async () => {
    const host = await scheduleHost(server)
    const parsed = parseHost(await readFile(host.file, 'utf8'))
    await using _lock = await holdResource(parsed, server.cluster, 'store:local')
    await using running = host.run()
    await expect.poll(() => host.state(), WAIT).toMatchObject({ failures: 0, last: { result: 'skipped' } })
    expect(await running.end()).toBe(0)
  })

  test('paused: does not run', async () => {
    const host = await scheduleHost(server, { schedule: '*:*:0/1' })
    await host.set({ pausedSince: '2026-01-01T00:00:00.000Z' })
    await using running = host.run()
    await new Promise((resolve) => setTimeout(resolve, 3000))
    expect(await running.end()).toBe(0)
    expect(running.log()).not.toContain('backup-nightly: ')
  })

  test('--plan: says what would run when, and changes nothing', async () => {
    const host = await scheduleHost(server)
    const { code, stdout } = await runScript(['schedule', 'run', '--plan', '--json', '-c', host.file])
    const { result } = JSON.parse(stdout) as { result: { runs: unknown[] } }
    expect([code, result.runs[0]]).toEqual([
      0,
      {
        job: 'backup-nightly',
        user,
        paused: false,
        times: ['2026-01-01T02:00:00.000Z', '2026-01-02T02:00:00.000Z', '2026-01-03T02:00:00.000Z'],
      },
    ])
    expect(await readdir(join(host.file, '../state'))).toEqual(['jobs'])
  })
})
