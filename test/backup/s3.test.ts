import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { ListObjectVersionsCommand, PutObjectLockConfigurationCommand } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { s3Store } from '../../scripts/store/s3.ts'
import { type AgeKey, ageKey } from '../support/age.ts'
import { type S3Server, startS3 } from '../support/s3.ts'
import { runScript, type ScriptResult } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let s3: S3Server
let bucket: string
let file: string
let key: AgeKey
/** Everything that any command of this file printed. */
let printed = ''

beforeAll(async () => {
  ;[server, s3] = await Promise.all([
    startServer({ settings: { wal_level: 'replica', full_page_writes: 'on' } }),
    startS3(),
  ])
  bucket = await s3.makeBucket()
  key = await ageKey(join(server.dir, 'key'))
  await server.query('postgres', 'create database app')
  await server.query('app', 'create table t as select i, md5(i::text) as x from generate_series(1, 5000) i')
  const secret = join(server.dir, 's3-secret')
  await writeFile(secret, `${s3.owner.secretKey}\n`, { mode: 0o600 })
  file = join(server.dir, 'host.toml')
  await writeFile(
    file,
    `${server.header}
[encryption]
recipients = ["${key.recipient}"]
[store.bucket]
type = "s3"
bucket = "${bucket}"
prefix = "hosts/db1"
endpoint = "${s3.endpoint}"
access_key = { env = "S3_KEY_owner" }
secret_key = { file = "${secret}" }
[backup.small]
kind = "dump"
store = "bucket"
keep = { last = 1 }
[backup.full]
kind = "base"
store = "bucket"
keep = { last = 1 }
`,
  )
})

afterAll(() => server[Symbol.asyncDispose]())

async function howdah(...argv: readonly string[]): Promise<ScriptResult> {
  const done = await runScript([...argv, '-c', file])
  printed += done.stdout + done.stderr
  return done
}

async function succeed(...argv: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await howdah(...argv)
  expect({ argv, code, stderr: code === 0 ? '' : stdout + stderr }).toEqual({ argv, code: 0, stderr: '' })
  return stdout
}

const take = async (job: string) =>
  (JSON.parse(await succeed('backup', 'take', job, '--json')) as { result: Manifest }).result

const keysOf = async (prefix: string) =>
  (await Array.fromAsync(s3Store(s3.spec(bucket)).list(prefix))).map((entry) => entry.key)

test('encrypted dump and base in a bucket: taken, listed, shown, and verified to the last byte', async () => {
  const dump = await take('small')
  const base = await take('full')
  expect([dump.encrypted, base.encrypted]).toEqual([true, true])
  const list = await succeed('backup', 'list')
  expect(list).toContain(dump.label)
  expect(list).toContain(base.label)
  expect(await succeed('backup', 'show', base.label)).toContain(`s3://${bucket}/hosts/db1?`)
  await succeed('backup', 'verify')
  await succeed('backup', 'verify', '--all', '--deep', '--identity', key.path)
  const stored = await keysOf(`hosts/db1/test/main/backup/${base.label}/`)
  expect(stored.map((name) => name.split('/').at(-1))).toContain('base.tar.zst.age')
  expect(await s3.uploads(bucket)).toEqual([])
})

test('a database out of a bucket: its rows are back, and without the private key it is refused', async () => {
  const refused = await howdah('restore', 'database', 'app', '--as', 'stolen', '--job', 'small', '--yes')
  expect(refused.code).toBe(62)
  const { label } = await take('small')
  await succeed(
    'restore',
    'database',
    'app',
    '--as',
    'copy',
    '--backup',
    label,
    '--identity',
    key.path,
    '--yes',
  )
  const hash = `select md5(string_agg(t::text, '|' order by i)) as hash from t`
  expect(await server.query('copy', hash)).toEqual(await server.query('app', hash))
})

test('a file of a backup is gone from the bucket: verify says which, and exits 1', async () => {
  const { label } = await take('small')
  const name = `hosts/db1/test/main/backup/${label}/host.toml.zst.age`
  const store = s3Store(s3.spec(bucket))
  const content = await Array.fromAsync(await store.get(name))
  await store.delete([name])
  const { code, stdout, stderr } = await howdah('backup', 'verify', label)
  expect([code, stdout + stderr]).toEqual([1, expect.stringContaining('host.toml.zst.age')])
  await store.put(name, Readable.from(content))
  await succeed('backup', 'verify', label)
})

