import { spawn } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { optionWord } from '../scripts/inspect/psql.ts'
import { startListening, WAIT } from './support/listening.ts'
import { ROOT, runScript } from './support/script.ts'
import { startServer, type TestServer } from './support/server.ts'

// The machines of LabLink, as its profile describes them.

let server: TestServer
let file: string

beforeAll(async () => {
  server = await startServer()
  file = join(server.dir, 'host.toml')
  const whole = `${server.header}
[roles.lablink]
login = true
[databases.lablink_db]
owner = "lablink"
[databases.lablink_db.migrations]
dir = "${ROOT}/sql/lablink/migrations"
role = "lablink"
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.lablink]
kind = "dump"
databases = ["lablink_db"]
store = "local"
`
  await writeFile(file, whole)
  expect(await runScript(['provision', 'apply', '--yes', '-c', file])).toMatchObject({ code: 0 })
})
afterAll(() => server[Symbol.asyncDispose]())

const sql = <Row extends object>(text: string) => server.query<Row>('lablink_db', text)
const inspect = (verb: string, ...args: string[]) => runScript(['inspect', verb, '-c', file, ...args])
const query = (...args: string[]) => inspect('query', 'lablink', ...args)

async function rowsOf(...args: string[]): Promise<unknown> {
  const { code, stdout, stderr } = await query(...args, '--json')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return (JSON.parse(stdout) as { result: { rows: unknown } }).result.rows
}

beforeEach(async () => {
  await sql('truncate vms restart identity')
  await sql(`insert into vms (hostname, email, status, crd_command)
    select 'vm-' || i, case when i > 5 then 'a@b.org' end,
      case when i <= 5 then 'available' when i <= 8 then 'in-use' else 'failed' end, 'run ' || i
    from generate_series(1, 9) i`)
})

