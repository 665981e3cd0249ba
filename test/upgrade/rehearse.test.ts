import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { exists } from '../../scripts/core/file.ts'
import { makeRich } from '../support/rich.ts'
import { runScript, type ScriptResult } from '../support/script.ts'
import { newestMajor } from '../support/server.ts'
import { type UpgradeHost, upgradeHost } from '../support/upgrade.ts'

const TO = 17

let host: UpgradeHost
let labels: { readonly base: string; readonly dump: string }

const howdah = async (...args: string[]): Promise<ScriptResult> => runScript([...args, '-c', host.file])

const rehearse = (...args: string[]): Promise<ScriptResult> =>
  howdah('upgrade', 'rehearse', '--to', String(TO), '--bindir', host.bindir, '--json', ...args)

const take = async (job: string): Promise<string> => {
  const { code, stdout, stderr } = await howdah('backup', 'take', job, '--json')
  if (code !== 0) throw new Error(`take failed: ${stderr}`)
  return JSON.parse(stdout).result.label
}

/** What a rehearsal must not touch: when the server was started, and what is in its tablespace and beside its data. */
const untouched = async () => {
  const [row] = await host.query<{ at: string }>('postgres', 'select pg_postmaster_start_time()::text as at')
  return {
    at: row!.at,
    space: await readdir(join(host.server.dir, 'space')),
    scratch: (await readdir(join(host.server.dir, 'state'))).filter((name) => name === 'scratch'),
  }
}

beforeAll(async () => {
  const settings = { wal_level: 'replica', max_wal_senders: '5' }
  host = await upgradeHost([await newestMajor(), TO], '', { settings })
  const store = join(host.server.dir, 'store')
  await mkdir(store)
  // Whatever is read of a backup is read with the private key.
  const identity = join(host.server.dir, 'age-key')
  await run(['age-keygen', '-o', identity])
  const { stdout: recipient } = await run(['age-keygen', '-y', identity])
  const toml = `[encryption]
recipients = ["${recipient.trim()}"]
identity = { file = "${identity}" }
[store.local]
type = "dir"
path = "${store}"
[backup.whole]
kind = "base"
store = "local"
[backup.dumps]
kind = "dump"
store = "local"
`
  await writeFile(host.file, `${await readFile(host.file, 'utf8')}${toml}`)
  await makeRich(host.server, join(host.server.dir, 'space'))
  labels = { dump: await take('dumps'), base: await take('whole') }
  await host.server.query('postgres', 'create view stale as select checkpoints_timed from pg_stat_bgwriter')
})
afterAll(() => host[Symbol.asyncDispose]())

test('rehearse --plan: the newest backup of all, what it takes, and nothing is made', async () => {
  const before = await untouched()
  const { result } = JSON.parse((await rehearse('--from-backup', '--plan')).stdout)
  expect(result).toMatchObject({ way: 'pg_upgrade', backup: { label: labels.base, kind: 'base' } })
  expect(result.needs).toBeLessThan(result.free)
  expect(await untouched()).toEqual(before)
})

test('rehearse --from-backup after one that was killed: all of the backup is equal in the new major, nothing of either stays, and a view that the old cluster has by now is not looked at', async () => {
  const before = await untouched()
  const scratch = join(host.server.dir, 'state/scratch/new/PG_VERSION')
  const args = ['--to', String(TO), '--bindir', host.bindir, '--from-backup', '-c', host.file]
  const killed = await runScript(['upgrade', 'rehearse', ...args], {
    onStart: async (pid) => {
      while (!(await exists(scratch))) await sleep(2)
      process.kill(pid, 'SIGKILL')
    },
  })
  expect(killed.signal).toBe('SIGKILL')
  const done = await rehearse('--from-backup')
  expect(done.stderr).not.toMatch(/error/)
  const { result } = JSON.parse(done.stdout)
  expect(result).toMatchObject({ way: 'pg_upgrade', differences: [], backup: { label: labels.base } })
  expect(result.compared).toBeGreaterThan(100)
  expect(result.databases).toContain('The Shop')
  expect(await untouched()).toEqual(before)
})

test('rehearse --from-backup --method dump: all of the backup is equal in the new major', async () => {
  const before = await untouched()
  const { result } = JSON.parse((await rehearse('--from-backup', '--method', 'dump')).stdout)
  expect(result).toMatchObject({ way: 'dump', differences: [], backup: { label: labels.base } })
  expect(await untouched()).toEqual(before)
})

test('rehearse --from-backup with too little space: refused before anything is made, with what it needs', async () => {
  const folder = join(host.server.dir, 'state/scratch')
  await mkdir(folder)
  await run(['mount', '-t', 'tmpfs', '-o', 'size=50m,mode=0755', 'tmpfs', folder])
  try {
    for (const label of [labels.base, labels.dump]) {
      const refused = await rehearse('--from-backup', label)
      expect(refused.code).toBe(57)
      expect(refused.stderr).toMatch(/needs .* in .*scratch/)
    }
    expect(await readdir(folder)).toEqual([])
  } finally {
    await run(['umount', folder])
    await rmdir(folder)
  }
})

test('rehearse --from-backup LABEL of a dump: it goes straight into the new major, tablespaces elsewhere', async () => {
  const before = await untouched()
  const done = await rehearse('--from-backup', labels.dump)
  expect(done.stderr).not.toMatch(/error/)
  const { result } = JSON.parse(done.stdout)
  expect(result).toMatchObject({ way: 'restore', backup: { label: labels.dump, kind: 'dump' } })
  expect(await untouched()).toEqual(before)
})

test('rehearse --from-backup: what is in the backup and the new major refuses is named, of either kind, and nothing stays', async () => {
  const [base, dump] = [await take('whole'), await take('dumps')]
  await host.server.query('postgres', 'drop view stale')
  const before = await untouched()
  for (const label of [base, dump]) {
    const refused = await rehearse('--from-backup', label)
    expect(refused.code).toBe(42)
    expect(refused.stderr).toMatch(/rehearsal with backup/)
    expect(refused.stderr).toMatch(/checkpoints_timed/)
  }
  expect(await untouched()).toEqual(before)
})

test('prepare-os --plan: what apt would do is asked of apt itself, and nothing is changed', async () => {
  const before = await untouched()
  const args = ['--to', String(TO), '--bindir', host.bindir, '--plan']
  const release = /^VERSION_CODENAME=(.*)$/m.exec(await readFile('/etc/os-release', 'utf8'))![1]!
  const { result } = JSON.parse((await howdah('upgrade', 'prepare-os', ...args, '--json')).stdout)
  expect(result).toMatchObject({ backup: null, paused: [], apt: { release } })
  const shown = await howdah('upgrade', 'prepare-os', ...args)
  expect(shown.stdout).toMatch(/apt: its sources still name|apt to /)
  expect(await untouched()).toEqual(before)
})
