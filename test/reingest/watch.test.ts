import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFile, cp, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { ROOT, runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { listenAsSystemd } from '../support/systemd-socket.ts'
import { line, telescope, writeOld } from './tree.ts'

// The service that reads files as they are written, beside a server that comes and goes.

vi.setConfig({ testTimeout: 60_000 })

let server: TestServer
let file: string
let telem: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  telem = join(server.dir, 'telem')
  await writeFile(file, telescope(server, `data_dirs = ["${telem}"]\nwatch = true\n`))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())
beforeEach(async () => {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  await rm(telem, { recursive: true, force: true })
  await mkdir(telem)
})

interface Service {
  log(): string
  /** Its exit code, or the signal that ended it. */
  end(signal?: NodeJS.Signals): Promise<number | string>
}

/** Starts the service; it follows the folders when this returns, unless `isWaited` says not to wait for that. */
async function watch(
  overrides: readonly string[] = [],
  { isWaited = true, env = {} }: { isWaited?: boolean; env?: Record<string, string> } = {},
): Promise<Service> {
  const child = spawn(
    process.execPath,
    [join(ROOT, 'scripts/reingest.ts'), 'watch', '-c', file, ...overrides],
    { env: { ...process.env, NO_COLOR: '1', ...env }, stdio: ['ignore', 'ignore', 'pipe'] },
  )
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string)
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await ended
  })
  if (isWaited) await vi.waitUntil(() => log.includes('follows'), within)
  return {
    log: () => log,
    end(signal = 'SIGTERM') {
      child.kill(signal)
      return ended
    },
  }
}

const ts = (number: number) => `2026-03-14T02:15:${String(10 + number).padStart(2, '0')}.000000999`

/** Lines of a device from one number to another. */
function lines(first: number, last: number): string {
  let text = ''
  for (let number = first; number <= last; number++) text += line(ts(number), `{"number": ${number}}`)
  return text
}

const path = (name: string) => join(telem, `${name}_20260314021530.ndjson`)

async function numbers(device: string): Promise<number[]> {
  const rows = await server.query<{ number: number }>(
    'xtelem',
    `select (msg->>'number')::int as number from telem where device = $1 order by ts`,
    [device],
  )
  return rows.map(({ number }) => number)
}

const within = { timeout: 20_000, interval: 50 }

async function expectRows(device: string, ...wanted: readonly number[]): Promise<void> {
  await expect.poll(() => numbers(device), within).toEqual(wanted)
}

/** Nothing half, nothing twice: the table is what the files say. */
async function expectVerified(): Promise<void> {
  expect(await runScript(['reingest', 'verify', '-c', file])).toMatchObject({ code: 0 })
}

describe('files while it runs', () => {
  test('there before, appended to in steps, a line in two halves: each row is there once', async () => {
    await writeFile(path('old'), lines(0, 1))
    const service = await watch()
    await expectRows('old', 0, 1)
    await writeFile(path('cooler-a'), lines(0, 1))
    await expectRows('cooler-a', 0, 1)
    const next = lines(2, 3)
    await appendFile(path('cooler-a'), next.slice(0, -20))
    await expectRows('cooler-a', 0, 1, 2)
    await appendFile(path('cooler-a'), next.slice(-20))
    await expectRows('cooler-a', 0, 1, 2, 3)
    expect(await service.end()).toBe(0)
    expect(await server.query('xtelem', 'select state, rejects from file_ingests group by 1, 2')).toEqual([
      { state: 'whole', rejects: '0' },
    ])
    await expectVerified()
  })

  test('replaced by another one under its name: what is new in it is there', async () => {
    const service = await watch()
    await writeFile(path('tt_mod'), lines(0, 1))
    await expectRows('tt_mod', 0, 1)
    await writeFile(join(telem, 'new.tmp'), lines(0, 4))
    await rename(join(telem, 'new.tmp'), path('tt_mod'))
    await expectRows('tt_mod', 0, 1, 2, 3, 4)
    expect(await service.end()).toBe(0)
  })

  test('folders that are made, moved in with all they hold, renamed, and made again: files in each are read', async () => {
    const service = await watch()
    const day = join(telem, 'camsci1/2026_03_14')
    await mkdir(day, { recursive: true })
    await writeFile(join(day, 'camsci1_20260314021530.ndjson'), lines(0, 0))
    await expectRows('camsci1', 0)
    const outside = join(server.dir, 'outside')
    await writeOld(join(outside, 'deep/er/moved_20260314021530.ndjson'), lines(0, 0))
    await rename(outside, join(telem, 'inside'))
    await expectRows('moved', 0)
    await rename(join(telem, 'inside'), join(telem, 'renamed'))
    await appendFile(join(telem, 'renamed/deep/er/moved_20260314021530.ndjson'), lines(1, 1))
    await expectRows('moved', 0, 1)
    await rm(join(telem, 'camsci1'), { recursive: true })
    await mkdir(day, { recursive: true })
    await writeFile(join(day, 'again_20260314021531.ndjson'), lines(5, 5))
    await expectRows('again', 5)
    expect(await service.end()).toBe(0)
  })

  test('names that are passed over, are no telemetry, or are hostile: the others are read, and nothing ends', async () => {
    const service = await watch()
    for (const name of ['.git', 'x.gitter']) {
      await mkdir(join(telem, name))
      await writeFile(join(telem, name, 'no_20260314021530.ndjson'), lines(0, 0))
    }
    await writeFile(join(telem, 'no_20260314021530.ndjson~'), lines(0, 0))
    await writeFile(join(telem, 'no time.ndjson'), 'x')
    await writeFile(Buffer.concat([Buffer.from(`${telem}/b`), Buffer.from([0xff, 0xfe])]), 'x')
    await writeFile(path(`it's "odd"\n$(x)`), lines(0, 0))
    await writeFile(path('bad'), `nothing\n${lines(0, 0)}`)
    await expectRows(`it's "odd"\n$(x)`, 0)
    await expectRows('bad', 0)
    await expect.poll(() => service.log(), within).toContain(`partial: ${path('bad')}: 1 lines are no rows`)
    expect(await numbers('no')).toEqual([])
    expect(await service.end()).toBe(0)
  })

  test('the folder itself comes later, and is another one then: it is followed when it is looked for', async () => {
    await rm(telem, { recursive: true })
    const service = await watch(['reingest.telem.walk_every=300ms'])
    await mkdir(telem)
    await writeFile(path('first'), lines(0, 0))
    await expectRows('first', 0)
    await rename(telem, join(server.dir, 'gone'))
    onTestFinished(() => rm(join(server.dir, 'gone'), { recursive: true }))
    await cp(join(server.dir, 'gone'), telem, { recursive: true })
    await appendFile(path('first'), lines(1, 1))
    await expectRows('first', 0, 1)
    expect(await service.end()).toBe(0)
  })
})

