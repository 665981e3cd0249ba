import { createHash } from 'node:crypto'
import { chmod, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../scripts/core/exec.ts'
import { type Manifest, totalsOf } from '../scripts/backup/manifest.ts'
import { keyPart } from '../scripts/store/key.ts'
import { backupHost } from './support/backup.ts'
import { runScript } from './support/script.ts'
import { startServer, type TestServer } from './support/server.ts'

const HOSTILE = [
  'a"b',
  'Ünï cødé',
  'with space',
  'select',
  `'; drop table x; --`,
  'a=b',
  'a/../b',
  '.hidden',
  'x'.repeat(63),
]

let server: TestServer

beforeAll(async () => {
  server = await startServer()
  await server.query('postgres', `create role app login password 'sehr geheim'`)
  await server.query('postgres', 'create database app owner app')
  await server.query(
    'app',
    'create table t (id int primary key, x text); insert into t select i, md5(i::text) from generate_series(1, 1000) i',
  )
})

afterAll(() => server[Symbol.asyncDispose]())

/** A session that has a table for itself, so that pg_dump waits for it. */
async function holdTable(database: string): Promise<AsyncDisposable> {
  const client = await server.cluster.connect(database)
  await client.query('begin; lock table t')
  let isOver = false
  return {
    async [Symbol.asyncDispose]() {
      if (!isOver) await client.end()
      isOver = true
    },
  }
}

/** Waits until pg_dump waits for a table, and for some time more. */
async function untilDumpWaits(database: string): Promise<void> {
  const waiting = `select from pg_stat_activity where application_name = 'pg_dump' and datname = $1
    and wait_event_type = 'Lock' and query_start < clock_timestamp() - interval '200ms'`
  await expect.poll(() => server.query('postgres', waiting, [database]), { timeout: 20_000 }).toHaveLength(1)
}

describe('take', () => {
  test('every file of a backup: in the store with the size and hash of its manifest, and nothing else', async () => {
    const host = await backupHost(server)
    const manifest = await host.take()
    const paths = await host.files()
    const prefix = `backup/${manifest.label}/`
    expect(paths).toEqual(
      [
        ...manifest.files.map(({ name }) => `${prefix}${name}`),
        `catalog/${manifest.label}.json`,
        'owner.json',
      ].toSorted(),
    )
    for (const file of manifest.files) {
      const bytes = await readFile(join(host.store, 'test/main', prefix, file.name))
      expect([file.name, bytes.length, createHash('sha256').update(bytes).digest('hex')]).toEqual([
        file.name,
        file.size,
        file.sha256,
      ])
    }
    expect(manifest.files.map(({ name }) => name)).toEqual(
      expect.arrayContaining([
        'app.dump.zst',
        'postgres.dump.zst',
        'globals.sql.zst',
        'host.toml.zst',
        'etc/pg_hba.conf.zst',
        'SHA256SUMS',
        'RESTORE.md',
        'restore.sh',
      ]),
    )
  })

  test('manifest: what the backup is, of what, and what a restore needs', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const manifest = await host.take()
    const [row] = await server.query(
      'postgres',
      'select system_identifier::text as id from pg_control_system()',
    )
    expect(manifest).toMatchObject({
      format: 1,
      job: 'nightly',
      host: 'test',
      cluster: 'test/main',
      kind: 'dump',
      systemIdentifier: row!['id'],
      timeline: 1,
      hasPasswords: true,
    })
    expect(manifest.databases).toEqual([
      expect.objectContaining({
        name: 'app',
        file: 'app.dump.zst',
        owner: 'app',
        encoding: 'UTF8',
        collate: 'C.UTF-8',
        tablespace: 'pg_default',
        extensions: [{ name: 'plpgsql', version: '1.0' }],
        roles: ['app', 'postgres'],
        objects: { indexes: 1, tables: 1 },
      }),
    ])
  })

  test('output for people: a line for each file, and the totals', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const { code, stdout, stderr } = await host.backup('take', 'nightly')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^ {2}app\.dump\.zst +[\d.]+ kB -> [\d.]+ kB$/m)
    expect(stdout).toMatch(
      /^\d{8}T\d{6}Z-dump-[0-9a-z]{6}: 1 database, [\d.]+ kB stored as [\d.]+ kB in [\d.]+ s at file:\/\/\/.*\/store\/test\/main\n$/m,
    )
  })

  test('dump: of the custom format, compressed by zstd and not by pg_dump', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const { label } = await host.take()
    const file = join(host.store, 'test/main/backup', label, 'app.dump.zst')
    const { stdout } = await run([
      'sh',
      '-c',
      `zstd -dc "$1" | ${server.cluster.bindir}/pg_restore -l`,
      'sh',
      file,
    ])
    expect(stdout).toMatch(/Compression: (0|none)\n/)
    expect(stdout).toContain('TABLE DATA public t')
  })

  test('files: nobody else may read them, for roles have their verifiers in them', async () => {
    const host = await backupHost(server)
    const { label } = await host.take()
    for (const path of await host.files()) {
      expect(((await stat(join(host.store, 'test/main', path))).mode & 0o777).toString(8)).toBe('600')
    }
    const { stdout } = await run([
      'zstd',
      '-dc',
      join(host.store, 'test/main/backup', label, 'globals.sql.zst'),
    ])
    expect(stdout).toContain('SCRAM-SHA-256$')
  })

  test('verifiers of roles: in no output, no manifest, no paper', async () => {
    const host = await backupHost(server)
    const taken = await host.backup('take', 'nightly')
    const shown = await host.backup('show', '--json')
    const { label } = (JSON.parse(shown.stdout) as { result: Manifest }).result
    const folder = join(host.store, 'test/main/backup', label)
    const texts = [
      taken.stdout,
      taken.stderr,
      shown.stdout,
      await readFile(join(folder, 'RESTORE.md'), 'utf8'),
    ]
    for (const text of texts) expect(text).not.toMatch(/SCRAM|geheim/)
  })

  test('databases with hostile names: each dumped under a name of its own', async () => {
    const quote = (name: string) => `"${name.replaceAll('"', '""')}"`
    for (const name of HOSTILE) await server.query('postgres', `create database ${quote(name)}`)
    const host = await backupHost(server, `databases = ${JSON.stringify(HOSTILE)}`)
    const manifest = await host.take()
    expect(manifest.databases.map(({ name, file }) => [name, file])).toEqual(
      HOSTILE.toSorted().map((name) => [name, `${keyPart(name)}.dump.zst`]),
    )
    expect(await host.files()).toEqual(
      expect.arrayContaining(HOSTILE.map((name) => `backup/${manifest.label}/${keyPart(name)}.dump.zst`)),
    )
    for (const name of HOSTILE) await server.query('postgres', `drop database ${quote(name)}`)
  })

  test('host file: in the backup, with what the command line put over it', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const { stdout } = await host.backup('take', 'nightly', '--json', 'backup.nightly.jobs=1')
    const { label } = (JSON.parse(stdout) as { result: Manifest }).result
    const stored = await run(['zstd', '-dc', join(host.store, 'test/main/backup', label, 'host.toml.zst')])
    expect(stored.stdout).toBe(
      `${(await readFile(host.file, 'utf8')).trimEnd()}\n\n# on the command line: backup.nightly.jobs=1\n`,
    )
  })

  test('plan: says what it would do, and writes nothing', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const { code, stdout } = await host.backup('take', 'nightly', '--plan')
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /^dump of private cluster .*\n {2}app {2}[\d.]+ MB on disk\n1 database, .* to file:\/\//,
    )
    await expect(stat(host.store)).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('database with an idle timeout and no writes by default: its dump goes on', async () => {
    await server.query('postgres', 'create database hurried')
    await server.query('hurried', 'create table t (x int)')
    await server.query('postgres', `alter database hurried set idle_in_transaction_session_timeout = '100ms'`)
    await server.query('postgres', `alter database hurried set default_transaction_read_only = on`)
    const host = await backupHost(server, 'databases = ["hurried"]')
    const holder = await server.cluster.connect('hurried')
    await holder.query('set idle_in_transaction_session_timeout = 0; set default_transaction_read_only = off')
    await holder.query('begin; lock table t')
    const taking = host.take()
    await untilDumpWaits('hurried')
    await holder.end()
    expect((await taking).databases).toHaveLength(1)
    await server.query('postgres', 'drop database hurried')
  }, 60_000)

  test('clock that was set back: the label is later than the newest one all the same', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await host.take()
    await writeFile(join(host.store, 'test/main/catalog/20990101T000000Z-dump-aaaaaa.json'), '{}')
    expect((await host.take()).label).toMatch(/^20990101T000001Z-dump-/)
  })
})

