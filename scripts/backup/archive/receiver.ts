import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from '../../cluster/cluster.ts'
import { userId } from '../../cluster/connect.ts'
import { output } from '../../core/exec.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { type Access, readTextIfAny, writeFileAtomic } from '../../core/file.ts'

/** A pg_receivewal that runs. */
export interface Receiver {
  /** Why it ended, as soon as it has; undefined while it runs. */
  readonly ended: { readonly reason: string } | undefined
  /** Ends it, and waits until it has. What it has told the server to have is on the disk. */
  stop(): Promise<void>
}

/** What {@link startReceiver} needs. */
export interface ReceiverOptions {
  readonly cluster: Cluster
  readonly slot: string
  /** Folder of the spool. */
  readonly folder: string
  /** Who it is, for the next run. */
  readonly pidFile: string
  readonly access: Access
}

/**
 * Starts pg_receivewal on a slot. It flushes whatever it gets before it tells the server so: the slot
 * never lets go of what is not on the disk of the spool.
 */
export function startReceiver(options: ReceiverOptions): Receiver {
  const controller = new AbortController()
  let ended: { reason: string } | undefined
  const running = (async () => {
    try {
      await runReceiver(options, controller.signal)
      ended = { reason: 'it ended by itself' }
    } catch (error) {
      const hint = error instanceof Fail && error.hint ? `: ${error.hint.split('\n').at(-1)}` : ''
      ended = { reason: controller.signal.aborted ? 'stopped' : messageOf(error) + hint }
    }
  })()
  return {
    get ended() {
      return ended
    },
    async stop() {
      controller.abort(new Fail('interrupted', 'stopped'))
      await running
    },
  }
}

async function runReceiver(options: ReceiverOptions, signal: AbortSignal): Promise<void> {
  const { cluster, slot, folder } = options
  const { argv, env } = cluster.clientArguments('')
  const connection = argv.slice(0, argv.indexOf('--dbname')) // its --dbname takes no bare name
  const receive = [join(cluster.bindir, 'pg_receivewal'), ...connection, '--no-password', '--no-loop']
  const how = ['--synchronous', '--slot', slot, '--directory', folder]
  // The kernel ends it with this process, SIGKILL included: a second one on the slot would be refused.
  const bound = ['setpriv', '--pdeathsig', 'TERM', ...becoming(cluster.osUser), '--', ...receive, ...how]
  // The number stays the same through both exec.
  const told = ['sh', '-c', 'echo $$; exec "$@"', 'sh', ...bound]
  const name = { PGAPPNAME: 'howdah archive' }
  for await (const chunk of output(told, { env: { ...env, ...name }, signal, evenInterrupted: true })) {
    const pid = Number.parseInt(chunk.toString(), 10)
    if (pid > 0) await recordPid(options, pid)
  }
}

/** Not by runuser: it would stay between, and the end of this process would reach only it. */
function becoming(osUser: string): string[] {
  if (process.getuid?.() !== 0 || osUser === '' || osUser === 'root') return []
  const { uid, gid } = userId(osUser)
  return [`--reuid=${uid}`, `--regid=${gid}`, '--init-groups']
}

async function recordPid({ pidFile, access }: ReceiverOptions, pid: number): Promise<void> {
  const started = await startOf(pid)
  if (started === undefined) return // it is gone already
  await writeFileAtomic(pidFile, `${JSON.stringify({ pid, started })}\n`, { ...access, mode: 0o640 })
}

/**
 * Ends the pg_receivewal of a run that is gone, if it is still there; only that one.
 * @returns its number, if there was one
 */
export async function endOrphan(pidFile: string): Promise<number | undefined> {
  const text = await readTextIfAny(pidFile)
  const known = text === undefined ? undefined : parseRecord(text)
  if (known === undefined) return undefined
  const isAlive = async () => (await startOf(known.pid)) === known.started
  if (!(await isAlive())) return undefined
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    process.kill(known.pid, signal)
    for (const deadline = Date.now() + 5000; Date.now() < deadline; await sleep(50))
      if (!(await isAlive())) return known.pid
  }
  return known.pid
}

function parseRecord(text: string): { pid: number; started: string } | undefined {
  try {
    const { pid, started } = JSON.parse(text) as { pid?: unknown; started?: unknown }
    return typeof pid === 'number' && typeof started === 'string' ? { pid, started } : undefined
  } catch {
    return undefined
  }
}

/** When a process began, in ticks since boot: with its number it is unique. proc(5), field 22 of stat. */
async function startOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ') // from the third one on
  return fields?.[0] === 'Z' ? undefined : fields?.[19]
}
