import { setTimeout as sleep } from 'node:timers/promises'
import { requireCluster } from '../cluster/open.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { type Notifier, openNotifier } from '../core/notifier.ts'
import { Pause } from '../core/pause.ts'
import { formatCount, parseDuration } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import { ingest, ingestThese, isLost, type Summary } from './ingest.ts'
import { takeInventory } from './inventory.ts'
import { connectJob, endingsOf, type Job, jobOf } from './job.ts'
import { parseFileName } from './name.ts'
import { noteFiles } from './watch-note.ts'
import { Settling } from './watch-settle.ts'
import { Tree } from './watch-tree.ts'

/** What a watch did from its start to its end. */
export interface Watched {
  /** How often a file was read: one that grows, again and again. */
  files: number
  rows: number
  rejects: number
}

const TICK_MILLISECONDS = 200
const REPORT_MILLISECONDS = 60_000
/** Where not all folders can be followed, all are looked through that often. */
const UNFOLLOWED_SECONDS = 60
/** Files that are read at once: what comes meanwhile waits for no more than these. */
const BATCH = 200

/**
 * Reads files as they are written, until this process is asked to end: what changed before it began, too. It waits for
 * a server that is away; what is written meanwhile is read when that is back.
 * @throws {Fail} `usage`, `host-file`, `server-denied`, `cluster-mismatch`
 */
export async function watchFiles(host: Host, name: string | undefined): Promise<Watched> {
  using watcher = new Watcher(async () => jobOf(host, await requireCluster(host), name), host)
  return await watcher.run()
}

class Watcher implements Disposable {
  readonly #open: () => Promise<Job>
  readonly #host: Host
  readonly #notifier: Notifier = openNotifier()
  readonly #settling = new Settling()
  readonly #pause = new Pause()
  readonly #done: Watched = { files: 0, rows: 0, rejects: 0 }
  /** Files and folders with what was told of them last. */
  readonly #told = new Map<string, string>()
  #tree: Tree | undefined
  #walksAt = -Infinity
  #job: Job | undefined
  #isOver = false
  #reported = { at: performance.now(), line: '' }

  constructor(open: () => Promise<Job>, host: Host) {
    this.#open = open
    this.#host = host
  }