describe('take that fails', () => {
  test.each([
    ['no job', ['take']],
    ['an unknown job', ['take', 'nigthly']],
  ])('%s: usage, with the jobs that there are', async (_name, args) => {
    const host = await backupHost(server)
    const { code, stderr } = await host.backup(...args)
    expect(code).toBe(2)
    expect(stderr).toContain('error [usage]')
    expect(stderr).toContain('There is: nightly')
  })

  test('unknown job: the nearest one is named', async () => {
    const host = await backupHost(server)
    expect((await host.backup('take', 'nigthly')).stderr).toContain('(did you mean "nightly"?)')
  })

  test.each([
    [
      'that is not there',
      '"apq"',
      'cannot dump database "apq": there is none of that name (did you mean "app"?)',
    ],
    ['that takes no connections', '"closed"', 'cannot dump database "closed": it allows no connections'],
  ])('database %s: backup-failed before anything is stored', async (_name, names, message) => {
    await server.query('postgres', 'create database closed allow_connections false')
    try {
      const host = await backupHost(server, `databases = ["app", ${names}]`)
      const { code, stderr } = await host.backup('take', 'nightly')
      expect(code).toBe(55)
      expect(stderr).toContain(message)
      await expect(stat(host.store)).rejects.toMatchObject({ code: 'ENOENT' })
    } finally {
      await server.query('postgres', 'drop database closed')
    }
  })

  test('second take to the same store at the same time: lock-held, and the first one goes on', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await using holder = await holdTable('app')
    const first = host.take()
    await untilDumpWaits('app')
    expect((await host.files()).filter((path) => path.startsWith('running/'))).toHaveLength(1)
    expect((await host.backup('take', 'nightly')).code).toBe(20)
    await holder[Symbol.asyncDispose]()
    expect((await first).databases).toHaveLength(1)
    expect((await host.files()).filter((path) => path.startsWith('running/'))).toEqual([])
  })

  test('--wait: a second take waits for the first one, says for whom, and is taken afterwards', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await using holder = await holdTable('app')
    const first = host.take()
    await untilDumpWaits('app')
    const tooLong = await host.backup('take', 'nightly', '--wait', '1200ms')
    expect(tooLong).toMatchObject({ code: 20, stderr: expect.stringContaining('waits for another run that') })
    const second = host.backup('take', 'nightly', '--wait', '1min')
    await holder[Symbol.asyncDispose]()
    await first
    expect(await second).toMatchObject({ code: 0 })
    expect((await host.files()).filter((path) => path.startsWith('catalog/'))).toHaveLength(2)
  })

  test.each(['1', 'an hour', '-1s', '', '1 fortnight'])('--wait %j: is no time: usage', async (time) => {
    const host = await backupHost(server)
    const { code, stderr } = await host.backup('take', 'nightly', `--wait=${time}`)
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining('is no time') })
  })

  test('--prune: after a take the backups that "keep" does not keep are gone, the new one is there', async () => {
    const host = await backupHost(server, 'databases = ["app"]\nkeep = { last = 1 }')
    await host.take()
    const { code, stdout } = await host.backup('take', 'nightly', '--prune', '--json')
    const { result } = JSON.parse(stdout) as { result: Manifest }
    expect([code, result]).toMatchObject([0, { pruned: { stores: [{ jobs: [{ kept: 1, removed: 1 }] }] } }])
    expect((await host.files()).filter((path) => path.startsWith('catalog/'))).toEqual([
      `catalog/${result.label}.json`,
    ])
  })

  test('--prune that fails: the run fails, and says that the backup is there', async () => {
    const host = await backupHost(server, 'databases = ["app"]\nkeep = { last = 1 }')
    await host.take()
    // A prune writes down what it is about to do: here it cannot.
    await rm(join(server.dir, 'state/journal'), { recursive: true, force: true })
    await writeFile(join(server.dir, 'state/journal'), '')
    try {
      const { code, stderr } = await host.backup('take', 'nightly', '--prune')
      expect(code).not.toBe(0)
      expect(stderr).toMatch(/the backup \S+ is there, but older ones could not be pruned: /)
      expect((await host.files()).filter((path) => path.startsWith('catalog/'))).toHaveLength(2)
    } finally {
      await rm(join(server.dir, 'state/journal'))
    }
  })

  test('--prune of a job without "keep": nothing is removed', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await host.take()
    expect(await host.backup('take', 'nightly', '--prune')).toMatchObject({ code: 0 })
    expect((await host.files()).filter((path) => path.startsWith('catalog/'))).toHaveLength(2)
  })

  test.each(['SIGINT', 'SIGTERM'] as const)(
    '%s in the middle: exit 130, nothing of it is left, pg_dump is gone',
    async (signal) => {
      const host = await backupHost(server)
      await using _holder = await holdTable('app')
      const taking = runScript(['backup', 'take', 'nightly', '-c', host.file], {
        onStart: (pid) => void untilDumpWaits('app').then(() => process.kill(pid, signal)),
      })
      expect(await taking).toMatchObject({ code: 130, stderr: expect.stringContaining(`ended by ${signal}`) })
      expect(await host.files()).toEqual(['owner.json'])
      await expect
        .poll(() =>
          server.query('postgres', `select from pg_stat_activity where application_name = 'pg_dump'`),
        )
        .toEqual([])
    },
  )

  test('SIGKILL in the middle: no manifest, and the next take succeeds', async () => {
    const host = await backupHost(server)
    await using holder = await holdTable('app')
    const killed = await runScript(['backup', 'take', 'nightly', '-c', host.file], {
      onStart: (pid) => void untilDumpWaits('app').then(() => process.kill(pid, 'SIGKILL')),
    })
    expect(killed.signal).toBe('SIGKILL')
    expect((await host.files()).filter((path) => path.startsWith('catalog/'))).toEqual([])
    await holder[Symbol.asyncDispose]()
    const { label } = await host.take()
    expect((await host.files()).filter((path) => path.startsWith('catalog/'))).toEqual([
      `catalog/${label}.json`,
    ])
  })

  test('role made while the databases are dumped: they are dumped again, so that no role is missing', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await using holder = await holdTable('app')
    const taking = host.backup('take', 'nightly')
    await untilDumpWaits('app')
    await server.query('postgres', 'create role late')
    await holder[Symbol.asyncDispose]()
    const { code, stderr } = await taking
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: 'backup: roles or tablespaces changed meanwhile: dumping again\n',
    })
    const { label, files } = (
      JSON.parse((await host.backup('show', '--json')).stdout) as { result: Manifest }
    ).result
    const globals = await run(['zstd', '-dc', join(host.store, 'test/main/backup', label, 'globals.sql.zst')])
    expect(globals.stdout).toContain('CREATE ROLE late')
    expect((await host.files()).filter((path) => path.startsWith('backup/'))).toHaveLength(files.length)
    await server.query('postgres', 'drop role late')
  })

  test('roles that never come to rest: backup-failed, nothing is left', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    let isOver = false
    const churn = (async () => {
      for (let number = 0; !isOver; number++)
        await server.query('postgres', `comment on role app is '${number}'`)
    })()
    const { code, stderr } = await host.backup('take', 'nightly')
    isOver = true
    await churn
    expect(code).toBe(55)
    expect(stderr).toContain('roles or tablespaces changed while the databases were dumped, twice')
    expect(await host.files()).toEqual(['owner.json'])
  })

  test('database dropped while it is dumped: left out when the job names none, an error when it does', async () => {
    const all = await backupHost(server)
    const named = await backupHost(server, 'databases = ["gone"]')
    const takeAndDrop = async (host: typeof all) => {
      await server.query('postgres', 'create database gone')
      await server.query('gone', 'create table t (x int)')
      await using _holder = await holdTable('gone')
      const taking = host.backup('take', 'nightly', '--json')
      await untilDumpWaits('gone')
      await server.query('postgres', 'drop database gone with (force)')
      return taking
    }
    const whole = await takeAndDrop(all)
    expect(whole.stderr).toContain('database "gone" was dropped meanwhile')
    const { databases } = (JSON.parse(whole.stdout) as { result: Manifest }).result
    expect(databases.map(({ name }) => name)).toEqual(['app', 'postgres', 'template1'])
    expect((await takeAndDrop(named)).code).toBe(55)
    expect(await named.files()).toEqual(['owner.json'])
  })

  test.runIf(process.getuid?.() === 0)(
    'store that is full: no-space, no manifest, no file is left',
    async () => {
      const host = await backupHost(server)
      await mkdir(host.store)
      await run(['mount', '-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', host.store])
      try {
        await server.query('app', `create table big as select md5(i::text) from generate_series(1, 20000) i`)
        const { code, stderr } = await host.backup('take', 'nightly')
        expect(code).toBe(57)
        expect(stderr).toContain('no space left in the store')
        expect(await host.files()).toEqual(['owner.json'])
      } finally {
        await server.query('app', 'drop table big')
        await run(['umount', host.store])
      }
    },
  )

  test('server killed in the middle of a dump: not a success, no manifest, no file is left', async () => {
    await using doomed = await startServer()
    await doomed.query(
      'postgres',
      `create table big as select md5(i::text) || md5((i * 7)::text) as x from generate_series(1, 400000) i`,
    )
    const host = await backupHost(doomed, 'databases = ["postgres"]')
    const taking = host.backup('take', 'nightly')
    const dumping = `select from pg_stat_activity where application_name = 'pg_dump' and query like 'COPY public.big%'`
    await expect
      .poll(() => doomed.query('postgres', dumping), { interval: 5, timeout: 20_000 })
      .toHaveLength(1)
    const [pid] = (await readFile(join(doomed.cluster.dataDir, 'postmaster.pid'), 'utf8')).split('\n')
    process.kill(Number(pid), 'SIGQUIT')
    const { code, stderr } = await taking
    expect(stderr).toContain('error [backup-failed] cannot dump database "postgres"')
    expect(code).toBe(55)
    expect(await host.files()).toEqual(['owner.json'])
  })
})

