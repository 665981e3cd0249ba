import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import { renderMetrics } from '../../scripts/schedule/metrics.ts'
import { endingOf, type ServiceEnding, stateAfter } from '../../scripts/schedule/outcome.ts'
import { readState } from '../../scripts/schedule/state.ts'
import { runScript, type ScriptResult } from '../support/script.ts'

const job = { runtimeLimit: '24h' }
const ending = (SERVICE_RESULT: string, EXIT_CODE?: string, EXIT_STATUS?: string): ServiceEnding => ({
  SERVICE_RESULT,
  EXIT_CODE,
  EXIT_STATUS,
})

describe('endingOf', () => {
  test.each<[ServiceEnding, string, string]>([
    [ending('success', 'exited', '0'), 'success', 'exit code 0'],
    [ending('success', 'exited', '20'), 'skipped', 'exit code 20: another run holds the same thing'],
    [ending('exit-code', 'exited', '20'), 'skipped', 'exit code 20: another run holds the same thing'],
    [ending('exit-code', 'exited', '55'), 'failed', 'exit code 55: a backup could not be completed'],
    [ending('exit-code', 'exited', '1'), 'failed', 'exit code 1: the check says no'],
    [ending('exit-code', 'exited', '203'), 'failed', 'exit code 203'],
    [ending('exit-code'), 'failed', 'no server answered'],
    [ending('timeout', 'killed', 'TERM'), 'failed', 'timeout: it ran longer than 24h'],
    [ending('timeout'), 'failed', 'timeout: it ran longer than 24h'],
    [ending('signal', 'killed', 'KILL'), 'failed', 'signal KILL'],
    [ending('core-dump', 'dumped', 'SEGV'), 'failed', 'signal SEGV'],
    [ending('oom-kill', 'killed', 'KILL'), 'failed', 'oom-kill: the kernel ended it for want of memory'],
    [ending('resources'), 'failed', 'resources'],
    [ending('something-new', 'exited', '3'), 'failed', 'something-new: exit code 3'],
  ])('%j: %s, %s', (ending, result, reason) => {
    expect(endingOf(ending, job, 'no server answered')).toEqual({ result, reason })
  })

  test('nothing says how it ended: usage', () => {
    expect(() => endingOf({}, job, undefined)).toThrow('$SERVICE_RESULT is not set')
  })
})

test('stateAfter: failures are counted until a success, a skip counts as neither', () => {
  const at = (hour: number) => new Date(Date.UTC(2026, 0, 1, hour))
  const begun = at(1).toISOString()
  let state = stateAfter({ job: 'x', failures: 0, begun }, { result: 'failed', reason: 'a' }, at(2))
  expect(state).toEqual({
    job: 'x',
    failures: 1,
    failingSince: begun,
    installedAt: begun,
    last: { begun, ended: at(2).toISOString(), result: 'failed', reason: 'a' },
  })
  state = stateAfter({ ...state, begun: at(3).toISOString() }, { result: 'skipped', reason: 'b' }, at(4))
  expect(state).toMatchObject({ failures: 1, failingSince: begun, last: { result: 'skipped' } })
  state = stateAfter({ ...state, note: 'c' }, { result: 'failed', reason: 'c' }, at(5))
  expect(state).toMatchObject({ failures: 2, failingSince: begun, last: { begun: at(5).toISOString() } })
  expect(state).not.toHaveProperty('note')
  state = stateAfter({ ...state, begun: at(6).toISOString() }, { result: 'success', reason: 'd' }, at(7))
  expect(state).toMatchObject({ failures: 0, lastSuccess: at(6).toISOString(), installedAt: begun })
  expect(state).not.toHaveProperty('failingSince')
  expect(state).not.toHaveProperty('begun')
})

test('renderMetrics: hostile labels are escaped, what is not known is left out', () => {
  const text = renderMetrics('a"b\\c\nd', { job: 'x', failures: 0 })
  expect(text).toContain('howdah_job_failed{host="a\\"b\\\\c\\nd",job="x"} 0\n')
  expect(text).not.toContain('last_run_')
})

