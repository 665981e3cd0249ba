import { chown, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fail } from '../../core/fail.ts'
import { exists } from '../../core/file.ts'
import { log } from '../../core/log.ts'
import type { WalStore } from '../wal/wal-store.ts'
import { restoreScript } from './restore-command.ts'
import type { SegmentGuard } from './tablespace-guard.ts'
import { fetchWalFile, type WalFileOwner } from './wal-file.ts'

/** What is served to a recovering server. */
export interface PrefetchOptions {
  /** Undefined: there is no WAL but that in the backup. */
  readonly wal: WalStore | undefined
  /** Of this process alone; on the file system of the data directory, so that nothing is copied twice. */
  readonly folder: string
  readonly owner: WalFileOwner | undefined
  /** Bytes. */
  readonly segmentSize: number
  /** Every segment that the recovery will ask for, in order. */
  readonly planned: readonly string[]
  /** Segments that the server has already, with the backup. */
  readonly inBackup: ReadonlySet<string>
  /** Looks into each segment of the plan before the server gets it. */
  readonly guard?: SegmentGuard | undefined
  /** How long a store that does not answer is asked again, seconds; default 60. */
  readonly patience?: number | undefined
  /** Told of each file that is ready. */
  readonly onFile?: ((name: string) => void) | undefined
}

/** Serves the requests of restore_command. */
export interface Prefetcher extends AsyncDisposable {
  /** For restore_command, without %f and %p. */
  readonly script: string
  /** Rejects when no more requests can be served; never resolves. */
  readonly failure: Promise<never>
  /** Why no more requests can be served, known before the server can hear of it. */
  error(): unknown
}

const AT_ONCE = 4
/** Bytes of WAL that lie ready at most. */
const AHEAD = 256 * 1024 * 1024
const LOOK_MILLISECONDS = 20

/** Begins to fetch and to serve. */
export async function startPrefetcher(options: PrefetchOptions): Promise<Prefetcher> {
  const { folder, owner } = options
  for (const name of ['', 'ready', 'wanted', 'absent', 'fetched']) {
    await mkdir(join(folder, name), { mode: 0o700 })
    if (owner) await chown(join(folder, name), owner.uid, owner.gid)
  }
  const script = join(folder, 'restore_command')
  await writeFile(join(folder, 'beat'), '0\n', { mode: 0o644 })
  await writeFile(script, restoreScript(folder), { mode: 0o755 })
  const state = new Serving(options)
  const running = state.run()
  const failure = running.then(() => new Promise<never>(() => {}))
  failure.catch(() => {}) // whoever awaits it hears of it
  return {
    script,
    failure,
    error: () => state.error(),
    async [Symbol.asyncDispose]() {
      state.stop()
      await running.catch(() => {}) // told by `failure`
    },
  }
}

class Serving {
  readonly #options: PrefetchOptions
  readonly #fetching = new Map<string, Promise<void>>()
  readonly #ready = new Set<string>()
  readonly #over = new AbortController()
  /** Of the plan, the next one to be fetched ahead. */
  #next = 0
  #beat = 0
  #error: unknown
  /** Whether it was told that the store does not answer. */
  #isOut = false

  constructor(options: PrefetchOptions) {
    this.#options = options
  }

  stop(): void {
    this.#over.abort()
  }

  error(): unknown {
    return this.#error
  }

  async run(): Promise<void> {
    try {
      while (!this.#over.signal.aborted) {
        await this.#beatOnce()
        await this.#serve()
        await this.#fetchAhead()
        if (this.#error !== undefined) throw this.#error
        await sleep(LOOK_MILLISECONDS, undefined, { signal: this.#over.signal }).catch(() => {})
      }
    } catch (error) {
      this.#error ??= error
      await writeFile(join(this.#options.folder, 'failed'), '').catch(() => {}) // then silence says it
      throw error
    } finally {
      this.stop()
      this.#options.guard?.giveUp(this.#error ?? new Error('nothing is fetched any more'))
      await Promise.allSettled(this.#fetching.values())
    }
  }

  async #beatOnce(): Promise<void> {
    const path = join(this.#options.folder, 'beat')
    await writeFile(`${path}.tmp`, `${++this.#beat}\n`, { mode: 0o644 })
    await rename(`${path}.tmp`, path)
  }

  /** Requests of the server itself, which come before everything that is fetched ahead. */
  async #serve(): Promise<void> {
    const { folder } = this.#options
    for (const name of await readdir(join(folder, 'wanted'))) {
      if (this.#fetching.has(name)) continue
      this.#ready.delete(name)
      const index = this.#options.planned.indexOf(name)
      if (index >= this.#next) this.#next = index + 1
      await this.#begin(name)
      await rm(join(folder, 'wanted', name), { force: true })
    }
  }

  async #fetchAhead(): Promise<void> {
    const { planned, segmentSize, folder } = this.#options
    const limit = Math.max(2, Math.min(64, Math.floor(AHEAD / segmentSize)))
    for (const name of this.#ready) {
      if (!(await exists(join(folder, 'ready', name)))) this.#ready.delete(name) // the server has taken it
    }
    while (
      this.#next < planned.length &&
      this.#fetching.size < AT_ONCE &&
      this.#ready.size + this.#fetching.size < limit
    )
      await this.#begin(planned[this.#next++]!)
  }

  async #begin(name: string): Promise<void> {
    if (await exists(join(this.#options.folder, 'ready', name))) return
    const fetching = this.#fetch(name)
      .catch((error: unknown) => {
        this.#error ??= error
        this.#options.guard?.giveUp(error)
      })
      .finally(() => this.#fetching.delete(name))
    this.#fetching.set(name, fetching)
  }

  async #fetch(name: string): Promise<void> {
    const { wal, folder, segmentSize, owner, onFile, guard, planned } = this.#options
    const into = { folder: join(folder, 'fetched'), segmentSize, owner }
    const found = wal === undefined ? 'absent' : await this.#patiently(() => fetchWalFile(wal, name, into))
    if (found !== 'absent') {
      if (guard && planned.includes(name)) await guard.check(join(into.folder, name), name)
      await rename(join(into.folder, name), join(folder, 'ready', name))
      this.#ready.add(name)
      onFile?.(name)
      return
    }
    if (this.#isNeeded(name)) {
      throw new Fail('wal-missing', `the store has no WAL file ${name} any more, which the recovery needs`, {
        hint: 'Was something deleted there meanwhile? Then run the same command again.',
      })
    }
    await writeFile(join(folder, 'absent', name), '', { mode: 0o644 })
  }

  /** What is in the plan may be missing from the store only when the server has it from the backup. */
  #isNeeded(name: string): boolean {
    return this.#options.planned.includes(name) && !this.#options.inBackup.has(name)
  }

  async #patiently<T>(action: () => Promise<T>): Promise<T> {
    const deadline = Date.now() + (this.#options.patience ?? 60) * 1000
    for (let wait = 100; ; wait = Math.min(wait * 2, 5000)) {
      try {
        const done = await action()
        this.#isOut = false
        return done
      } catch (error) {
        const isPassing = error instanceof Fail && error.code === 'store-unreachable'
        if (!isPassing || Date.now() + wait > deadline || this.#over.signal.aborted) throw error
        if (!this.#isOut) log('notice', `restore: ${error.message}: it is tried again`)
        this.#isOut = true
        await sleep(wait, undefined, { signal: this.#over.signal })
      }
    }
  }
}