test('prune: the newest of each job stays in the bucket, and nothing is left of the others', async () => {
  const dump = await take('small')
  const base = await take('full')
  await succeed('backup', 'prune', '--yes')
  const folders = (await keysOf('hosts/db1/test/main/backup/')).map((name) => name.split('/')[5])
  expect(new Set(folders)).toEqual(new Set([dump.label, base.label]))
  await succeed('backup', 'verify')
})

/** A bucket that locks what is written for a day. */
async function lockedBucket(): Promise<string> {
  const Bucket = await s3.makeBucket({ objectLock: true })
  const Rule = { DefaultRetention: { Mode: 'GOVERNANCE' as const, Days: 1 } }
  const ObjectLockConfiguration = { ObjectLockEnabled: 'Enabled' as const, Rule }
  await s3.client.send(new PutObjectLockConfigurationCommand({ Bucket, ObjectLockConfiguration }))
  return Bucket
}

test('a bucket that keeps versions and locks them: what prune deletes is listed no more, and verify finds nothing wrong', async () => {
  const Bucket = await lockedBucket()
  const there = `store.bucket.bucket=${Bucket}`
  const labels: string[] = []
  for (let number = 0; number < 2; number++) {
    const { stdout } = await howdah('backup', 'take', 'small', '--json', there)
    labels.push((JSON.parse(stdout) as { result: Manifest }).result.label)
  }
  await succeed('backup', 'prune', '--yes', there)
  const list = await succeed('backup', 'list', there)
  expect([list.includes(labels[0]!), list.includes(labels[1]!)]).toEqual([false, true])
  await succeed('backup', 'verify', '--all', '--deep', '--identity', key.path, there)
  const { Versions } = await s3.client.send(new ListObjectVersionsCommand({ Bucket }))
  expect(Versions!.some(({ Key }) => Key!.endsWith(`catalog/${labels[0]}.json`))).toBe(true)
})

test('credentials that may only add: prune says what it could not delete, and every backup stays whole', async () => {
  const Bucket = await s3.makeBucket()
  await s3.allow(Bucket, ['s3:GetObject', 's3:PutObject', 's3:ListBucket'])
  const secret = join(server.dir, 'other-secret')
  await writeFile(secret, s3.other.secretKey, { mode: 0o600 })
  const as = [
    `store.bucket.bucket=${Bucket}`,
    'store.bucket.access_key.env=S3_KEY_other',
    `store.bucket.secret_key.file=${secret}`,
  ]
  const labels: string[] = []
  for (let number = 0; number < 2; number++) {
    const { code, stdout, stderr } = await howdah('backup', 'take', 'small', '--json', ...as)
    expect([code, stderr]).toEqual([0, expect.stringContaining('the mark of a take in progress is left')])
    labels.push((JSON.parse(stdout) as { result: Manifest }).result.label)
  }
  const pruned = await succeed('backup', 'prune', '--yes', ...as)
  expect(pruned).toContain(`! the store would not delete ${labels[0]}: it is kept`)
  await succeed('backup', 'verify', '--all', '--deep', '--identity', key.path, ...as)
  const list = await succeed('backup', 'list', ...as)
  expect(labels.map((label) => list.includes(label))).toEqual([true, true])
})

test('a wrong secret key, or a server that is not there: said with its exit code, and nothing is stored', async () => {
  const before = await keysOf('')
  const wrong = join(server.dir, 'wrong-secret')
  await writeFile(wrong, 'wrong-secret-3f9a', { mode: 0o600 })
  const denied = await howdah('backup', 'take', 'small', `store.bucket.secret_key.file=${wrong}`)
  expect([denied.code, denied.stderr]).toEqual([51, expect.stringContaining('error [store-denied]')])
  const gone = await howdah('backup', 'list', 'store.bucket.endpoint=http://127.0.0.1:1')
  expect([gone.code, gone.stderr]).toEqual([52, expect.stringContaining('error [store-unreachable]')])
  expect(await keysOf('')).toEqual(before)
})

test('whatever was printed: it has no secret in it', () => {
  expect(printed).toContain('error [store-denied]')
  for (const secret of [s3.owner.secretKey, 'wrong-secret-3f9a', key.secret])
    expect(printed).not.toContain(secret)
})
