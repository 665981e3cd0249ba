import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir, uptime } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { currentUser } from '../../scripts/core/user.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Host } from '../../scripts/host/schema.ts'
import { mailOf, type Story } from '../../scripts/schedule/message.ts'
import { changeState, type JobState, readState } from '../../scripts/schedule/state.ts'
import { forgetMeanwhile } from '../../scripts/schedule/unkept.ts'
import { ROOT, runScript, type ScriptResult } from '../support/script.ts'

interface Posted {
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: Record<string, unknown>
}

let dir: string
let server: Server
let posted: Posted[] = []
let status = 200
let port: number
let number = 0

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-notify-'))
  server = createServer(async (request, response) => {
    const body = JSON.parse(await text(request)) as Record<string, unknown>
    posted.push({ url: request.url!, headers: request.headers, body })
    response.writeHead(status).end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  port = (server.address() as AddressInfo).port
})
afterAll(async () => {
  server.close()
  await rm(dir, { recursive: true })
})

const HOWDAH = join(ROOT, 'scripts/howdah')
const isRoot = process.getuid?.() === 0

const BEGUN = '2026-01-01T02:00:00.000Z'
const FAILED: Partial<JobState> = {
  failures: 1,
  failingSince: BEGUN,
  installedAt: BEGUN,
  last: { begun: BEGUN, ended: '2026-01-01T02:10:00.000Z', result: 'failed', reason: 'timeout' },
}

interface TestHost {
  readonly host: Host
  readonly file: string
  readonly notify: (...args: string[]) => Promise<ScriptResult>
  readonly check: () => Promise<ScriptResult>
  readonly set: (state: Partial<JobState>) => Promise<void>
  readonly state: () => Promise<JobState>
  /** Mails that the program of "ops" was given, and what it had in its environment. */
  readonly mails: () => Promise<string>
}

/** The job `backup-nightly` tells "ops", a program, and "chat", a webhook. */
async function testHost(onFailure = '"ops", "chat"'): Promise<TestHost> {
  const own = join(dir, String(++number))
  await mkdir(own)
  const program = join(own, 'mailer')
  await writeFile(
    program,
    `#!/bin/sh\nenv | grep ^HOWDAH_ >>"${own}/mail"\ncat >>"${own}/mail"\necho "$@" >>"${own}/mail"\n`,
  )
  await chmod(program, 0o755)
  await writeFile(join(own, 'url'), `http://127.0.0.1:${port}/tok3n`)
  await writeFile(join(own, 'authorization'), 'Bearer s3cret\n')
  const toml = `format = 1
[host]
name = "db1"
state_dir = "${own}/state"
[postgres]
major = 17
[schedule]
user = "${isRoot ? 'root' : currentUser()}"
on_failure = [${onFailure}]
runtime_limit = "9999d"
[notify.ops]
command = ["${program}", "-t"]
to = "dba@example.org"
[notify.broken]
command = ["false"]
[notify.chat]
webhook = { file = "${own}/url" }
authorization = { file = "${own}/authorization" }
[store.local]
type = "dir"
path = "${own}/store"
[archive]
store = "local"
[backup.nightly]
kind = "dump"
store = "local"
schedule = "0 2 * * *"
`
  const file = join(own, 'host.toml')
  await writeFile(file, toml)
  const host = parseHost(toml)
  const script = (verb: string, ...args: string[]) => runScript(['schedule', verb, ...args, '-c', file])
  // Both are known, so that nothing but what a test sets is due.
  await changeState(host, 'archive-check', (state) => ({ ...state, lastSuccess: new Date().toISOString() }))
  return {
    host,
    file,
    notify: (...args) => script('notify', ...args),
    check: () => script('check', '--json'),
    set: async (state) =>
      void (await changeState(host, 'backup-nightly', () => ({
        job: 'backup-nightly',
        failures: 0,
        ...state,
      }))),
    state: () => readState(host, 'backup-nightly'),
    mails: () => readFile(join(own, 'mail'), 'utf8').catch(() => ''),
  }
}