describe('query', () => {
  test('without a name: which there are', async () => {
    const { code, stdout } = await query()
    expect(code).toBe(0)
    expect(stdout).toMatch(/^by_email EMAIL +reads +machines of one person$/m)
    expect(stdout).toMatch(/^delete HOSTNAME +deletes one row +forgets a machine/m)
  })

  test('all, available, in use, of one person, by status: what is there', async () => {
    expect(await rowsOf('all')).toHaveLength(9)
    expect(await rowsOf('available')).toMatchObject(
      [1, 2, 3, 4, 5].map((id) => ({ id, hostname: `vm-${id}` })),
    )
    expect(await rowsOf('in_use')).toMatchObject([{ hostname: 'vm-6', email: 'a@b.org' }, {}, {}])
    expect(await rowsOf('by_email', 'a@b.org')).toHaveLength(4)
    expect(await rowsOf('by_email', "x' or true --")).toEqual([])
    const counts = await query('count_by_status')
    expect(counts.stdout).toBe('status     machines\navailable  5\nfailed     1\nin-use     3\n3 rows\n')
  })

  test('a status that nobody knows: is reported', async () => {
    await sql(`update vms set status = 'on fire' where id = 3`)
    expect(await rowsOf('unknown_status')).toEqual([{ id: 3, hostname: 'vm-3', status: 'on fire' }])
  })

  test('a change of one row: is made, and whoever listens hears of it', async () => {
    const heard: string[] = []
    await server.withClient('lablink_db', async (client) => {
      client.on('notification', ({ payload }) => heard.push(payload!))
      await client.query('listen vm_updates')
      expect(await rowsOf('mark_available', 'vm-7')).toEqual([
        { id: 7, hostname: 'vm-7', status: 'available' },
      ])
      expect((await query('mark_failed', 'hostname=vm-8')).stdout).toContain('1 row changed')
      await client.query('select 1')
    })
    expect(heard.map((payload) => (JSON.parse(payload) as { status: string }).status)).toEqual([
      'available',
      'failed',
    ])
    expect(await sql('select email, crd_command from vms where id = 7')).toEqual([
      { email: null, crd_command: null },
    ])
  })

  test('--plan: says the statement, its values and to how many rows it were done; nothing is changed, nobody notified', async () => {
    const heard: unknown[] = []
    await server.withClient('lablink_db', async (client) => {
      client.on('notification', (notification) => heard.push(notification))
      await client.query('listen vm_updates')
      const { code, stdout } = await query('mark_failed', 'vm-1', '--plan')
      expect({ code, stdout }).toMatchObject({
        code: 0,
        stdout: expect.stringContaining('$1 hostname text = vm-1\n'),
      })
      expect(stdout).toMatch(/\nwould be: 1 row changed\n$/)
      await client.query('select 1')
    })
    expect(heard).toEqual([])
    expect(await sql(`select from vms where status = 'failed'`)).toHaveLength(1)
    expect((await query('delete', 'vm-1', '--plan')).stdout).toMatch(/\nwould be: 1 row deleted\n$/)
    expect(await query('delete', 'vm-99', '--plan')).toMatchObject({ code: 42, stdout: '' })
    const cleared = await query('clear', '--plan')
    expect(cleared.stdout).toMatch(/^a backup by the job lablink first\nclear: empties\n/)
    expect(await sql('select from vms')).toHaveLength(9)
    expect(await readdir(server.dir)).not.toContain('store')
  })

  test('not one row is like that: fails, and nothing is changed', async () => {
    const { code, stderr } = await query('mark_available', 'vm-99')
    expect(code).toBe(42)
    expect(stderr).toContain('mark_available is to change one row, and there is none like that')
  })

  test('deleted rows: only when that is allowed', async () => {
    expect(await query('delete', 'vm-1')).toMatchObject({ code: 40, stdout: '' })
    expect(await query('clear')).toMatchObject({ code: 40, stdout: '' })
    expect(await sql('select from vms')).toHaveLength(9)
    expect((await query('delete', 'vm-1', '--allow', 'deletes-data')).stdout).toContain('1 row deleted')
    expect(await sql('select from vms')).toHaveLength(8)
  })

  test('TRUNCATE fires no trigger of a row: it says so, and a backup is taken first', async () => {
    const { code, stdout, stderr } = await query('clear', '--allow', 'deletes-data')
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: 'emptied; TRUNCATE fires no trigger of a row, so nobody was notified\n',
    })
    expect(stderr).toMatch(/backup: \S+-dump-\S+ was taken by the job lablink, before anything is lost/)
    expect(await sql('select from vms')).toEqual([])
    const listed = await runScript(['backup', 'list', '--json', '-c', file])
    expect((JSON.parse(listed.stdout) as { result: { backups: unknown[] } }).result.backups).toHaveLength(1)
  })

  test('no job would take that backup: nothing is emptied', async () => {
    const bare = join(server.dir, 'bare.toml')
    await writeFile(bare, (await readFile(file, 'utf8')).replace(/\[store[^]*/, ''))
    const done = await runScript([
      'inspect',
      'query',
      'lablink',
      'clear',
      '--allow',
      'deletes-data',
      '-c',
      bare,
    ])
    expect(done.code).toBe(42)
    expect(done.stderr).toContain('no job covers it')
    expect(await sql('select from vms')).toHaveLength(9)
  })

  test('a row that somebody holds: is not waited for without end', { timeout: 20_000 }, async () => {
    await server.withClient('lablink_db', async (client) => {
      await client.query(`begin; update vms set status = 'failed' where hostname = 'vm-1'`)
      const { code, stderr } = await query('mark_available', 'vm-1')
      expect(code).toBe(32)
      expect(stderr).toContain('lock timeout')
    })
  })

  test.each([
    ['an unknown query', ['nothing'], 2, 'lablink has no query "nothing"'],
    ['a query that is nearly one', ['by_mail', 'x'], 2, 'did you mean "by_email"?'],
    ['a value too few', ['by_email'], 2, 'by_email: email (text) is missing'],
    ['a value too many', ['all', 'x'], 2, '"x" is one argument too many'],
    ['a time that is none', ['all', '--timeout', 'soon'], 2, '--timeout: "soon" is no time'],
  ])('%s: is told', async (_title, args, code, message) => {
    const done = await query(...args)
    expect(done).toMatchObject({ code, stdout: '' })
    expect(done.stderr).toContain(message)
  })
})

