import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Manifest } from '../../scripts/backup/manifest.ts'
import { run } from '../../scripts/core/exec.ts'
import { queryRestored, restoreByScript } from '../support/by-hand.ts'
import { type Refusal, startPgProxy } from '../support/pg-proxy.ts'
import { freePort } from '../support/port.ts'
import { runScript } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let port: number

beforeAll(async () => {
  port = await freePort()
  server = await startServer({
    settings: { wal_level: 'replica', listen_addresses: '127.0.0.1', port: String(port) },
  })
  await server.query('postgres', `create role copier superuser login password 'open sesame'`)
  await server.query(
    'postgres',
    'create table t as select i as n, md5(i::text) as x from generate_series(1, 5000) i',
  )
})

afterAll(() => server[Symbol.asyncDispose]())

/** Takes a base of the server behind a proxy that refuses to compress as told. */
async function takeBehind(refusal: Refusal): Promise<{
  readonly stderr: string
  readonly manifest: Manifest
  readonly commands: readonly string[]
}> {
  await using proxy = await startPgProxy(port, (query) =>
    /^BASE_BACKUP .*COMPRESSION/.test(query) ? refusal : undefined,
  )
  const file = join(server.dir, 'remote.toml')
  await writeFile(
    file,
    `format = 1
[host]
name = "test"
state_dir = "${server.dir}/state"
[postgres]
kind = "remote"
url = "postgres://copier@127.0.0.1:${proxy.port}/postgres"
password = { env = "COPIER_PASSWORD" }
sslmode = "disable"
[store.local]
type = "dir"
path = "${server.dir}/store"
[backup.full]
kind = "base"
store = "local"
`,
  )
  const { code, stdout, stderr } = await runScript(['backup', 'take', 'full', '--json', '-c', file], {
    env: { COPIER_PASSWORD: 'open sesame' },
  })
  if (code !== 0) throw new Error(stdout + stderr)
  return {
    stderr,
    manifest: (JSON.parse(stdout) as { result: Manifest }).result,
    commands: proxy.queries.filter((query) => query.startsWith('BASE_BACKUP')),
  }
}

// What basebackup.c and compression.c of a server say that was built without it, or against a zstd
// library without threads (basebackup_zstd.c).
test.each<[string, Refusal]>([
  [
    'was built without zstd',
    {
      code: '42601',
      message: 'invalid compression specification: this build does not support compression with ZSTD',
    },
  ],
  [
    'has a zstd without threads',
    { code: '22023', message: 'could not set compression worker count to 2: Unsupported parameter' },
  ],
])(
  'a server that %s: this host compresses all of it, its WAL too, says so, and the backup restores',
  async (_how, refusal) => {
    const { stderr, manifest, commands } = await takeBehind(refusal)
    expect(stderr).toContain('this server cannot compress with zstd, so this host does it')
    expect(commands.map((command) => command.includes('COMPRESSION'))).toEqual([true, false])
    const base = manifest.files.find(({ name }) => name === 'base.tar.zst')!
    expect(base.size).toBeLessThan(manifest.physical!.dataSize / 2)
    // Its WAL has no file of its own, which would be left as it is: it is in the archive of the data directory.
    const names = manifest.files.map(({ name }) => name)
    expect(names.filter((name) => /wal/.test(name))).toEqual([])
    expect(names.filter((name) => !name.endsWith('.zst'))).toEqual(['RESTORE.md', 'restore.sh', 'SHA256SUMS'])
    const target = join(server.dir, `restored ${manifest.label}`)
    const from = join(server.dir, 'store/test/main/backup', manifest.label)
    const list = await run(['sh', '-c', 'zstd -dc "$1" | tar -t', 'sh', join(from, 'base.tar.zst')])
    expect(list.stdout).toMatch(/^pg_wal\/[0-9A-F]{24}$/m)
    expect(await restoreByScript(server, from, ['--target', target])).toMatchObject({ code: 0 })
    const rows = await queryRestored(server, target, `select count(*) || ' ' || sum(n) from t`)
    expect(rows).toEqual(['5000 12502500'])
  },
)

test('any other error: the take fails with it, and is not tried again without compression', async () => {
  const refused = takeBehind({ code: '53100', message: 'could not read block 3: disk on fire' })
  await expect(refused).rejects.toThrow('disk on fire')
})
