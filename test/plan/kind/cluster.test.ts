import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { userId } from '../../../scripts/cluster/connect.ts'
import { openCluster } from '../../../scripts/cluster/open.ts'
import { run } from '../../../scripts/core/exec.ts'
import { exists } from '../../../scripts/core/file.ts'
import { currentUser } from '../../../scripts/core/user.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import type { Host } from '../../../scripts/host/schema.ts'
import type { Facts } from '../../../scripts/plan/kind.ts'
import { clusterKind, type ClusterState } from '../../../scripts/plan/kind/cluster.ts'
import { execute } from '../../../scripts/plan/executor.ts'
import { observeHost } from '../../../scripts/plan/observe.ts'
import { type AnyKind, type Planned, planKinds } from '../../../scripts/plan/planner.ts'
import { ended, startCode } from '../../support/code.ts'
import { freePort } from '../../support/port.ts'
import { linesOf, newestMajor } from '../../support/server.ts'

const isRoot = process.getuid?.() === 0
const osUser = isRoot ? 'postgres' : currentUser()
const major = await newestMajor()
// In memory, where there is some: initdb syncs what it writes.
const BASE = (await exists('/dev/shm')) ? '/dev/shm' : tmpdir()

async function plan(host: Host): Promise<Planned> {
  await using observe = await observeHost(host, await openCluster(host))
  return await planKinds([clusterKind as unknown as AnyKind], observe)
}

async function apply(host: Host): Promise<Planned> {
  const planned = await plan(host)
  await execute(planned.changes, { open: () => openCluster(host), stateDir: host.host.state_dir })
  return planned
}

async function ask(host: Host, text: string): Promise<unknown> {
  const client = await (await openCluster(host))!.connect('postgres')
  try {
    return Object.values((await client.query<Record<string, unknown>>(text)).rows[0] ?? {})[0]
  } finally {
    await client.end()
  }
}