describe('owner of a store', () => {
  test('another host with the same name: refused, until it takes over by name', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await host.take()
    const other = `host.state_dir=${server.dir}/other-host`
    const refused = await host.backup('take', 'nightly', other)
    expect(refused.code).toBe(33)
    expect(refused.stderr).toContain(`this cluster on another host, machine "${hostname()}"`)
    expect((await host.backup('take', 'nightly', other, '--take-over', 'somebody')).code).toBe(33)
    expect((await host.backup('take', 'nightly', other, '--take-over', hostname())).code).toBe(0)
    expect((await host.backup('take', 'nightly', other)).code).toBe(0)
    expect((await host.backup('take', 'nightly')).code).toBe(33)
  })

  test('another cluster with the same name: refused, and the backups that are there stay', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    await host.take()
    const path = join(host.store, 'test/main/owner.json')
    await writeFile(
      path,
      (await readFile(path, 'utf8')).replace(/"systemIdentifier": "\d+"/, '"systemIdentifier": "1"'),
    )
    const before = await host.files()
    const { code, stderr } = await host.backup('take', 'nightly')
    expect(code).toBe(33)
    expect(stderr).toContain('another cluster, with system identifier 1')
    expect(await host.files()).toEqual(before)
  })
})

describe('list and show', () => {
  test('list: oldest first, with age, size and databases; show: the latest, or one by its label', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const first = await host.take()
    const second = await host.take()
    const { stdout } = await host.backup('list')
    const [head, ...rows] = stdout.trim().split('\n')
    expect(head).toMatch(/^LABEL +JOB +KIND +AGE +SIZE +DATABASES$/)
    expect(rows.map((row) => row.split(/ {2,}/).filter((_, column) => column !== 3))).toEqual(
      [first, second].map(({ label, files }) => [
        label,
        'nightly',
        'dump',
        `${(totalsOf(files).size / 1024).toFixed(1)} kB`,
        'app',
      ]),
    )
    expect((await host.backup('show')).stdout).toContain(`label      ${second.label}`)
    expect((await host.backup('show', 'latest')).stdout).toContain(`label      ${second.label}`)
    expect((await host.backup('show', first.label)).stdout).toContain(`label      ${first.label}`)
  })

  test('list --json: stable keys', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const { label, begun, ended, files } = await host.take()
    const document = JSON.parse((await host.backup('list', '--json')).stdout) as Record<string, unknown>
    expect(document).toEqual({
      format: 1,
      script: 'backup',
      verb: 'list',
      ok: true,
      result: {
        backups: [
          {
            label,
            store: `file://${host.store}`,
            ageSeconds: expect.any(Number),
            job: 'nightly',
            kind: 'dump',
            begun,
            ended,
            ...totalsOf(files),
            databases: ['app'],
          },
        ],
      },
    })
  })

  test('list without a server: it works, for that is when it is needed', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const { label } = await host.take()
    const { code, stdout } = await host.backup('list', `postgres.data_dir=${server.dir}/no/such`)
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining(label) })
  })

  test('list of nothing: says so', async () => {
    const host = await backupHost(server)
    await mkdir(host.store)
    expect(await host.backup('list')).toMatchObject({ code: 0, stdout: 'no backups\n' })
    expect(await host.backup('show')).toMatchObject({
      code: 53,
      stderr: expect.stringContaining('Take one: howdah backup take JOB'),
    })
  })

  test('damaged manifest: listed as damaged, others are listed as ever', async () => {
    const host = await backupHost(server, 'databases = ["app"]')
    const first = await host.take()
    const second = await host.take()
    await writeFile(join(host.store, 'test/main/catalog', `${first.label}.json`), '{"format": 1')
    const { code, stdout } = await host.backup('list')
    expect(code).toBe(0)
    expect(stdout).toContain(`damaged: the manifest of ${first.label} is not JSON`)
    expect(stdout).toMatch(new RegExp(`^${second.label} +nightly`, 'm'))
    expect((await host.backup('show', first.label)).code).toBe(54)
  })
})