  async run(): Promise<Watched> {
    const saying = this.#say()
    try {
      while (!interrupted.aborted) {
        if (!this.#pause.isOn) await this.#round()
        await sleep(TICK_MILLISECONDS, undefined, { signal: interrupted }).catch(() => {})
      }
    } finally {
      this.#isOver = true
      await this.#notifier.stopping()
      await saying
    }
    log('info', `reingest: watch stopped, ${this.#line()}`)
    return this.#done
  }

  [Symbol.dispose](): void {
    this.#tree?.[Symbol.dispose]()
  }

  /** Says that this is alive, also while files are read. */
  async #say(): Promise<void> {
    while (!this.#isOver) {
      const line = this.#line()
      if (this.#tree !== undefined) await this.#notifier.status(line)
      else await this.#notifier.status('waits for the server')
      this.#report(line)
      await sleep(TICK_MILLISECONDS, undefined, { signal: interrupted }).catch(() => {})
      if (interrupted.aborted && !this.#isOver) await sleep(TICK_MILLISECONDS) // a file is read to its end
    }
  }

  async #round(): Promise<void> {
    try {
      this.#job ??= await this.#contact()
      const now = performance.now()
      const due = now >= this.#walksAt ? undefined : this.#settling.take(now, BATCH)
      if (due === undefined) await this.#walk(this.#job)
      else if (due.length > 0) await this.#read(this.#job, due)
      this.#pause.end()
    } catch (error) {
      if (interrupted.aborted) return
      if (!isPassing(error)) throw error
      this.#job = undefined // where the server listens may be another place then
      if (this.#pause.begin()) log('warning', `reingest: watch waits for the server: ${messageOf(error)}`)
    }
  }

  async #contact(): Promise<Job> {
    const job = await this.#open()
    if (job.dataDirs.length === 0) {
      throw new Fail('host-file', `[reingest.${job.name}] names no folders to follow`, {
        hint: 'Add to it: data_dirs = ["/opt/MagAOX/telem"]',
      })
    }
    await (await connectJob(job)).end()
    if (this.#tree !== undefined) {
      log('notice', 'reingest: the server answers')
      return job
    }
    this.#tree = new Tree({
      folders: job.dataDirs,
      ignore: job.ignore,
      onFile: (path) => this.#settling.changed(path, performance.now()),
      onTrouble: (reason) => log('warning', `reingest: ${reason}`),
    })
    await this.#tree.refresh()
    await this.#notifier.ready()
    log('notice', `reingest: watch of ${job.name} follows ${formatCount(this.#tree.followed)} folders`)
    return job
  }

  /** What was missed, and what failed, is found by looking through all folders: inotify promises nothing. */
  async #walk(job: Job): Promise<void> {
    await this.#tree!.refresh()
    const { skipped } = await takeInventory(job, { planOnly: false, onFiles: () => {} })
    for (const { path, reason } of skipped) this.#tell(path, `skipped: ${path}: ${reason}`)
    this.#add(await ingest(job, () => {}))
    const every = parseDuration(this.#host.reingest[job.name]!.walk_every)!
    const seconds = this.#tree!.unfollowed > 0 ? Math.min(every, UNFOLLOWED_SECONDS) : every
    this.#walksAt = performance.now() + seconds * 1000
  }

  async #read(job: Job, paths: readonly string[]): Promise<void> {
    try {
      const client = await connectJob(job)
      const found = await noteFiles(client, job, paths).finally(() => client.end().catch(() => {}))
      const endings = endingsOf(job)
      const files = found
        .filter(({ path }) => endings.includes(parseFileName(path)?.ending ?? ''))
        .map(({ path, size }) => ({ host: job.hostname, path, bytes: Number(size) }))
      if (files.length === 0) return
      const { summary, held } = await ingestThese(job, files)
      const now = performance.now()
      for (const { path, bytes } of files) this.#settling.wasRead(path, bytes, now)
      for (const { path } of held) this.#settling.changed(path, now)
      this.#add(summary)
    } catch (error) {
      for (const path of paths) this.#settling.changed(path, performance.now())
      throw error
    }
  }

  #add({ files, rows, rejects, problems }: Summary): void {
    this.#done.files += Object.values(files).reduce((sum, count) => sum + count, 0)
    this.#done.rows += rows
    this.#done.rejects += rejects
    for (const { path, state, reason } of problems)
      if (state === 'partial' || state === 'failed') this.#tell(path, `${state}: ${path}: ${reason}`)
  }

  #tell(path: string, text: string): void {
    if (this.#told.get(path) === text) return
    this.#told.set(path, text)
    log('warning', `reingest: ${text}`)
  }

  #line(): string {
    const { files, rows, rejects } = this.#done
    const unfollowed = this.#tree?.unfollowed ?? 0
    return [
      ...(this.#pause.isOn ? ['waits for the server'] : []),
      `${formatCount(this.#tree?.followed ?? 0)} folders`,
      ...(unfollowed > 0 ? [`${formatCount(unfollowed)} not followed`] : []),
      `${formatCount(files)} files read, ${formatCount(rows)} rows, ${formatCount(rejects)} rejected lines`,
      `${formatCount(this.#settling.size)} files wait`,
    ].join(', ')
  }

  #report(line: string): void {
    const now = performance.now()
    if (now - this.#reported.at < REPORT_MILLISECONDS) return
    const isNews = line !== this.#reported.line
    this.#reported = { at: now, line }
    if (isNews) log('info', `reingest: ${line}`)
  }
}

/** Whether it goes by itself: the server starts, ends, or has no room now. A wrong password does not. */
function isPassing(error: unknown): boolean {
  if (error instanceof Fail) return error.code === 'server-unreachable' || error.code === 'server-failed'
  return isLost(error)
}
