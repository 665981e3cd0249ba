import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { writeJournal } from '../../scripts/core/journal.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { sweepFiles } from '../../scripts/schedule/prepare.ts'
import { systemIdentifier } from '../../scripts/cluster/lock.ts'
import { scheduleHost } from '../support/schedule.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let dir: string
beforeAll(async () => {
  server = await startServer()
  dir = await mkdtemp(join(tmpdir(), 'howdah-prepare-'))
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
  await rm(dir, { recursive: true })
})

const prepare = (file: string, name = 'backup-nightly') =>
  runScript(['schedule', 'prepare', name, '-c', file])

test('sweepFiles: half-written files and folders for a moment that are old go, young ones and those of others stay', async () => {
  const state = join(dir, 'state')
  const host = parseHost(`format = 1
[host]
name = "db1"
state_dir = "${state}"
[postgres]
major = 17
[schedule]
metrics_dir = "${dir}/metrics"
`)
  const old = new Date(Date.now() - 2 * 86_400_000)
  for (const folder of ['state/jobs', 'state/journal', 'metrics'])
    await mkdir(join(dir, folder), { recursive: true })
  const gone = [
    'state/.0123456789ab.howdah-tmp',
    'state/jobs/.aaaaaaaaaaaa.howdah-tmp',
    'metrics/.bbbbbbbbbbbb.howdah-tmp',
  ]
  const kept = ['state/jobs/x.json', 'state/jobs/.x.lock', 'state/.0123.howdah-tmp', 'metrics/other.prom']
  for (const path of [...gone, ...kept]) {
    await writeFile(join(dir, path), '')
    await utimes(join(dir, path), old, old)
  }
  await writeFile(join(dir, 'state/journal/.cccccccccccc.howdah-tmp'), '')
  const young = await mkdtemp(join(tmpdir(), 'howdah-wal-'))
  const aged = await mkdtemp(join(tmpdir(), 'howdah-wal-'))
  await writeFile(join(aged, 'file'), '')
  await utimes(aged, old, old)
  const swept = await sweepFiles(host)
  expect(swept.filter((path) => path.startsWith(dir)).toSorted()).toEqual(
    gone.map((path) => join(dir, path)).toSorted(),
  )
  expect(swept).toContain(aged)
  expect(swept).not.toContain(young)
  for (const path of kept) expect(await readdir(join(dir, path, '..'))).toContain(path.split('/').at(-1))
  await rm(young, { recursive: true })
})

test('restore that was killed: its scratch database is gone before the job begins', async () => {
  const host = await scheduleHost(server)
  const scratch = 'app_scratch'
  await server.query('postgres', `create database ${scratch}`)
  await writeJournal(
    join(host.file, '../state/journal/restore-x.json'),
    {
      phase: 'fill',
      systemIdentifier: await systemIdentifier(server.cluster),
      label: '20260101T000000Z-dump-aaaaaa',
      scratch,
      target: 'app',
      before: null,
      dropsBefore: false,
    },
    { mode: 0o755 },
  )
  const { code, stderr } = await prepare(host.file)
  expect({ code, stderr }).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('was cleaned up: "app"'),
  })
  expect(await server.query('postgres', `select from pg_database where datname = '${scratch}'`)).toEqual([])
  expect((await host.state()).begun).toMatch(/^20\d\d-/)
})

test('what cannot be cleaned: is a warning, and the job begins', async () => {
  const host = await scheduleHost(server)
  await mkdir(join(host.file, '../state/journal'))
  await writeFile(join(host.file, '../state/journal/restore-x.json'), '{')
  const { code, stderr } = await prepare(host.file)
  expect({ code, stderr }).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/stays: the journal ".*" is damaged/),
  })
})

test('job that the host file does not schedule: usage, with the nearest name', async () => {
  const host = await scheduleHost(server)
  expect(await prepare(host.file, 'backup-nightyl')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('backup-nightly'),
  })
})