describe('schedule notify', () => {
  test('failure: all are told once with what they need; then nothing is due; secrets are not said', async () => {
    posted = []
    status = 200
    const { notify, set, mails, state } = await testHost()
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
    expect(posted).toEqual([
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
    expect(posted).toHaveLength(1)
  })

  test('two at once: it is told once', async () => {
    posted = []
    status = 200
    const { notify, set } = await testHost('"chat"')
    await set(FAILED)
    const both = await Promise.all([notify(), notify('--unit', 'howdah-backup-nightly.service')])
    expect(both.map(({ code }) => code)).toEqual([0, 0])
    expect(posted).toHaveLength(1)
  })

  test('one who cannot be told: the others are, it fails, and only that one is tried again', async () => {
    posted = []
    status = 503
    const { notify, set, mails, state } = await testHost('"broken", "chat", "ops"')
    await set(FAILED)
    const { code, stderr } = await notify()
    expect({ code, stderr }).toMatchObject({ code: 25, stderr: expect.stringContaining('HTTP 503') })
    expect(stderr).not.toMatch(/tok3n|s3cret/)
    expect((await mails()).match(/Subject/g)).toHaveLength(1)
    expect(posted).toHaveLength(3)
    expect(await state()).toMatchObject({ told: { state: 'failed', missed: ['broken', 'chat'] } })
    status = 200
    expect((await notify()).code).toBe(25)
    expect(posted).toHaveLength(4)
    expect((await mails()).match(/Subject/g)).toHaveLength(1)
    expect(await state()).toMatchObject({ told: { missed: ['broken'] } })
  })

  test('one who does not answer puts off nobody else', async () => {
    const { host, file, notify, set, mails } = await testHost()
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
    posted = []
    const { notify, mails, state, file } = await testHost()
    const done = await notify('--test')
    expect(done).toMatchObject({ code: 25, stdout: '' })
    expect(done.stderr).toContain('not everybody could be told: broken of test')
    expect(await mails()).toContain('Subject: [howdah db1] test is a trial: nothing has failed\n')
    expect(posted).toMatchObject([{ body: { job: 'test', state: 'trial' } }])
    expect(await state()).toEqual({ job: 'backup-nightly', failures: 0 })
    const nobody = (await readFile(file, 'utf8')).replaceAll(/^on_failure.*$/gm, '')
    await writeFile(file, nobody.replace(/\[notify\.ops\][^]*?(?=\[store)/, ''))
    expect((await notify('--test')).stderr).toContain('the host file has no [notify.NAME]')
  })

  test('recovery: is told, then forgotten', async () => {
    posted = []
    status = 200
    const { notify, set, state } = await testHost('"chat"')
    const now = new Date().toISOString()
    await set({ lastSuccess: now, told: { state: 'failed', at: BEGUN } })
    expect((await notify()).stdout).toBe('told chat: backup-nightly recovered\n')
    expect(posted[0]!.body).toMatchObject({
      state: 'recovered',
      text: '[howdah db1] backup-nightly is well again',
    })
    expect(await state()).not.toHaveProperty('told')
  })

  test('missed success: is told; a job that nobody knew counts from now on', async () => {
    posted = []
    status = 200
    const { notify, set, state } = await testHost('"chat"')
    await set({ lastSuccess: '2026-01-01T02:00:00.000Z' })
    await notify()
    expect(posted[0]!.body).toMatchObject({
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
    status = 200
    const { notify, set } = await testHost('"chat"')
    const begun = new Date(Date.now() - (uptime() - secondsAfterBoot) * 1000).toISOString()
    await set({ lastSuccess: BEGUN, begun })
    expect((await notify()).stdout).toBe(told)
  })

  test.each([
    ['of a newer format', (path: string) => writeFile(path, '{"format":2}'), /format 2/],
    ['that is no file', (path: string) => rm(path).then(() => mkdir(path)), /it is a folder/],
  ])('state %s: is told as a failure of its own, once, and the other jobs as ever', async (_, spoil, why) => {
    posted = []
    status = 200
    const { host, notify, set } = await testHost('"chat"')
    await set(FAILED)
    const path = join(host.host.state_dir, 'jobs/archive-check.json')
    await spoil(path)
    expect(await notify()).toMatchObject({ code: 0 })
    expect(new Set(posted.map(({ body }) => body['job']))).toEqual(
      new Set(['archive-check', 'backup-nightly']),
    )
    expect(posted).toHaveLength(2)
    const told = posted.find(({ body }) => body['job'] === 'archive-check')!
    expect(told.body['reason']).toMatch(/^what is remembered of it cannot be kept: /)
    expect(told.body['reason']).toMatch(why)
  })

  test.runIf(isRoot)(
    'state folder that root is not to write through: people are told once all the same, and of the recovery',
    async () => {
      posted = []
      status = 200
      await mkdir('/run/lock/howdah', { recursive: true, mode: 0o750 })
      const { host, notify } = await testHost('"chat"')
      const folder = join(host.host.state_dir, 'jobs')
      await rename(folder, `${folder}-elsewhere`)
      await symlink(`${folder}-elsewhere`, folder)
      const job = (at: number) => posted[at]!.body
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
    posted = []
    status = 200
    await mkdir('/run/lock/howdah', { recursive: true, mode: 0o750 })
    const { host, file, set, state } = await testHost('"chat"')
    await set({ ...known, installedAt: BEGUN })
    for (const folder of [dir, join(file, '..')]) await chmod(folder, 0o755)
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
    expect(posted.map(({ body }) => body['job'])).toEqual(['backup-nightly'])
    expect(await state()).toMatchObject(known)
    await forgetMeanwhile(host, 'backup-nightly')
  })

  test.runIf(isRoot)(
    'alert that runs as root for the sake of one who is privileged: everybody else is told by the user of the jobs',
    async () => {
      const { file, notify, set } = await testHost()
      const own = join(file, '..')
      const tells = (name: string) =>
        `[notify.${name}]\ncommand = ["sh", "-c", "id -un >>${own}/out/${name}"]\n`
      await mkdir(join(own, 'out'))
      for (const folder of [dir, own, join(own, 'out')]) await chmod(folder, 0o777)
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
      posted = []
      const { file, set } = await testHost('"chat"')
      await set(FAILED)
      for (const folder of [dir, join(file, '..')]) await chmod(folder, 0o755)
      const done = await runScript(['schedule', 'notify', '-c', file], { uid: 65_534 })
      expect(done).toMatchObject({ code: 13, stderr: expect.stringContaining('only root') as string })
      expect(posted).toEqual([])
    },
  )

  test('run that nobody could record, of which its caller says how it ended: is told as a failure', async () => {
    posted = []
    status = 200
    const { file, set, state } = await testHost('"chat"')
    await set({ lastSuccess: new Date().toISOString(), installedAt: BEGUN })
    const unit = ['--unit', 'howdah-backup-nightly.service']
    const notify = (result: string) =>
      runScript(['schedule', 'notify', ...unit, '-c', file], { env: { MONITOR_SERVICE_RESULT: result } })
    expect((await notify('success')).stdout).toBe('nothing is due\n')
    expect((await notify('exit-code')).stdout).toBe('told chat: backup-nightly failed\n')
    expect(await state()).toMatchObject({ failures: 1, last: { reason: 'exit-code: it could not be begun' } })
  })

  test('check that could tell everybody: asks the address that watches it; one that could not does not', async () => {
    const { file, notify, set } = await testHost('"chat"')
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
      posted = []
      status = 200
      expect((await notify()).code).toBe(0)
      expect((await notify('--unit', 'howdah-backup-nightly.service')).code).toBe(0)
      expect(pinged).toEqual(['/alive'])
      status = 503
      await set(FAILED)
      expect((await notify()).code).toBe(25)
      expect(pinged).toEqual(['/alive'])
    } finally {
      watcher.close()
    }
  })

  test('unit of a job that is no longer in the host file, which names nobody for all: everybody is told', async () => {
    posted = []
    status = 200
    const { file, notify, mails } = await testHost('')
    const toml = await readFile(file, 'utf8')
    await writeFile(file, toml.replace(/\[notify\.broken\]\n.*\n/, ''))
    expect((await notify('--unit', 'howdah-backup-renamed.service')).stdout).toBe(
      'told ops, chat: howdah-backup-renamed.service failed\n',
    )
    expect(await mails()).toContain('Subject: [howdah db1] howdah-backup-renamed.service failed')
    expect(posted).toHaveLength(1)
  })

  test.each(['howdah-backup-gone.service', 'something-else.service'])(
    'unit that is no job, %s: that it failed is told',
    async (unit) => {
      posted = []
      status = 200
      const { notify } = await testHost('"chat"')
      expect((await notify('--unit', unit)).code).toBe(0)
      expect(posted[0]!.body).toMatchObject({ state: 'failed', reason: 'its unit failed' })
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
    posted = []
    const { set, check } = await testHost('"chat"')
    await set(state)
    const result = await check()
    const document = JSON.parse(result.stdout) as { result: { jobs: { job: string; state: string }[] } }
    expect(document.result.jobs.find(({ job }) => job === 'backup-nightly')?.state).toBe(health)
    expect([result.code, posted]).toEqual([code, []])
  })
})

describe('mailOf', () => {
  const story: Story = {
    host: 'db1',
    job: 'nightly',
    unit: 'u',
    state: 'failed',
    isReminder: false,
    since: BEGUN,
    reason: 'a\r\nBcc: all@example.org',
    lastSuccess: undefined,
    next: undefined,
    journal: [],
    command: 'c',
  }

  test('line breaks in what a program said: make no header of their own', () => {
    const [headers] = mailOf(story, 'root').split('\n\n')
    expect(headers).toContain('Subject: [howdah db1] nightly failed: a Bcc: all@example.org\n')
    expect(headers).not.toMatch(/^Bcc/m)
  })

  test('letters beyond ASCII in a subject: are encoded in words that are short enough', () => {
    const [headers] = mailOf({ ...story, reason: 'grüße '.repeat(30) }, 'root').split('\n\n')
    const words = headers!.match(/=\?utf-8\?B\?[^?]+\?=/g)!
    expect(Math.max(...words.map((word) => word.length))).toBeLessThanOrEqual(75)
    const bytes = words.map((word) => Buffer.from(word.slice(10, -2), 'base64').toString())
    expect(bytes.join('')).toBe(`[howdah db1] nightly failed: ${'grüße '.repeat(30).trim()}`)
  })
})