describe('a profile of our own', () => {
  let own: string

  beforeAll(async () => {
    const folder = join(server.dir, 'sql/odd')
    await runCommand(['mkdir', '-p', join(folder, 'migrations'), join(folder, 'queries')])
    const queries = {
      typed: `-- summary: types\n-- parameter: a integer\n-- parameter: b timestamptz = 2026-01-01 00:00Z\n-- parameter: c jsonb?\nselect $1 as a, $2 as b, $3 as c, current_user as me, null as n, 'x' || chr(10) || chr(27) || 'y' as odd, 9007199254740993 as big`,
      sneaky: '-- summary: says that it reads\ncreate table stolen ()',
      two: '-- summary: two statements\nselect 1; drop table vms',
      slow: '-- summary: slow\nselect pg_sleep(30)',
      rows: '-- summary: rows of a document\n-- parameter: rows jsonb\nselect count(*)::int as n from jsonb_array_elements($1)',
    }
    for (const [name, content] of Object.entries(queries))
      await writeFile(join(folder, `queries/${name}.sql`), content)
    await writeFile(join(folder, 'migrations/0001_none.sql'), '-- migrate:up\nselect 1;\n-- migrate:down\n')
    own = join(server.dir, 'own.toml')
    const toml = (await readFile(file, 'utf8')).replace(`${ROOT}/sql/lablink`, 'sql/odd')
    await writeFile(own, toml)
  })
  const odd = (...args: string[]) => runScript(['inspect', 'query', 'odd', ...args, '-c', own])

  test('values keep their types, a table stays a table, and it runs as the role that owns the tables', async () => {
    const { stdout } = await odd('typed', '7', 'c={"k":[1]}', '--json')
    expect((JSON.parse(stdout) as { result: { rows: unknown[] } }).result.rows).toMatchObject([
      {
        a: 7,
        b: expect.stringMatching(/^2026-01-01/),
        c: { k: [1] },
        me: 'lablink',
        n: null,
        big: '9007199254740993',
      },
    ])
    expect((await odd('typed', '7')).stdout.split('\n')[1]).toContain(String.raw`x\u000a\u001by`)
  })

  test('a database that writes times in its own way: they are written as ever, and no day is guessed', async () => {
    await sql(`alter database lablink_db set datestyle = 'German'`)
    const { stdout } = await odd('typed', '7', '2026-02-03 00:00Z', '--json')
    expect(stdout).toContain('"b":"2026-02-03 00:00:00')
    expect((await odd('typed', '7', '02/03/2026')).stderr).toContain('b is to be of type timestamptz')
    await sql(`alter database lablink_db reset datestyle`)
  })

  test('a value that is not of its type: is named', async () => {
    expect(await odd('typed', 'seven')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('typed: a is to be of type integer: invalid input syntax'),
    })
  })

  test('one that says that it reads: cannot write, nor do two things', async () => {
    expect((await odd('sneaky')).stderr).toContain('read-only transaction')
    expect((await odd('two')).stderr).toContain('cannot insert multiple commands')
  })

  test('one that takes too long: is ended', async () => {
    expect(await odd('slow', '--timeout', '200ms')).toMatchObject({
      code: 32,
      stderr: expect.stringContaining('statement timeout'),
    })
  })

  test('Ctrl-C: ends it in the server, too', async () => {
    const running = `select from pg_stat_activity where query like '%pg_sleep(30)%' and state = 'active' and pid <> pg_backend_pid()`
    const begun = Promise.withResolvers<number>()
    const asking = runScript(['inspect', 'query', 'odd', 'slow', '-c', own], { onStart: begun.resolve })
    await expect.poll(() => sql(running), WAIT).toHaveLength(1)
    process.kill(await begun.promise, 'SIGINT')
    expect((await asking).code).toBe(130)
    await expect.poll(() => sql(running), WAIT).toEqual([])
  })

  test('a long value: is read from the standard input', async () => {
    const rows = JSON.stringify(Array.from({ length: 10_000 }, (_, i) => ({ i, text: '"\n' })))
    const done = await runScript(['inspect', 'query', 'odd', 'rows', '--stdin', 'rows', '-c', own], {
      input: rows,
    })
    expect(done).toMatchObject({ code: 0, stdout: 'n\n10000\n1 row\n' })
  })
})

