import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Cluster } from '../../scripts/cluster/cluster.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import { run } from '../../scripts/core/exec.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { beginLedger, type Ledger, LEDGER_FAULT, type Mark } from '../support/ledger.ts'
import { freePort } from '../support/port.ts'
import { ROOT, runScript, type ScriptResult } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

// Everything here happens under a running pgbench. What was committed at each mark is known outside of
// the database, so a recovery to that mark must bring back exactly that: no row less, none more.

/** How often each of them is killed: five times, or as many as a soak asks for. */
const ROUNDS = Number(process.env['HOWDAH_SOAK'] ?? 5)
const SEED = Number(process.env['HOWDAH_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

let server: TestServer
let ledger: Ledger
let file: string
let bench: AsyncDisposable
let archive: Service
const marks: Mark[] = []

beforeAll(async () => {
  console.log(`kill: HOWDAH_SEED=${SEED} repeats these moments`)
  server = await startServer({
    initdb: ['--wal-segsize=1'],
    settings: { wal_level: 'replica', max_wal_senders: '10', full_page_writes: 'on', log_statement: 'none' },
  })
  await server.query('postgres', 'create database bench')
  const pgbench = [
    join(server.cluster.bindir, 'pgbench'),
    ...server.cluster.clientArguments('bench').argv.slice(0, 6),
  ]
  await run([...pgbench, '--initialize', '--scale=2', '--quiet', 'bench'], { as: server.cluster.osUser })
  ledger = await beginLedger(server, 'bench')
  file = join(server.dir, 'host.toml')
  await writeFile(file, HOST())
  bench = beginBench(pgbench)
  archive = new Service()
  await archive.begin()
  await succeed(['backup', 'take', 'full'])
})

afterAll(async () => {
  await archive?.end()
  await bench?.[Symbol.asyncDispose]()
  await server?.[Symbol.asyncDispose]()
})

const HOST = () => `${server.header}
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.full]
kind = "base"
store = "local"
keep = { last = 2 }
pitr = "1d"
[backup.dump]
kind = "dump"
store = "local"
keep = { last = 1 }
[archive]
store = "local"
partial_every = "500ms"
`

test(
  `take killed with SIGKILL at ${ROUNDS} random moments: no half of one counts, and the next one succeeds`,
  async () => {
    const random = randomNumbers(SEED)
    const milliseconds = await durationOf(['backup', 'take', 'full'])
    for (let round = 0; round < ROUNDS; round++) {
      const job = round % 3 === 2 ? 'dump' : 'full'
      await killed(['backup', 'take', job], random() * milliseconds)
      await addMark()
      await checkAll()
    }
    await succeed(['backup', 'take', 'full'])
    await succeed(['backup', 'take', 'dump'])
    await checkAll()
  },
  minutes(2),
)

test(
  `archive killed with SIGKILL at ${ROUNDS} random moments: no hole, and nothing that is there is replaced`,
  async () => {
    const random = randomNumbers(SEED + 1)
    for (let round = 0; round < ROUNDS; round++) {
      await sleep(200 + random() * 2000)
      archive.kill()
      await addMark()
    }
    await archive.hasCaughtUp()
    await checkAll()
  },
  minutes(2),
)

test(
  `prune killed with SIGKILL at ${ROUNDS} random moments: what is kept is whole, and the next one ends it`,
  async () => {
    const random = randomNumbers(SEED + 2)
    for (let round = 0; round < ROUNDS; round++) {
      await succeed(['backup', 'take', 'dump'])
      const milliseconds = round === 0 ? 600 : 900
      await killed(['backup', 'prune', '--yes'], random() * milliseconds)
      await checkAll()
    }
    await succeed(['backup', 'prune', '--yes'])
    await checkAll()
    const { backups } = await resultOf<{ backups: { job: string }[] }>(['backup', 'list'])
    expect(backups.filter(({ job }) => job === 'dump')).toHaveLength(1)
  },
  minutes(2),
)

test(
  `restore killed with SIGKILL at ${ROUNDS} random moments: the next one has exactly the rows committed before its target`,
  async () => {
    const random = randomNumbers(SEED + 3)
    await addMark()
    await archive.hasCaughtUp()
    const mark = marks[Math.floor(random() * marks.length)]!
    const milliseconds = 3000
    for (let round = 0; round < ROUNDS; round++) {
      const place = await placeOf(`killed${round}`)
      const argv = ['restore', 'cluster', ...place.options, '--at', mark.time, '--yes']
      await killed(argv, random() * milliseconds)
      const again = await runScript([...argv, '-c', file])
      // One that was killed when all was done, or not at all, leaves nothing to do.
      const isDone = again.code === 56 && again.stderr.includes(place.dir)
      expect(again.code === 0 || isDone ? '' : `${again.code}: ${again.stderr}`).toBe('')
      expect(await faultsOf(place, mark)).toEqual([])
    }
    await checkAll()
  },
  minutes(3),
)

test(
  'recovery to each of some marks, by time and by position: exactly the rows committed before it',
  async () => {
    await archive.hasCaughtUp()
    for (const [index, mark] of [marks.at(0)!, marks.at(-1)!].entries()) {
      const place = await placeOf(`mark${index}`)
      const target = index % 2 === 0 ? ['--at', mark.time] : ['--lsn', mark.lsn]
      await succeed(['restore', 'cluster', ...place.options, ...target, '--yes'])
      expect(await faultsOf(place, mark)).toEqual([])
    }
  },
  minutes(3),
)

function minutes(each: number): number {
  return each * 60_000 * Math.max(1, ROUNDS / 5)
}

async function addMark(): Promise<void> {
  await ledger.commit(20)
  marks.push(await ledger.mark())
  await ledger.commit(5)
}

async function checkAll(): Promise<void> {
  const { code, stdout, stderr } = await runScript(['backup', 'verify', '--all', '-c', file])
  expect({ code, said: code === 0 ? '' : stdout + stderr }).toEqual({ code: 0, said: '' })
}

async function succeed(argv: readonly string[]): Promise<ScriptResult> {
  const done = await runScript([...argv, '-c', file])
  if (done.code !== 0)
    throw new Error(`${argv.join(' ')}: exit code ${done.code}\n${done.stdout}${done.stderr}`)
  return done
}

async function resultOf<T>(argv: readonly string[]): Promise<T> {
  return (JSON.parse((await succeed([...argv, '--json'])).stdout) as { result: T }).result
}

async function durationOf(argv: readonly string[]): Promise<number> {
  const begun = performance.now()
  await succeed(argv)
  return performance.now() - begun
}

/** Runs a script and kills it when it has run for so long, if it still does. */
async function killed(argv: readonly string[], milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const done = await runScript([...argv, '-c', file], {
    onStart: (pid) => (timer = setTimeout(() => process.kill(pid, 'SIGKILL'), milliseconds)),
  })
  clearTimeout(timer)
  if (done.signal !== 'SIGKILL' && done.code !== 0)
    throw new Error(`${argv.join(' ')}: exit code ${done.code}\n${done.stdout}${done.stderr}`)
}

/** The archive service, started again whenever it ends, as systemd would. */
class Service {
  private child: ReturnType<typeof spawn> | undefined
  private isWanted = true
  private over: Promise<void> = Promise.resolve()
  private said = ''

  async begin(): Promise<void> {
    this.over = this.keepRunning()
    await this.hasCaughtUp()
  }

  kill(): void {
    this.child?.kill('SIGKILL')
  }

  async end(): Promise<void> {
    this.isWanted = false
    this.child?.kill('SIGTERM')
    await this.over
  }

  /** Waits until a disaster would lose nothing of what is committed now. */
  async hasCaughtUp(): Promise<void> {
    const { lsn } = await ledger.mark()
    const deadline = Date.now() + 30_000
    for (;;) {
      const { stdout } = await runScript(['archive', 'status', '--json', '-c', file])
      const { result } = JSON.parse(stdout || '{}') as { result?: { position?: { lsn: string } | null } }
      const position = result?.position?.lsn
      if (position !== undefined && lsnNumber(position) >= lsnNumber(lsn)) return
      if (Date.now() > deadline)
        throw new Error(`the archive does not reach ${lsn}:\n${stdout}\n${this.said.slice(-4000)}`)
      await sleep(200)
    }
  }

  private async keepRunning(): Promise<void> {
    while (this.isWanted) {
      this.child = spawn(process.execPath, [join(ROOT, 'scripts/archive.ts'), 'run', '-c', file], {
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      for (const stream of [this.child.stdout!, this.child.stderr!])
        stream.setEncoding('utf8').on('data', (text: string) => (this.said += text))
      await once(this.child, 'close')
      await sleep(100)
    }
  }
}

function lsnNumber(lsn: string): bigint {
  const [high, low] = lsn.split('/')
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)
}

/** Load that goes on while everything else happens. */
function beginBench(pgbench: readonly string[]): AsyncDisposable {
  const argv = [...pgbench, '--client=2', '--rate=100', '--time=3600', '--no-vacuum', 'bench']
  const become =
    process.getuid?.() === 0
      ? ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups', '--']
      : []
  const rest = ['--pdeathsig', 'KILL', '--', ...become, ...argv]
  const child = spawn('setpriv', rest, { stdio: 'ignore', cwd: '/' })
  const ended = once(child, 'close')
  return {
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM')
      await ended
    },
  }
}

interface Place {
  readonly options: readonly string[]
  readonly dir: string
  readonly port: number
}

async function placeOf(name: string): Promise<Place> {
  const dir = join(server.dir, name)
  await mkdir(dir)
  const port = await freePort()
  return { dir: join(dir, 'data'), port, options: ['--to', join(dir, 'data'), '--port', String(port)] }
}

/** What a restored cluster lacks, or has too much of. */
async function faultsOf(place: Place, mark: Mark): Promise<string[]> {
  const host = parseHost(
    server.header
      .replace(/^data_dir = .*$/m, `data_dir = "${place.dir}"`)
      .replace(/^port = .*$/m, `port = ${place.port}`),
  )
  const cluster: Cluster = (await openCluster(host))!
  if (!(await cluster.isRunning())) await cluster.start()
  const opened = (await openCluster(host))!
  const client = await opened.connect('bench')
  try {
    const faults = await client.query<{ fault: string }>(LEDGER_FAULT(mark.rows))
    // pgbench's own invariant: each of its transactions adds one number in four places.
    const sums = await client.query<{ sums: string }>(`
      select count(distinct total) || '' as sums from (
        select sum(abalance) as total from pgbench_accounts union all select sum(bbalance) from pgbench_branches
        union all select sum(tbalance) from pgbench_tellers union all select coalesce(sum(delta), 0) from pgbench_history) s`)
    return [
      ...faults.rows.map(({ fault }) => fault).filter(Boolean),
      ...(sums.rows[0]!.sums === '1' ? [] : ['the sums of pgbench differ']),
    ]
  } finally {
    await client.end()
    await opened.stop()
  }
}

/** A small generator of numbers from 0 to 1 that a seed repeats. */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
