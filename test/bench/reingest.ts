import { createWriteStream } from 'node:fs'
import { chmod, mkdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { gzipSync } from 'node:zlib'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { log } from '../../scripts/core/log.ts'
import { formatCount, formatSize } from '../../scripts/core/quantity.ts'
import { enrol, telescope } from '../reingest/tree.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { userId } from '../../scripts/cluster/connect.ts'
import { type Bench, type BenchOptions, type BenchResult, interleave, type Measured } from './measure.ts'
import { HOWDAH, ourVersions } from './ours.ts'
import { assertRoot, environment, installPackages, measureProcess, type ProcessRun } from './process.ts'

/** Lines of telemetry in packed files, beside a file of rows that are ready, and beside a loader in Python. */
export const reingest: Bench = {
  name: 'reingest',
  summary: 'telemetry from packed files, beside \\copy of a ready CSV and a loader in Python',
  cases: { 'load-1m': { isDefault: true }, 'load-10m': { isDefault: false } },
  measure,
}

const NOTES = [
  'Wanted: files of 10,000 lines of five devices, packed as .ndjson.gz, as rows of a table with a primary key on (ts, device).',
  'copy-csv: psql \\copy of the same rows as one CSV file that is ready: the limit. python: psycopg2 execute_values with',
  'ON CONFLICT DO NOTHING, a transaction for each file, ten threads. Ours reads the files, keeps its ledger, and looks for bad lines.',
  'Whole programs are measured from outside, in turn; who begins changes with each round. The tables are emptied and there',
  'is a CHECKPOINT before each. fsync and full_page_writes are on. load-10m: seconds for a million rows, beside load-1m.',
]

const LINES = 10_000
const DEVICES = ['camsci1', 'camwfs', 'labrules', 'cooler-a', 'tt_mod'] as const

interface Rig {
  readonly server: TestServer
  readonly dir: string
  readonly file: string
}

/** Files of one size of the data. */
interface Data {
  readonly rows: number
  readonly paths: readonly string[]
  readonly csv: string
}

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const debian = await installPackages(['python3-psycopg2', 'postgresql-client', 'time'])
  await using server = await startServer({
    settings: { fsync: 'on', full_page_writes: 'on', max_wal_size: '4GB', autovacuum: 'off' },
  })
  const rig = await makeRig(server)
  const small = await makeData(rig, 'small', 1_000_000 * options.scale)
  const measured: Measured[] = []
  const peaks: string[] = []
  const told = (name: string, runs: readonly ProcessRun[]) =>
    peaks.push(
      `${name}: our largest process had ${formatSize(Math.max(...runs.map(({ peakBytes }) => peakBytes)))}.`,
    )
  if (options.cases.has('load-1m')) {
    const samples = await interleave(options.rounds, {
      howdah: () => sampleOf(rig, small, ours(rig)),
      'copy-csv': () => sampleOf(rig, small, copyCsv(rig, small)),
      python: () => sampleOf(rig, small, python(rig, small)),
    })
    told('load-1m', samples.howdah)
    for (const peer of ['copy-csv', 'python'] as const) {
      const rate = (runs: readonly ProcessRun[]) => runs.map(({ seconds }) => small.rows / seconds)
      const both = { ours: rate(samples.howdah), theirs: rate(samples[peer]) }
      measured.push({ case: 'load-1m', peer, unit: 'rows/s', better: 'more', ...both })
    }
  }
  if (options.cases.has('load-10m')) {
    const large = await makeData(rig, 'large', 10_000_000 * options.scale)
    const samples = await interleave(options.rounds, {
      large: () => sampleOf(rig, large, ours(rig)),
      small: () => sampleOf(rig, small, ours(rig)),
    })
    told('load-10m', samples.large)
    const perMillion = (runs: readonly ProcessRun[], { rows }: Data) =>
      runs.map(({ seconds }) => (seconds * 1_000_000) / rows)
    const both = { ours: perMillion(samples.large, large), theirs: perMillion(samples.small, small) }
    measured.push({ case: 'load-10m', peer: 'self', unit: 's', better: 'less', ...both })
  }
  const versions = { ...(await ourVersions(server)), psycopg2: debian['python3-psycopg2']! }
  return { versions, notes: [...NOTES, ...peaks], measured }
}

type Program = () => Promise<ProcessRun>

async function sampleOf({ server, file }: Rig, data: Data, program: Program): Promise<ProcessRun> {
  await server.query('xtelem', 'truncate telem, file_origins cascade')
  await enrol(server, data.paths)
  await server.query('postgres', 'checkpoint')
  const sample = await program()
  const [row] = await server.query<{ count: number }>('xtelem', 'select count(*)::int as count from telem')
  if (row!.count !== data.rows)
    throw new Fail('verify-failed', `${row!.count} rows were stored of ${data.rows}, by ${file}`)
  const rate = formatCount(Math.round(data.rows / sample.seconds))
  log(
    'info',
    `bench: ${formatCount(data.rows)} rows: ${sample.seconds.toFixed(2)} s, ${rate} rows/s, ${sample.cpuSeconds} s of CPU`,
  )
  return sample
}