describe('what comes in between', () => {
  test('the server is away when it starts, and again later: it waits, and what was written meanwhile is read', async () => {
    await server.cluster.stop()
    const service = await watch([], { isWaited: false })
    await writeFile(path('early'), lines(0, 0))
    await expect.poll(() => service.log(), within).toContain('waits for the server')
    await server.cluster.start()
    await expectRows('early', 0)
    await server.cluster.stop()
    await appendFile(path('early'), lines(1, 1))
    await writeFile(path('late'), lines(0, 0))
    await expect.poll(() => service.log().split('waits for the server').length, within).toBe(3)
    await server.cluster.start()
    await expectRows('early', 0, 1)
    await expectRows('late', 0)
    expect(await service.end()).toBe(0)
    await expectVerified()
  })

  test('killed, and started again: what was written meanwhile is read, and nothing is there twice', async () => {
    const service = await watch()
    await writeFile(path('one'), lines(0, 0))
    await expectRows('one', 0)
    await appendFile(path('one'), lines(1, 1))
    expect(await service.end('SIGKILL')).toBe('SIGKILL')
    await appendFile(path('one'), lines(2, 2))
    await writeFile(path('two'), lines(0, 0))
    await watch()
    await expectRows('one', 0, 1, 2)
    await expectRows('two', 0)
    await expectVerified()
  })

  test('asked to end while it reads: the file is there as a whole, or not at all', async () => {
    const decoder = `sed 1q "$1"; sleep 1; sed 1d "$1"`
    const slow = `reingest.telem.decoders={".bintel" = ["sh", "-c", '${decoder}', "decode"]}`
    const service = await watch([slow])
    await writeFile(join(telem, 'slow_20260314021530.bintel'), lines(0, 1))
    await expect
      .poll(() => server.query('postgres', 'select from pg_stat_progress_copy where relid <> 0'), within)
      .toHaveLength(1)
    expect(await service.end()).toBe(0)
    const [entry] = await server.query<{ state: string }>('xtelem', 'select state from file_ingests')
    expect([entry?.state, await numbers('slow')]).toEqual(
      entry === undefined ? [undefined, []] : ['whole', [0, 1]],
    )
    await watch([slow])
    await expectRows('slow', 0, 1)
  })

  test('its tables are missing: it ends and says so, as nothing is gained by waiting', async () => {
    await server.query('postgres', 'create database empty')
    const { code, stderr } = await runScript([
      'reingest',
      'watch',
      '-c',
      join(server.dir, 'host.toml'),
      'reingest.telem.database=empty',
      'databases.empty={}',
    ])
    expect(stderr).toContain('lacks the tables')
    expect(code).not.toBe(0)
  })
})

test('systemd: is told when it follows, how it is, that it lives, and that it ends', async () => {
  await using systemd = await listenAsSystemd(server.dir)
  await writeFile(path('one'), lines(0, 1))
  const service = await watch([], { env: { NOTIFY_SOCKET: systemd.path, WATCHDOG_USEC: '400000' } })
  await expect
    .poll(() => systemd.heard(), within)
    .toContain('STATUS=1 folders, 1 files read, 2 rows, 0 rejected lines, 0 files wait')
  expect(await service.end()).toBe(0)
  const heard = await systemd.heard()
  expect(heard).toEqual(expect.arrayContaining(['READY=1', 'WATCHDOG=1']))
  expect(heard.at(-1)).toBe('STOPPING=1')
})

test('--plan: says what is there to be read, and changes nothing', async () => {
  await writeFile(path('one'), lines(0, 0))
  const { code, stdout } = await runScript(['reingest', 'watch', '--plan', '-c', file])
  expect([code, stdout]).toEqual([0, expect.stringContaining('1 new')])
  expect(await server.query('xtelem', 'select from file_origins')).toEqual([])
})

test('run: what is new is found and read in one', async () => {
  await writeOld(path('one'), lines(0, 1))
  const { code, stdout } = await runScript(['reingest', 'run', '-c', file, '--json'])
  expect([code, JSON.parse(stdout)]).toMatchObject([
    0,
    { result: { inventory: { files: 1, added: 1 }, ingest: { files: { whole: 1 }, rows: 2 } } },
  ])
  expect(await numbers('one')).toEqual([0, 1])
})

test('run: a link to what is not there: the others are read, and the exit code says it', async () => {
  await writeOld(path('one'), lines(0, 1))
  await symlink(join(telem, 'nowhere'), join(telem, 'link'))
  expect(await runScript(['reingest', 'run', '-c', file])).toMatchObject({ code: 11 })
  expect(await numbers('one')).toEqual([0, 1])
})