describe('listen', () => {
  test(
    'a server that is restarted: the next change is heard all the same; SIGTERM ends it with 0',
    { timeout: 60_000 },
    async () => {
      const listening = await startListening(file, ['vm_updates', '--database', 'lablink_db'])
      await sql(`update vms set status = 'failed' where id = 1`)
      await expect.poll(() => listening.out(), WAIT).toContain('"status":"failed"')
      await server.cluster.restart()
      await expect.poll(() => listening.log(), WAIT).toContain('listens to vm_updates again')
      await sql(`update vms set status = 'in-use' where id = 1`)
      await expect.poll(() => listening.out(), WAIT).toContain('"status":"in-use"')
      expect(listening.log()).toContain('what was notified meanwhile is lost')
      expect(await listening.end()).toBe(0)
    },
  )

  test('--count, --json: a document a line, and then it ends; a hostile name is one', async () => {
    const channel = 'a"; drop table vms; --'
    const listening = await startListening(file, [channel, '--count', '2', '--json'])
    await sql(`select pg_notify('${channel}', i::text) from generate_series(1, 3) i`)
    expect(await listening.ended).toBe(0)
    const lines = listening.out().trim().split('\n')
    expect(lines.slice(0, 2).map((line) => JSON.parse(line) as unknown)).toMatchObject([
      { channel, payload: '1' },
      { channel, payload: '2' },
    ])
    expect(await sql('select from vms')).toHaveLength(9)
  })

  test.each([
    ['no name', ''],
    ['a name that PostgreSQL would cut off, so that another channel were heard', 'ü'.repeat(32)],
  ])('%s: is refused', async (_title, channel) => {
    expect(await inspect('listen', channel)).toMatchObject({
      code: 2,
      stdout: '',
      stderr: expect.stringContaining('the name of a channel has 1 to 63 bytes'),
    })
  })

  test('no server: says so, and ends', async () => {
    await server.cluster.stop()
    const done = await inspect('listen', 'x')
    await server.cluster.start()
    expect(done).toMatchObject({ code: 30, stdout: '' })
    expect(done.stderr).toContain('[server-unreachable]')
  })
})

describe('psql', () => {
  test('the right socket, port, database and role; its own options and its exit code pass through', async () => {
    const shown = await inspect(
      'psql',
      'lablink',
      '--',
      '-XAt',
      '-c',
      `select current_user, current_database(), current_setting('port')`,
    )
    expect(shown).toMatchObject({ code: 0, stdout: `lablink|lablink_db|${server.cluster.port}\n` })
    expect((await inspect('psql', 'lablink', '--', '-X', '-c', '\\conninfo')).stdout).toContain(
      `"${server.cluster.socketDir}"`,
    )
    expect(
      (await inspect('psql', 'lablink', '--', '-X', '-v', 'ON_ERROR_STOP=1', '-c', 'nonsense')).code,
    ).toBe(1)
  })

  test.each([
    ['app', 'app'],
    ['my role', String.raw`my\ role`],
    [String.raw`a\b`, String.raw`a\\b`],
  ])('a role %j: is one word of the options', (role, word) => {
    expect(optionWord(role)).toBe(word)
  })
})

async function runCommand([program, ...args]: readonly string[]): Promise<void> {
  const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  await text(child.stdout)
}
