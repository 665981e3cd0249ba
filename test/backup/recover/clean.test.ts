import { once } from 'node:events'
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../../scripts/core/exec.ts'
import { killRestoreAt, startRestore } from '../../support/killed-restore.ts'
import { openCopy, type RecoverSource, recoverSource } from '../../support/recover.ts'
import { runScript } from '../../support/script.ts'

let source: RecoverSource

beforeAll(async () => {
  source = await recoverSource()
  await source.server.query('postgres', 'create database app')
  await source.server.query('app', 'create table t as select generate_series(1, 20000) as n')
  await source.take()
  await source.server.query('app', 'create table u as select 1 as n')
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

const beside = (name: string) => join(source.server.dir, name)
const folders = async () => (await readdir(source.server.dir)).toSorted()
const journals = async () =>
  (await readdir(beside('state/journal'))).filter((name) => name.startsWith('restore-cluster-'))
const sockets = async () =>
  Promise.all(
    (await journals()).map(async (name) => {
      const text = await readFile(beside(`state/journal/${name}`), 'utf8')
      return (JSON.parse(text) as { socket: string }).socket
    }),
  )
const serversIn = async (text: string) => {
  const { stdout } = await run(['ps', '-eo', 'args'])
  return stdout.split('\n').filter((line) => line.includes('postgres') && line.includes(text))
}

interface Cleaned {
  readonly code: number | null
  readonly leftovers: readonly Record<string, unknown>[]
}

async function clean(...args: readonly string[]): Promise<Cleaned> {
  const { code, stdout, stderr } = await source.restore('clean', '--json', ...args)
  const document = JSON.parse(stdout || '{}') as { result?: { leftovers: Record<string, unknown>[] } }
  if (document.result === undefined) throw new Error(`clean ended with ${code}: ${stdout}${stderr}`)
  return { code, leftovers: document.result.leftovers }
}

describe('restore clean', () => {
  test('nothing was left: says so', async () => {
    const { code, stdout } = await source.restore('clean')
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'nothing was left\n' })
  })

  test('restores killed with SIGKILL that nobody does again: what they made is removed, their servers end, what was decided is finished', async () => {
    const before = await folders()
    await killRestoreAt(source.file, 'copying', beside('a'))
    await killRestoreAt(source.file, 'recovering', beside('b'))
    await killRestoreAt(source.file, 'decided', beside('c'))
    expect(await serversIn('b.restoring-')).not.toEqual([])
    const wanted = [
      { path: beside('a'), action: 'undo' },
      { path: beside('b'), action: 'undo' },
      { path: beside('c'), action: 'finish' },
    ].map((what) => ({
      kind: 'cluster',
      label: expect.any(String) as string,
      left: null,
      isLive: false,
      ...what,
    }))

    const there = await folders()
    const made = await sockets()
    expect(made).toHaveLength(3)
    const plan = await clean('--plan')
    expect(plan.leftovers.toSorted(byPath)).toEqual(wanted)
    expect(await folders()).toEqual(there)
    expect(await journals()).toHaveLength(3)

    const done = await clean()
    expect({ code: done.code, left: done.leftovers.toSorted(byPath) }).toEqual({ code: 0, left: wanted })
    expect(await journals()).toEqual([])
    expect(await serversIn('b.restoring-')).toEqual([])
    expect(await folders()).toEqual([...before, 'c', 'c.socket'].toSorted())
    for (const path of made) await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' })
    await using copy = await openCopy(source.server, beside('c'))
    await copy.cluster.start()
    expect(await copy.query('app', 'select n from u')).toEqual([{ n: 1 }])
  })

  test('a restore that lives: it is left alone, and ends well', async () => {
    const child = startRestore(source.file, beside('lives'), { moment: 'fetched', signal: 'SIGSTOP' })
    const ended = once(child, 'close')
    while (!(await stateOf(child.pid!)).startsWith('T')) await sleep(50)
    const { code, leftovers } = await clean()
    expect({ code, leftovers }).toMatchObject({
      code: 0,
      leftovers: [{ path: beside('lives'), isLive: true }],
    })
    expect(await journals()).toHaveLength(1)
    child.kill('SIGCONT')
    expect(await ended).toEqual([0, null])
    await using copy = await openCopy(source.server, beside('lives'))
    await copy.cluster.start()
    expect(await copy.query('app', 'select n from u')).toEqual([{ n: 1 }])
  })

  test('restore of a database out of a base backup, killed with SIGKILL: its scratch cluster ends and goes', async () => {
    const before = await source.server.query('postgres', 'select datname from pg_database order by 1')
    const pidFile = beside('state/scratch/cluster/postmaster.pid')
    const args = ['restore', 'database', 'app', '--as', 'again', '-c', source.file]
    const { signal } = await runScript(args, { onStart: (pid) => void killWhenThere(pidFile, pid) })
    expect(signal).toBe('SIGKILL')
    await sleep(500) // a pg_ctl that was on its way
    const { code, leftovers } = await clean()
    expect({ code, leftovers }).toMatchObject({ code: 0, leftovers: [{ kind: 'scratch', left: null }] })
    expect(await readdir(beside('state'))).not.toContain('scratch')
    expect(await serversIn(beside('state/scratch'))).toEqual([])
    expect(await source.server.query('postgres', 'select datname from pg_database order by 1')).toEqual(
      before,
    )
  })

  test('private keys of runs that were killed: removed; one that is in use stays', async () => {
    const folder = beside('runtime')
    await mkdir(folder)
    const start = (await readFile('/proc/self/stat', 'utf8')).split(') ')[1]!.split(' ')[19]
    const names = [`howdah-identity-${process.pid}-${start}-aa`, `howdah-identity-${process.pid}-1-bb`]
    for (const name of [...names, 'letter']) await writeFile(join(folder, name), 'AGE-SECRET-KEY-1X')
    const { code, stdout } = await runScript(['restore', 'clean', '-c', source.file], {
      env: { RUNTIME_DIRECTORY: folder },
    })
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: `- identity "${join(folder, names[1]!)}": was removed\n`,
    })
    expect((await readdir(folder)).toSorted()).toEqual([names[0], 'letter'])
  })

  test('a journal that cannot be read: is told, ends with 1, and keeps nobody from cleaning the others', async () => {
    await killRestoreAt(source.file, 'planned', beside('d'))
    const journal = beside('state/journal/restore-cluster-broken.json')
    await writeFile(journal, '{')
    const { code, leftovers } = await clean()
    expect(code).toBe(1)
    expect(leftovers.toSorted(byPath)).toMatchObject([
      { path: beside('d'), left: null },
      { path: journal, left: expect.stringContaining('is damaged'), isLive: false },
    ])
    await run(['rm', journal])
  })

  test('a restore in the place of the cluster, killed with SIGKILL: the old one is there and starts', async () => {
    await source.server.cluster.stop()
    await killRestoreAt(source.file, 'recovered')
    expect(await clean()).toMatchObject({
      code: 0,
      leftovers: [{ path: beside('data'), action: 'undo', left: null }],
    })
    expect((await folders()).filter((name) => name.includes('restoring'))).toEqual([])
    await source.server.cluster.start()
    expect(await source.server.query('app', 'select n from u')).toEqual([{ n: 1 }])
  })
})

const byPath = (a: Record<string, unknown>, b: Record<string, unknown>) =>
  String(a['path']).localeCompare(String(b['path']))

async function stateOf(pid: number): Promise<string> {
  return (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!
}

async function killWhenThere(path: string, pid: number): Promise<void> {
  while (!(await readFile(path, 'utf8').catch(() => ''))) await sleep(20)
  process.kill(pid, 'SIGKILL')
}
