import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCluster } from '../../scripts/cluster/open.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Change } from '../../scripts/plan/change.ts'
import type { Kind, Observe } from '../../scripts/plan/kind.ts'
import { KINDS } from '../../scripts/plan/kinds.ts'
import { observeHost } from '../../scripts/plan/observe.ts'
import { type AnyKind, type Planned, planKinds } from '../../scripts/plan/planner.ts'
import { linesOf, startServer, type TestServer } from '../support/server.ts'

const HOST = parseHost('format = 1\n[host]\nname = "x"\n[postgres]\nmajor = 15\n')
const NAMES = ['b', 'a', '10', '9', 'Ünï cødé', 'a"b', '__proto__', 'Z']

type Values = Readonly<Record<string, unknown>> | ReadonlyMap<string, unknown>
const mapOf = (values: Values) => (values instanceof Map ? values : new Map(Object.entries(values)))

/** A kind whose values are given; different ones are a change, unwanted ones are dropped. */
function kindOf(name: string, wanted: Values, actual: Values, more: Partial<Kind<unknown>> = {}): AnyKind {
  const change = (of: string, action: Change['action']): Change => ({
    kind: name,
    name: of,
    action,
    line: 'x',
    hazards: [],
    steps: [],
  })
  const kind: Kind<unknown> = {
    name,
    wanted: () => new Map(mapOf(wanted)),
    actual: () => Promise.resolve(new Map(mapOf(actual))),
    change: (of, want, is) => (want === is ? undefined : change(of, is === undefined ? 'create' : 'alter')),
    drop: (of) => change(of, 'drop'),
    ...more,
  }
  return kind as AnyKind
}

const plan = (...kinds: readonly AnyKind[]): Promise<Planned> => planKinds(kinds, { host: HOST } as Observe)
const order = async (...kinds: readonly AnyKind[]) =>
  linesOf((await plan(...kinds)).changes).map((line) => line.replace(': x', ''))

describe('planKinds', () => {
  test('kinds: in the order in which they are given; drops after all of them, in reverse', async () => {
    expect(
      await order(
        kindOf('one', { a: 1, b: 2 }, { b: 1, old: 1 }),
        kindOf('two', { c: 1 }, { older: 1, oldest: 1 }),
        kindOf('three', { d: 1 }, { d: 1 }),
      ),
    ).toEqual(['+ one a', '~ one b', '+ two c', '- two older', '- two oldest', '- one old'])
  })

  test('names: by code point, whatever they look like; never as JavaScript orders numbers', async () => {
    const expected = ['10', '9', 'Z', '__proto__', 'a', 'a"b', 'b', 'Ünï cødé']
    const values = new Map(NAMES.map((name) => [name, 1]))
    expect(await order(kindOf('k', values, {}))).toEqual(expected.map((name) => `+ k ${name}`))
    expect(await order(kindOf('k', {}, values))).toEqual(expected.map((name) => `- k ${name}`))
  })

  test('looking: all kinds at once, the order of the plan stays', async () => {
    const looks: string[] = []
    const slow = (name: string): AnyKind =>
      kindOf(
        name,
        { a: 1 },
        {},
        {
          async actual() {
            looks.push(name)
            await Promise.resolve()
            looks.push(`${name} done`)
            return new Map()
          },
        },
      )
    expect(await order(slow('one'), slow('two'))).toEqual(['+ one a', '+ two a'])
    expect(looks).toEqual(['one', 'two', 'one done', 'two done'])
  })

  test('looking fails: the first kind counts, and only when all have ended', async () => {
    let isEnded = false
    const late = kindOf(
      'one',
      {},
      {},
      {
        async actual() {
          await new Promise(setImmediate)
          isEnded = true
          throw new Error('one')
        },
      },
    )
    const early = kindOf('two', {}, {}, { actual: () => Promise.reject(new Error('two')) })
    await expect(plan(late, early)).rejects.toThrow('one')
    isEnded = false
    await expect(plan(early, late)).rejects.toThrow('two')
    expect(isEnded).toBe(true)
  })

  test('nothing to change: an empty plan', async () => {
    expect(await plan(kindOf('k', { a: 1 }, { a: 1 }))).toMatchObject({ changes: [], findings: [] })
  })

  test('a kind without drop: what is not wanted stays', async () => {
    const kind = kindOf('k', {}, { a: 1 })
    delete (kind as { drop?: unknown }).drop
    expect(await order(kind)).toEqual([])
  })

  test('findings: those of wanted names, then those of names to drop; an impossible one is not changed', async () => {
    const say = (level: 'warning' | 'impossible') => (name: string) => [{ kind: 'k', name, level, text: 'x' }]
    const kind = kindOf(
      'k',
      { a: 1, b: 1, c: 1 },
      { x: 1, y: 1 },
      {
        findings: (name) => (name === 'b' ? say('impossible')(name) : say('warning')(name)),
        dropFindings: (name) => (name === 'y' ? say('impossible')(name) : []),
      },
    )
    const planned = await plan(kind)
    expect(planned.findings.map(({ name, level }) => `${name} ${level}`)).toEqual([
      'a warning',
      'b impossible',
      'c warning',
      'y impossible',
    ])
    expect(linesOf(planned.changes)).toEqual(['+ k a: x', '+ k c: x', '- k x: x'])
  })

  test('what a kind decides by: the host and the facts, nothing else', async () => {
    const seen: unknown[] = []
    const kind = kindOf(
      'k',
      { a: 1 },
      {},
      {
        change: (...[, , , context]) => {
          seen.push(Object.keys(context))
          return undefined
        },
      },
    )
    await plan(kind)
    expect(seen).toEqual([['host', 'facts']])
  })
})

