import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../../scripts/cluster/connect.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { log } from '../../scripts/core/log.ts'
import { Secret } from '../../scripts/core/secret.ts'
import { bootHost, type TestHost } from '../support/host.ts'
import { freePort } from '../support/port.ts'
import { type Bench, type BenchOptions, type BenchResult, interleave } from './measure.ts'
import { assertRoot } from './process.ts'

/** How long nobody can connect while a cluster goes to another major, beside pg_upgradecluster. */
export const upgrade: Bench = {
  name: 'upgrade',
  summary: 'the outage of an upgrade from 13 to 15, beside pg_upgradecluster',
  cases: { 'outage-link': { isDefault: true }, 'outage-dump': { isDefault: true } },
  measure,
}

const NOTES = [
  'Both upgrade the same saved Debian cluster 13/main in a host with systemd; before each run its folders are put back.',
  'Somebody connects by TCP and asks a query every 50 ms: the outage is from the last answer of 13 to the first of 15.',
  'pg_upgradecluster: -m link, and its default, a dump. howdah: --method link or dump, --no-backup, all else default: it',
  'makes and checks the new cluster before; within, it counts all rows on both sides, verifies indexes of texts, updates',
  'extensions and samples every table. Full statistics are made once it serves, before it says that it is done.',
  'The data: 400,000 rows of half a kilobyte; a primary key, two btree indexes, one of them by ICU, a trigram index.',
]

const ROWS = 400_000
const CHECKOUT = '/srv/howdah'
const PASSWORD = 'watching'

/** What a run came to. */
interface Sample {
  readonly seconds: number
  readonly code: number
  /** What is not as it was, or as it should be, a few words each. */
  readonly wrong: readonly string[]
}

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const port = await freePort()
  await using host = await bootHost({ suite: 'bookworm' })
  await prepare(host, port, Math.round(ROWS * options.scale))
  const measured: BenchResult['measured'][number][] = []
  const notes = [...NOTES]
  for (const name of options.cases) {
    const method = name === 'outage-link' ? 'link' : 'dump'
    const ours = [
      `${CHECKOUT}/scripts/howdah`,
      'upgrade',
      'run',
      '--to',
      '15',
      '--method',
      method,
      '--no-backup',
      '--yes',
      '-c',
      '/srv/host.toml',
    ]
    const theirs = [
      'pg_upgradecluster',
      ...(method === 'link' ? ['-m', 'link'] : []),
      '-v',
      '15',
      '13',
      'main',
    ]
    const samples = await interleave(options.rounds, {
      ours: (round) => told(`${name}: round ${round + 1}: howdah`, sample(host, port, ours)),
      theirs: (round) => told(`${name}: round ${round + 1}: pg_upgradecluster`, sample(host, port, theirs)),
    })
    const seconds = (side: readonly Sample[]) => side.map((each) => each.seconds)
    measured.push({
      case: name,
      peer: 'pg_upgradecluster',
      unit: 's',
      better: 'less',
      ours: seconds(samples.ours),
      theirs: seconds(samples.theirs),
    })
    notes.push(`${name}: howdah: ${scoreOf(samples.ours)}. pg_upgradecluster: ${scoreOf(samples.theirs)}.`)
  }
  return { versions: await versionsOf(host), notes, measured }
}

async function told(what: string, sampling: Promise<Sample>): Promise<Sample> {
  const sample = await sampling
  log('info', `bench: ${what}: ${sample.seconds.toFixed(2)} s`)
  return sample
}

function scoreOf(samples: readonly Sample[]): string {
  const { code, wrong } = samples.at(-1)!
  return `exit code ${code}, ${wrong.length === 0 ? 'nothing lost, nothing stale' : wrong.join(', ')}`
}

async function versionsOf(host: TestHost): Promise<Record<string, string>> {
  const { stdout } = await host.run(
    `dpkg-query -W -f '\${Package} \${Version}\\n' postgresql-common postgresql-13 postgresql-15`,
  )
  return Object.fromEntries(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' ') as [string, string]),
  )
}

/** Packages of Debian 11 beside those of 12, a cluster with data and settings, and a copy of its folders. */
async function prepare(host: TestHost, port: number, rows: number): Promise<void> {
  const install = 'DEBIAN_FRONTEND=noninteractive apt-get -qqy install --no-install-recommends'
  await host.copyCheckout(CHECKOUT)
  await host.run([`${CHECKOUT}/scripts/howdah`, 'upgrade', '--help'], { timeoutSeconds: 300 })
  await host.run(
    `sed 's/bookworm/bullseye/' /etc/apt/sources.list >/etc/apt/sources.list.d/bullseye.list
     apt-get -qq update && ${install} postgresql-13 postgresql-15`,
    { timeoutSeconds: 300 },
  )
  await writeFile(join(host.root, 'srv/host.toml'), hostFile(port))
  await writeFile(join(host.root, 'srv/data.sql'), dataOf(rows), { mode: 0o644 })
  await host.run(
    `
    pg_createcluster 13 main --port=${port} -- --data-checksums --locale=C.UTF-8
    echo "work_mem = '7MB'" >/etc/postgresql/13/main/conf.d/20-ours.conf
    systemctl daemon-reload && systemctl start postgresql@13-main
    runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -p ${port} -f /srv/data.sql
    systemctl stop postgresql@13-main
    install -d /srv/saved && cp -a /var/lib/postgresql /srv/saved/lib && cp -a /etc/postgresql /srv/saved/etc`,
    {
      timeoutSeconds: 600,
    },
  )
}

