import { randomBytes } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { writeFileAtomic } from '../../scripts/core/file.ts'
import { log } from '../../scripts/core/log.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { ansibleVersions, type Playbook, TASKS, writePlaybook } from './ansible.ts'
import { type Bench, type BenchOptions, type BenchResult, interleave, type Measured } from './measure.ts'
import { HOWDAH, ourVersions } from './ours.ts'
import { assertRoot, environment, measureProcess, type ProcessRun } from './process.ts'

/**
 * Roles with passwords and as many grants, beside Ansible's community.postgresql: on an empty
 * server, with nothing to do, and after somebody changed one role.
 */
export const provision: Bench = {
  name: 'provision',
  summary: "roles with passwords and as many grants, beside Ansible's community.postgresql",
  cases: {
    'first-50': { isDefault: true },
    'noop-50': { isDefault: true },
    'drift-50': { isDefault: true },
    'noop-500': { isDefault: true },
    'noop-500-self': { isDefault: true },
    'first-500': { isDefault: false },
    'drift-500': { isDefault: false },
  },
  measure,
}

const NOTES = [
  'Wanted: one database with one schema, N roles (login, connection limit, SCRAM password from a file of its own)',
  'and for each of them USAGE on the schema. Here N [roles.*] and N [[databases.bench.grants]]; there one play with a',
  'task each for database and schema and two tasks that loop over N items, pipelining on, no facts gathered.',
  'first: neither database nor roles; noop: all in place; drift: the connection limit of one role was changed.',
  'Whole programs are measured from outside: scripts/howdah as root, ansible-playbook as postgres (by peer), in turn,',
  'who begins changes with each round; each ran once before. What each side left was checked by a plan of ours.',
  'Memory: the largest single process (GNU time); processes that run at the same time are not added up.',
  'WAL: pg_current_wal_insert_lsn() after minus before, with VACUUM and CHECKPOINT before each run and autovacuum off;',
  'fsync and full_page_writes are on, as in a server that is used.',
]

const DATABASE = 'bench'
const SCHEMA = 'app'
const CONNECTION_LIMIT = 10

/** Our own runs are short, so their scatter is cheap to know better. */
const SELF_ROUNDS = 3

type State = 'first' | 'noop' | 'drift'

/** One run, and what it wrote. */
interface Sample extends ProcessRun {
  readonly walBytes: number
}

/** A server of its own, and both programs with what they are to make of it. */
interface Rig {
  readonly server: TestServer
  readonly roles: readonly string[]
  readonly hostFile: string
  readonly playbook: Playbook
}

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const versions = await ansibleVersions()
  await using rigs = new AsyncDisposableStack()
  const byCount = new Map<number, Rig>()
  const rigOf = async (count: number): Promise<Rig> => {
    const rig = byCount.get(count) ?? (await makeRig(count, rigs))
    byCount.set(count, rig)
    return rig
  }
  const small = await rigOf(50)
  log('info', 'bench: both sides once, unmeasured')
  await runTheirs(small, 'noop')
  await runOurs(small, 'noop')
  const measured: Measured[] = []
  for (const name of options.cases) {
    const [state, count] = name.split('-') as [State, string]
    const rig = await rigOf(Number(count))
    if (name.endsWith('-self'))
      measured.push(...(await measureSelf(rig, small, options.rounds * SELF_ROUNDS)))
    else measured.push(...(await measureCase(name, rig, state, options.rounds)))
  }
  return { versions: { ...(await ourVersions(small.server)), ...versions }, notes: NOTES, measured }
}

async function measureCase(name: string, rig: Rig, state: State, rounds: number): Promise<Measured[]> {
  const side = (label: string, body: typeof runOurs) => async (round: number) => {
    await prepare(rig, state)
    const sample = await measureRun(rig, () => body(rig, state))
    await assertNothingPending(rig, label)
    const took = `${sample.seconds.toFixed(3)} s, ${sample.walBytes} bytes of WAL`
    log('info', `bench: ${name}: round ${round + 1} of ${rounds}: ${label}: ${took}`)
    return sample
  }
  const samples = await interleave(rounds, {
    ours: side('howdah', runOurs),
    theirs: side('ansible', runTheirs),
  })
  return [
    measuredOf(name, 'ansible', 'seconds', samples),
    measuredOf(name, 'ansible', 'walBytes', samples),
    measuredOf(name, 'ansible', 'peakBytes', samples),
  ]
}

/** Ten times as much, beside our own fewer. */
async function measureSelf(rig: Rig, small: Rig, rounds: number): Promise<Measured[]> {
  const side = (rig: Rig) => () => measureRun(rig, () => runOurs(rig, 'noop'))
  const samples = await interleave(rounds, { ours: side(rig), theirs: side(small) })
  log('info', `bench: noop-${rig.roles.length} beside noop-${small.roles.length}: ${rounds} rounds done`)
  const name = `noop-${rig.roles.length}`
  return [measuredOf(name, 'self', 'seconds', samples), measuredOf(name, 'self', 'peakBytes', samples)]
}