describe('the digest', () => {
  const digest = async (...kinds: readonly AnyKind[]) => (await plan(...kinds)).digest
  const of = (actual: Values) => digest(kindOf('k', {}, actual))

  test('the same things seen in another order: the same', async () => {
    const names = NAMES.map((name) => [name, name] as const)
    const nested = (entries: readonly (readonly [string, unknown])[]) => new Map([['x', new Map(entries)]])
    expect(await of(new Map(names))).toBe(await of(new Map(names.toReversed())))
    expect(await of(nested(names))).toBe(await of(nested(names.toReversed())))
    expect(await of({ x: new Set(['a', 'b']) })).toBe(await of({ x: new Set(['b', 'a']) }))
  })

  test.each([
    ['a value', { a: 2 }],
    ['a name', { b: 1 }],
    ['one more', { a: 1, b: 1 }],
    ['nothing', {}],
    ['another type', { a: '1' }],
    ['a big number', { a: 1n << 64n }],
    ['a set', { a: new Set(['x']) }],
    ['a map', { a: new Map([['x', 1]]) }],
    ['an empty map', { a: new Map() }],
    ['undefined', { a: undefined }],
  ])('%s that is different: another digest', async (_, actual) => {
    expect(await of(actual)).not.toBe(await of({ a: 1 }))
  })

  test('numbers beyond what a double holds: are told apart', async () => {
    expect(await of({ a: (1n << 60n) + 1n })).not.toBe(await of({ a: 1n << 60n }))
  })

  test('what is wanted: does not move it, since that is bound by the text of the host file', async () => {
    expect(await digest(kindOf('k', { a: 5 }, { a: 1 }))).toBe(await of({ a: 1 }))
  })

  test('the same thing seen by another kind, or by one kind less: another one', async () => {
    expect(await digest(kindOf('l', {}, { a: 1 }))).not.toBe(await of({ a: 1 }))
    expect(await digest(kindOf('k', {}, { a: 1 }), kindOf('l', {}, {}))).not.toBe(await of({ a: 1 }))
  })
})

