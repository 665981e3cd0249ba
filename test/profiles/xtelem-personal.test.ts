import { chmod, chown, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import { currentUser } from '../../scripts/core/user.ts'
import { runScript } from '../support/script.ts'
import { newestMajor } from '../support/server.ts'

// A copy of the telemetry database of one's own: no root, no roles, and the file that xtelemdb reads.

const isRoot = process.getuid?.() === 0
const user = isRoot ? 'nobody' : currentUser()

let home: string
let file: string

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'howdah-own-'))
  await chmod(home, 0o755)
  file = join(home, 'xtelemdb.conf.toml')
  await writeFile(file, `data_dirs = [\n    "/mnt/archive/aoc/telem",\n]\n[database]\nuser = "${user}"\n`)
  if (isRoot) await chown(home, userId(user).uid, userId(user).gid)
})
afterAll(async () => {
  const bindir = `/usr/lib/postgresql/${await newestMajor()}/bin`
  await run([join(bindir, 'pg_ctl'), '-s', '-D', data(), '-m', 'immediate', 'stop'], {
    as: isRoot ? user : undefined,
    okCodes: [0, 1],
  })
  await rm(home, { recursive: true, force: true })
})

const data = () => join(home, '.local/share/howdah/xtelem/data')
const howdah = (...args: string[]) =>
  runScript(args, {
    env: { HOME: home, XDG_DATA_HOME: '' },
    ...(isRoot && userId(user)),
  })

test(
  'from nothing: a cluster, the database and its tables, and nobody is made but oneself',
  { timeout: 60_000 },
  async () => {
    const done = await howdah('provision', 'apply', '--yes', '-c', file)
    expect(done).toMatchObject({ code: 0 })
    expect((await stat(data())).mode & 0o777).toBe(0o700)
    const shown = await howdah(
      'inspect',
      'psql',
      'xtelem',
      '-c',
      file,
      '--',
      '-XAtF',
      ' ',
      '-c',
      `
    select current_user, (select string_agg(rolname, ',') from pg_roles where oid >= 16384 or oid = 10),
           pg_get_userbyid(datdba) from pg_database where datname = 'xtelem'`,
    )
    expect(shown).toMatchObject({ code: 0, stdout: `${user} ${user} ${user}\n` })
    const tables = await howdah('inspect', 'list', 'xtelem', '-c', file)
    for (const table of ['telem', 'file_origins', 'file_ingest_times', 'file_replicas', 'observations'])
      expect(tables.stdout).toContain(table)
  },
)

test('again: there is nothing to do, and every version is applied', async () => {
  expect((await howdah('provision', 'apply', '--yes', '-c', file)).stdout).toBe('nothing to do\n')
  expect(await howdah('migrate', 'check', '-c', file)).toMatchObject({ code: 0 })
})

test('a server that was stopped: is started by the next apply', async () => {
  const bindir = `/usr/lib/postgresql/${await newestMajor()}/bin`
  await run([join(bindir, 'pg_ctl'), '-s', '-D', data(), 'stop'], { as: isRoot ? user : undefined })
  expect(await howdah('migrate', 'status', '-c', file)).toMatchObject({ code: 30 })
  expect(await howdah('provision', 'apply', '--yes', '-c', file)).toMatchObject({ code: 0 })
  expect(await howdah('migrate', 'check', '-c', file)).toMatchObject({ code: 0 })
})

test('its files: are found and read into it, from a folder that an argument names', async () => {
  const folder = join(home, 'telem')
  await mkdir(folder)
  const line =
    '{"ts": "2026-03-14T02:15:40.195911902", "prio": "TELM", "ec": "telem_cooler", "msg": {"a": nan}}\n'
  await writeFile(join(folder, 'cooler_2026-03-14T021530.ndjson'), line)
  const dirs = `reingest.telem.data_dirs=["${folder}"]`
  expect(await howdah('reingest', 'inventory', '-c', file, dirs)).toMatchObject({ code: 0 })
  const done = await howdah('reingest', 'ingest', '-c', file, dirs)
  expect(done).toMatchObject({ code: 0, stdout: expect.stringContaining('rows: 1 new') as string })
  expect(done.stderr).toContain(`by OS user ${user}`)
  expect(await howdah('reingest', 'verify', '-c', file)).toMatchObject({ code: 0 })
})

test('another folder, by an argument; one that holds something is left alone', async () => {
  const other = join(home, 'postgres')
  await mkdir(other)
  await writeFile(join(other, 'thesis.txt'), 'years')
  const done = await howdah('provision', 'apply', '--yes', '-c', file, `postgres.data_dir=${other}`)
  expect(done.code).not.toBe(0)
  expect(done.stderr).toMatch(/postgres".*(not empty|holds)/)
  expect((await stat(join(other, 'thesis.txt'))).size).toBe(5)
})

test.runIf(isRoot)("somebody else's file: is told", async () => {
  const done = await runScript(['provision', 'plan', '-c', file])
  expect(done.code).toBe(13)
  expect(done.stderr).toContain('is of a database of nobody, and this is root')
})
