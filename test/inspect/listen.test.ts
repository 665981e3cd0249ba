import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Fail } from '../../scripts/core/fail.ts'
import { startListening, WAIT } from '../support/listening.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer({ settings: { max_connections: '6', superuser_reserved_connections: '0' } })
  file = join(server.dir, 'host.toml')
  await writeFile(file, `${server.header}\n[databases.postgres]\n`)
})
afterAll(() => server[Symbol.asyncDispose]())

const notify = (channel: string, payload: string) =>
  server.query('postgres', 'select pg_notify($1, $2)', [channel, payload])

test('nobody reads any more what is heard: it ends by itself', async () => {
  const listening = await startListening(file, ['unread'])
  await notify('unread', 'first')
  await expect.poll(() => listening.out(), WAIT).toContain('first')
  listening.stopReading()
  await notify('unread', 'second')
  expect(await listening.ended).toBe(0)
})

test('a payload of many lines that would steer a terminal: stays on one line, and steers nothing', async () => {
  const listening = await startListening(file, ['odd', '--count', '1'])
  await notify('odd', 'a\nb\u001b[2Jc')
  expect(await listening.ended).toBe(0)
  expect(listening.out()).toMatch(/^\S+Z a\\u000ab\\u001b\[2Jc\n$/)
})

test('all connections are in use when it comes back: goes on trying', { timeout: 40_000 }, async () => {
  const listening = await startListening(file, ['busy'])
  await server.withClient('postgres', async (client) => {
    const others = await fill()
    await client.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'howdah listen busy'`,
    )
    while (others.length < 5) others.push(...(await fill())) // its place, before it asks for one
    await sleep(2000)
    await Promise.all(others.map((other) => other.end()))
  })
  await expect.poll(() => listening.log(), WAIT).toContain('listens to busy again')
  await notify('busy', 'back')
  await expect.poll(() => listening.out(), WAIT).toContain('back')
  expect(await listening.end()).toBe(0)
})

/** Connects until no connection is left. */
async function fill(): Promise<Client[]> {
  const clients: Client[] = []
  for (;;) {
    try {
      clients.push(await server.cluster.connect('postgres'))
    } catch (error) {
      if (!/too many clients/.test((error as Fail).message)) throw error
      return clients
    }
  }
}
