import { mkdir, readdir, rename, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { exists } from '../../scripts/core/file.ts'
import { type BackupHost, backupHost } from '../support/backup.ts'
import { ROOT } from '../support/script.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer

beforeAll(async () => {
  server = await startServer()
})

afterAll(() => server[Symbol.asyncDispose]())

/** A host with a state folder of its own, since that remembers stores. */
async function freshHost(): Promise<BackupHost> {
  const host = await backupHost(server)
  const state = join(dirname(host.file), 'state')
  const text = await run(['cat', host.file])
  await writeFile(host.file, text.stdout.replace(/state_dir = .*/, `state_dir = "${state}"`))
  return host
}

test('a store whose folder was never made: each verb that reads says so, the first take makes it', async () => {
  const host = await freshHost()
  for (const argv of [['list'], ['verify'], ['prune', '--yes'], ['show', 'latest']]) {
    const { code, stderr } = await host.backup(...argv)
    expect([argv, code, stderr]).toEqual([
      argv,
      52,
      expect.stringContaining(`error [store-unreachable] the store has no folder "${host.store}"`),
    ])
  }
  expect((await host.backup('take', 'nightly', '--plan')).code).toBe(0)
  expect(await exists(host.store)).toBe(false)
  await host.take()
  expect((await host.backup('verify')).code).toBe(0)
})

test('one of two stores is gone: what the other has is listed, with a warning, and restored by its label', async () => {
  const host = await freshHost()
  const { label } = await host.take()
  const text = (await run(['cat', host.file])).stdout
  await writeFile(host.file, `${text}\n[store.gone]\ntype = "dir"\npath = "${host.store}.gone"\n`)
  const { code, stdout, stderr } = await host.backup('list')
  expect([code, stdout, stderr]).toEqual([
    0,
    expect.stringContaining(label),
    expect.stringMatching(/a newer backup may be there: the store has no folder ".*\.gone"/),
  ])
  expect((await host.backup('show', label)).code).toBe(0)
  expect((await host.backup('show', 'latest')).code).toBe(52) // an older one must not stand in for it
})

describe('a store that this host has used, and that is gone', () => {
  test.each([
    ['its folder is not there', false, 52],
    ['its folder is empty, as a mount point without its disk is', true, 50],
  ])('%s: nothing passes for an empty store, and no take begins anew', async (_how, isEmpty, code) => {
    const host = await freshHost()
    const first = await host.take()
    await rename(host.store, `${host.store}.disk`)
    if (isEmpty) await mkdir(host.store)
    for (const argv of [['list'], ['verify'], ['show', 'latest']])
      expect([argv, (await host.backup(...argv)).code]).toEqual([argv, code])
    for (const argv of [
      ['take', 'nightly'],
      ['take', 'nightly', '--plan'],
    ]) {
      const { code, stderr } = await host.backup(...argv)
      expect([argv, code, stderr]).toEqual([
        argv,
        50,
        expect.stringMatching(/has nothing of "test\/main", although this host has stored .* there/),
      ])
    }
    expect((await exists(host.store)) ? await readdir(host.store) : []).toEqual([])
    await run(['rm', '-rf', host.store])
    await rename(`${host.store}.disk`, host.store)
    const { stdout } = await host.backup('list')
    expect(stdout).toContain(first.label)
    await host.take()
  })

  test('emptied on purpose: the file that the hint names goes, and the next take begins anew', async () => {
    const host = await freshHost()
    await host.take()
    await run(['rm', '-rf', host.store])
    const { stderr } = await host.backup('take', 'nightly')
    const file = /begin anew: rm (\S+)/.exec(stderr)![1]!
    await run(['rm', file])
    const { label } = await host.take()
    expect((await host.backup('list')).stdout).toContain(label)
  })
})

// A name space of root's, with an /etc/fstab and a mounted disk of its own.
test.runIf(process.getuid?.() === 0)(
  'a disk that /etc/fstab declares: no first take while it is not mounted, and one as soon as it is',
  async () => {
    const host = await freshHost()
    await mkdir(host.store)
    const fstab = join(dirname(host.file), 'fstab')
    await writeFile(fstab, `tmpfs ${host.store} tmpfs noauto 0 0\n`)
    const take = (before: string) => {
      const program = [process.execPath, join(ROOT, 'scripts/backup.ts'), 'take', 'nightly', '-c', host.file]
      const script = `mount --bind ${fstab} /etc/fstab; ${before}; "$@" && ls ${host.store}`
      return run(['unshare', '--mount', 'sh', '-ec', script, 'sh', ...program], {
        okCodes: [0, 52],
      })
    }
    const refused = await take('true')
    expect([refused.code, refused.stderr]).toEqual([
      52,
      expect.stringContaining(`is to be on "${host.store}", on which nothing is mounted`),
    ])
    expect(await readdir(host.store)).toEqual([])
    const taken = await take(`mount -t tmpfs tmpfs ${host.store}`)
    expect([taken.code, taken.stdout]).toEqual([0, expect.stringMatching(/^test$/m)])
    expect(await readdir(host.store)).toEqual([])
  },
)