describe('change and findings', () => {
  const facts: Facts = {
    major: 15,
    memoryBytes: 1,
    cpus: 1,
    osUser: 'postgres',
    configDir: '',
    dataDir: '',
    socketDir: '',
  }
  const hostOf = (postgres: string) =>
    parseHost(`format = 1\n[host]\nname = "x"\nstate_dir = "/state"\n[postgres]\n${postgres}`)
  const PRIVATE = 'kind = "private"\nmajor = 15\ndata_dir = "/srv/pg/data"\n'

  test.each([
    ['with data checksums: nothing has to be said', true, {}],
    ['without data checksums: this is said', false, { postgres: { initdb: { data_checksums: false } } }],
    ['that does not answer: nothing is known', undefined, {}],
  ])('exported: a cluster %s', (_title, checksums, words) => {
    const state: ClusterState = { state: 'running', port: 5432, hasBindir: true }
    const actual = new Map([['x', { ...state, ...(checksums !== undefined && { checksums }) }]])
    expect(clusterKind.exported!(actual, { host: hostOf(PRIVATE), facts })).toEqual(words)
  })
  const state = (more: Partial<ClusterState>): ClusterState => ({
    state: 'running',
    port: 5432,
    hasBindir: true,
    ...more,
  })

  function changeFor(toml: string, actual: ClusterState) {
    const host = hostOf(toml)
    const [[name, wanted]] = [...clusterKind.wanted(host, facts)] as [[string, ClusterState]]
    return {
      change: clusterKind.change(name, wanted, actual, { host, facts }),
      findings: clusterKind.findings!(name, wanted, actual, { host, facts }),
    }
  }
  const argvs = (toml: string, actual = state({ state: 'absent' })) =>
    changeFor(toml, actual).change!.steps.map((step) => ('argv' in step ? step.argv.join(' ') : step.run))

  test('a remote cluster: is nothing of this kind', () => {
    expect(clusterKind.wanted(hostOf('kind = "remote"\nurl = "postgres://x/"'), facts)).toEqual(new Map())
  })

  test.each([
    ['running', undefined],
    ['stopped', 'start it'],
    ['absent', 'make it with locale C.UTF-8, UTF8, data checksums, and start it'],
    ['half-made', 'make it with locale C.UTF-8, UTF8, data checksums, and start it'],
    ['occupied', undefined],
  ] as const)('%s: %s', (found, line) => {
    expect(changeFor('major = 15', state({ state: found })).change?.line).toBe(line)
  })

  test.each([
    ['defaults', '', ['--encoding=UTF8', '--locale=C.UTF-8', '--data-checksums']],
    [
      'a locale and no checksums',
      'locale = "de_AT.UTF-8"\ndata_checksums = false',
      ['--encoding=UTF8', '--locale=de_AT.UTF-8'],
    ],
    [
      'icu, segments',
      'locale_provider = "icu"\nicu_locale = "de-AT"\nwal_segsize = "1GB"',
      [
        '--encoding=UTF8',
        '--locale=C.UTF-8',
        '--locale-provider=icu',
        '--icu-locale=de-AT',
        '--wal-segsize=1024',
        '--data-checksums',
      ],
    ],
  ])('options of initdb: %s', (_, initdb, options) => {
    for (const postgres of ['major = 15\n', PRIVATE]) {
      const argv = argvs(`${postgres}[postgres.initdb]\n${initdb}`).find((line) =>
        /initdb|pg_createcluster/.test(line),
      )
      expect(argv!.endsWith(options.join(' '))).toBe(true)
    }
  })

  test('checksums from 18 on: initdb turns them on by itself, and only that one can be told not to', () => {
    const made = (number: number, checksums: boolean) =>
      argvs(`major = ${number}\n[postgres.initdb]\ndata_checksums = ${checksums}`)[1]!.match(
        /--(no-)?data-checksums/,
      )?.[0]
    expect([made(17, true), made(17, false), made(18, true), made(18, false)]).toEqual([
      '--data-checksums',
      undefined,
      '--data-checksums',
      '--no-data-checksums',
    ])
  })

  test.each([
    [
      'occupied',
      PRIVATE,
      state({ state: 'occupied' }),
      '"/srv/pg/data" is not empty and holds no cluster of this host file',
    ],
    [
      'no initdb',
      PRIVATE,
      state({ state: 'absent', hasBindir: false }),
      'there is no initdb in "/usr/lib/postgresql/15/bin"',
    ],
    [
      'a superuser that nobody could log in as',
      `${PRIVATE}superuser = "admin"`,
      state({ state: 'absent' }),
      'its OS user is "postgres", so nobody could log in as "admin" by peer',
    ],
  ])('%s: is impossible, with what to do', (_, toml, actual, text) => {
    expect(changeFor(toml, actual).findings).toEqual([
      {
        kind: 'cluster',
        name: expect.any(String),
        level: 'impossible',
        text,
        hint: expect.stringMatching(/\S/),
      },
    ])
  })

  test.each([
    ['another port', state({ port: 5433 }), 'it uses port 5433, the host file says 5432'],
    ['no checksums', state({ checksums: false }), 'data checksums are off'],
  ])('%s: is a warning, since only a stop could change it', (_, actual, text) => {
    expect(changeFor(PRIVATE, actual).findings).toMatchObject([{ level: 'warning', text }])
  })

  test('all as it should be: nothing is said', () => {
    expect(changeFor(PRIVATE, state({ checksums: true })).findings).toEqual([])
  })

  test('a socket folder that is there, such as /tmp: keeps its owner and mode', async () => {
    const step = changeFor(`${PRIVATE}socket_dir = "/tmp"`, state({ state: 'absent' })).change!.steps
    expect(step.filter((each) => each.run === 'folder').map((each) => each.path)).toEqual([
      '/srv/pg/data.howdah-new',
    ])
    const before = await stat('/tmp')
    const make = step.flatMap((each) =>
      each.run === 'exec' && each.argv.includes('/tmp') ? [each.argv] : [],
    )
    expect(make).toHaveLength(1)
    await run(make[0]!)
    const { uid, gid, mode } = await stat('/tmp')
    expect({ uid, gid, mode }).toEqual({ uid: before.uid, gid: before.gid, mode: before.mode })
  })
})

