import { type FSWatcher, watch } from 'node:fs'
import { lstat, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { isMissing, reasonOf } from '../core/file.ts'
import { type Ignore, isIgnored } from './walk.ts'

/** What is followed. */
export interface TreeOptions {
  readonly folders: readonly string[]
  readonly ignore: Ignore
  /** Told of a file that is new or was written to; it may be gone again. */
  onFile(path: string): void
  /** Told once why folders are not followed. */
  onTrouble(reason: string): void
}

interface Followed {
  readonly watcher: FSWatcher
  /** Device and inode: another folder may get its name. */
  readonly id: string
}

/** Folders with all that is in them, followed by inotify(7): one watch for each folder, links are none. */
export class Tree implements Disposable {
  readonly #options: TreeOptions
  readonly #followed = new Map<string, Followed>()
  /** Folders for which the kernel had no watch left, or that may not be read. */
  readonly #unfollowed = new Set<string>()
  #isOver = false
  #isTold = false

  constructor(options: TreeOptions) {
    this.#options = options
  }

  /** How many folders are followed. */
  get followed(): number {
    return this.#followed.size
  }

  /** How many are not, although they are there. */
  get unfollowed(): number {
    return this.#unfollowed.size
  }

  /**
   * Follows all folders that are there now, and lets go of those that are not: at the start, and when something may
   * have been missed. Nothing is told of the files that are there: whoever asks for this looks through them afterwards.
   */
  async refresh(): Promise<void> {
    const seen = new Set<string>()
    for (const folder of this.#options.folders) await this.#follow(folder, () => {}, seen)
    for (const path of [...this.#followed.keys(), ...this.#unfollowed]) if (!seen.has(path)) this.#drop(path)
    if (this.unfollowed === 0) this.#isTold = false
  }

  [Symbol.dispose](): void {
    this.#isOver = true
    for (const path of this.#followed.keys()) this.#drop(path)
  }

  async #follow(top: string, onNew: (path: string) => void, seen = new Set<string>()): Promise<void> {
    const folders = [top]
    for (let folder = folders.pop(); folder !== undefined && !this.#isOver; folder = folders.pop()) {
      if (seen.has(folder)) continue // a folder inside another one
      const id = await idOf(folder)
      if (id === undefined) continue
      seen.add(folder)
      const isNew = this.#begin(folder, id)
      // Listed after the watch has begun: what comes in between is told twice sooner than never.
      for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
        const path = join(folder, entry.name)
        if (entry.isDirectory()) {
          if (!isIgnored(entry.name, this.#options.ignore.folders)) folders.push(path)
        } else if (isNew) onNew(path)
      }
    }
  }

  /** @returns whether it was not followed before: nobody has told of what is in it */
  #begin(folder: string, id: string): boolean {
    if (this.#followed.get(folder)?.id === id) return false
    this.#drop(folder)
    if (this.#isOver) return false
    try {
      const watcher = watch(folder, (event, name) => void this.#heard(folder, event, name))
      watcher.on('error', (error) => this.#lose(folder, error))
      this.#followed.set(folder, { watcher, id })
    } catch (error) {
      this.#lose(folder, error)
    }
    return true
  }

  #lose(folder: string, error: unknown): void {
    this.#drop(folder)
    if (isMissing(error)) return
    this.#unfollowed.add(folder)
    if (this.#isTold) return
    this.#isTold = true
    this.#options.onTrouble(troubleOf(folder, error))
  }

  #drop(folder: string): void {
    this.#followed.get(folder)?.watcher.close()
    this.#followed.delete(folder)
    this.#unfollowed.delete(folder)
  }

  async #heard(folder: string, event: string, name: string | null): Promise<void> {
    if (name === null || this.#isOver) return
    const path = join(folder, name)
    // What is written to is there; "rename" is also what was made, and what is gone.
    if (event === 'change') {
      if (!this.#followed.has(path)) this.#tell(path)
      return
    }
    const found = await lstat(path).catch(() => undefined)
    if (found === undefined) this.#dropAll(path)
    else if (!found.isDirectory()) this.#tell(path)
    else if (!isIgnored(name, this.#options.ignore.folders))
      await this.#follow(path, (file) => this.#tell(file))
  }

  #dropAll(path: string): void {
    if (!this.#followed.has(path) && !this.#unfollowed.has(path)) return // a file
    for (const folder of [...this.#followed.keys(), ...this.#unfollowed])
      if (folder === path || folder.startsWith(`${path}/`)) this.#drop(folder)
  }

  #tell(path: string): void {
    if (!isIgnored(basename(path), this.#options.ignore.files)) this.#options.onFile(path)
  }
}

async function idOf(folder: string): Promise<string | undefined> {
  const found = await lstat(folder).catch(() => undefined)
  return found?.isDirectory() ? `${found.dev}:${found.ino}` : undefined
}

/** Pure. ENOSPC and EMFILE are the limits of inotify(7), not those of a disk. */
function troubleOf(folder: string, error: unknown): string {
  const { code } = error instanceof Error && 'code' in error ? error : { code: undefined }
  const limit = { ENOSPC: 'fs.inotify.max_user_watches', EMFILE: 'fs.inotify.max_user_instances' }[
    String(code)
  ]
  if (limit === undefined) return `cannot follow "${folder}": ${reasonOf(error)}`
  return `the kernel follows no more folders from "${folder}" on: raise the setting ${limit} (sysctl)`
}
