import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import { userId } from '../../scripts/cluster/connect.ts'
import { currentUser } from '../../scripts/core/user.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { changeState, type JobState, readState } from '../../scripts/schedule/state.ts'
import { ROOT } from './script.ts'
import type { TestServer } from './server.ts'

const isRoot = process.getuid?.() === 0
/** Who runs the jobs. */
export const user: string = isRoot ? 'postgres' : currentUser()

let number = 0

/** A scheduler, and what it has logged so far. */
export interface Running extends AsyncDisposable {
  readonly child: ChildProcess
  readonly log: () => string
  /** Its exit code. */
  readonly end: (signal?: NodeJS.Signals) => Promise<number | null>
}

/** A host file with the job `backup-nightly`, and what became of it. */
export interface ScheduleHost {
  readonly file: string
  readonly store: string
  readonly state: () => Promise<JobState>
  /** Sets what is remembered of the job. */
  readonly set: (state: Partial<JobState>) => Promise<void>
  readonly run: () => Running
  /** Processes whose command line names this host. */
  readonly processes: () => Promise<{ pid: number; line: string }[]>
  /** Labels of the backups. */
  readonly labels: () => Promise<string[]>
}

/** A host with the job `backup-nightly` that dumps the database `app`; by default it has missed a run. */
export async function scheduleHost(
  server: TestServer,
  { job = '', rest = '', schedule = '0 2 * * *' } = {},
): Promise<ScheduleHost> {
  const dir = join(server.dir, `schedule${++number}`)
  await mkdir(dir)
  if (isRoot) await chown(dir, userId(user).uid, userId(user).gid)
  const store = join(dir, 'store')
  const toml = `${server.header.replace(/state_dir = .*/, `state_dir = "${dir}/state"`)}
[schedule]
user = "${user}"
check = "0 0 1 1 *"
lock_wait = "0s"
server_wait = "30s"
[store.local]
type = "dir"
path = "${store}"
[backup.nightly]
kind = "dump"
store = "local"
databases = ["app"]
schedule = "${schedule}"
${job}
${rest}
`
  const file = join(dir, 'host.toml')
  await writeFile(file, toml)
  const parsed = parseHost(toml)
  const host: ScheduleHost = {
    file,
    store,
    state: () => readState(parsed, 'backup-nightly'),
    set: async (state) => void (await changeState(parsed, 'backup-nightly', (now) => ({ ...now, ...state }))),
    run: () => startRun(file),
    async processes() {
      const all = await Promise.all(
        (await readdir('/proc'))
          .filter((name) => /^\d+$/.test(name))
          .map(async (pid) => ({
            pid: Number(pid),
            line: (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' '),
          })),
      )
      return all.filter(({ line }) => line.includes(dir))
    },
    labels: () => readdir(join(store, 'test/main/catalog')).catch(() => []),
  }
  await host.set({ installedAt: '2026-01-01T00:00:00.000Z' })
  return host
}

/** Starts the scheduler. */
export function startRun(file: string): Running {
  const child = spawn(process.execPath, [join(ROOT, 'scripts/schedule.ts'), 'run', '-c', file], {
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const ended = once(child, 'close').then(([code]) => code as number | null)
  const end = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal)
    return ended
  }
  return { child, log: () => log, end, [Symbol.asyncDispose]: async () => void (await end('SIGKILL')) }
}

/** For `expect.poll`. */
export const WAIT = { timeout: 20_000, interval: 100 }

/** A session that has the table for itself, so that a take waits. */
export async function holdTable(server: TestServer): Promise<AsyncDisposable> {
  const client = await server.cluster.connect('app')
  await client.query('begin; lock table t')
  let isOver = false
  return {
    async [Symbol.asyncDispose]() {
      if (!isOver) await client.end()
      isOver = true
    },
  }
}

/** Waits until a dump waits for that session. */
export async function untilDumpWaits(server: TestServer): Promise<void> {
  const waiting = `select from pg_stat_activity where application_name = 'pg_dump' and wait_event_type = 'Lock'`
  await expect.poll(() => server.query('postgres', waiting), WAIT).toHaveLength(1)
}
