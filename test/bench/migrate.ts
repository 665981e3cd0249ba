import { createHash } from 'node:crypto'
import { chown, mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { log } from '../../scripts/core/log.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { type Bench, type BenchOptions, type BenchResult, interleave, type Measured } from './measure.ts'
import { HOWDAH, ourVersions } from './ours.ts'
import { assertRoot, environment, installPackages, measureProcess, type ProcessRun } from './process.ts'

/** Many small migrations on an empty database, beside programs that do the same. */
export const migrate: Bench = {
  name: 'migrate',
  summary: 'small migrations on an empty database, beside dbmate, graphile-migrate and sqitch',
  cases: { 'up-200': { isDefault: true }, 'noop-200': { isDefault: true } },
  measure,
}

const NOTES = [
  'Wanted: 200 migrations; each makes a table with two indexes, a row and a comment, or adds a column to one.',
  'up: on an empty database; noop: all is applied. dbmate without the dump of the schema that it makes by default.',
  'Whole programs are measured from outside, as the user postgres over the socket (ours as root), in turn; who begins',
  'changes with each round. What each side left is counted. fsync and full_page_writes are on. Our host file has been',
  'checked before, by the first round.',
  'Memory: the largest single process (GNU time).',
]

/** Versions that are published, from the npm registry. */
const NPM_PEERS = { dbmate: '2.36.0', 'graphile-migrate': '1.4.1' } as const

const COUNT = 200

type Peer = 'howdah' | 'dbmate' | 'graphile-migrate' | 'sqitch'

interface Rig {
  readonly server: TestServer
  readonly dir: string
  readonly commands: Readonly<Record<Peer, (database: string) => Promise<ProcessRun>>>
}

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const debian = await installPackages(['sqitch', 'libdbd-pg-perl', 'postgresql-client', 'time'])
  await using server = await startServer({
    settings: { fsync: 'on', full_page_writes: 'on', autovacuum: 'off' },
  })
  const rig = await makeRig(server)
  const measured: Measured[] = []
  for (const name of options.cases) measured.push(...(await measureCase(rig, name, options.rounds)))
  const versions = { ...(await ourVersions(server)), ...NPM_PEERS, sqitch: debian['sqitch']! }
  return { versions, notes: NOTES, measured }
}

async function measureCase(rig: Rig, name: string, rounds: number): Promise<Measured[]> {
  const isNoop = name.startsWith('noop')
  const side = (peer: Peer) => async (round: number) => {
    const database = `bench_${peer.replace('-', '_')}`
    if (!isNoop || round === 0) await makeDatabase(rig.server, database)
    if (isNoop && round === 0) await rig.commands[peer](database)
    await rig.server.query('postgres', 'checkpoint')
    const sample = await rig.commands[peer](database)
    await assertApplied(rig.server, database, peer)
    log('info', `bench: ${name}: round ${round + 1} of ${rounds}: ${peer}: ${sample.seconds.toFixed(3)} s`)
    return sample
  }
  const peers: readonly Peer[] = ['dbmate', 'graphile-migrate', 'sqitch']
  const samples = await interleave(rounds, {
    howdah: side('howdah'),
    ...Object.fromEntries(peers.map((peer) => [peer, side(peer)])),
  })
  const all = samples as Readonly<Record<Peer, ProcessRun[]>>
  return peers.flatMap((peer) => [
    measuredOf(name, peer, 's', [all.howdah, all[peer]]),
    measuredOf(name, peer, 'B', [all.howdah, all[peer]]),
  ])
}

/** The one of the round before gets another name: some file systems make files slowly while many have been deleted. */
async function makeDatabase(server: TestServer, database: string): Promise<void> {
  const [before] = await server.query<{ oid: number }>(
    'postgres',
    'select oid from pg_database where datname = $1',
    [database],
  )
  if (before) await server.query('postgres', `alter database ${database} rename to ${database}_${before.oid}`)
  await server.query('postgres', `create database ${database}`)
}

function measuredOf(
  name: string,
  peer: Peer,
  unit: 's' | 'B',
  [ours, theirs]: readonly [readonly ProcessRun[], readonly ProcessRun[]],
): Measured {
  const values = (side: readonly ProcessRun[]) =>
    side.map(({ seconds, peakBytes }) => (unit === 's' ? seconds : peakBytes))
  const suffix = unit === 's' ? '' : '-memory'
  return { case: `${name}${suffix}`, peer, unit, better: 'less', ours: values(ours), theirs: values(theirs) }
}

async function assertApplied(server: TestServer, database: string, peer: Peer): Promise<void> {
  const [row] = await server.query<{ tables: number; columns: number }>(
    database,
    `select (select count(*)::int from pg_tables where tablename ~ '^item_') as tables,
            (select count(*)::int from pg_attribute where attname = 'added') as columns`,
  )
  if (row!.tables === COUNT / 2 && row!.columns === COUNT / 2) return
  throw new Fail('verify-failed', `${peer} left ${row!.tables} tables and ${row!.columns} added columns`)
}

/** Each second one adds a column to the table of the one before it. */
function migrationText(index: number): { up: string; down: string } {
  const table = `item_${Math.floor(index / 2)}`
  if (index % 2 === 1) {
    const up = `alter table ${table} add column added text not null default 'x';`
    return { up, down: `alter table ${table} drop column added;` }
  }
  const up = [
    `create table ${table} (id bigint primary key, name text not null, at timestamptz default now());`,
    `create index ${table}_name on ${table} (name);`,
    `create index ${table}_at on ${table} (at);`,
    `insert into ${table} (id, name) values (1, 'it''s; one');`,
    `comment on table ${table} is 'number ${index}';`,
  ].join('\n')
  return { up, down: `drop table ${table};` }
}

