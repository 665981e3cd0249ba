import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userName } from '../../scripts/cluster/connect.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import { makeVerifier, matchesVerifier } from '../../scripts/cluster/scram.ts'
import type { Change, Step } from '../../scripts/plan/change.ts'
import { execute, type Target } from '../../scripts/plan/executor.ts'
import { alone, changeOf, sql } from '../support/change.ts'
import { ended, startCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'

const isRoot = process.getuid?.() === 0
const PASSWORD = 'correct-horse-battery'

let server: TestServer
let owner: string
beforeAll(async () => {
  server = await startServer({
    settings: {
      shared_preload_libraries: 'pg_stat_statements,auto_explain',
      log_statement: 'all',
      log_min_duration_statement: '0',
      log_min_error_statement: 'debug5',
      log_min_messages: 'debug2',
      log_error_verbosity: 'verbose',
      debug_print_parse: 'on',
      'pg_stat_statements.track': 'all',
      'pg_stat_statements.track_utility': 'on',
      'auto_explain.log_min_duration': '0',
    },
  })
  owner = isRoot ? 'postgres' : userName(process.getuid!())
  await server.query('postgres', 'create extension pg_stat_statements')
})
afterAll(() => server[Symbol.asyncDispose]())

const stateDir = () => join(server.dir, 'state')
const target = (more: Partial<Target> = {}): Target => ({
  open: () => openCluster(server.host('')),
  stateDir: stateDir(),
  ...more,
})

/** Executes, and gives the names of the changes that were reported as done. */
async function done(changes: readonly Change[], more: Partial<Target> = {}) {
  const names: string[] = []
  const thrown: unknown = await execute(
    changes,
    target({ onDone: ({ name }) => void names.push(name), ...more }),
  ).catch((error: unknown) => error)
  return { names, thrown }
}

async function roles(pattern: string): Promise<string[]> {
  const rows = await server.query<{ name: string }>(
    'postgres',
    'select rolname::text as name from pg_roles where rolname like $1 order by 1',
    [pattern],
  )
  return rows.map(({ name }) => name)
}

const secretStep = (text: string, role: string, file: string): Step => ({
  run: 'sql',
  database: 'postgres',
  text,
  transaction: true,
  secret: { role, ref: { file } },
})

describe('statements', () => {
  test('neighbours of one database: share one transaction, so that many cost one commit', async () => {
    const changes = ['one_a', 'one_b', 'one_c'].map((name) =>
      changeOf(name, sql(`create role ${name}`), sql(`comment on role ${name} is 'x'`)),
    )
    expect(await done(changes)).toEqual({ names: ['one_a', 'one_b', 'one_c'], thrown: undefined })
    const rows = await server.query(
      'postgres',
      `select count(distinct xmin::text)::int as n from pg_authid where rolname like 'one\\_%'`,
    )
    expect(rows).toEqual([{ n: 1 }])
  })

  test('one of them fails: all of them are taken back, none is reported, and it is said which', async () => {
    const { names, thrown } = await done([
      changeOf('first', sql('create role batch_a')),
      changeOf('second', sql('create role batch_b'), sql('create role batch_a')),
      changeOf('third', sql('create role batch_c')),
    ])
    expect(names).toEqual([])
    expect(thrown).toMatchObject({
      code: 'server-failed',
      message: 'cannot create test second: role "batch_a" already exists',
      hint: expect.stringMatching(/\S/),
    })
    expect(await roles('batch\\_%')).toEqual([])
  })

  test('a statement that must be alone: what was before it counts, whatever comes after', async () => {
    const { names, thrown } = await done([
      changeOf('role', sql('create role split_a')),
      changeOf('database', alone('create database split')),
      changeOf('other', sql('create role split_b'), sql('select 1 / 0')),
    ])
    expect(names).toEqual(['role', 'database'])
    expect(thrown).toMatchObject({ message: 'cannot create test other: division by zero' })
    expect(await roles('split\\_%')).toEqual(['split_a'])
  })

  test('another database: is another transaction', async () => {
    await server.query('postgres', 'create database second')
    const { names, thrown } = await done([
      changeOf('here', sql('create table here ()')),
      changeOf('there', sql('create table there ()', 'second'), sql('select 1 / 0', 'second')),
    ])
    expect({ names, code: (thrown as { code: string }).code }).toEqual({
      names: ['here'],
      code: 'server-failed',
    })
    expect(await server.query('second', `select to_regclass('public.there') as there`)).toEqual([
      { there: null },
    ])
  })

  test('a database that we were in: can be dropped, copied and renamed, since we leave it first', async () => {
    await server.query('postgres', 'create database mine')
    const { thrown } = await done([
      changeOf('in', sql('create table t ()', 'mine')),
      changeOf('copy', alone('create database copy template mine')),
      changeOf('again', sql('create table u ()', 'mine')),
      changeOf('rename', alone('alter database mine rename to yours')),
      changeOf('yours', sql('create table v ()', 'yours')),
      changeOf('drop', alone('drop database yours')),
    ])
    expect(thrown).toBeUndefined()
  })

  test('a change of steps of both sorts: is reported when its last one counts', async () => {
    const { names, thrown } = await done([
      changeOf(
        'both',
        alone('create database both'),
        sql('create table t ()', 'both'),
        sql('select 1 / 0', 'both'),
      ),
    ])
    expect({ names, code: (thrown as { code: string }).code }).toEqual({ names: [], code: 'server-failed' })
  })

  test('a commit that fails: is said, and nothing is reported', async () => {
    await server.query('postgres', 'create table parent (id int primary key)')
    await server.query(
      'postgres',
      'create table child (id int references parent deferrable initially deferred)',
    )
    const { names, thrown } = await done([changeOf('child', sql('insert into public.child values (1)'))])
    expect({ names, thrown }).toMatchObject({
      names: [],
      thrown: { code: 'server-failed', message: expect.stringContaining('cannot commit the changes: ') },
    })
  })

  test('the server cuts the connection: one clear error, not a bug', async () => {
    const cut = () =>
      server.query(
        'postgres',
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'howdah' and pid <> pg_backend_pid()`,
      )
    let count = 0
    const { names, thrown } = await done(
      [changeOf('one', sql('create role cut_a'), sql('create role cut_b'))],
      {
        onStep: async () => {
          if (++count === 2) await cut()
        },
      },
    )
    expect({ names, thrown }).toMatchObject({
      names: [],
      thrown: { code: 'server-failed', hint: expect.any(String) },
    })
    expect(await roles('cut\\_%')).toEqual([])
  })

  test('no cluster: is said', async () => {
    const { thrown } = await done([changeOf('x', sql('select 1'))], {
      open: () => Promise.resolve(undefined),
    })
    expect(thrown).toMatchObject({ code: 'cluster-mismatch', message: 'there is no cluster to work on' })
  })

  test('a reserved word, quotes, and what looks like a verifier in a name: nothing is put into them', async () => {
    const text = `create role "a:verifier""b'"`
    expect(await done([changeOf('x', sql(text))])).toMatchObject({ thrown: undefined })
    expect(await roles('a:%')).toEqual([`a:verifier"b'`])
  })

  test('steps: are announced one by one, each before it runs', async () => {
    const seen: string[] = []
    const steps = [sql('create role step_a'), alone('create database step_b'), sql('create role step_c')]
    await done([changeOf('x', ...steps)], {
      onStep: async (step) =>
        void seen.push(`${(step as { text: string }).text} ${(await roles('step\\_%')).length}`),
    })
    expect(seen).toEqual(['create role step_a 0', 'create database step_b 1', 'create role step_c 1'])
  })

  test('killed inside of a transaction: nothing of it is there, everything before is', async () => {
    const child = startCode(
      `import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       import { execute } from 'scripts/plan/executor.ts'
       const changes = ${JSON.stringify([
         changeOf('a', sql('create role kill_a')),
         changeOf('b', alone('create database kill_b')),
         changeOf('c', sql('create role kill_c'), sql('create role kill_d')),
       ])}
       let count = 0
       await execute(changes, {
         open: () => openCluster(parseHost(${JSON.stringify(server.header)})),
         stateDir: ${JSON.stringify(stateDir())},
         onStep: () => { if (count++ === 3) process.kill(process.pid, 'SIGKILL') },
       })`,
    )
    expect(await ended(child)).toMatchObject({ signal: 'SIGKILL' })
    expect(await roles('kill\\_%')).toEqual(['kill_a'])
  })
})

describe('folders, files, programs', () => {
  const modeOf = async (path: string) => {
    const { mode, uid } = await stat(path)
    return { mode: mode & 0o7777, owner: userName(uid) }
  }

  test('a folder: is made with its owner and mode; one that is there gets them', async () => {
    const path = join(server.dir, 'folder/below')
    const step: Step = { run: 'folder', path, mode: 0o700, owner }
    expect((await done([changeOf('x', step)])).thrown).toBeUndefined()
    expect(await modeOf(path)).toEqual({ mode: 0o700, owner })
    const there = join(server.dir, 'there')
    await mkdir(there, { mode: 0o777 })
    await done([changeOf('x', { ...step, path: there })])
    expect(await modeOf(there)).toEqual({ mode: 0o700, owner })
  })

  test('a file: is written with its owner and mode, and the folder for it is made', async () => {
    const path = join(server.dir, 'written/file.conf')
    await done([changeOf('x', { run: 'write', path, content: 'text\n', mode: 0o640, owner })])
    expect(await readFile(path, 'utf8')).toBe('text\n')
    expect(await modeOf(path)).toEqual({ mode: 0o640, owner })
  })

  test('an owner that is not there: is said, and nothing is written', async () => {
    const path = join(server.dir, 'nobody')
    const { thrown } = await done([
      changeOf('x', { run: 'write', path, content: 'x', mode: 0o600, owner: 'howdah-nobody' }),
    ])
    expect(thrown).toMatchObject({ code: 'not-permitted', message: 'there is no OS user "howdah-nobody"' })
    await expect(stat(path)).rejects.toThrow('ENOENT')
  })

  test('a program: is run as its user, and what it says when it fails is the hint', async () => {
    const path = join(server.dir, 'ran')
    await done([changeOf('x', { run: 'exec', argv: ['sh', '-c', 'id -un >"$1"', 'sh', path], as: owner })])
    expect(await readFile(path, 'utf8')).toBe(`${owner}\n`)
    const { names, thrown } = await done([
      changeOf('before', sql('create role before_program')),
      changeOf('x', { run: 'exec', argv: ['sh', '-c', 'echo reason >&2; exit 2'] }),
    ])
    expect({ names, thrown }).toMatchObject({
      names: ['before'],
      thrown: { code: 'command-failed', hint: 'reason' },
    })
  })

  test('start: of a cluster that stands still', async () => {
    await server.cluster.stop()
    expect(await done([changeOf('x', { run: 'start' }, sql('select 1'))])).toMatchObject({
      thrown: undefined,
    })
    expect(await server.cluster.isRunning()).toBe(true)
  })
})

describe('passwords', () => {
  let file: string
  beforeAll(async () => {
    file = join(server.dir, 'secret')
    await writeFile(file, `${PASSWORD}\n`, { mode: 0o400 })
    await server.query('postgres', 'create role app login')
  })

  const serverLog = () => readFile(join(server.cluster.socketDir, 'server.log'), 'utf8')

  const storedVerifier = async (role: string) =>
    (
      await server.query<{ stored: string }>(
        'postgres',
        'select rolpassword as stored from pg_authid where rolname = $1',
        [role],
      )
    )[0]!.stored

  test('the server that this is tried on: logs and keeps every statement that is not kept from it', async () => {
    await server.query('postgres', `create role witness password 'seen-by-everybody'`)
    const seen = await server.query<{ n: number }>(
      'postgres',
      `select count(*)::int as n from pg_stat_statements where query like '%seen-by-everybody%' and query not like '%count%'`,
    )
    expect(seen).toEqual([{ n: 1 }])
    expect((await serverLog()).split('seen-by-everybody').length).toBeGreaterThan(2)
  })

  test('a password is set: the role can use it, and neither it nor its verifier is in any log or view', async () => {
    const outputs: unknown[] = []
    const changes = [
      changeOf('before', sql('create role before_password')),
      changeOf('app', secretStep('alter role app password :verifier', 'app', file)),
      changeOf('alone', alone('create database after_password')),
      changeOf('after', sql('create role after_password')),
    ]
    await execute(
      changes,
      target({ onStep: (step) => void outputs.push(step), onDone: (change) => void outputs.push(change) }),
    )
    const stored = await storedVerifier('app')
    expect(await matchesVerifier(PASSWORD, stored, 'app')).toBe(true)
    const secrets = [
      PASSWORD,
      ...stored.split(/[$:]/).filter((part) => part.length > 10 && part !== 'SCRAM-SHA-256'),
    ]
    expect(secrets).toHaveLength(4)
    const views = await server.query(
      'postgres',
      'select query from pg_stat_statements union all select query from pg_stat_activity',
    )
    const everything = [
      await serverLog(),
      JSON.stringify(views),
      JSON.stringify(outputs),
      inspect(outputs, { depth: 9 }),
    ]
    for (const text of everything) for (const secret of secrets) expect(text.includes(secret)).toBe(false)
    expect(everything[0]).toContain('create role after_password') // what stands beside it is logged as ever
    expect(everything[0]).toContain('create role before_password')
  })

  test('while the statement runs: nobody sees it in pg_stat_activity', async () => {
    await server.query('postgres', 'create role locked login')
    const looking = server.withClient('postgres', async (client) => {
      await client.query('begin; lock table pg_authid in access exclusive mode')
      const executing = done([
        changeOf('x', secretStep('alter role locked password :verifier', 'locked', file)),
      ])
      let queries = ''
      while (!queries.includes('waiting')) {
        const { rows } = await client.query<{ query: string; wait: string }>(
          `select query, coalesce(wait_event_type, '') as wait from pg_stat_activity where application_name = 'howdah' and pid <> pg_backend_pid()`,
        )
        const { rows: locks } = await client.query(`select 1 from pg_locks where not granted`)
        queries += JSON.stringify(rows) + (locks.length > 0 ? 'waiting' : '')
      }
      await client.query('rollback')
      await executing
      return queries
    })
    expect(await looking).not.toContain('SCRAM')
  })

  test('the statement fails: the error says why and shows neither', async () => {
    const { thrown } = await done([
      changeOf('x', secretStep('alter role nobody_there password :verifier', 'nobody_there', file)),
    ])
    expect(thrown).toMatchObject({
      code: 'server-failed',
      message: 'cannot create test x: role "nobody_there" does not exist',
    })
    const shown = `${inspect(thrown, { depth: 9, showHidden: true })}${(thrown as Error).stack}${await serverLog()}`
    expect(shown).not.toContain(PASSWORD)
    expect(shown).not.toContain('SCRAM-SHA-256$')
  })

  test('a syntax error around it: shows neither, in the log of the server too', async () => {
    await done([changeOf('x', secretStep('alter role app nonsense password :verifier', 'app', file))])
    expect(await serverLog()).not.toContain('SCRAM-SHA-256$')
  })

  test('the secret cannot be read: is said, and what stood before it in the transaction is taken back', async () => {
    const { names, thrown } = await done([
      changeOf('a', sql('create role unsecret_a')),
      changeOf('b', secretStep('alter role app password :verifier', 'app', '/nowhere/x')),
    ])
    expect({ names, thrown }).toMatchObject({ names: [], thrown: { code: 'secret' } })
    expect(await roles('unsecret\\_%')).toEqual([])
  })

  test('outside of a transaction nothing would keep it out of the log: is refused', async () => {
    const step = {
      ...secretStep('alter role app password :verifier', 'app', file),
      transaction: false,
    } as Step
    expect((await done([changeOf('x', step)])).thrown).toMatchObject({ code: 'bug' })
  })

  test('a role that may do little: its password is set all the same', async () => {
    await server.query('postgres', 'create role keeper createrole login; create role kept login')
    await server.query('postgres', `alter role keeper password '${await makeVerifier('x')}'`)
    const cluster = (await openCluster(server.host('')))!
    await writeFile(join(server.cluster.dataDir, 'pg_ident.conf'), `m ${owner} keeper\nm ${owner} postgres\n`)
    const hba = join(server.cluster.dataDir, 'pg_hba.conf')
    const before = await readFile(hba, 'utf8')
    await writeFile(hba, 'local all all peer map=m\n')
    await server.query('postgres', 'select pg_reload_conf()')
    const asKeeper = {
      ...cluster,
      connect: (database: string) => cluster.connect(database, { user: 'keeper' }),
    }
    const { thrown } = await done(
      [changeOf('x', secretStep('alter role kept password :verifier', 'kept', file))],
      {
        open: () => Promise.resolve(asKeeper),
      },
    )
    await writeFile(hba, before)
    await server.query('postgres', 'select pg_reload_conf()')
    expect(thrown).toBeUndefined()
    expect(await matchesVerifier(PASSWORD, await storedVerifier('kept'), 'kept')).toBe(true)
  })
})