describe('a private cluster', () => {
  let dir: string
  let host: Host

  beforeEach(async () => {
    dir = await mkdtemp(join(BASE, 'howdah-cluster-'))
    await chmod(dir, 0o755)
    await mkdir(join(dir, 'state'))
    if (isRoot) await chown(join(dir, 'state'), userId('postgres').uid, userId('postgres').gid)
    host = parseHost(header())
  })
  afterEach(async () => {
    const cluster = await openCluster(host).catch(() => undefined)
    if (cluster && (await cluster.isRunning())) await cluster.stop()
    await rm(dir, { recursive: true })
  })

  const header = (more = '') =>
    `format = 1\n[host]\nname = "x"\nstate_dir = "${dir}/state"\n[postgres]\nkind = "private"\nmajor = ${major}\n` +
    `data_dir = "${dir}/pg/data"\nsuperuser = "${osUser}"\n${more}`

  test('made with the options of the host file, started, and the plan is empty then; stopped, it is started', async () => {
    host = parseHost(header('[postgres.initdb]\nlocale = "C"\nencoding = "SQL_ASCII"\nwal_segsize = "1MB"\n'))
    expect(linesOf((await plan(host)).changes)).toEqual([
      `+ cluster ${dir}/pg/data: make it with locale C, SQL_ASCII, data checksums, and start it`,
    ])
    expect(await readdir(dir)).toEqual(['state']) // a plan makes nothing
    await apply(host)
    expect(await plan(host)).toMatchObject({ changes: [], findings: [] })
    const seen = await ask(
      host,
      `select concat_ws('|', current_setting('data_checksums'), current_setting('server_encoding'), current_setting('wal_segment_size'),
         current_setting('listen_addresses'), datcollate, current_user) from pg_database where datname = 'postgres'`,
    )
    expect(seen).toBe(`on|SQL_ASCII|1MB||C|${osUser}`)
    const { mode, uid } = await stat(join(dir, 'pg/data'))
    expect({ mode: mode & 0o777, uid }).toEqual({ mode: 0o700, uid: userId(osUser).uid })
    expect(await readdir(join(dir, 'pg'))).toEqual(['data', 'socket'])
    const hba = await readFile(join(dir, 'pg/data/pg_hba.conf'), 'utf8')
    expect(hba.match(/^(local|host).*\b(trust|md5|password)$/gm)).toBeNull()
    await (await openCluster(host))!.stop()
    expect(linesOf((await plan(host)).changes)).toEqual([`~ cluster ${dir}/pg/data: start it`])
    await apply(host)
    expect(await ask(host, 'select 1')).toBe(1)
  })

  test('initdb fails: is said in its words, nothing stands in its place, and the next run makes it, with a socket of another place', async () => {
    await mkdir(join(dir, 'pg/data'), { recursive: true }) // an empty folder of root's in its place is taken
    const broken = parseHost(header('[postgres.initdb]\nlocale = "no_such_locale"\n'))
    await expect(apply(broken)).rejects.toMatchObject({
      code: 'command-failed',
      hint: expect.stringContaining('no_such_locale'),
    })
    expect(await readdir(join(dir, 'pg/data'))).toEqual([])
    const port = await freePort()
    host = parseHost(header(`port = ${port}\nsocket_dir = "${dir}/s o'c"\n`))
    await apply(host)
    expect(await openCluster(host)).toMatchObject({ port, socketDir: `${dir}/s o'c` })
    expect(await plan(host)).toMatchObject({ changes: [], findings: [] })
  })

  test.each([
    ['letters of somebody', async (place: string) => writeFile(join(place, 'letter.txt'), 'dear')],
    ['a hidden file', async (place: string) => writeFile(join(place, '.keep'), '')],
    ['a folder', async (place: string) => mkdir(join(place, 'lost+found'))],
  ])('a folder in its place that holds %s: is never touched', async (_, fill) => {
    const place = join(dir, 'pg/data')
    await mkdir(place, { recursive: true })
    await fill(place)
    const before = await readdir(place)
    const planned = await plan(host)
    expect(planned.changes).toEqual([])
    expect(planned.findings).toMatchObject([{ level: 'impossible' }])
    await apply(host)
    expect(await readdir(place)).toEqual(before)
    expect(await readdir(join(dir, 'pg'))).toEqual(['data'])
  })

  test('a file in its place: is never touched', async () => {
    await mkdir(join(dir, 'pg'))
    await writeFile(join(dir, 'pg/data'), 'dear')
    expect((await plan(host)).findings).toMatchObject([{ level: 'impossible' }])
  })

  test('killed by SIGKILL while initdb runs: the next run makes it, whatever initdb still does', async () => {
    const child = startCode(
      `import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       import { execute } from 'scripts/plan/executor.ts'
       const host = parseHost(${JSON.stringify(header())})
       await execute(${JSON.stringify((await plan(host)).changes)}, {
         open: () => openCluster(host),
         stateDir: host.host.state_dir,
         onStep: (step) => {
           if (step.run === 'exec' && step.argv.some((word) => word.endsWith('/initdb'))) {
             setTimeout(() => process.kill(process.pid, 'SIGKILL'), 200)
           }
         },
       })`,
    )
    expect(await ended(child)).toMatchObject({ signal: 'SIGKILL' })
    await apply(host)
    expect(await ask(host, 'select 1')).toBe(1)
    expect((await plan(host)).changes).toEqual([])
    await sleep(300)
    expect(await readdir(join(dir, 'pg'))).toEqual(['data', 'socket'])
  })
})

