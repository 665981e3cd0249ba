import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { userId } from '../scripts/cluster/connect.ts'
import { loadHost, openCluster } from '../scripts/cluster/open.ts'
import { run } from '../scripts/core/exec.ts'
import { runScript, ROOT } from './support/script.ts'
import { newestMajor } from './support/server.ts'

// A host with something of every kind, so that every kind of step is killed.
const HOST = (dir: string, major: number) => `
format = 1
[host]
name = "db1"
state_dir = "${dir}/state"
[postgres]
kind = "private"
major = ${major}
data_dir = "${dir}/pg/data"
[settings]
work_mem = "17MB"
max_connections = 42
[hba]
[[hba.rules]]
type = "host"
address = "192.168.0.0/16"
method = "scram-sha-256"
[tablespaces.fast]
location = "${dir}/fast"
[roles.owner]
login = true
password = { file = "${dir}/secret" }
[roles.reader]
member_of = ["owner"]
[roles.reader.settings]
search_path = ["app", "public"]
[databases.telemetry]
owner = "owner"
tablespace = "fast"
extensions = ["pg_trgm"]
public = "revoke"
[databases.telemetry.schemas.app]
owner = "owner"
[[databases.telemetry.grants]]
to = "reader"
on = "schema"
schema = "app"
privileges = ["USAGE"]
[[databases.telemetry.grants]]
to = "reader"
on = "tables"
privileges = ["SELECT"]
`

const hosts: string[] = []

async function makeHost(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-crash-'))
  hosts.push(dir)
  await chmod(dir, 0o755)
  if (process.getuid?.() === 0) {
    const { uid, gid } = userId('postgres')
    await chown(dir, uid, gid)
  }
  await writeFile(join(dir, 'secret'), 'correct horse battery staple\n', { mode: 0o400 })
  await writeFile(join(dir, 'host.toml'), HOST(dir, await newestMajor()))
  return dir
}

async function removeHost(dir: string): Promise<void> {
  const { host } = await loadHost(join(dir, 'host.toml'))
  const cluster = await openCluster(host).catch(() => undefined)
  if (cluster) {
    const argv = [join(cluster.bindir, 'pg_ctl'), '-s', '-D', cluster.dataDir, '-m', 'immediate', 'stop']
    await run(argv, { as: cluster.osUser, okCodes: [0, 1] })
  }
  await rm(dir, { recursive: true, force: true })
}

/** What a host is in the end: globals without salted verifiers, the schema, the files, the settings. */
async function describeHost(dir: string): Promise<string> {
  const { host } = await loadHost(join(dir, 'host.toml'))
  const cluster = (await openCluster(host))!
  const { socketDir, port, superuser } = cluster
  const server = ['--host', socketDir, '--port', String(port), '--username', superuser]
  const dump = async (program: string, ...args: string[]) =>
    (await run([join(cluster.bindir, program), ...server, ...args], { as: cluster.osUser })).stdout
      .replaceAll(/^\\(un)?restrict .*$/gm, '')
      .replaceAll(/SCRAM-SHA-256\$\S+/g, 'VERIFIER')
  const files = await Promise.all(
    ['pg_hba.conf', 'conf.d/90-howdah.conf', 'conf.d/10-howdah-cluster.conf'].map((name) =>
      readFile(join(cluster.dataDir, name), 'utf8'),
    ),
  )
  const folder = await stat(join(dir, 'fast'))
  const parts = [
    await dump('pg_dumpall', '--globals-only'),
    await dump('pg_dump', '--create', 'telemetry'),
    ...files,
  ]
  return [
    ...parts.map((part) => part.replaceAll(dir, 'DIR')),
    folder.mode.toString(8),
    String(folder.uid),
  ].join('\n')
}

let whole: string
let dir: string
beforeAll(async () => {
  dir = await makeHost()
  const applied = await runScript(['provision', 'apply', '-c', join(dir, 'host.toml')])
  expect([applied.code, applied.stderr]).toEqual([0, ''])
  whole = await describeHost(dir)
})
afterAll(async () => {
  for (const host of hosts) await removeHost(host)
})

/** @returns whether it was killed, and did not come to its end */
async function applyUntil(file: string, step: number): Promise<boolean> {
  const child = spawn(process.execPath, [join(ROOT, 'test/support/apply-until.ts'), file, String(step)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  if (signal === 'SIGKILL') return true
  expect([code, stderr]).toEqual([0, ''])
  return false
}

test('apply: killed before every step in turn, each time on what the one before left: the same end state', async () => {
  const killed = await makeHost()
  const file = join(killed, 'host.toml')
  let step = 0
  while (await applyUntil(file, step)) step++
  expect(step).toBeGreaterThan(5)
  const plan = await runScript(['provision', 'plan', '-c', file, '--check'])
  expect([plan.code, plan.stdout]).toEqual([0, 'nothing to do\n'])
  expect(await describeHost(killed)).toBe(whole)
}, 240_000)

test.each([8, 15, 20, 26])(
  'apply: killed before step %i, then applied again: the same end state',
  async (step) => {
    const killed = await makeHost()
    const file = join(killed, 'host.toml')
    await applyUntil(file, step)
    const again = await runScript(['provision', 'apply', '-c', file, '--allow', 'restarts-server'])
    expect([again.code, again.stderr]).toEqual([0, ''])
    expect(await describeHost(killed)).toBe(whole)
    await removeHost(hosts.pop()!)
  },
)
