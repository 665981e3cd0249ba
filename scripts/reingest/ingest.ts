import { hostname } from 'node:os'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { connectJob, type Job } from './job.ts'
import { type Entry, listPending, type Pending, serverNow, type State } from './ledger.ts'
import { type Run, storeFile, type Tried } from './store-file.ts'

/** What a run did. */
export interface Summary {
  readonly files: Readonly<Record<State, number>>
  rows: number
  known: number
  conflicts: number
  rejects: number
  bytes: number
  /** Files that are not `whole`, and why; the first hundred. */
  readonly problems: {
    readonly host: string
    readonly path: string
    readonly state: State
    readonly reason: string
  }[]
}

/** What is told while it goes on. */
export interface Standing {
  readonly summary: Summary
  readonly totalFiles: number
  readonly totalBytes: number
}

/** How long a server that went away is waited for. */
const RECONNECT_SECONDS = 60
const PROBLEMS = 100

/**
 * Reads all files that need it, several at a time. Other runs, on this host and on others, may do the same: each file
 * is one's own by a lock in the database. What another one holds is waited for, since that one may die.
 * @throws {Fail} `server-failed` when the server has no room or cannot be reached any more
 */
export async function ingest(job: Job, onState: (state: Standing) => void): Promise<Summary> {
  const summary = nothingDone()
  const client = await connectJob(job)
  const run: Run = await begin(client, job).finally(() => client.end())
  let left = job.limit
  for (let isFirst = true; ; isFirst = false) {
    const pending = left === 0 ? [] : (await pendingOf(run)).slice(0, left)
    if (pending.length === 0) return summary
    if (!isFirst) await sleep(200, undefined, { signal: interrupted }) // only those that others hold are left
    const totalFiles = pending.length + Object.values(summary.files).reduce((sum, count) => sum + count, 0)
    const totalBytes = pending.reduce((sum, { bytes }) => sum + bytes, summary.bytes)
    await readAll(run, pending, (file, tried) => {
      if (typeof tried === 'string') return
      left -= 1
      add(summary, file, tried)
      onState({ summary, totalFiles, totalBytes })
    })
  }
}

/**
 * Reads these files if they need it, as {@link ingest} does, but waits for nobody.
 * @returns what was done, and those that others are reading
 * @throws {Fail} what {@link ingest} throws
 */
export async function ingestThese(
  job: Job,
  files: readonly Pending[],
): Promise<{ readonly summary: Summary; readonly held: readonly Pending[] }> {
  const summary = nothingDone()
  const held: Pending[] = []
  const client = await connectJob(job)
  const run: Run = await begin(client, job).finally(() => client.end())
  await readAll(run, files, (file, tried) => {
    if (tried === 'held') held.push(file)
    else if (tried !== 'done') add(summary, file, tried)
  })
  return { summary, held }
}

function nothingDone(): Summary {
  return {
    files: { whole: 0, open: 0, partial: 0, same: 0, failed: 0 },
    rows: 0,
    known: 0,
    conflicts: 0,
    rejects: 0,
    bytes: 0,
    problems: [],
  }
}

/** Files that {@link ingest} would read now. */
export async function planIngest(job: Job): Promise<Pending[]> {
  const client = await connectJob(job)
  try {
    return (await listPending(client, job, await serverNow(client))).slice(0, job.limit)
  } finally {
    await client.end()
  }
}

async function begin(client: Client, job: Job): Promise<Run> {
  return { job, begun: await serverNow(client), by: `${hostname()} ${process.pid}` }
}

async function pendingOf({ job, begun }: Run): Promise<Pending[]> {
  const client = await connectJob(job)
  try {
    return await listPending(client, job, begun)
  } finally {
    await client.end()
  }
}

type OnTried = (file: Pending, tried: Tried) => void

async function readAll(run: Run, pending: readonly Pending[], onTried: OnTried): Promise<void> {
  const queue = pending[Symbol.iterator]()
  const failures: unknown[] = []
  const worker = async () => {
    await using session = new Session(run)
    try {
      for (const file of queue) {
        if (failures.length > 0) return
        interrupted.throwIfAborted()
        onTried(file, await session.store(file))
      }
    } catch (error) {
      failures.push(error)
    }
  }
  await Promise.all(Array.from({ length: Math.min(run.job.jobs, pending.length) }, worker))
  if (failures.length > 0) throw asFail(failures[0], run.job)
}

/** The session of one worker: one that is lost is begun anew, and what it was reading is read again. */
class Session implements AsyncDisposable {
  readonly #run: Run
  #client: Client | undefined

  constructor(run: Run) {
    this.#run = run
  }

  async store(file: Pending): Promise<Tried> {
    for (let tries = 0; ; tries += 1) {
      this.#client ??= await reconnect(this.#run.job)
      try {
        return await storeFile(this.#client, this.#run, file)
      } catch (error) {
        if (isDeadlock(error) && tries < 5) continue
        if (!isLost(error) || tries === 2) throw error
        log('warning', `reingest: ${messageOf(error)}; ${file.path} is read again`)
        await this[Symbol.asyncDispose]()
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client?.end().catch(() => {})
    this.#client = undefined
  }
}

function isDeadlock(error: unknown): boolean {
  return ['40P01', '40001'].includes(String((error as { code?: unknown }).code))
}

/** Whether it is the connection that failed: by the words of the client, its errno, or SQLSTATE classes 08 and 57P. */
export function isLost(error: unknown): boolean {
  if (error instanceof Fail) return false
  const { code } = error as { code?: unknown }
  return /^(08|57P|EPIPE|ECONN)/.test(String(code)) || /connection/i.test(messageOf(error))
}

async function reconnect(job: Job): Promise<Client> {
  for (const deadline = Date.now() + RECONNECT_SECONDS * 1000; ;) {
    try {
      return await connectJob(job)
    } catch (error) {
      const isWaiting = error instanceof Fail ? error.code === 'server-unreachable' : isLost(error)
      if (!isWaiting || Date.now() > deadline) throw error
    }
    await sleep(500, undefined, { signal: interrupted })
  }
}

function asFail(error: unknown, { database }: Job): unknown {
  if (error instanceof Fail || interrupted.aborted) return error
  const { code } = error as { code?: unknown }
  if (typeof code !== 'string' && !isLost(error)) return error
  return new Fail('server-failed', `database "${database}" takes no more rows: ${messageOf(error)}`, {
    hint: 'What was read so far is stored. Mend it, and run the same command again.',
    cause: error,
  })
}

function add(summary: Summary, { host, path, bytes }: Pending, entry: Entry): void {
  const files = summary.files as Record<State, number>
  files[entry.state] += 1
  summary.bytes += bytes
  for (const key of ['rows', 'known', 'conflicts', 'rejects'] as const) summary[key] += entry[key]
  if (entry.state === 'whole' || summary.problems.length === PROBLEMS) return
  summary.problems.push({ host, path, state: entry.state, reason: entry.reason ?? '' })
}