const canMake = isRoot && (await exists('/usr/bin/pg_createcluster'))

describe.runIf(canMake)('a debian cluster', () => {
  const name = `howdahtest${process.pid}`
  const dataDir = join(BASE, name, 'data')
  const configDir = `/etc/postgresql/${major}/${name}`
  let dir: string
  let port: number
  let host: Host
  const drop = () => run(['pg_dropcluster', '--stop', String(major), name], { okCodes: [0, 1] })
  const marker = () => join(dir, `state/journal/making-${major}-${name}`)

  beforeAll(async () => {
    dir = await mkdtemp(join(BASE, 'howdah-cluster-'))
    await chmod(dir, 0o755)
    await mkdir(join(dir, 'state'))
    await chown(join(dir, 'state'), userId('postgres').uid, userId('postgres').gid)
    port = await freePort()
    host = parseHost(hostText())
  })
  afterEach(drop)
  afterAll(async () => {
    await rm(dir, { recursive: true })
    await rm(join(BASE, name), { recursive: true, force: true })
    await rm(configDir, { recursive: true, force: true })
  })

  test('made, started, the plan is empty then; stopped, it is started again', async () => {
    await apply(host)
    expect(await plan(host)).toMatchObject({ changes: [], findings: [] })
    expect(
      await ask(host, `select current_setting('data_checksums') || ' ' || current_setting('port')`),
    ).toBe(`on ${port}`)
    expect(await exists(marker())).toBe(false)
    expect((await readFile(join(configDir, 'start.conf'), 'utf8')).trim()).toMatch(/^auto$/m)
    expect((await stat(join(dir, 'state/journal'))).uid).toBe(userId('postgres').uid)
    await ask(host, 'create table precious ()')
    await (await openCluster(host))!.stop()
    await writeFile(marker(), '') // left behind by a run that died: yet a server ran on it, so it is whole
    expect(linesOf((await plan(host)).changes)).toEqual([`~ cluster ${major}/${name}: start it`])
    await apply(host)
    expect(await ask(host, `select to_regclass('public.precious')::text`)).toBe('precious')
    await rm(marker())
  })

  test('a folder in its place that holds something: is never touched', async () => {
    await mkdir(dataDir, { recursive: true })
    await writeFile(join(dataDir, 'letter.txt'), 'dear')
    await apply(host)
    expect((await plan(host)).findings).toMatchObject([{ level: 'impossible' }])
    expect(await readdir(dataDir)).toEqual(['letter.txt'])
    expect(await exists(configDir)).toBe(false)
    await rm(dataDir, { recursive: true })
  })

  /** Applies in a process group of its own, and kills it `delay` milliseconds after pg_createcluster began. */
  async function killedAfter(delay: number, group: boolean): Promise<void> {
    const child = startCode(
      `import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       import { execute } from 'scripts/plan/executor.ts'
       const host = parseHost(${JSON.stringify(hostText())})
       await execute(${JSON.stringify((await plan(host)).changes)}, {
         open: () => openCluster(host),
         stateDir: host.host.state_dir,
         onStep: (step) => {
           if (step.run === 'exec' && step.argv.includes('pg_createcluster')) {
             setTimeout(() => process.kill(${group ? '-' : ''}process.pid, 'SIGKILL'), ${delay})
           }
         },
       })`,
      { isGroup: true },
    )
    expect(await ended(child)).toMatchObject({ signal: 'SIGKILL' })
  }
  const hostText = () =>
    `format = 1\n[host]\nname = "x"\nstate_dir = "${dir}/state"\n[postgres]\nmajor = ${major}\ncluster = "${name}"\nport = ${port}\ndata_dir = "${dataDir}"\n[postgres.initdb]\nlocale = "C"\n`

  test.each([
    ['with all that it started, while initdb runs', 500, true],
    ['alone, while initdb runs and goes on', 500, false],
  ])('killed by SIGKILL %s: the next run makes it', async (_, delay, group) => {
    await killedAfter(delay, group)
    expect(await exists(marker())).toBe(true)
    await apply(host)
    expect(await ask(host, 'select 1')).toBe(1)
    expect((await plan(host)).changes).toEqual([])
    expect(await exists(marker())).toBe(false)
  })

  test('half-made, but a backup was laid there and waits for its first start: nothing of it is taken away', async () => {
    await mkdir(dataDir, { recursive: true })
    await writeFile(join(dataDir, 'backup_label'), '')
    await writeFile(marker(), '')
    expect((await plan(host)).findings).toMatchObject([{ level: 'impossible' }])
    await rm(dataDir, { recursive: true })
    await rm(marker())
  })
})
