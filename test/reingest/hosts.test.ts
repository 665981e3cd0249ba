import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { exists } from '../../scripts/core/file.ts'
import { ROOT, runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { line, telescope, writeOld } from './tree.ts'

// Three hosts, each with a name and a network of its own, fill one database. What they share is a drive, and the
// socket of the server.

vi.setConfig({ testTimeout: 60_000 })

const HOSTS = ['exao1', 'exao2', 'exao3'] as const
type HostName = (typeof HOSTS)[number]
const FILES = 24
const LINES = 100

// Half of a file, a while, and the other half. The second file of exao2 has no other half until it is killed.
const DECODER = `h=$(($(wc -l <"$1") / 2)); head -n $h "$1"
if [ "$(uname -n)" = exao2 ] && [ -e "$0" ] && ! mkdir "$0/first" 2>&-; then
  touch "$0/halfway"; until [ -e "$0/killed" ]; do sleep 0.05; done
fi
sleep 0.1; tail -n +$((h + 1)) "$1"`

let server: TestServer
let file: string
let gate: string
let drive: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  gate = join(server.dir, 'gate')
  drive = join(server.dir, 'drive')
  const decoder = ['sh', '-c', DECODER, gate]
  const more = `jobs = 1\n[reingest.telem.decoders]\n".bintel" = ${JSON.stringify(decoder)}\n`
  // Whose files are read is for the host to say: it is its own name.
  await writeFile(file, telescope(server, more).replace('hostname = "aoc"\n', ''))
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())
beforeEach(() => server.query('xtelem', 'truncate telem, file_origins cascade'))

interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<{ readonly code: number | string; readonly stdout: string }>
}

/** Runs on a host: the id of the child is that of the program itself. */
function on(host: HostName, args: readonly string[]): Running {
  const program = [process.execPath, join(ROOT, 'scripts/reingest.ts'), ...args, '-c', file, '--json']
  const enter = ['--uts', '--net', 'sh', '-c', 'hostname "$0" && exec "$@"', host]
  const child = spawn('unshare', [...enter, ...program], { stdio: ['ignore', 'pipe', 'inherit'] })
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  const ended = once(child, 'close').then(([code, signal]) => ({
    code: (code ?? signal) as number | string,
    stdout,
  }))
  return { child, ended }
}

const second = (number: number) => String(10 + number).padStart(2, '0')
const nameOf = (number: number) => `dev_${number % 3}_202603140215${second(number)}.bintel`

function textOf(number: number): string {
  const lines = Array.from({ length: LINES }, (_, index) =>
    line(`2026-03-14T02:15:${second(number)}.${String(index).padStart(6, '0')}999`, `[${number}, ${index}]`),
  )
  return lines.join('')
}

/** Each row of each file, and each of them once. */
async function expectRows(): Promise<void> {
  const rows = await server.query<{ device: string; msg: string }>(
    'xtelem',
    'select device, msg::text from telem order by telem.msg -> 0, telem.msg -> 1',
  )
  const wanted = Array.from({ length: FILES * LINES }, (_, at) => {
    const number = Math.floor(at / LINES)
    return { device: `dev_${number % 3}`, msg: `[${number}, ${at % LINES}]` }
  })
  expect(rows).toEqual(wanted)
}

/** Which host read how many files, by the ledger. */
async function filesByHost(): Promise<Record<string, number>> {
  const rows = await server.query<{ host: string; files: number }>(
    'xtelem',
    `select split_part(tried_by, ' ', 1) as host, count(*)::int as files from file_ingests
      where state = 'whole' and rows = ${LINES} and known + conflicts + rejects = 0 group by 1`,
  )
  return Object.fromEntries(rows.map(({ host, files }) => [host, files]))
}

test('a drive that all three have, one is killed within a file: the others read that one too', async () => {
  for (let number = 0; number < FILES; number++)
    await writeOld(join(drive, 'exao1/telem', nameOf(number)), textOf(number))
  await mkdir(gate)
  for (const host of HOSTS) expect(await on(host, ['enroll', drive]).ended).toMatchObject({ code: 0 })
  const running = HOSTS.map((host) => on(host, ['ingest']))
  await vi.waitUntil(() => exists(join(gate, 'halfway')), { timeout: 20_000, interval: 20 })
  const spaces = await Promise.all(
    running.flatMap(({ child }) => ['uts', 'net'].map((kind) => readlink(`/proc/${child.pid}/ns/${kind}`))),
  )
  expect(new Set(spaces).size).toBe(6)
  running[1]!.child.kill('SIGKILL')
  const [one, killed, three] = await Promise.all(running.map(({ ended }) => ended))
  await writeFile(join(gate, 'killed'), '')
  expect([one!.code, killed!.code, three!.code]).toEqual([0, 'SIGKILL', 0])
  await expectRows()
  const by = await filesByHost()
  const read = [one!, three!].map(
    ({ stdout }) => (JSON.parse(stdout) as { result: { files: { whole: number } } }).result.files.whole,
  )
  expect(by).toEqual({ exao1: read[0], exao2: 1, exao3: read[1] })
  expect(Math.min(...read)).toBeGreaterThan(1)
  expect(read[0]! + read[1]!).toBe(FILES - 1)
})

test('files of its own at the same paths as those of others: each host reads its own, all at once', async () => {
  const folder = (host: HostName) => `reingest.telem.data_dirs=["${join(server.dir, 'own', host)}"]`
  for (let number = 0; number < FILES; number++)
    await writeOld(join(server.dir, 'own', HOSTS[number % 3]!, nameOf(number)), textOf(number))
  const running = HOSTS.map((host) => on(host, ['run', folder(host)]))
  const ended = await Promise.all(running.map((one) => one.ended))
  expect(ended.map(({ code }) => code)).toEqual([0, 0, 0])
  await expectRows()
  expect(await filesByHost()).toEqual({ exao1: 8, exao2: 8, exao3: 8 })
  expect(
    await server.query(
      'xtelem',
      `select from file_ingests where origin_host <> split_part(tried_by, ' ', 1)`,
    ),
  ).toEqual([])
})