async function makeRig(server: TestServer): Promise<Rig> {
  const user = userId(server.cluster.osUser)
  const dir = join(server.dir, 'bench')
  await mkdir(dir)
  await npmPeers(dir)
  await mkdir(join(dir, 'dbmate'))
  await mkdir(join(dir, 'graphile/migrations/committed'), { recursive: true })
  await mkdir(join(dir, 'sqitch/deploy'), { recursive: true })
  await writeMigrations(dir)
  await run(['chown', '-R', server.cluster.osUser, dir])
  await chown(dir, user.uid, user.gid)
  const { port, socketDir } = server.cluster
  const measured = (argv: readonly string[], env: Readonly<Record<string, string>>, cwd: string) =>
    measureProcess(['env', `--chdir=${cwd}`, ...argv], {
      env: { ...environment(), HOME: dir, PGHOST: socketDir, PGPORT: String(port), ...env },
      user,
      scratch: join(dir, 'peak'),
    })
  const bin = (name: string) => join(dir, 'node_modules', name)
  return {
    server,
    dir,
    commands: {
      howdah: (database) =>
        ourHost(server, dir, database).then((file) =>
          measureProcess([HOWDAH, 'migrate', 'up', '-c', file], {
            env: environment(),
            scratch: join(dir, 'peak-ours'),
          }),
        ),
      dbmate: (database) =>
        measured(
          [
            bin('@dbmate/linux-x64/bin/dbmate'),
            '--no-dump-schema',
            '--migrations-dir',
            join(dir, 'dbmate'),
            'up',
          ],
          {
            DATABASE_URL: `postgres://postgres@/${database}?socket=${socketDir}&port=${port}&sslmode=disable`,
          },
          dir,
        ),
      'graphile-migrate': (database) =>
        measured(
          [process.execPath, bin('graphile-migrate/dist/cli.js'), 'migrate'],
          {
            DATABASE_URL: `postgres:///${database}?host=${socketDir}&port=${port}&user=postgres`,
            PGUSER: 'postgres',
          },
          join(dir, 'graphile'),
        ),
      sqitch: (database) =>
        measured(
          ['sqitch', 'deploy', '--quiet', `db:pg://postgres@/${database}`],
          { SQITCH_EMAIL: 'bench@example.org', SQITCH_FULLNAME: 'bench', LC_ALL: 'C.UTF-8' },
          join(dir, 'sqitch'),
        ),
    },
  }
}

async function ourHost(server: TestServer, dir: string, database: string): Promise<string> {
  const file = join(server.dir, 'migrate.toml')
  const tables = `[databases.${database}]\n[databases.${database}.migrations]\ndir = "${join(dir, 'dbmate')}"\n`
  await writeFile(file, `${server.header}\n${tables}`)
  return file
}

/** The same migrations in the formats of all; ours is dbmate's. */
async function writeMigrations(dir: string): Promise<void> {
  const plan = ['%syntax-version=1.0.0', '%project=bench', '']
  let previous = ''
  for (let index = 0; index < COUNT; index++) {
    const { up, down } = migrationText(index)
    const number = String(index + 1).padStart(4, '0')
    await writeFile(
      join(dir, `dbmate/${number}_step.sql`),
      `-- migrate:up\n${up}\n-- migrate:down\n${down}\n`,
    )
    // As "graphile-migrate commit" writes them: each has the hash of the one before it.
    const body = `${up}\n`
    const text = `${previous}\n${body.trim()}`.trim()
    const hash = `sha1:${createHash('sha1').update(`${text}\n`).digest('hex')}`
    await writeFile(
      join(dir, `graphile/migrations/committed/00${number}.sql`),
      `--! Previous: ${previous || '-'}\n--! Hash: ${hash}\n\n${body}`,
    )
    previous = hash
    await writeFile(join(dir, `sqitch/deploy/step_${number}.sql`), `BEGIN;\n${up}\nCOMMIT;\n`)
    plan.push(`step_${number} 2026-01-01T00:00:00Z bench <bench@example.org> # a step`)
  }
  await writeFile(join(dir, 'graphile/migrations/current.sql'), '')
  await writeFile(join(dir, 'graphile/.gmrc'), '{ "pgSettings": {} }\n')
  await writeFile(join(dir, 'sqitch/sqitch.plan'), `${plan.join('\n')}\n`)
  await writeFile(join(dir, 'sqitch/sqitch.conf'), '[core]\n\tengine = pg\n')
}

/** Installs the other programs of npm. */
async function npmPeers(dir: string): Promise<void> {
  log('info', 'bench: installing dbmate and graphile-migrate')
  await writeFile(join(dir, 'package.json'), '{ "private": true }\n')
  const wanted = Object.entries(NPM_PEERS).map(([name, version]) => `${name}@${version}`)
  await run(['npm', 'install', '--prefix', dir, '--no-audit', '--no-fund', ...wanted], {
    keepEnvironment: true,
  })
  const found = await readdir(join(dir, 'node_modules'))
  if (!found.includes('@dbmate')) throw new Fail('not-permitted', 'npm did not install the program of dbmate')
}
