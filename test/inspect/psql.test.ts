import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  await writeFile(
    file,
    `${server.header}\n[databases.postgres.migrations]\ndir = "${ROOT}/sql/lablink/migrations"\n`,
  )
})
afterAll(() => server[Symbol.asyncDispose]())

/** By a shell, whose pipes are pipes: those of Node are sockets. */
function shell(command: string) {
  const psql = `'${process.execPath}' '${ROOT}/scripts/inspect.ts' psql lablink -c '${file}' -- -XAtq -c`
  const child = spawn('bash', ['-c', command.replace('PSQL', psql)], { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { child, ended: ended.then(([stdout, stderr]) => ({ stdout, stderr })) }
}

test('a pipe whose reader is slow: gets all of it', async () => {
  const { ended } = shell(`PSQL "select repeat('x', 999) from generate_series(1, 5000)" | (sleep 1; wc -c)`)
  expect(await ended).toEqual({ stdout: '5000000\n', stderr: '' })
})

test('a reader that has seen enough: ends psql by SIGPIPE, as psql by itself would', async () => {
  const { ended } = shell(
    `PSQL "select repeat('x', 99) from generate_series(1, 100000)" | head -c 100; echo "\${PIPESTATUS[0]}"`,
  )
  expect((await ended).stdout).toBe(`${'x'.repeat(99)}\n141\n`)
})

test('a signal: reaches psql, and the statement under way ends with it', async () => {
  const { child, ended } = shell(`exec PSQL 'select pg_sleep(60)'`)
  const running = () =>
    server.query('postgres', `select from pg_stat_activity where query = 'select pg_sleep(60)'`)
  await expect.poll(running, { timeout: 20_000, interval: 100 }).toHaveLength(1)
  child.kill('SIGTERM')
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
  expect(code === 143 || signal === 'SIGTERM').toBe(true)
  await ended
})
