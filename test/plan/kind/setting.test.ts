import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'smol-toml'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { run } from '../../../scripts/core/exec.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import { execute } from '../../../scripts/plan/executor.ts'
import type { Facts } from '../../../scripts/plan/kind.ts'
import { setting } from '../../../scripts/plan/kind/setting.ts'
import { openCluster } from '../../../scripts/cluster/open.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const NAME = 'conf.d/90-howdah.conf'
let server: TestServer

beforeAll(async () => {
  server = await startServer()
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

const file = () => join(server.dir, 'data', NAME)
const apply = (toml: string) => server.apply([setting], toml)
const plan = (toml: string) => server.plan([setting], toml)
const pending = async (toml: string) => linesOf((await plan(toml)).changes)
const findings = async (toml: string) =>
  (await plan(toml)).findings.map(({ level, text }) => `${level}: ${text}`)
const steps = async (toml: string) =>
  (await plan(toml)).changes.flatMap(({ steps }) => steps.map((step) => step.run))

async function show(name: string): Promise<string> {
  const [row] = await server.query<{ value: string }>('postgres', 'select current_setting($1) as value', [
    name,
  ])
  return row!.value
}

/** Applies, and is gone before a step of that sort, as after SIGKILL. */
async function dieBefore(toml: string, step: 'reload' | 'restart'): Promise<void> {
  const onStep = ({ run }: { run: string }) => {
    if (run === step) throw new Error('killed')
  }
  await expect(server.apply([setting], toml, { onStep })).rejects.toThrow('killed')
  await rm(join(server.dir, 'state'), { recursive: true, force: true })
}

async function reloadByHand(): Promise<void> {
  await server.withClient('postgres', async (client) => {
    const at = async () =>
      (await client.query<{ at: string }>('select pg_conf_load_time() as at')).rows[0]!.at
    const before = await at()
    await client.query('select pg_reload_conf()')
    await vi.waitUntil(async () => (await at()) !== before)
  })
}

describe('setting', () => {
  test('no [settings] and no tune: nothing is touched', async () => {
    expect(await plan('')).toMatchObject({ changes: [], findings: [] })
  })

  test('several settings: a line for each, one write, a reload; then nothing is left to do', async () => {
    const toml = `[settings]\nwork_mem = "6MB"\nlog_min_duration_statement = "1s"\nLog_Disconnections = true`
    expect(await pending(toml)).toEqual([
      [
        `+ setting ${NAME}: 3 lines`,
        'log_disconnections off -> on',
        'log_min_duration_statement -1 -> 1s',
        'work_mem 4MB -> 6MB',
      ].join('\n    '),
    ])
    expect(await steps(toml)).toEqual(['write', 'reload'])
    await apply(toml)
    expect(await show('work_mem')).toBe('6MB')
    expect(await show('log_min_duration_statement')).toBe('1s')
    expect(await plan(toml)).toMatchObject({ changes: [], findings: [] })
  })

  test('a setting that the looking session has changed for itself: shown as the server has it', async () => {
    expect(await pending(`[settings]\njit = false`)).toEqual([
      expect.stringContaining('jit on -> off') as string,
    ])
  })

  test('the same values in other spellings: no change', async () => {
    await apply(
      `[settings]\nwork_mem = "1GB"\nlog_min_duration_statement = "90s"\nlog_disconnections = "yes"`,
    )
    expect(
      await pending(
        `[settings]\nwork_mem = "1024MB"\nlog_min_duration_statement = "1.5min"\nlog_disconnections = true`,
      ),
    ).toEqual([])
  })

  test('a file that is exported: the plan against it is empty', async () => {
    await apply(
      `[settings]\nwork_mem = "7MB"\nsearch_path = ["a, b", "Ünï", "select"]\n"my.text" = "it's \\"x\\""`,
    )
    const text = await server.observe('', async (observe) => {
      const context = { host: observe.host, facts: observe.facts }
      return stringify(setting.exported!(await setting.actual(observe), context))
    })
    expect(text).toContain('work_mem = "7MB"')
    expect(await pending(text)).toEqual([])
  })

  test.each([
    ['quotes', `it's "quoted"`],
    ['backslashes', String.raw`a\b\n\\`],
    ['a line break that tries to begin a line of its own', "x'\nfsync = off\n#"],
    ['other letters', 'Ünï cødé'],
    ['a comment sign', '# x'],
    ['an SQL injection', `'; drop table x; --`],
  ])('a value with %s: arrives as it is', async (_title, value) => {
    const toml = stringify({ settings: { 'my.value': value } })
    await apply(toml)
    expect(await show('my.value')).toBe(value)
    expect(await pending(toml)).toEqual([])
  })

  test('a list with a comma in an element: is quoted element by element', async () => {
    const toml = `[settings]\nsearch_path = ["a, b", "Mixed", "plain", 'with"quote']`
    await apply(toml)
    expect(await server.query('postgres', `select current_schemas(false)`)).toBeDefined()
    expect(await show('search_path')).toBe(`"a, b", "Mixed", plain, "with""quote"`)
    expect(await pending(toml)).toEqual([])
  })

  test('an empty list: is no list with an empty element', async () => {
    const toml = `[settings]\nshared_preload_libraries = []`
    await apply(toml)
    await server.cluster.restart()
    expect(await show('shared_preload_libraries')).toBe('')
    expect(await pending(toml)).toEqual([])
  })

  test('a setting of the server start: restarts with consent, once', async () => {
    const toml = `[settings]\nmax_connections = 33\nwork_mem = "5MB"`
    const { changes } = await plan(toml)
    expect(changes[0]!.hazards).toEqual(['restarts-server'])
    expect(changes[0]!.line).toContain('restart for max_connections')
    expect(await steps(toml)).toEqual(['write', 'restart'])
    await apply(toml)
    expect(await show('max_connections')).toBe('33')
    expect(await pending(toml)).toEqual([])
  })

  test('such a setting with the value that it already has: no restart', async () => {
    await apply(`[settings]\nmax_connections = 33`)
    expect(
      await steps(`[settings]\nmax_connections = 33\n"my.value" = 1\nmax_locks_per_transaction = 64`),
    ).toEqual(['write', 'reload'])
  })

  test('such a setting taken out of the host file: gone from the file, with a restart', async () => {
    await apply(`[settings]\nmax_connections = 33\nmax_worker_processes = 9`)
    const toml = `[settings]\nwork_mem = "5MB"`
    expect(await steps(toml)).toEqual(['write', 'restart'])
    await apply(toml)
    expect(await show('max_worker_processes')).toBe('8')
    expect(await readFile(file(), 'utf8')).not.toContain('max_')
    expect(await pending(toml)).toEqual([])
  })

  test('an empty [settings]: empties the file', async () => {
    await apply(`[settings]\nwork_mem = "5MB"`)
    await apply('[settings]')
    expect(await show('work_mem')).toBe('4MB')
    expect(await pending('[settings]')).toEqual([])
  })

  test("a value that a role has of its own: is not taken for the server's", async () => {
    await apply(`[settings]\nwork_mem = "5MB"`)
    await server.query('postgres', `alter role postgres set work_mem = '11MB'`)
    try {
      expect(await plan(`[settings]\nwork_mem = "5MB"`)).toMatchObject({ changes: [], findings: [] })
    } finally {
      await server.query('postgres', 'alter role postgres reset work_mem')
    }
  })

  test('lines of somebody else in our file: written anew', async () => {
    const toml = `[settings]\nwork_mem = "5MB"`
    await apply(toml)
    await writeFile(file(), `work_mem = '6MB'\nwork_mem = '5MB'\n`)
    expect(await pending(toml)).toEqual([`~ setting ${NAME}: written anew: it holds lines that are not ours`])
    await apply(toml)
    expect(await pending(toml)).toEqual([])
    expect(await show('work_mem')).toBe('5MB')
  })
})

describe('setting: a run that died', () => {
  test('between the write and the reload: right on disk, but a reload is planned', async () => {
    await apply('[settings]')
    const toml = `[settings]\nwork_mem = "12MB"`
    await dieBefore(toml, 'reload')
    expect(await show('work_mem')).toBe('4MB')
    expect(await pending(toml)).toEqual([`~ setting ${NAME}: on disk, but the server did not read it yet`])
    expect(await steps(toml)).toEqual(['reload'])
    await apply(toml)
    expect(await show('work_mem')).toBe('12MB')
    expect(await pending(toml)).toEqual([])
  })

  test('between the write and the restart: the restart is planned', async () => {
    await apply('[settings]')
    const toml = `[settings]\nmax_connections = 44`
    await dieBefore(toml, 'restart')
    expect(await steps(toml)).toEqual(['restart'])
    await apply(toml)
    expect(await show('max_connections')).toBe('44')
    expect(await pending(toml)).toEqual([])
  })

  test('between a write that takes a setting out and the restart: the restart is planned', async () => {
    await apply(`[settings]\nmax_worker_processes = 9`)
    await dieBefore('[settings]', 'restart')
    expect(await steps('[settings]')).toEqual(['restart'])
    await apply('[settings]')
    expect(await show('max_worker_processes')).toBe('8')
    expect(await pending('[settings]')).toEqual([])
  })

  test('after a reload, with a restart still pending: the restart is planned', async () => {
    await apply('[settings]')
    const toml = `[settings]\nmax_connections = 45`
    await dieBefore(toml, 'restart')
    await reloadByHand()
    const { changes } = await plan(toml)
    expect(changes).toMatchObject([{ line: 'restart for max_connections', hazards: ['restarts-server'] }])
    await apply(toml)
    expect(await pending(toml)).toEqual([])
  })

  test('and the host file went back to the old value: a reload is enough', async () => {
    await apply(`[settings]\nmax_connections = 46`)
    await dieBefore(`[settings]\nmax_connections = 47`, 'restart')
    await reloadByHand()
    expect(await steps(`[settings]\nmax_connections = 46`)).toEqual(['write', 'reload'])
    await apply(`[settings]\nmax_connections = 46`)
    expect(await pending(`[settings]\nmax_connections = 46`)).toEqual([])
  })
})

describe('setting: values that cannot be', () => {
  test.each([
    [`work_men = "4MB"`, 'work_men: the server knows no such setting'],
    [`work_mem = "1kB"`, 'work_mem: "1kB" is below its minimum, 64 (in kB)'],
    [`work_mem = "4 apples"`, 'work_mem: "4 apples" is no value of it: it is a size such as "64MB"'],
    [`wal_level = "full"`, 'wal_level: "full" is no value of it: it is one of minimal, replica, logical'],
    [`block_size = 8192`, 'block_size: it tells how the server was built or the cluster was made'],
    [`port = 5433`, 'port: it is set by postgres.port in the host file, not here'],
    [`hba_file = "/tmp/x"`, 'hba_file: where files are is not a setting of the host file'],
    [`include = "/tmp/x"`, 'include: where files are is not a setting of the host file'],
    [`"my.value" = "a\\u0000b"`, 'my.value: a value must not hold a NUL byte'],
  ])('%s: impossible, and no change', async (line, text) => {
    const planned = await plan(`[settings]\n${line}`)
    expect(planned.findings).toMatchObject([{ level: 'impossible', text }])
    expect(planned.changes).toEqual([])
  })

  test('several: all of them are told', async () => {
    const { findings } = await plan(`[settings]\nport = 5433\nwork_mem = "1kB"\nnope = 1`)
    expect(findings.map(({ text }) => text.split(':')[0])).toEqual(['port', 'nope', 'work_mem'])
  })

  test('an unknown name: the nearest known one is named', async () => {
    expect((await plan(`[settings]\nshared_bufers = "1GB"`)).findings[0]!.hint).toBe(
      'Did you mean "shared_buffers"?',
    )
  })

  test('an unknown name with a dot: the server takes any, so it is a warning', async () => {
    expect(await findings(`[settings]\n"plpgsql.extra_warnigs" = "all"`)).toEqual([
      'warning: plpgsql.extra_warnigs: no library that is loaded knows it, so the server takes any name',
    ])
  })

  test('a setting of a library that is about to be loaded: no warning', async () => {
    const toml = `[settings]\nshared_preload_libraries = ["auto_explain"]\n"auto_explain.log_min_duration" = "1s"`
    expect(await findings(toml)).toEqual([])
    await apply(toml)
    expect(await show('auto_explain.log_min_duration')).toBe('1s')
    expect(await plan(toml)).toMatchObject({ changes: [], findings: [] })
    expect(await findings(`${toml}\n"auto_explain.log_min_durations" = "1s"`)).toHaveLength(1)
    await apply('[settings]')
  })

  test('an unknown name that no plan stopped: refused by the server before any reload, the file is as it was', async () => {
    await apply(`[settings]\nwork_mem = "5MB"`)
    const before = await readFile(file(), 'utf8')
    const host = server.host(`[settings]\nno_such_setting = 1\nwork_mem = "9MB"`)
    await server.observe('', async (observe) => {
      const { facts } = observe
      const actual = (await setting.actual(observe)).get(NAME)
      const change = setting.change(NAME, setting.wanted(host, facts).get(NAME)!, actual, { host, facts })!
      await expect(
        execute([change], { open: () => openCluster(host), stateDir: join(server.dir, 'state') }),
      ).rejects.toMatchObject({
        code: 'change-undone',
        message: expect.stringContaining('unrecognized configuration parameter') as string,
      })
    })
    expect(await readFile(file(), 'utf8')).toBe(before)
    expect(await show('work_mem')).toBe('5MB')
    expect(await pending(`[settings]\nwork_mem = "5MB"`)).toHaveLength(0)
  })

  test('a library that is not there: the server does not start, is put back and runs again', async () => {
    const good = `[settings]\nwork_mem = "5MB"`
    await apply(good)
    const before = await readFile(file(), 'utf8')
    await expect(apply(`[settings]\nshared_preload_libraries = ["no_such_library"]`)).rejects.toMatchObject({
      code: 'change-undone',
      message: expect.stringContaining('it runs again with the old ones') as string,
      hint: expect.stringContaining('no_such_library') as string,
    })
    expect(await readFile(file(), 'utf8')).toBe(before)
    expect(await show('work_mem')).toBe('5MB')
    expect(await pending(good)).toEqual([])
  })

  test('more shared memory than there is: the same', async () => {
    await apply('[settings]')
    await expect(apply(`[settings]\nshared_buffers = "7000GB"`)).rejects.toMatchObject({
      code: 'change-undone',
    })
    expect(await show('shared_buffers')).toBe('128MB')
    expect(await pending('[settings]')).toEqual([])
  })

  test("a broken file of somebody else's: said so, since the server takes over nothing until it is mended", async () => {
    const other = join(server.dir, 'data/conf.d/50-other.conf')
    await writeFile(other, 'no_such_setting = 1\n')
    try {
      expect(await findings(`[settings]\nwork_mem = "9MB"`)).toEqual([
        `impossible: ${other}:1: no_such_setting: unrecognized configuration parameter`,
      ])
    } finally {
      await rm(other)
    }
  })
})

describe('setting: shadowed', () => {
  test('by ALTER SYSTEM: said so, and nothing is pending for ever', async () => {
    const toml = `[settings]\nwork_mem = "5MB"\nmax_connections = 50`
    await server.query('postgres', `alter system set work_mem = '8MB'`)
    await server.query('postgres', 'alter system set max_connections = 60')
    try {
      const said = [
        'warning: max_connections: shadowed by ALTER SYSTEM, which says 60',
        'warning: work_mem: shadowed by ALTER SYSTEM, which says 8MB',
      ]
      expect(await findings(toml)).toEqual(said)
      await apply(toml)
      expect(await findings(toml)).toEqual(said)
      expect(await show('work_mem')).toBe('8MB')
      await apply(toml)
      expect(await pending(toml)).toEqual([])
      expect((await plan(toml)).findings[1]!.hint).toBe('Run: alter system reset work_mem')
      expect(await findings(`[settings]\nwork_mem = "8192kB"`)).toEqual([])
    } finally {
      await server.query('postgres', 'alter system reset all')
      await apply('[settings]')
    }
  })

  test('by a file that is read after ours: said so', async () => {
    const later = join(server.dir, 'data/conf.d/95-later.conf')
    await writeFile(later, `work_mem = '3MB'\n`)
    try {
      expect(await findings(`[settings]\nwork_mem = "5MB"`)).toEqual([
        `warning: work_mem: shadowed by ${later}:1, which says 3MB`,
      ])
    } finally {
      await rm(later)
    }
  })

  test('by the command line of the server: said so', async () => {
    const { bindir, dataDir, osUser } = server.cluster
    const restart = (options: string) =>
      run(
        [
          join(bindir, 'pg_ctl'),
          '-s',
          '-w',
          '-D',
          dataDir,
          '-l',
          join(server.dir, 'log'),
          '-o',
          options,
          'restart',
        ],
        {
          as: osUser,
        },
      )
    await restart('-c work_mem=13MB')
    try {
      const toml = `[settings]\nwork_mem = "5MB"`
      const said = ['warning: work_mem: shadowed by the command line of the server, which says 13MB']
      expect(await findings(toml)).toEqual(said)
      await apply(toml)
      expect(await plan(toml)).toMatchObject({ changes: [], findings: [{ level: 'warning' }] })
    } finally {
      await restart('')
    }
  })
})

describe('setting: the include', () => {
  test('postgresql.conf does not read our folder: the include is added and all of it takes effect', async () => {
    const main = join(server.dir, 'data/postgresql.conf')
    const text = await readFile(main, 'utf8')
    // Everything that the test server needs moves along, so that only ours is missing.
    const own = await readFile(join(server.dir, 'data/conf.d/00-test.conf'), 'utf8')
    await writeFile(main, `${text.replace("\ninclude_dir = 'conf.d'\n", '\n')}${own}work_mem = '2MB'`)
    await apply('[settings]')
    const toml = `[settings]\nwork_mem = "5MB"`
    expect((await plan(toml)).changes[0]!.line).toContain(`postgresql.conf: include_dir = 'conf.d'`)
    await apply(toml)
    expect(await show('work_mem')).toBe('5MB')
    expect(await pending(toml)).toEqual([])
    expect(await readFile(main, 'utf8')).toMatch(/work_mem = '2MB'\ninclude_dir = 'conf.d'\n$/)
    await writeFile(main, text)
  })
})

describe('setting: tune', () => {
  test('the known table for 2 GB, 100 connections, ssd and web: is what the server has after the restart', async () => {
    const toml = '[postgres.tune]\nmemory = "2GB"\nconnections = 100\nstorage = "ssd"\nworkload = "web"'
    // The header ends inside [postgres], so a table of it may follow.
    await apply(toml)
    const rows = await server.query<{ name: string; value: string }>(
      'postgres',
      `select name, current_setting(name) as value from pg_settings where name = any($1)`,
      [Object.keys(TABLE)],
    )
    expect(Object.fromEntries(rows.map(({ name, value }) => [name, value]))).toEqual(TABLE)
    expect(await plan(toml)).toMatchObject({ changes: [], findings: [] })
  })

  test('a setting of the host file: wins over the computed one', async () => {
    const toml = '[postgres.tune]\nmemory = "2GB"\n[settings]\nshared_buffers = "300MB"'
    const host = server.host(toml)
    const { facts } = await server.observe(toml, (observe) => Promise.resolve(observe))
    const { values } = setting.wanted(host, facts).get(NAME)!
    expect(values).toContainEqual({ name: 'shared_buffers', value: '300MB' })
    expect(values).toContainEqual({ name: 'effective_cache_size', value: '1GB' })
  })

  const TABLE = {
    shared_buffers: '512MB',
    effective_cache_size: '1GB',
    maintenance_work_mem: '128MB',
    checkpoint_completion_target: '0.9',
    wal_buffers: '16MB',
    default_statistics_target: '100',
    random_page_cost: '1.1',
    effective_io_concurrency: '200',
    work_mem: '5MB',
    min_wal_size: '1GB',
    max_wal_size: '4GB',
    max_connections: '100',
  }
})

describe('setting: without a server', () => {
  const facts: Facts = {
    major: 15,
    memoryBytes: 2 * 1024 ** 3,
    cpus: 2,
    osUser: 'postgres',
    configDir: '/etc/postgresql/15/main',
    dataDir: '/var/lib/postgresql/15/main',
    socketDir: '/var/run/postgresql',
  }
  const parse = (toml: string) => parseHost(`format = 1\n[host]\nname = "h"\n${toml}`)

  test('a cluster that is made in the same run: written and restarted, which needs no consent', () => {
    const host = parse('[postgres]\nmajor = 15\n[settings]\nwork_mem = "5MB"')
    const change = setting.change(NAME, setting.wanted(host, facts).get(NAME)!, undefined, { host, facts })
    expect(change).toMatchObject({ action: 'create', line: 'work_mem = 5MB', hazards: [] })
    expect(change!.steps.map((step) => step.run)).toEqual(['folder', 'write', 'restart'])
  })

  test('a remote cluster: has no files, so no settings', () => {
    const host = parse('[postgres]\nkind = "remote"\nurl = "postgres://db/x"\n[settings]\nwork_mem = "5MB"')
    const remote = { ...facts, configDir: '', dataDir: '' }
    const wanted = setting.wanted(host, remote).get(NAME)!
    expect(setting.findings!(NAME, wanted, undefined, { host, facts: remote })).toMatchObject([
      { level: 'impossible', text: 'a remote cluster has no files that could be written' },
    ])
    expect(setting.change(NAME, wanted, undefined, { host, facts: remote })).toBeUndefined()
  })
})