function ours({ file, dir }: Rig): Program {
  const argv = [HOWDAH, 'reingest', 'ingest', '-c', file, '--json']
  return () => measureProcess(argv, { env: environment(), scratch: join(dir, 'peak-ours') })
}

function copyCsv(rig: Rig, { csv }: Data): Program {
  const command = `\\copy telem (ts, device, ec, msg) from '${csv}' with (format csv)`
  return asPostgres(rig, ['psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-c', command])
}

function python(rig: Rig, { paths }: Data): Program {
  const list = join(rig.dir, 'paths')
  return async () => {
    await writeFile(list, paths.join('\n'))
    return asPostgres(rig, ['python3', join(rig.dir, 'load.py'), list])()
  }
}

function asPostgres({ server, dir }: Rig, argv: readonly string[]): Program {
  const { socketDir, port, osUser } = server.cluster
  const env = { ...environment(), PGHOST: socketDir, PGPORT: String(port), PGDATABASE: 'xtelem' }
  return () => measureProcess(argv, { env, user: userId(osUser), scratch: join(dir, 'peak') })
}

const LOADER = `import concurrent.futures, datetime, gzip, json, os, sys
import psycopg2, psycopg2.extras

def load(path):
    device = os.path.basename(path).rpartition('_')[0]
    rows = []
    with gzip.open(path, 'rt') as lines:
        for line in lines:
            record = json.loads(line)
            ts = datetime.datetime.fromisoformat(record['ts'][:26]).replace(tzinfo=datetime.timezone.utc)
            rows.append((ts, device, psycopg2.extras.Json(record['msg']), record['ec']))
    with psycopg2.connect('') as connection, connection.cursor() as cursor:
        statement = 'INSERT INTO telem (ts, device, msg, ec) VALUES %s ON CONFLICT (device, ts) DO NOTHING'
        psycopg2.extras.execute_values(cursor, statement, rows, page_size=1000)
    connection.close()

with open(sys.argv[1]) as paths, concurrent.futures.ThreadPoolExecutor(10) as pool:
    list(pool.map(load, paths.read().split()))
`

async function makeRig(server: TestServer): Promise<Rig> {
  const dir = join(server.dir, 'bench')
  await mkdir(dir)
  await writeFile(join(dir, 'load.py'), LOADER)
  const file = join(server.dir, 'reingest.toml')
  await writeFile(file, telescope(server))
  await run([HOWDAH, 'provision', 'apply', '--yes', '-c', file], { keepEnvironment: true })
  // What is measured is a table with its key; other indexes cost all sides the same.
  await server.query('xtelem', 'drop index telem_device_ts, telem_device_ec_ts, observation_spans_fixup')
  await run(['chown', '-R', server.cluster.osUser, dir])
  await chmod(dir, 0o755)
  return { server, dir, file }
}

async function makeData({ dir, server }: Rig, name: string, wanted: number): Promise<Data> {
  const folder = join(dir, name)
  await mkdir(folder)
  const csv = join(dir, `${name}.csv`)
  const out = createWriteStream(csv)
  const paths: string[] = []
  const count = Math.max(1, Math.round(wanted / LINES))
  for (let number = 0; number < count; number++) {
    const device = DEVICES[number % DEVICES.length]!
    const hour = Math.floor(number / DEVICES.length)
    let packed = ''
    let rows = ''
    for (let index = 0; index < LINES; index++) {
      const ts = new Date(Date.UTC(2026, 2, 14) + hour * 3_600_000 + index * 300).toISOString().slice(0, 23)
      const msg = `{"liquidTemp": ${(20 + (index % 97) / 10).toFixed(1)},"flowRate": ${(index % 13) / 2},"pumpLevel": 7,"pumpSpeed": ${5600 + (index % 31)},"fanLevel": 5,"fanSpeed": ${2700 + (index % 41)}}`
      packed += `{"ts": "${ts}475273", "prio": "TELM", "ec": "telem_cooler", "msg": ${msg}}\n`
      rows += `${ts}475Z,${device},telem_cooler,"${msg.replaceAll('"', '""')}"\n`
    }
    const stamp = new Date(Date.UTC(2026, 2, 14) + hour * 3_600_000)
      .toISOString()
      .replaceAll(/\D/g, '')
      .slice(0, 14)
    const path = join(folder, `${device}_${stamp}000000000.ndjson.gz`)
    await writeFile(path, gzipSync(packed))
    out.write(rows)
    paths.push(path)
  }
  await finished(out.end())
  await run(['chown', '-R', server.cluster.osUser, dir])
  const { size } = await stat(csv)
  log('info', `bench: ${count} files; as a CSV ${formatSize(size)}`)
  return { rows: count * LINES, paths, csv }
}