function hostFile(port: number): string {
  return `format = 1
[host]
name = "bench"
[postgres]
major = 13
port = ${port}
`
}

function dataOf(rows: number): string {
  return `
    create role watcher login password '${PASSWORD}';
    alter role watcher set statement_timeout to '5s';
    create extension pg_trgm;
    create collation german (provider = icu, locale = 'de');
    create table readings (id bigint generated always as identity primary key, device text, at timestamptz, value float8, note text collate german, raw text);
    insert into readings (device, at, value, note, raw)
      select 'device-' || g % 100, '2026-01-01'::timestamptz + g * interval '1 s', random(), md5(g::text), repeat(md5((g * 7)::text), 12)
      from generate_series(1, ${rows}) g;
    create index on readings (device, at);
    create index on readings (note);
    create index on readings using gin (note gin_trgm_ops);
    create statistics devices (ndistinct) on device, value from readings;
    alter table readings alter value set statistics 500;
    analyze`
}

/** Puts everything back, lets a program upgrade, and sees for how long nobody gets an answer. */
async function sample(host: TestHost, port: number, argv: readonly string[]): Promise<Sample> {
  await host.run(`
    systemctl stop 'postgresql@*' && rm -rf /var/lib/postgresql /etc/postgresql /var/lib/howdah
    cp -a /srv/saved/lib /var/lib/postgresql && cp -a /srv/saved/etc /etc/postgresql
    sed -i 's/^major = .*/major = 13/' /srv/host.toml
    systemctl daemon-reload && systemctl start postgresql@13-main`)
  await until(
    () => majorAt(port),
    (major) => major === 13,
  )
  const over = new AbortController()
  const watching = watch(port, over.signal)
  try {
    const { code, stderr } = await host.run(argv, {
      okCodes: Array.from({ length: 256 }, (_, code) => code),
      timeoutSeconds: 600,
    })
    if (code !== 0) log('warning', `bench: ${argv[0]}: exit code ${code}: ${stderr.trim()}`)
    await until(
      () => majorAt(port),
      (major) => major === 15,
    )
    await sleep(200)
    over.abort()
    return { seconds: await watching, code, wrong: await wrongIn(host, port) }
  } finally {
    over.abort()
    await Promise.allSettled([watching])
  }
}

/** @returns seconds between the last answer of 13 and the first one of 15 */
async function watch(port: number, signal: AbortSignal): Promise<number> {
  let last = 0
  let first = 0
  while (!signal.aborted) {
    const asked = performance.now()
    const major = await majorAt(port)
    if (major === 13) last = performance.now()
    if (major === 15 && first === 0) first = performance.now()
    await sleep(Math.max(0, 50 - (performance.now() - asked)))
  }
  if (first === 0) throw new Fail('verify-failed', 'no server of 15 answered')
  return (first - last) / 1000
}

async function majorAt(port: number): Promise<number | undefined> {
  try {
    const client = await connect({
      host: '127.0.0.1',
      port,
      user: 'watcher',
      database: 'postgres',
      password: new Secret(PASSWORD),
      applicationName: 'bench',
      label: 'the cluster',
    })
    const { rows } = await client.query<{ major: number }>(
      `select current_setting('server_version_num')::int / 10000 as major`,
    )
    await client.end()
    return rows[0]!.major
  } catch {
    return undefined
  }
}

async function until<T>(look: () => Promise<T>, isIt: (value: T) => boolean): Promise<void> {
  const deadline = Date.now() + 60_000
  while (!isIt(await look())) {
    if (Date.now() > deadline) throw new Fail('verify-failed', 'the server did not answer for a minute')
    await sleep(50)
  }
}

/** What is not as it was, or as an administrator would have it. */
async function wrongIn(host: TestHost, port: number): Promise<string[]> {
  const { stdout } = await host.run(['psql', '-XAt', '-p', String(port), '-c', WRONG], { user: 'postgres' })
  return stdout.trim().split('\n').filter(Boolean)
}

const WRONG = `
  select 'work_mem of conf.d is lost' where current_setting('work_mem') <> '7MB'
  union all select 'extension ' || e.extname || ' is stale' from pg_extension e
    join pg_available_extensions a on a.name = e.extname where a.default_version <> e.extversion
  union all select 'no statistics of ' || relname from pg_class
    where relname = 'readings' and not exists (select from pg_stats where tablename = 'readings')
  union all select 'rows are lost' where (select count(*) from readings) <> (select last_value from readings_id_seq)
  union all select 'collation ' || collname || ' is stale' from pg_collation where collversion <> pg_collation_actual_version(oid)
  union all select 'messages are in ' || current_setting('lc_messages') where current_setting('lc_messages') <> 'C.UTF-8'`
