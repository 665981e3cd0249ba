import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { recoverWorks, type Work, workLog, workOf } from '../../../scripts/backup/recover/work.ts'
import { exists } from '../../../scripts/core/file.ts'
import { currentUser } from '../../../scripts/core/user.ts'
import { ROOT } from '../../support/script.ts'

// A restore in its own place whose moment of truth has come. What a data directory and a tablespace
// hold is a file here that says whose it is: the renames and links are the real ones.

let dir: string
afterEach(() => rm(dir, { recursive: true, force: true }))
beforeEach(() => void vi.spyOn(process.stderr, 'write').mockReturnValue(true)) // what was finished, each time

const ID = 'abcdef'
const VERSION = 'PG_15_202209061'
const at = (...names: readonly string[]) => join(dir, ...names)

/** An old cluster with a tablespace, and the new one that waits beside it, with one more. */
async function make(): Promise<Work> {
  dir = await mkdtemp(join(tmpdir(), 'howdah-swap-'))
  const work = workOf({
    id: ID,
    label: '20261122T020000Z-base-k3v9qa',
    place: {
      kind: 'own',
      dataDir: at('data'),
      configDir: undefined,
      bindir: '',
      osUser: currentUser(),
      owner: undefined,
      before: at('data.before-1'),
    },
    moves: [move('16400', at('space')), move('16500', at('another'))],
    spool: { from: at('spool'), to: at('spool.before-1') },
  })
  await fill(at('data'), 'old', { 16400: at('space') })
  await fill(at('space', VERSION), 'old')
  await fill(at('spool'), 'old')
  const [space, another] = work.tablespaces
  await fill(work.data, 'new', { 16400: space!.temporary, 16500: another!.temporary })
  await fill(join(space!.temporary, VERSION), 'new')
  await fill(join(another!.temporary, VERSION), 'new')
  await workLog(at('state'), ID, currentUser()).write({ ...work, phase: 'swap' })
  return work
}

const move = (oid: string, to: string) => ({ oid, name: oid, from: to, to, size: 0, file: `${oid}.tar` })

async function fill(folder: string, whose: string, links: Record<string, string> = {}): Promise<void> {
  await mkdir(join(folder, 'pg_tblspc'), { recursive: true })
  await writeFile(join(folder, 'whose'), whose)
  for (const [oid, to] of Object.entries(links)) await symlink(to, join(folder, 'pg_tblspc', oid))
}

/** Ends the swap in a process that is killed before it changes the file system for the nth time. */
async function killedAt(count: number): Promise<boolean> {
  const script = `
    import { createRequire, syncBuiltinESMExports } from 'node:module'
    const files = createRequire('/')('node:fs/promises')
    let left = ${count}
    for (const name of ['rename', 'rm', 'rmdir', 'mkdir', 'unlink', 'symlink', 'chown']) {
      const change = files[name]
      files[name] = (...args) => (left-- === 0 ? process.kill(process.pid, 'SIGKILL') : change(...args))
    }
    syncBuiltinESMExports()
    const { recoverWorks } = await import('${ROOT}/scripts/backup/recover/work.ts')
    await recoverWorks(${JSON.stringify(at('state'))}, ${JSON.stringify(at('data'))})`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' })
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  expect(signal ?? code).toBe(signal === null ? 0 : 'SIGKILL')
  return signal !== null
}

const whose = (folder: string) => readFile(join(folder, 'whose'), 'utf8').catch(() => 'nobody')

/** What a server that is started from a data directory would find. */
async function clusterIn(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = { data: await whose(folder) }
  for (const oid of await readdir(join(folder, 'pg_tblspc')))
    found[oid] = await whose(join(await readlink(join(folder, 'pg_tblspc', oid)), VERSION))
  return found
}

/** Whatever happened so far: the old one is whole, and never with what belongs to the new one. */
async function expectNoMixture(): Promise<void> {
  const current = (await exists(at('data'))) ? await clusterIn(at('data')) : {}
  expect([{}, { data: 'old', 16400: 'old' }, { data: 'new', 16400: 'new', 16500: 'new' }]).toContainEqual(
    current,
  )
  const places = [at('data'), at('data.before-1')]
  expect(await Promise.all(places.map(whose))).toContain('old')
  const spaces = [at('space', VERSION), at('space', 'before-1', VERSION)]
  expect(await Promise.all(spaces.map(whose))).toContain('old')
}

async function expectEnd(): Promise<void> {
  expect(await clusterIn(at('data'))).toEqual({ data: 'new', 16400: 'new', 16500: 'new' })
  expect(await clusterIn(at('data.before-1'))).toEqual({ data: 'old', 16400: 'old' })
  expect(await readlink(at('data/pg_tblspc/16400'))).toBe(at('space'))
  expect(await whose(at('spool.before-1'))).toBe('old')
  expect((await readdir(dir)).toSorted()).toEqual([
    'another',
    'data',
    'data.before-1',
    'space',
    'spool.before-1',
    'state',
  ])
  expect((await readdir(at('space'))).toSorted()).toEqual([VERSION, 'before-1'])
  expect(await readdir(at('another'))).toEqual([VERSION])
  expect(await readdir(at('state/journal'))).toEqual([])
}

test('a swap with tablespaces killed with SIGKILL before each of its steps: never a mixture of old and new, and the next run ends it', async () => {
  let count = 0
  for (; ; count++) {
    const work = await make()
    const isKilled = await killedAt(count)
    await expectNoMixture()
    const lines = await recoverWorks(at('state'), work.target)
    expect(lines).toHaveLength(isKilled ? 1 : 0)
    await expectEnd()
    await rm(dir, { recursive: true })
    if (!isKilled) break
  }
  expect(count).toBeGreaterThan(15) // renames, links and folders: none was passed over
})

test('a swap with tablespaces killed again and again, each time a step later: it ends all the same', async () => {
  await make()
  let count = 0
  for (; await killedAt(count); count++) await expectNoMixture()
  expect(count).toBeGreaterThan(5)
  await expectEnd()
})

test('a swap whose target runs again meanwhile: it is left alone', async () => {
  const work = await make()
  await killedAt(0)
  // Any process that is in that folder and is named there, as a server is.
  const server = spawn('sleep', ['60'], { cwd: work.target, stdio: 'ignore' })
  await writeFile(join(work.target, 'postmaster.pid'), `${server.pid}\n`)
  await expect(recoverWorks(at('state'), work.target)).rejects.toMatchObject({ code: 'target-not-empty' })
  server.kill()
  await once(server, 'close')
  expect(await clusterIn(work.target)).toEqual({ data: 'old', 16400: 'old' })
  expect(await whose(work.data)).toBe('new')
})