describe('schedule record', () => {
  let dir: string
  let server: Server
  let asked: IncomingMessage[] = []
  let status = 200
  let port: number
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'howdah-record-'))
    server = createServer((request, response) => {
      asked.push(request)
      response.writeHead(status).end('ok')
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  })
  afterAll(async () => {
    server.close()
    await rm(dir, { recursive: true })
  })

  let number = 0
  async function host(ping: string): Promise<{ toml: string; file: string; metrics: string }> {
    const own = join(dir, String(++number))
    const metrics = join(own, 'metrics')
    await mkdir(metrics, { recursive: true })
    const toml = `format = 1
[host]
name = "db1"
state_dir = "${own}/state"
[postgres]
major = 17
[schedule]
metrics_dir = "${metrics}"
[store.local]
type = "dir"
path = "${own}/store"
[backup.nightly]
kind = "dump"
store = "local"
schedule = "0 2 * * *"
${ping}
`
    const file = join(own, 'host.toml')
    await writeFile(file, toml)
    return { toml, file, metrics }
  }
  const record = (file: string, env: Record<string, string>): Promise<ScriptResult> =>
    runScript(['schedule', 'record', 'backup-nightly', '-c', file], { env })
  const SUCCESS = { SERVICE_RESULT: 'success', EXIT_CODE: 'exited', EXIT_STATUS: '0' }
  const FAILURE = { SERVICE_RESULT: 'exit-code', EXIT_CODE: 'exited', EXIT_STATUS: '55' }

  test('failure, then success: state and metrics say so, the address is asked after the success only', async () => {
    asked = []
    status = 200
    const { toml, file, metrics } = await host(`ping = "http://127.0.0.1:${port}/tok3n"`)
    expect(await record(file, FAILURE)).toMatchObject({ code: 0, stderr: '' })
    expect(await readState(parseHost(toml), 'backup-nightly')).toMatchObject({ failures: 1 })
    const path = join(metrics, 'howdah_backup-nightly.prom')
    const text = await readFile(path, 'utf8')
    expect(text).toContain('howdah_job_failed{host="db1",job="backup-nightly"} 1\n')
    expect(text).toMatch(/^howdah_job_last_success_timestamp_seconds\{.*\} 0$/m)
    expect(asked).toHaveLength(0)
    expect(await record(file, SUCCESS)).toMatchObject({ code: 0, stderr: '' })
    const after = await readFile(path, 'utf8')
    expect(after).toMatch(/^howdah_job_last_success_timestamp_seconds\{.*\} \d{10}(\.\d+)?$/m)
    expect(after).toMatch(/^howdah_job_consecutive_failures\{.*\} 0$/m)
    expect((await stat(path)).mode & 0o777).toBe(0o644)
    expect(await readdir(metrics)).toEqual(['howdah_backup-nightly.prom'])
    expect(asked.map(({ method, url }) => [method, url])).toEqual([['GET', '/tok3n']])
  })

  test('metrics: each metric has its help once, the same in each file, or the collector drops one of them', async () => {
    const { file, metrics } = await host('')
    await record(file, SUCCESS)
    const text = await readFile(join(metrics, 'howdah_backup-nightly.prom'), 'utf8')
    const names = [...text.matchAll(/^(\w+)\{/gm)].map(([, name]) => name)
    expect(names).toHaveLength(5)
    expect([...text.matchAll(/^# HELP (\w+) /gm)].map(([, name]) => name)).toEqual(names)
    expect([...text.matchAll(/^# TYPE (\w+) gauge$/gm)].map(([, name]) => name)).toEqual(names)
    expect(text).not.toMatch(/^# HELP .*nightly/m)
  })

  test('address that refuses: three attempts, a warning without the address, and it is recorded all the same', async () => {
    asked = []
    status = 500
    const secret = join(dir, 'ping')
    await writeFile(secret, `http://127.0.0.1:${port}/tok3n\n`)
    const { toml, file } = await host(`ping = { file = "${secret}" }`)
    const { code, stderr, stdout } = await record(file, SUCCESS)
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining('HTTP 500') })
    expect(stdout + stderr).not.toContain('tok3n')
    expect(asked).toHaveLength(3)
    expect(await readState(parseHost(toml), 'backup-nightly')).toMatchObject({ failures: 0 })
  })

  test('folder of metrics is gone: a warning, and it is recorded', async () => {
    const { toml, file, metrics } = await host('')
    await rm(metrics, { recursive: true })
    const { code, stderr } = await record(file, FAILURE)
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining('cannot write') })
    expect(await readState(parseHost(toml), 'backup-nightly')).toMatchObject({ failures: 1 })
  })

  test('called by hand: usage', async () => {
    const { file } = await host('')
    expect(await record(file, { SERVICE_RESULT: '' })).toMatchObject({ code: 2 })
  })
})
