import { readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { bindirs } from '../support/majors.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

// The embedded server of major 18 has no pg_combinebackup: that a chain restores is shown by a
// journey, where Debian's packages are.

let server: TestServer
let file: string
let state: string

beforeAll(async () => {
  const newest = (await bindirs()).find(({ major }) => major >= 17)!
  server = await startServer({ bindir: newest.bindir, settings: { summarize_wal: 'on' } })
  await server.query(
    'postgres',
    'create table t as select i as n, md5(i::text) as x from generate_series(1, 50000) i',
  )
  file = join(server.dir, 'host.toml')
  state = join(server.dir, 'state/manifests/local')
  await writeFile(
    file,
    `${server.header}
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.day]
kind = "incr"
store = "local"
`,
  )
})

afterAll(() => server[Symbol.asyncDispose]())

async function take(...overrides: string[]): Promise<{ manifest: Manifest; stderr: string }> {
  const { code, stdout, stderr } = await runScript([
    'backup',
    'take',
    'day',
    '--json',
    '-c',
    file,
    ...overrides,
  ])
  if (code !== 0) throw new Error(stdout + stderr)
  return { manifest: (JSON.parse(stdout) as { result: Manifest }).result, stderr }
}

async function planned(...overrides: string[]): Promise<string> {
  const { stdout } = await runScript(['backup', 'take', 'day', '--plan', '-c', file, ...overrides])
  return stdout
}

const sizeOf = ({ files }: Manifest) => files.find(({ name }) => name.startsWith('base.tar'))!.size

test('incr: the first one is a base, the second one is on top of it and much smaller, the third on top of that', async () => {
  expect(await planned()).toMatch(/this one becomes a base: there is no base of this cluster/)
  const base = await take()
  expect(base.manifest).toMatchObject({ kind: 'base', physical: { parent: null } })
  expect(base.manifest.label).toMatch(/-base-/)
  expect(base.stderr).toContain('this one is a base')
  await server.query('postgres', 'update t set x = upper(x) where n = 1')
  expect(await planned()).toContain(`it is on top of ${base.manifest.label}`)
  const second = await take()
  expect(second.manifest).toMatchObject({ kind: 'incr', physical: { parent: base.manifest.label } })
  expect(sizeOf(second.manifest)).toBeLessThan(sizeOf(base.manifest) / 2)
  const third = await take()
  expect(third.manifest.physical).toMatchObject({ parent: second.manifest.label })
  const { stdout } = await runScript(['backup', 'show', '-c', file])
  expect(stdout).toMatch(new RegExp(`^on top of +${second.manifest.label}$`, 'm'))
  expect(await readdir(state)).toEqual([`${third.manifest.label}.backup_manifest`])
})

test('incr: the copy of the manifest is gone from this host: the stored one is used', async () => {
  await rm(state, { recursive: true })
  expect((await take()).manifest.kind).toBe('incr')
})

test('incr: encrypted, without a copy and without the key: a base is made, and it says so', async () => {
  const recipients = `encryption.recipients=["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]`
  const first = await take(recipients)
  expect(first.manifest).toMatchObject({ kind: 'incr', encrypted: true })
  await rm(state, { recursive: true })
  const second = await take(recipients)
  expect(second.manifest.kind).toBe('base')
  expect(second.stderr).toMatch(/this one is a base: this host has no copy of the manifest of/)
  expect((await take(recipients)).manifest).toMatchObject({
    kind: 'incr',
    physical: { parent: second.manifest.label },
  })
})

test('incr: the last base is older than full_every: a base is made', async () => {
  expect(await planned('backup.day.full_every=1ms')).toMatch(/becomes a base: the last base is .* old/)
})

test('incr: summarize_wal is off: a base is made', async () => {
  await server.query('postgres', 'alter system set summarize_wal = off')
  await server.query('postgres', 'select pg_reload_conf()')
  expect(await planned()).toMatch(/becomes a base: summarize_wal is off/)
  const { manifest } = await take()
  expect(manifest.kind).toBe('base')
})
