import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { messageOf } from '../../scripts/core/fail.ts'
import type { SecretRef } from '../../scripts/core/secret.ts'
import { makeKeyPair, openIdentity } from '../../scripts/store/identity.ts'
import { type AgeKey, ageKey } from '../support/age.ts'

let folder: string
/** Where copies go. */
let runtime: string
let key: AgeKey
let serial = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'howdah-identity-'))
  key = await ageKey(join(folder, 'key'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))
beforeEach(() => {
  runtime = join(folder, `run${++serial}`)
  vi.stubEnv('RUNTIME_DIRECTORY', runtime)
  vi.stubEnv('HOWDAH_TEST_KEY', key.secret)
})
afterEach(() => void vi.unstubAllEnvs())

const left = () => readdir(runtime).catch(() => [])

test.each<[string, () => SecretRef | { path: string }]>([
  ['path of the operator', () => ({ path: key.path })],
  ['file of the host file', () => ({ file: key.path })],
])('identity by %s: used where it is, and still there afterwards', async (_what, source) => {
  {
    await using identity = await openIdentity(source())
    expect(identity.path).toBe(key.path)
    expect(await left()).toEqual([])
  }
  expect(await readFile(key.path, 'utf8')).toContain(key.secret)
})

test.each<[string, () => SecretRef]>([
  ['environment variable', () => ({ env: 'HOWDAH_TEST_KEY' })],
  ['command', () => ({ command: ['cat', key.path] })],
])('identity by %s: a file of 0600 for as long as it is held, then none', async (_what, source) => {
  {
    await using identity = await openIdentity(source())
    expect(identity.path.startsWith(`${runtime}/`)).toBe(true)
    expect(await readFile(identity.path, 'utf8')).toContain(key.secret)
    expect((await stat(identity.path)).mode & 0o777).toBe(0o600)
  }
  expect(await left()).toEqual([])
})

test('identity without a runtime directory: in memory, not on a disk', async () => {
  vi.stubEnv('RUNTIME_DIRECTORY', undefined)
  await using identity = await openIdentity({ env: 'HOWDAH_TEST_KEY' })
  expect(identity.path).toMatch(/^\/dev\/shm\//)
})

test('a process that is killed while it holds one: the next run removes what it left, and not what lives', async () => {
  const script = `
    import { openIdentity } from '${import.meta.dirname}/../../scripts/store/identity.ts'
    await openIdentity({ env: 'HOWDAH_TEST_KEY' })
    console.log('held')
    setInterval(() => {}, 1000)`
  const file = join(folder, 'hold.ts')
  await writeFile(file, script)
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  const [leftover] = await left()
  {
    await using _other = await openIdentity({ env: 'HOWDAH_TEST_KEY' })
    expect(await left()).toContain(leftover)
    expect(await left()).toHaveLength(2)
  }
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(await left()).toEqual([leftover])
  await using _next = await openIdentity({ path: key.path })
  expect(await left()).toEqual([])
})

test('a leftover whose process id belongs to somebody else by now: removed', async () => {
  {
    await using _first = await openIdentity({ env: 'HOWDAH_TEST_KEY' })
  }
  await writeFile(join(runtime, `howdah-identity-${process.pid}-1-000000000000`), key.secret)
  await using _next = await openIdentity({ path: key.path })
  expect(await left()).toEqual([])
})

test.each([
  ['a public key', () => key.recipient],
  ['a word', () => 'hunter2 hunter2'],
  ['a cut key', () => 'AGE-SECRET-KEY-'],
  ['nothing', () => '\n'],
])('%s instead of a private key: wrong-key, and the error does not quote it', async (_what, text) => {
  vi.stubEnv('HOWDAH_TEST_KEY', text())
  const error = await openIdentity({ env: 'HOWDAH_TEST_KEY' }).catch((error: unknown) => error)
  expect(error).toMatchObject({ code: 'wrong-key' })
  expect(messageOf(error)).not.toContain('hunter2')
  expect(await left()).toEqual([])
})

test('a file that is missing, and a folder: secret, with the path', async () => {
  for (const path of [join(folder, 'nowhere'), folder]) {
    await expect(openIdentity({ path })).rejects.toMatchObject({
      code: 'secret',
      message: expect.stringContaining(path),
    })
  }
})

test('a private key of ssh: is one', async () => {
  vi.stubEnv(
    'HOWDAH_TEST_KEY',
    '-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----',
  )
  await using identity = await openIdentity({ env: 'HOWDAH_TEST_KEY' })
  expect(await readFile(identity.path, 'utf8')).toMatch(/^-----BEGIN/)
})

test('a new pair of keys: two differ, and printing one shows the public half only', async () => {
  const [one, other] = await Promise.all([makeKeyPair(), makeKeyPair()])
  expect(one.recipient).toMatch(/^age1[0-9a-z]{58}$/)
  expect(one.recipient).not.toBe(other.recipient)
  expect(inspect(one) + JSON.stringify(one)).not.toContain('AGE-SECRET-KEY')
  expect(one.identity.reveal()).toMatch(/^AGE-SECRET-KEY-1[0-9A-Z]{58}$/)
})
