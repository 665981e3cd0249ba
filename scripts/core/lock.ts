import { constants, type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { flock } from './exec.ts'
import { Fail } from './fail.ts'
import { type Access, makeFolder, reasonOf } from './file.ts'
import { interrupted } from './interrupt.ts'
import { log } from './log.ts'
import { formatDuration } from './quantity.ts'

/** How long to wait for a lock, and who may touch its file. */
export interface LockOptions {
  /** Seconds until it is given up; default 0. */
  readonly waitSeconds?: number
  readonly folder: Access
}

/**
 * Holds a lock until it is disposed of or this process ends in whatever way.
 * @param path of the lock file; it stays, since removing a lock file opens a race
 * @throws {Fail} `lock-held` when another process has it
 */
export async function takeLock(path: string, options: LockOptions): Promise<AsyncDisposable> {
  await makeFolder(dirname(path), options.folder)
  const file = await openLock(path).catch((cause: unknown) => {
    throw new Fail('not-permitted', `cannot open the lock "${path}": ${reasonOf(cause)}`, {
      hint: 'Run this as root, or as the owner of the cluster.',
      cause,
    })
  })
  const began = Date.now()
  const deadline = began + (options.waitSeconds ?? 0) * 1000
  for (let isTold = false; !(await flock(file.fd));) {
    if (Date.now() >= deadline) {
      await file.close()
      throw new Fail('lock-held', `another run holds "${path}"`, {
        hint: `See which one: fuser -v ${path}`,
      })
    }
    if (!isTold && Date.now() >= began + QUIET_MILLISECONDS) {
      isTold = true
      log(
        'notice',
        `waits for another run that holds "${path}", ${formatDuration(options.waitSeconds!)} at most`,
      )
    }
    await sleep(100, undefined, { signal: interrupted })
  }
  return { [Symbol.asyncDispose]: () => file.close() }
}

/** Whoever waits longer says so. */
const QUIET_MILLISECONDS = 1000

// To lock a file it is enough to read it, so one that root made serves the cluster's owner, too; who
// may come near it is said by its folder. That folder is not only root's: no link in it is followed.
const { O_CREAT, O_NOFOLLOW, O_RDONLY } = constants

async function openLock(path: string): Promise<FileHandle> {
  const file = await open(path, O_RDONLY | O_CREAT | O_NOFOLLOW, 0o644)
  if ((await file.stat()).uid === process.getuid?.()) await file.chmod(0o644) // whatever the umask
  return file
}
