import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { holdTable, scheduleHost, startRun, untilDumpWaits, WAIT } from '../support/schedule.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer({ settings: { wal_level: 'replica' } })
  await server.query('postgres', 'create database app')
  await server.query('app', 'create table t (id int)')
})
afterAll(() => server[Symbol.asyncDispose]())

describe('schedule run: faults', () => {
  test.each([
    ['it: its children end, too', false],
    ['it and all its children: nothing is left', true],
  ])('SIGKILL in the middle of a take of %s, and the next one makes up for it', async (_whom, ofAll) => {
    const host = await scheduleHost(server, { job: 'keep = { last = 1 }' })
    await using holder = await holdTable(server)
    await using running = host.run()
    await untilDumpWaits(server)
    await running.end('SIGKILL')
    for (const { pid } of ofAll ? await host.processes() : []) kill(pid)
    await expect.poll(() => host.processes(), WAIT).toEqual([])
    expect(await host.labels()).toEqual([])
    await holder[Symbol.asyncDispose]()
    await using again = host.run()
    await expect.poll(() => host.state(), WAIT).toMatchObject({ failures: 0, last: { result: 'success' } })
    expect(await again.end()).toBe(0)
    expect(await host.labels()).toHaveLength(1)
  })

  test('longer than its limit: is ended, and recorded as that', async () => {
    const host = await scheduleHost(server, { job: 'runtime_limit = "3s"' })
    await using _holder = await holdTable(server)
    await using running = host.run()
    await expect
      .poll(() => host.state(), WAIT)
      .toMatchObject({ failures: 1, last: { reason: 'timeout: it ran longer than 3s' } })
    expect(await running.end()).toBe(0)
  })

  test('server that is down at the start: is waited for', async () => {
    const host = await scheduleHost(server)
    await server.cluster.stop()
    try {
      await using running = host.run()
      await expect
        .poll(() => running.log(), WAIT)
        .toContain('backup-nightly waits for the server, 30s at most')
      await server.cluster.start()
      await expect.poll(() => host.state(), WAIT).toMatchObject({ last: { result: 'success' } })
      expect(await running.end()).toBe(0)
    } finally {
      if (!(await server.cluster.isRunning())) await server.cluster.start()
    }
  })

  test('server that stays down: the run fails, and says why', async () => {
    const host = await scheduleHost(server)
    const file = join(host.file, '../down.toml')
    const toml = (await readFile(host.file, 'utf8')).replace('server_wait = "30s"', 'server_wait = "1s"')
    await writeFile(file, toml)
    await server.cluster.stop()
    try {
      await using running = startRun(file)
      await expect.poll(() => host.state(), WAIT).toMatchObject({ failures: 1 })
      expect((await host.state()).last?.reason).toMatch(/^before it began: no server answered within 1s: /)
      expect(await running.end()).toBe(0)
    } finally {
      await server.cluster.start()
    }
  })

  test('archive: is started again when it ends', async () => {
    const host = await scheduleHost(server, {
      schedule: '0 0 1 1 *',
      job: 'persistent = false',
      rest: '[archive]\nstore = "local"\nslot = "run"\ncheck = "0 0 1 1 *"',
    })
    const archives = async () =>
      (await host.processes()).filter(({ line }) => line.includes('archive.ts run'))
    await using running = host.run()
    await expect.poll(archives, WAIT).toHaveLength(1)
    process.kill((await archives())[0]!.pid, 'SIGKILL')
    await expect
      .poll(() => running.log(), WAIT)
      .toContain('archive was ended by SIGKILL; it is started again')
    await expect.poll(archives, WAIT).toHaveLength(1)
    expect(await running.end()).toBe(0)
    expect(await host.processes()).toEqual([])
  })
})

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended by itself: its parent is gone.
  }
}
