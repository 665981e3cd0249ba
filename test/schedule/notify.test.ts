import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { uptime } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { changeState, type JobState } from '../../scripts/schedule/state.ts'
import { BEGUN, type Chat, FAILED, openChat } from '../support/chat.ts'
import { runScript } from '../support/script.ts'

let chat: Chat
beforeAll(async () => {
  chat = await openChat()
})
afterAll(() => chat[Symbol.asyncDispose]())

const isRoot = process.getuid?.() === 0

describe('schedule notify', () => {
  test('failure: all are told once with what they need; then nothing is due; secrets are not said', async () => {
    chat.posted = []
    chat.status = 200
    const { notify, set, mails, state } = await chat.host()
    await set({ ...FAILED, lastSuccess: '2025-12-31T02:00:00.000Z' })
    const { code, stdout, stderr } = await notify('--unit', 'howdah-backup-nightly.service')
    expect({ code, stdout, stderr }).toMatchObject({
      code: 0,
      stdout: 'told ops, chat: backup-nightly failed\n',
    })
    expect(stdout + stderr).not.toMatch(/tok3n|s3cret/)
    const mail = await mails()
    expect(mail).toContain('To: dba@example.org\nSubject: [howdah db1] backup-nightly failed: timeout\n')
    expect(mail).toContain('last success:  2025-12-31T02:00:00.000Z\n')
    expect(mail).toContain('journalctl --unit=howdah-backup-nightly.service')
    expect(mail).toContain('HOWDAH_JOB=backup-nightly\n')
    expect(mail).toContain('HOWDAH_STATE=failed\n')
    expect(mail.endsWith('-t\n')).toBe(true)
    expect(chat.posted).toEqual([
      {
        url: '/tok3n',
        headers: expect.objectContaining({
          authorization: 'Bearer s3cret',
          'content-type': 'application/json',
        }),
        body: {
          format: 1,
          host: 'db1',
          job: 'backup-nightly',
          state: 'failed',
          reason: 'timeout',
          since: BEGUN,
          last_success: '2025-12-31T02:00:00.000Z',
          text: '[howdah db1] backup-nightly failed: timeout',
        },
      },
    ])
    expect(await state()).toMatchObject({ told: { state: 'failed' } })
    expect((await notify()).stdout).toBe('nothing is due\n')
    expect(chat.posted).toHaveLength(1)
  })

  test('two at once: it is told once', async () => {
    chat.posted = []
    chat.status = 200
    const { notify, set } = await chat.host('"chat"')
    await set(FAILED)
    const both = await Promise.all([notify(), notify('--unit', 'howdah-backup-nightly.service')])
    expect(both.map(({ code }) => code)).toEqual([0, 0])
    expect(chat.posted).toHaveLength(1)
  })

  test('one who cannot be told: the others are, it fails, and only that one is tried again', async () => {
    chat.posted = []
    chat.status = 503
    const { notify, set, mails, state } = await chat.host('"broken", "chat", "ops"')
    await set(FAILED)
    const { code, stderr } = await notify()
    expect({ code, stderr }).toMatchObject({ code: 25, stderr: expect.stringContaining('HTTP 503') })
    expect(stderr).not.toMatch(/tok3n|s3cret/)
    expect((await mails()).match(/Subject/g)).toHaveLength(1)
    expect(chat.posted).toHaveLength(3)
    expect(await state()).toMatchObject({ told: { state: 'failed', missed: ['broken', 'chat'] } })
    chat.status = 200
    expect((await notify()).code).toBe(25)
    expect(chat.posted).toHaveLength(4)
    expect((await mails()).match(/Subject/g)).toHaveLength(1)
    expect(await state()).toMatchObject({ told: { missed: ['broken'] } })
  })

  test('one who does not answer puts off nobody else', async () => {
    const { host, file, notify, set, mails } = await chat.host()
    const own = join(file, '..')
    const toml = (await readFile(file, 'utf8')).replace(
      'on_failure = ["ops", "chat"]',
      'on_failure = ["slow"]',
    )
    const slow = `[notify.slow]\ncommand = ["sh", "-c", "cat >${own}/early; sleep 3; touch ${own}/late"]\n`
    const archive = '[archive]\non_failure = ["ops"]\n'
    await writeFile(file, `${toml.replace('[archive]\n', archive)}${slow}`)
    await set(FAILED)
    await changeState(host, 'archive-check', (state) => ({ ...state, ...FAILED }))
    expect((await notify()).code).toBe(0)
    expect(await mails()).toContain('archive-check failed')
    const [mail, late] = [await stat(join(own, 'mail')), await stat(join(own, 'late'))]
    expect(mail.mtimeMs).toBeLessThan(late.mtimeMs)
  })

  test('a trial: all whom the host file names are told, and who cannot be is named', async () => {
    chat.posted = []
    const { notify, mails, state, file } = await chat.host()
    const done = await notify('--test')
    expect(done).toMatchObject({ code: 25, stdout: '' })
    expect(done.stderr).toContain('not everybody could be told: broken of test')
    expect(await mails()).toContain('Subject: [howdah db1] test is a trial: nothing has failed\n')
    expect(chat.posted).toMatchObject([{ body: { job: 'test', state: 'trial' } }])
    expect(await state()).toEqual({ job: 'backup-nightly', failures: 0 })
    const nobody = (await readFile(file, 'utf8')).replaceAll(/^on_failure.*$/gm, '')
    await writeFile(file, nobody.replace(/\[notify\.ops\][^]*?(?=\[store)/, ''))
    expect((await notify('--test')).stderr).toContain('the host file has no [notify.NAME]')
  })

  test('recovery: is told, then forgotten', async () => {
    chat.posted = []
    chat.status = 200
    const { notify, set, state } = await chat.host('"chat"')
    const now = new Date().toISOString()
    await set({ lastSuccess: now, told: { state: 'failed', at: BEGUN } })
    expect((await notify()).stdout).toBe('told chat: backup-nightly recovered\n')
    expect(chat.posted[0]!.body).toMatchObject({
      state: 'recovered',
      text: '[howdah db1] backup-nightly is well again',
    })
    expect(await state()).not.toHaveProperty('told')
  })

  test('missed success: is told; a job that nobody knew counts from now on', async () => {
    chat.posted = []
    chat.status = 200
    const { notify, set, state } = await chat.host('"chat"')
    await set({ lastSuccess: '2026-01-01T02:00:00.000Z' })
    await notify()
    expect(chat.posted[0]!.body).toMatchObject({
      state: 'stale',
      reason: 'no success since it was to run at 2026-01-02T02:00:00.000Z',
    })
    await set({})
    expect((await notify()).stdout).toBe('nothing is due\n')
    expect((await state()).installedAt).toMatch(/^20\d\d-/)
  })

  test.each([
    ['goes on', 30, 'nothing is due\n'],
    [
      'went down with the host, so that nobody has recorded its end',
      -30,
      'told chat: backup-nightly stale\n',
    ],
  ])('missed success, and a run that %s', async (_title, secondsAfterBoot, told) => {
    chat.status = 200
    const { notify, set } = await chat.host('"chat"')
    const begun = new Date(Date.now() - (uptime() - secondsAfterBoot) * 1000).toISOString()
    await set({ lastSuccess: BEGUN, begun })
    expect((await notify()).stdout).toBe(told)
  })

  test.runIf(isRoot)(
    'alert that runs as root for the sake of one who is privileged: everybody else is told by the user of the jobs',
    async () => {
      const { file, notify, set } = await chat.host()
      const own = join(file, '..')
      const tells = (name: string) =>
        `[notify.${name}]\ncommand = ["sh", "-c", "id -un >>${own}/out/${name}"]\n`
      await mkdir(join(own, 'out'))
      for (const folder of [chat.dir, own, join(own, 'out')]) await chmod(folder, 0o777)
      const toml = (await readFile(file, 'utf8'))
        .replace('user = "root"', 'user = "nobody"')
        .replace('on_failure = ["ops", "chat"]', 'on_failure = ["who", "mailer"]')
      await writeFile(file, `${toml}${tells('who')}${tells('mailer')}privileged = true\n`)
      await set(FAILED)
      expect((await notify()).code).toBe(0)
      expect(await readFile(join(own, 'out/who'), 'utf8')).toBe('nobody\n')
      expect(await readFile(join(own, 'out/mailer'), 'utf8')).toBe('root\n')
    },
  )

  test.runIf(isRoot)(
    'somebody else: tells nobody, since for that one all jobs would have failed',
    async () => {
      chat.posted = []
      const { file, set } = await chat.host('"chat"')
      await set(FAILED)
      for (const folder of [chat.dir, join(file, '..')]) await chmod(folder, 0o755)
      const done = await runScript(['schedule', 'notify', '-c', file], { uid: 65_534 })
      expect(done).toMatchObject({ code: 13, stderr: expect.stringContaining('only root') as string })
      expect(chat.posted).toEqual([])
    },
  )

  test('check that could tell everybody: asks the address that watches it; one that could not does not', async () => {
    const { file, notify, set } = await chat.host('"chat"')
    const pinged: string[] = []
    const watcher = createServer((request, response) => {
      pinged.push(request.url!)
      response.end()
    }).listen(0, '127.0.0.1')
    await once(watcher, 'listening')
    const address = `http://127.0.0.1:${(watcher.address() as AddressInfo).port}/alive`
    const toml = await readFile(file, 'utf8')
    await writeFile(file, toml.replace('[schedule]\n', `[schedule]\nping = "${address}"\n`))
    try {
      chat.posted = []
      chat.status = 200
      expect((await notify()).code).toBe(0)
      expect((await notify('--unit', 'howdah-backup-nightly.service')).code).toBe(0)
      expect(pinged).toEqual(['/alive'])
      chat.status = 503
      await set(FAILED)
      expect((await notify()).code).toBe(25)
      expect(pinged).toEqual(['/alive'])
    } finally {
      watcher.close()
    }
  })

  test('unit of a job that is no longer in the host file, which names nobody for all: everybody is told', async () => {
    chat.posted = []
    chat.status = 200
    const { file, notify, mails } = await chat.host('')
    const toml = await readFile(file, 'utf8')
    await writeFile(file, toml.replace(/\[notify\.broken\]\n.*\n/, ''))
    expect((await notify('--unit', 'howdah-backup-renamed.service')).stdout).toBe(
      'told ops, chat: howdah-backup-renamed.service failed\n',
    )
    expect(await mails()).toContain('Subject: [howdah db1] howdah-backup-renamed.service failed')
    expect(chat.posted).toHaveLength(1)
  })

  test.each(['howdah-backup-gone.service', 'something-else.service'])(
    'unit that is no job, %s: that it failed is told',
    async (unit) => {
      chat.posted = []
      chat.status = 200
      const { notify } = await chat.host('"chat"')
      expect((await notify('--unit', unit)).code).toBe(0)
      expect(chat.posted[0]!.body).toMatchObject({ state: 'failed', reason: 'its unit failed' })
    },
  )
})

// With systemd it looks at the timers, too, and these jobs have none: see test/journeys.
describe.skipIf(existsSync('/run/systemd/system'))('schedule check', () => {
  test.each<[Partial<JobState>, string, number]>([
    [{}, 'never ran', 0],
    [{ lastSuccess: new Date().toISOString() }, 'ok', 0],
    [FAILED, 'failed', 1],
    [{ lastSuccess: BEGUN }, 'stale', 1],
    [{ ...FAILED, pausedSince: BEGUN }, 'paused', 0],
  ])('%j: %s, exit %i, and nobody is told', async (state, health, code) => {
    chat.posted = []
    const { set, check } = await chat.host('"chat"')
    await set(state)
    const result = await check()
    const document = JSON.parse(result.stdout) as { result: { jobs: { job: string; state: string }[] } }
    expect(document.result.jobs.find(({ job }) => job === 'backup-nightly')?.state).toBe(health)
    expect([result.code, chat.posted]).toEqual([code, []])
  })
})
