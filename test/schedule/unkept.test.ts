import { chmod, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { changeState, type JobState } from '../../scripts/schedule/state.ts'
import { forgetMeanwhile } from '../../scripts/schedule/unkept.ts'
import { BEGUN, type Chat, FAILED, openChat } from '../support/chat.ts'
import { ROOT, runScript } from '../support/script.ts'

// What people are told where nothing can be remembered.

let chat: Chat
beforeAll(async () => {
  chat = await openChat()
})
afterAll(() => chat[Symbol.asyncDispose]())

const HOWDAH = join(ROOT, 'scripts/howdah')
const isRoot = process.getuid?.() === 0

test.each([
  ['of a newer format', (path: string) => writeFile(path, '{"format":2}'), /format 2/],
  ['that is no file', (path: string) => rm(path).then(() => mkdir(path)), /it is a folder/],
])('state %s: is told as a failure of its own, once, and the other jobs as ever', async (_, spoil, why) => {
  chat.posted = []
  chat.status = 200
  const { host, notify, set } = await chat.host('"chat"')
  await set(FAILED)
  const path = join(host.host.state_dir, 'jobs/archive-check.json')
  await spoil(path)
  expect(await notify()).toMatchObject({ code: 0 })
  expect(new Set(chat.posted.map(({ body }) => body['job']))).toEqual(
    new Set(['archive-check', 'backup-nightly']),
  )
  expect(chat.posted).toHaveLength(2)
  const told = chat.posted.find(({ body }) => body['job'] === 'archive-check')!
  expect(told.body['reason']).toMatch(/^what is remembered of it cannot be kept: /)
  expect(told.body['reason']).toMatch(why)
})

test.runIf(isRoot)(
  'state folder that root is not to write through: people are told once all the same, and of the recovery',
  async () => {
    chat.posted = []
    chat.status = 200
    await mkdir('/run/lock/howdah', { recursive: true, mode: 0o750 })
    const { host, notify } = await chat.host('"chat"')
    const folder = join(host.host.state_dir, 'jobs')
    await rename(folder, `${folder}-elsewhere`)
    await symlink(`${folder}-elsewhere`, folder)
    const job = (at: number) => chat.posted[at]!.body
    expect(await notify('--unit', 'howdah-backup-nightly.service')).toMatchObject({ code: 0 })
    expect(job(0)).toMatchObject({ job: 'backup-nightly', state: 'failed' })
    expect(job(0)['reason']).toContain('is to be a folder, and it is something else, such as a link')
    expect(await notify('--unit', 'howdah-backup-nightly.service')).toMatchObject({
      stdout: 'nothing is due\n',
    })
    await rm(folder)
    await rename(`${folder}-elsewhere`, folder)
    // What it says is older than what was told.
    expect(await notify('--unit', 'howdah-backup-nightly.service')).toMatchObject({
      stdout: 'nothing is due\n',
    })
    const now = new Date().toISOString()
    const last = { begun: now, ended: now, result: 'success', reason: 'exit code 0' } as const
    await changeState(host, 'backup-nightly', (state) => ({ ...state, last, lastSuccess: now }))
    expect((await notify('--unit', 'howdah-backup-nightly.service')).stdout).toContain('recovered')
    expect((await notify()).stdout).toBe('nothing is due\n')
  },
)

test.runIf(isRoot).each<[string, Partial<JobState>]>([
  ['failed', FAILED],
  ['stale', { lastSuccess: BEGUN }],
  ['recovered', { lastSuccess: new Date().toISOString(), told: { state: 'failed', at: BEGUN } }],
])('state that can be read and not be written, %s: is told once, not by each check', async (_, known) => {
  chat.posted = []
  chat.status = 200
  await mkdir('/run/lock/howdah', { recursive: true, mode: 0o750 })
  const { host, file, set, state } = await chat.host('"chat"')
  await set({ ...known, installedAt: BEGUN })
  for (const folder of [chat.dir, join(file, '..')]) await chmod(folder, 0o755)
  const readOnly = ['mount --bind "$1" "$1"', 'mount -o remount,ro,bind "$1"', 'shift', 'exec "$@"'].join(
    ' && ',
  )
  const notify = () =>
    run(
      [
        'unshare',
        '--mount',
        'sh',
        '-ec',
        readOnly,
        'sh',
        host.host.state_dir,
        HOWDAH,
        'schedule',
        'notify',
        '-c',
        file,
      ],
      {
        keepEnvironment: true,
      },
    )
  for (let check = 0; check < 3; check++) await notify()
  expect(chat.posted.map(({ body }) => body['job'])).toEqual(['backup-nightly'])
  expect(await state()).toMatchObject(known)
  await forgetMeanwhile(host, 'backup-nightly')
})

test('run that nobody could record, of which its caller says how it ended: is told as a failure', async () => {
  chat.posted = []
  chat.status = 200
  const { file, set, state } = await chat.host('"chat"')
  await set({ lastSuccess: new Date().toISOString(), installedAt: BEGUN })
  const unit = ['--unit', 'howdah-backup-nightly.service']
  const notify = (result: string) =>
    runScript(['schedule', 'notify', ...unit, '-c', file], { env: { MONITOR_SERVICE_RESULT: result } })
  expect((await notify('success')).stdout).toBe('nothing is due\n')
  expect((await notify('exit-code')).stdout).toBe('told chat: backup-nightly failed\n')
  expect(await state()).toMatchObject({ failures: 1, last: { reason: 'exit-code: it could not be begun' } })
})
