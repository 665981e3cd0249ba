import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect, userId, userName } from '../../scripts/cluster/connect.ts'
import { openCluster } from '../../scripts/cluster/open.ts'
import { assertIdentity } from '../../scripts/cluster/ready.ts'
import { run } from '../../scripts/core/exec.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { observeHost } from '../../scripts/plan/observe.ts'
import { runCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'

const isRoot = process.getuid?.() === 0
const NOBODY = { uid: 65_534, gid: 65_534 }

let server: TestServer
beforeAll(async () => {
  server = await startServer()
  await server.query('postgres', 'create role "a""b" login')
})
afterAll(() => server[Symbol.asyncDispose]())

/** What connects to the test server, in a process of its own. */
const CONNECT = () => `
  import { connect } from 'scripts/cluster/connect.ts'
  const target = (more) => ({
    host: ${JSON.stringify(server.cluster.socketDir)}, port: ${server.cluster.port}, user: 'postgres', database: 'postgres',
    peer: 'postgres', applicationName: 'test', label: 'the test server', ...more,
  })
  const tell = (error) => console.log(error.code + '|' + error.message + '|' + error.hint)
`

describe('a connection', () => {
  test('types: what JavaScript would spoil stays the text that the server sent', async () => {
    const [row] = await server.query(
      'postgres',
      `select 9007199254740993::int8 as big, '1.10'::numeric as exact, true as yes, 5 as four, 7::int2 as two,
              '2027-01-01 00:00:00.123456+00'::timestamptz at time zone 'utc' as at, date '2027-01-01' as day,
              '{"a": 1}'::json as json, '{a,NULL,"b c"}'::text[] as texts, '{n}'::name[] as names, 1259::oid as oid,
              '1 day'::interval as span, 1.5::float8 as float, '{1,2}'::int4[] as ints, null as nothing`,
    )
    expect(row).toEqual({
      big: '9007199254740993',
      exact: '1.10',
      yes: true,
      four: 5,
      two: 7,
      at: '2027-01-01 00:00:00.123456',
      day: '2027-01-01',
      json: { a: 1 },
      texts: ['a', null, 'b c'],
      names: ['n'],
      oid: 1259,
      span: '1 day',
      float: '1.5',
      ints: [1, 2],
      nothing: null,
    })
  })

  test('its name: is seen in pg_stat_activity', async () => {
    const name = await server.withClient(
      'postgres',
      async (client) =>
        (await client.query<{ name: string }>(`select current_setting('application_name') as name`)).rows[0]!
          .name,
      { applicationName: 'howdah backup' },
    )
    expect(name).toBe('howdah backup')
  })

  test('it is cut: the query under way fails, and the process lives on', async () => {
    const client = await server.cluster.connect('postgres')
    const [{ pid }] = (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows as [
      { pid: number },
    ]
    const waiting = client.query('select pg_sleep(60)').catch((error: unknown) => error)
    await server.query('postgres', 'select pg_terminate_backend($1)', [pid])
    expect(await waiting).toMatchObject({ code: '57P01' })
    await expect(client.query('select 1')).rejects.toThrow(/not queryable|terminated|ECONNRESET/)
    await client.end()
  })

  test('a warning of the server: is shown; a notice is not', async () => {
    const { stderr } = await runCode(
      `${CONNECT()}
       const client = await connect(target())
       await client.query("do $$ begin raise notice 'chatter'; raise warning 'careful'; end $$")
       await client.end()`,
    )
    expect(stderr).toBe('the test server: careful\n')
  })

  test('PG* variables of the operator: change nothing, and secrets in them are sent nowhere', async () => {
    const { stdout, stderr } = await runCode(
      `${CONNECT()}
       const client = await connect(target())
       const { rows } = await client.query("select current_user as who, current_database() as db, current_setting('application_name') as name, current_setting('work_mem') as mem")
       console.log(JSON.stringify(rows[0]), Object.keys(process.env).filter((name) => name.startsWith('PG')).join())
       await client.end()`,
      {
        env: {
          PGHOST: '/nowhere',
          PGPORT: '1',
          PGUSER: 'nobody',
          PGDATABASE: 'nowhere',
          PGPASSWORD: 'x',
          PGPASSFILE: '/nowhere',
          PGSSLMODE: 'verify-full',
          PGOPTIONS: '-c work_mem=1MB',
          PGAPPNAME: 'x',
          PGSERVICE: 'nowhere',
          PGCONNECT_TIMEOUT: '1',
        },
      },
    )
    expect({ stdout, stderr }).toEqual({
      stdout: '{"who":"postgres","db":"postgres","name":"test","mem":"4MB"} \n',
      stderr: '',
    })
  })
})

describe('no connection: one clear error with a hint', () => {
  test('no server: nothing listens at its socket', async () => {
    const target = {
      host: server.dir,
      port: 5432,
      user: 'postgres',
      database: 'x',
      applicationName: 'x',
      label: 'it',
    }
    await expect(connect(target)).rejects.toMatchObject({
      code: 'server-unreachable',
      message:
        'cannot connect to it, database "x", as role "postgres": there is no socket, so no server runs there',
      hint: 'Is it running? See: howdah provision plan',
    })
  })

  test('no server: nothing listens at its address', async () => {
    const target = { host: '127.0.0.1', port: 1, user: 'u', database: 'x', applicationName: 'x', label: 'it' }
    await expect(connect(target)).rejects.toMatchObject({
      code: 'server-unreachable',
      message: 'cannot connect to it, database "x", as role "u": no server listens there',
      hint: 'Is the address right?',
    })
  })

  test('no such host', async () => {
    const target = {
      host: 'no-such-host.invalid',
      port: 1,
      user: 'u',
      database: 'x',
      applicationName: 'x',
      label: 'it',
    }
    await expect(connect(target)).rejects.toMatchObject({
      code: 'server-unreachable',
      message: expect.stringContaining('no-such-host.invalid'),
    })
  })

  test.each([
    [
      'a database that is not there',
      'no such',
      /database "no such" does not exist/,
      /howdah provision apply/,
    ],
    ['a database that lets nobody in', 'closed', /not currently accepting connections/, /allow_connections/],
  ])('%s', async (_, database, message, hint) => {
    await expect(server.cluster.connect(database)).rejects.toMatchObject({
      code: 'server-failed',
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    })
  })

  test('a role that is not that of the OS user', async () => {
    await expect(server.cluster.connect('postgres', { user: 'a"b' })).rejects.toMatchObject({
      code: 'server-denied',
      message: expect.stringMatching(/as role "a"b": Peer authentication failed for user "a"b"$/),
      hint: expect.stringContaining(`OS user "${server.cluster.osUser}"`),
    })
  })

  test.runIf(isRoot)('another OS user', async () => {
    const { stdout, stderr } = await runCode(`${CONNECT()} await connect(target()).catch(tell)`, NOBODY)
    expect({ stdout, stderr }).toEqual({
      stdout:
        'server-denied|cannot connect to the test server, database "postgres", as role "postgres": ' +
        'Peer authentication failed for user "postgres"|Run this as root, or as OS user postgres.\n',
      stderr: '',
    })
  })

  test.runIf(isRoot)('another OS user, and a socket that is closed to it', async () => {
    await chmod(server.cluster.socketDir, 0o700)
    try {
      const { stdout } = await runCode(`${CONNECT()} await connect(target()).catch(tell)`, {
        uid: 54_321,
        gid: 54_321,
      })
      expect(stdout).toBe(
        'server-denied|cannot connect to the test server, database "postgres", as role "postgres": ' +
          'OS user "54321" may not use its socket|Run this as root, or as postgres.\n',
      )
    } finally {
      await chmod(server.cluster.socketDir, 0o755)
    }
  })

  beforeAll(() => server.query('postgres', 'create database closed allow_connections false'))
})

describe.runIf(isRoot)('peer authentication from root', () => {
  test('other work on files goes on meanwhile: nothing of it is denied, nothing belongs to somebody else', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'howdah-peer-'))
    try {
      await writeFile(join(dir, 'root'), 'x', { mode: 0o400 })
      let isDone = false
      let count = 0
      const work = async (_: unknown, worker: number) => {
        for (; !isDone; count++) {
          await readFile(join(dir, 'root'))
          const path = join(dir, `new-${worker}`)
          await writeFile(path, 'x')
          expect((await stat(path)).uid).toBe(0)
          await rm(path)
          await nextTurn()
        }
      }
      const working = Promise.all(Array.from({ length: 2 }, work))
      for (let connects = 0; connects < 40; connects++) {
        const clients = await Promise.all([1, 2].map(() => server.cluster.connect('postgres')))
        expect(process.geteuid!()).toBe(0)
        await Promise.all(clients.map((client) => client.end()))
      }
      isDone = true
      await working
      expect(count).toBeGreaterThan(100)
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  test('an OS user that is not there: is said, and this process stays who it is', async () => {
    const target = { host: '/nowhere', port: 1, user: 'x', database: 'x', applicationName: 'x', label: 'it' }
    await expect(connect({ ...target, peer: 'howdah-nobody' })).rejects.toMatchObject({
      code: 'not-permitted',
      message: 'there is no OS user "howdah-nobody"',
    })
    expect(process.geteuid!()).toBe(0)
  })
})

describe('OS users', () => {
  test('userId: of root: 0; userName: back again, and the number of one that has no name', () => {
    expect(userId('root')).toEqual({ uid: 0, gid: 0 })
    expect([userName(0), userName(54_321)]).toEqual(['root', '54321'])
  })

  test('userId: a part of a name, or a pattern: is nobody', () => {
    expect(() => userId('roo')).toThrow('there is no OS user "roo"')
    expect(() => userId('')).toThrow('there is no OS user ""')
  })
})

describe('another server than the one that is meant', () => {
  test('a data directory of another major: is said before anything is asked', async () => {
    const other = server.major === 14 ? 13 : 14
    const host = parseHost(server.header.replace(/major = \d+/, `major = ${other}`))
    await expect(openCluster(host)).rejects.toMatchObject({
      code: 'cluster-mismatch',
      message: `the data directory "${server.cluster.dataDir}" is of major ${server.major}, the host file says ${other}`,
      hint: `Set postgres.major = ${server.major}, or name another data_dir.`,
    })
  })

  test('a server of another major answers: is said', async () => {
    await expect(assertIdentity({ ...server.cluster, major: 13 })).rejects.toMatchObject({
      code: 'cluster-mismatch',
      message: `${server.cluster.label} answers with major ${server.major}`,
    })
  })

  test('another cluster has the port: nothing is planned for it', async () => {
    const data = join(server.dir, 'other')
    await run(['sh', '-c', 'mkdir "$1" && echo "$2" >"$1/PG_VERSION"', 'sh', data, String(server.major)], {
      as: isRoot ? server.cluster.osUser : undefined,
    })
    const host = parseHost(
      `${server.header.replace(/data_dir = .*/, `data_dir = "${data}"`)}socket_dir = "${server.cluster.socketDir}"\n`,
    )
    const cluster = await openCluster(host)
    await expect(observeHost(host, cluster)).rejects.toMatchObject({
      code: 'cluster-mismatch',
      message: `the server on port ${server.cluster.port} has its data in "${server.cluster.dataDir}", not in "${data}"`,
      hint: 'Another cluster uses this port: set postgres.port, or stop that one.',
    })
  })
})
