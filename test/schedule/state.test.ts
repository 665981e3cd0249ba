import {
  chown,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userId } from '../../scripts/cluster/connect.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Host } from '../../scripts/host/schema.ts'
import { changeState, giveStates, type JobState, madeKnown, readState } from '../../scripts/schedule/state.ts'
import { ended, runCode, startCode } from '../support/code.ts'

const isRoot = process.getuid?.() === 0

let dir: string
let number = 0
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-state-'))
  if (isRoot) await chown(dir, userId('postgres').uid, userId('postgres').gid)
})
afterAll(() => rm(dir, { recursive: true }))

function host(): { host: Host; toml: string; folder: string } {
  const stateDir = join(dir, String(++number))
  const toml = `format = 1
[host]
name = "db1"
state_dir = "${stateDir}"
[postgres]
major = 17
`
  return { host: parseHost(toml), toml, folder: join(stateDir, 'jobs') }
}

const counting = (toml: string, times: number) => `
  import { parseHost } from 'scripts/host/host.ts'
  import { changeState } from 'scripts/schedule/state.ts'
  const host = parseHost(${JSON.stringify(toml)})
  for (let count = 0; count < ${times}; count++)
    await changeState(host, 'nightly', (state) => ({ ...state, failures: state.failures + 1 }))
`

describe('state of a job', () => {
  test('none yet: is empty, and nothing is made by reading it', async () => {
    const { host: h, folder } = host()
    expect(await readState(h, 'nightly')).toEqual({ job: 'nightly', failures: 0 })
    await expect(stat(folder)).rejects.toThrow('ENOENT')
  })

  test('changed: is read again as it was written', async () => {
    const { host: h } = host()
    const last = {
      begun: '2026-01-02T03:04:05.000Z',
      ended: '2026-01-02T03:05:05.000Z',
      result: 'failed' as const,
      reason: 'timeout "ü"\n',
    }
    await changeState(h, 'nightly', (state) => ({ ...state, last, failures: 3, failingSince: last.begun }))
    expect(await readState(h, 'nightly')).toEqual({
      job: 'nightly',
      last,
      failures: 3,
      failingSince: last.begun,
    })
    expect(await readState(h, 'weekly')).toEqual({ job: 'weekly', failures: 0 })
  })

  test('two writers at once: no change is lost', async () => {
    const { host: h, toml } = host()
    const children = [startCode(counting(toml, 10)), startCode(counting(toml, 10))]
    for (const child of children) expect(await ended(child)).toMatchObject({ code: 0 })
    expect(await readState(h, 'nightly')).toMatchObject({ failures: 20 })
  })

  test.each(['', '{"format":1,"job"', '[]', 'null', '{"format":1,"job":"nightly","failures":"many"}'])(
    'damaged, %j: is forgotten with a warning, since with it nobody would be told of a failure',
    async (text) => {
      const { host: h, toml, folder } = host()
      await changeState(h, 'nightly', (state) => ({ ...state, failures: 1 }))
      await writeFile(join(folder, 'nightly.json'), text)
      const { code, stderr } = await runCode(counting(toml, 1))
      expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining('is damaged') })
      expect(await readState(h, 'nightly')).toEqual({ job: 'nightly', failures: 1 })
    },
  )

  test('of a newer format: is refused and left as it is', async () => {
    const { host: h, folder } = host()
    await changeState(h, 'nightly', (state) => ({ ...state, failures: 1 }))
    const text = '{"format":2,"job":"nightly"}'
    await writeFile(join(folder, 'nightly.json'), text)
    const change = changeState(h, 'nightly', (state) => ({ ...state, failures: 2 }))
    await expect(change).rejects.toMatchObject({
      code: 'file-unreadable',
      message: expect.stringContaining('has format 2, this version knows 1'),
    })
    expect(await readFile(join(folder, 'nightly.json'), 'utf8')).toBe(text)
  })

  test('a change that changes nothing: writes nothing', async () => {
    const { host: h, folder } = host()
    expect(await changeState(h, 'nightly', (state) => state)).toEqual({ job: 'nightly', failures: 0 })
    expect(await readdir(folder)).toEqual(['.nightly.lock'])
  })

  test.runIf(isRoot)(
    'written by root: the owner of the cluster reads and writes it, nobody else',
    async () => {
      const { host: h, toml, folder } = host()
      await changeState(h, 'nightly', (state) => ({ ...state, failures: 1 }))
      expect((await stat(join(folder, 'nightly.json'))).mode & 0o777).toBe(0o600)
      expect(await runCode(counting(toml, 1), userId('postgres'))).toMatchObject({ code: 0 })
      expect(await readState(h, 'nightly')).toMatchObject({ failures: 2 })
      const other = await runCode(counting(toml, 1), { uid: 65_534, gid: 65_534 })
      expect(other.stderr).toContain('permission denied')
    },
  )

  test.runIf(isRoot)(
    "a link in place of the folder: root follows it nowhere, for it is the cluster's owner's",
    async () => {
      const { host: h, folder } = host()
      const target = join(dir, 'elsewhere')
      await mkdir(target)
      await mkdir(join(folder, '..'))
      await symlink(target, folder)
      await expect(changeState(h, 'nightly', (state) => ({ ...state, failures: 1 }))).rejects.toMatchObject({
        code: 'not-permitted',
        message: expect.stringContaining('is to be a folder, and it is something else'),
      })
      expect(await readdir(target)).toEqual([])
    },
  )
})

describe('a job that is made known', () => {
  const now = new Date('2026-06-01T00:00:00.000Z')
  const job = { schedule: '0 2 * * *', timezone: 'UTC' }
  const times = '0 2 * * * UTC'
  const old = '2026-01-01T00:00:00.000Z'

  test.each<[string, Partial<JobState>, boolean, Partial<JobState>]>([
    ['for the first time: counts from now', {}, false, { times, installedAt: now.toISOString() }],
    ['again: counts as before', { times, installedAt: old }, false, { times, installedAt: old }],
    [
      'by a state without its times: counts as before',
      { installedAt: old },
      false,
      { times, installedAt: old },
    ],
    [
      'with other times: missed nothing by them yet',
      { times: '0 3 * * * UTC', installedAt: old },
      false,
      { times, installedAt: now.toISOString() },
    ],
    [
      'in another zone: missed nothing by it yet',
      { times: '0 2 * * * CET', installedAt: old },
      false,
      { times, installedAt: now.toISOString() },
    ],
    [
      'after it was away for months: missed nothing meanwhile',
      { times, installedAt: old },
      true,
      { times, installedAt: now.toISOString() },
    ],
  ])('%s', (_title, before, isNew, after) => {
    const rest = { job: 'nightly', failures: 2 }
    expect(madeKnown({ ...rest, ...before }, job, { now, isNew })).toEqual({ ...rest, ...after })
  })
})

test.runIf(isRoot)(
  'jobs that another user ran before: their states become those of the one who runs them now, and nothing else does',
  async () => {
    const { host: h, folder } = host()
    await changeState(h, 'nightly', (state) => ({ ...state, failures: 1 }))
    const outside = join(dir, 'outside')
    await writeFile(outside, '')
    await link(outside, join(folder, 'linked.json'))
    await symlink(outside, join(folder, 'symbolic.json'))
    for (const path of [folder, join(folder, 'nightly.json')]) await chown(path, 0, 0)
    await giveStates(h)
    const { uid } = userId('postgres')
    const owners = await Promise.all(
      [folder, join(folder, 'nightly.json'), outside].map(async (path) => (await stat(path)).uid),
    )
    expect(owners).toEqual([uid, uid, 0])
  },
)