describe('a real server', () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startServer({ settings: { autovacuum: 'off' } })
    await server.query('postgres', 'create database "a""b"')
    await server.query('postgres', 'create database closed allow_connections false')
  })
  afterAll(() => server[Symbol.asyncDispose]())

  const TOML = `
[roles.app]
login = true
[databases."a\\"b"]
extensions = ["pg_trgm"]
[databases.new.schemas.app]
[[databases."a\\"b".grants]]
to = "app"
on = "tables"
privileges = ["SELECT"]
`

  test('a plan of every kind: writes no WAL', async () => {
    const lsn = async () =>
      (await server.query<{ at: string }>('postgres', 'select pg_current_wal_insert_lsn()::text as at'))[0]!
        .at
    await server.plan(KINDS, TOML) // what is read for the first time may get hint bits
    await server.query('postgres', 'checkpoint')
    await server.plan(KINDS, TOML)
    const before = await lsn()
    const planned = await server.plan(KINDS, TOML)
    expect(planned.changes.length).toBeGreaterThan(3)
    expect(await lsn()).toBe(before)
  })

  test('the same plan twice: the same changes and the same digest; it moves when the server moves', async () => {
    const first = await server.plan(KINDS, TOML)
    expect(await server.plan(KINDS, TOML)).toEqual(first)
    await server.query('postgres', 'create role somebody')
    expect((await server.plan(KINDS, TOML)).digest).not.toBe(first.digest)
  })

  test.each(['create table t ()', 'create role r', `select set_config('a.b', 'c', false), nextval('s')`])(
    'a kind that tries to write (%s): is refused by the server',
    async (text) => {
      await server.query('postgres', 'create sequence if not exists public.s')
      const kind = kindOf(
        'k',
        {},
        {},
        {
          actual: async (observe) => {
            await observe.query('postgres', text.replace("'s'", "'public.s'"))
            return new Map()
          },
        },
      )
      await expect(server.plan([kind as never], '')).rejects.toMatchObject({
        code: 'server-failed',
        message: expect.stringMatching(
          /^cannot look into database "postgres": cannot execute \w+.* in a read-only transaction$/,
        ),
      })
    },
  )

  test('observe: databases that can be connected to, by name', async () => {
    expect(await server.observe('', (observe) => observe.databases())).toEqual([
      'a"b',
      'postgres',
      'template1',
    ])
  })

  test('observe: a function that lies in the way: is not called', async () => {
    await server.query(
      'postgres',
      `create function public.current_database() returns name language sql as $$ select 'lie'::name $$`,
    )
    const [row] = await server.observe('', (observe) =>
      observe.query<{ db: string; path: string }>(
        'postgres',
        `select current_database()::text as db, current_setting('search_path') as path`,
      ),
    )
    expect(row).toEqual({ db: 'postgres', path: 'pg_catalog' })
  })

  test('observe: one session a database, and none of them is left behind', async () => {
    const sessions = async () =>
      (
        await server.query<{ n: number }>(
          'postgres',
          `select count(*)::int as n from pg_stat_activity where application_name = 'howdah plan'`,
        )
      )[0]!.n
    await server.observe('', async (observe) => {
      await Promise.all([1, 2, 3].map(() => observe.query('postgres', 'select 1')))
      await observe.query('a"b', 'select 1')
      expect(await sessions()).toBe(2)
    })
    await expect.poll(sessions, { timeout: 5000 }).toBe(0)
  })

  test('observe: a database that is not there: one clear error', async () => {
    await expect(server.observe('', (observe) => observe.query('no such', 'select 1'))).rejects.toMatchObject(
      { code: 'server-failed', message: expect.stringContaining('database "no such" does not exist') },
    )
  })

  test('observe: the server is down: nothing is asked, and the facts are those of the files', async () => {
    await server.cluster.stop()
    const host = server.host('')
    await using observe = await observeHost(host, await openCluster(host))
    expect([
      observe.isRunning,
      await observe.databases(),
      await observe.query('postgres', 'select 1'),
    ]).toEqual([false, [], []])
    expect(observe.facts).toMatchObject({ major: server.major, dataDir: server.cluster.dataDir })
    await server.cluster.start()
  })

  test('observe: no cluster yet: the facts are those that it will have', async () => {
    const host = parseHost(server.header.replace('/data"', '/new/data"'))
    await using observe = await observeHost(host, await openCluster(host))
    expect(observe.cluster).toBeUndefined()
    expect(observe.facts).toMatchObject({
      major: server.major,
      dataDir: `${server.dir}/new/data`,
      configDir: `${server.dir}/new/data`,
      socketDir: `${server.dir}/new/socket`,
    })
    expect(await observe.databases()).toEqual([])
  })

  test('observe: no debian cluster yet: the facts are those that it will have', async () => {
    await using observe = await observeHost(HOST, undefined)
    expect(observe.facts).toMatchObject({
      major: 15,
      osUser: 'postgres',
      dataDir: '/var/lib/postgresql/15/main',
      configDir: '/etc/postgresql/15/main',
      socketDir: '/var/run/postgresql',
    })
  })
})