function measuredOf(
  name: string,
  peer: string,
  what: 'seconds' | 'walBytes' | 'peakBytes',
  samples: { ours: readonly Sample[]; theirs: readonly Sample[] },
): Measured {
  const suffix = { seconds: '', walBytes: '-wal', peakBytes: '-memory' }[what]
  const values = (side: readonly Sample[]) => side.map((sample) => sample[what])
  return {
    case: `${name}${suffix}`,
    peer,
    unit: what === 'seconds' ? 's' : 'B',
    better: 'less',
    ours: values(samples.ours),
    theirs: values(samples.theirs),
  }
}

/** Makes a server on which all is in place, as we put it there. */
async function makeRig(count: number, rigs: AsyncDisposableStack): Promise<Rig> {
  log('info', `bench: a server with ${count} roles and grants`)
  const settings = { fsync: 'on', full_page_writes: 'on', autovacuum: 'off' }
  const server = rigs.use(await startServer({ settings }))
  const roles = Array.from({ length: count }, (_, index) => `bench_${String(index + 1).padStart(3, '0')}`)
  const user = userId('postgres')
  const secretsDir = join(server.dir, 'secrets')
  await mkdir(secretsDir)
  for (const role of roles) {
    const password = randomBytes(18).toString('base64url')
    await writeFileAtomic(join(secretsDir, role), password, { mode: 0o400, ...user })
  }
  const hostFile = join(server.dir, 'host.toml')
  const text = `${server.header}${hostText(roles, secretsDir)}`
  await writeFileAtomic(hostFile, text, { mode: 0o640, ...user })
  const playbook = await writePlaybook({
    dir: join(server.dir, 'ansible'),
    socketDir: server.cluster.socketDir,
    database: DATABASE,
    schema: SCHEMA,
    connectionLimit: CONNECTION_LIMIT,
    roles,
    secretsDir,
    user,
  })
  const rig = { server, roles, hostFile, playbook }
  await runOurs(rig, 'first')
  return rig
}

function hostText(roles: readonly string[], secretsDir: string): string {
  const lines = roles.flatMap((role) => [
    `[roles.${role}]`,
    'login = true',
    `connection_limit = ${CONNECTION_LIMIT}`,
    `password = { file = "${join(secretsDir, role)}" }`,
  ])
  lines.push(`[databases.${DATABASE}.schemas.${SCHEMA}]`)
  for (const role of roles) {
    lines.push(
      `[[databases.${DATABASE}.grants]]`,
      `to = "${role}"`,
      'on = "schema"',
      `schema = "${SCHEMA}"`,
      'privileges = ["USAGE"]',
    )
  }
  return `${lines.join('\n')}\n`
}

async function prepare({ server, roles }: Rig, state: State): Promise<void> {
  if (state === 'first') {
    await server.query('postgres', `drop database if exists ${DATABASE} with (force)`)
    await server.query('postgres', `drop role if exists ${roles.join(', ')}`)
  }
  if (state === 'drift') {
    const role = roles[Math.floor(roles.length / 2)]
    await server.query('postgres', `alter role ${role} connection limit ${CONNECTION_LIMIT + 1}`)
  }
}

/** Runs a side on a server at rest: what earlier runs left to be written is written before. */
async function measureRun({ server }: Rig, body: () => Promise<ProcessRun>): Promise<Sample> {
  const lists = await server.query<{ name: string }>(
    'postgres',
    'select datname as name from pg_database where datallowconn',
  )
  for (const { name } of lists) await server.query(name, 'vacuum')
  await server.query('postgres', 'checkpoint')
  const [before] = await server.query<{ lsn: string }>(
    'postgres',
    'select pg_current_wal_insert_lsn()::text as lsn',
  )
  const done = await body()
  const [after] = await server.query<{ bytes: string }>(
    'postgres',
    'select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::pg_lsn)::text as bytes',
    [before!.lsn],
  )
  return { ...done, walBytes: Number(after!.bytes) }
}

async function runOurs(rig: Rig, state: State): Promise<ProcessRun> {
  const argv = [HOWDAH, 'provision', 'apply', '--yes', '-c', rig.hostFile]
  const done = await measureProcess(argv, { env: environment(), scratch: join(rig.server.dir, 'peak') })
  const last = done.stdout.trimEnd().split('\n').at(-1)!
  const expected = { first: /^\d+ changes in /, noop: /^nothing to do$/, drift: /^1 change in / }[state]
  if (expected.test(last)) return done
  throw new Fail('verify-failed', `${argv.join(' ')} says "${last}": ${expected} was expected`)
}

async function runTheirs(rig: Rig, state: State): Promise<ProcessRun> {
  return rig.playbook.run({ first: TASKS, noop: 0, drift: 1 }[state])
}

async function assertNothingPending(rig: Rig, label: string): Promise<void> {
  const argv = [HOWDAH, 'provision', 'plan', '--check', '-c', rig.hostFile]
  const { code, stdout } = await run(argv, { okCodes: [0, 1] })
  if (code === 0) return
  throw new Fail('verify-failed', `${label} did not reach what is wanted`, { hint: stdout.trim() })
}