test('remote cluster by a role that is no superuser: dumped over TCP with a password, without those of roles', async () => {
  const port = await freePort()
  await using server = await startServer({ settings: { listen_addresses: '127.0.0.1', port: String(port) } })
  await server.withClient('postgres', (client) => client.query('select 1')).catch(() => {})
  const query = async (database: string, text: string) => {
    const argv = [
      join(server.cluster.bindir, 'psql'),
      '-X',
      '-h',
      server.cluster.socketDir,
      '-p',
      String(port),
      '-d',
      database,
      '-c',
      text,
    ]
    await run(argv, { as: process.getuid?.() === 0 ? 'postgres' : undefined })
  }
  await query('postgres', `create role dumper login password 'sehr geheim'`)
  await query('postgres', 'create database theirs owner dumper')
  await query('theirs', 'create table public.t as select 1 as x; alter table public.t owner to dumper')
  const secret = join(server.dir, 'secret')
  await writeFile(secret, 'sehr geheim\n')
  await chmod(secret, 0o600)
  const file = join(server.dir, 'remote.toml')
  await writeFile(
    file,
    `format = 1
[host]
name = "test"
state_dir = "${server.dir}/state"
[postgres]
kind = "remote"
url = "postgres://dumper@127.0.0.1:${port}"
sslmode = "disable"
password = { file = "${secret}" }
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.nightly]
kind = "dump"
databases = ["theirs"]
store = "local"
`,
  )
  const { code, stdout, stderr } = await runScript(['backup', 'take', 'nightly', '--json', '-c', file])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const manifest = (JSON.parse(stdout) as { result: Manifest }).result
  expect(manifest).toMatchObject({
    hasPasswords: false,
    databases: [{ name: 'theirs', objects: { tables: 1 } }],
  })
  const globals = await run([
    'zstd',
    '-dc',
    join(server.dir, 'store/test/main/backup', manifest.label, 'globals.sql.zst'),
  ])
  expect(globals.stdout).toContain('CREATE ROLE dumper')
  expect(globals.stdout).not.toContain('SCRAM')
})

async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => listener.once('listening', resolve))
  const { port } = listener.address() as { port: number }
  await new Promise((resolve) => listener.close(resolve))
  return port
}
