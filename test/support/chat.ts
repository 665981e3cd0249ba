import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { currentUser } from '../../scripts/core/user.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Host } from '../../scripts/host/schema.ts'
import { changeState, type JobState, readState } from '../../scripts/schedule/state.ts'
import { runScript, type ScriptResult } from './script.ts'

interface Posted {
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: Record<string, unknown>
}

/** When the job of {@link FAILED} began. */
export const BEGUN = '2026-01-01T02:00:00.000Z'
/** The state of a job that failed once. */
export const FAILED: Partial<JobState> = {
  failures: 1,
  failingSince: BEGUN,
  installedAt: BEGUN,
  last: { begun: BEGUN, ended: '2026-01-01T02:10:00.000Z', result: 'failed', reason: 'timeout' },
}

/** A chat program that takes what it is posted, and hosts that tell it. */
export interface Chat extends AsyncDisposable {
  /** Where the hosts are. */
  readonly dir: string
  /** To be emptied before something is awaited. */
  posted: Posted[]
  /** What it answers. */
  status: number
  /** The job `backup-nightly` tells "ops", a program, and "chat", a webhook, or whom else this says. */
  host(onFailure?: string): Promise<TestHost>
}

/** A host whose job is never run: a test sets what is remembered of it. */
export interface TestHost {
  readonly host: Host
  readonly file: string
  readonly notify: (...args: string[]) => Promise<ScriptResult>
  readonly check: () => Promise<ScriptResult>
  readonly set: (state: Partial<JobState>) => Promise<void>
  readonly state: () => Promise<JobState>
  /** Mails that the program of "ops" was given, and what it had in its environment. */
  readonly mails: () => Promise<string>
}

/** Starts it. */
export async function openChat(): Promise<Chat> {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-notify-'))
  const server = createServer(async (request, response) => {
    const body = JSON.parse(await text(request)) as Record<string, unknown>
    chat.posted.push({ url: request.url!, headers: request.headers, body })
    response.writeHead(chat.status).end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  let number = 0
  const chat: Chat = {
    dir,
    posted: [],
    status: 200,
    host: (onFailure = '"ops", "chat"') =>
      makeHost(join(dir, String(++number)), (server.address() as AddressInfo).port, onFailure),
    async [Symbol.asyncDispose]() {
      server.close()
      await rm(dir, { recursive: true })
    },
  }
  return chat
}

async function makeHost(own: string, port: number, onFailure: string): Promise<TestHost> {
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
user = "${process.getuid?.() === 0 ? 'root' : currentUser()}"
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
