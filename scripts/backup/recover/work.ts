import { chown, mkdir, readdir, readlink, rename, rm, rmdir, stat, symlink, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { livePid } from '../../cluster/ready.ts'
import { stateAccess } from '../../cluster/lock.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { exists, isMissing, makeFolder, syncFolder } from '../../core/file.ts'
import { journalPath, listJournals, readJournal, removeJournal, writeJournal } from '../../core/journal.ts'
import { log } from '../../core/log.ts'
import { assertNotRunning, copySocketDir, type Place, type TablespaceMove } from './place.ts'

/** One rename of the moment in which the restored cluster takes its place. */
interface Step {
  readonly from: string
  readonly to: string
}

/**
 * What a restore of a cluster is about to do. Written before it does it: `fill`, everything is made under
 * names of its own, and undone by removing them; `swap`, what was there is set aside and the new one takes
 * its place, which is finished whatever happens.
 */
export interface Work {
  readonly phase: 'fill' | 'swap'
  readonly id: string
  readonly label: string
  /** Whether it takes the place of the host file's cluster; of one that an older version began, nobody knows. */
  readonly kind?: Place['kind']
  /** The final data directory. */
  readonly target: string
  /** Beside it: `<target>.restoring-<id>`. */
  readonly root: string
  /** The new data directory until the end: `<root>/data`. */
  readonly data: string
  /** Of the isolated server: short, for a socket's path may have 107 bytes only. */
  readonly socket: string
  /** Folder of a copy's own socket and log, which it cannot be started without; null where the host has one. */
  readonly listens: string | null
  readonly tablespaces: readonly {
    readonly oid: string
    readonly to: string
    /** Inside of it until the end. */
    readonly temporary: string
    /** Folder of the old content, inside of it. */
    readonly before: string
  }[]
  readonly before: string | null
  /** The spool of the archive service, which belongs to what was there. */
  readonly spool: Step | null
}

const PREFIX = 'restore-cluster-'

/** What {@link workOf} names. */
export interface WorkNames {
  /** Random. */
  readonly id: string
  readonly label: string
  readonly place: Place
  readonly moves: readonly TablespaceMove[]
  readonly spool: Step | null
}

/** Names everything of a restore. Pure. */
export function workOf({ id, label, place, moves, spool }: WorkNames): Work {
  const root = `${place.dataDir}.restoring-${id}`
  const suffix = place.before?.split('.before-').at(-1) ?? id
  return {
    phase: 'fill',
    id,
    label,
    kind: place.kind,
    target: place.dataDir,
    root,
    data: join(root, 'data'),
    socket: `/tmp/howdah-restore-${id}`,
    listens: place.kind === 'copy' ? copySocketDir(place.dataDir) : null,
    tablespaces: moves.map(({ oid, to }) => ({
      oid,
      to,
      temporary: join(to, `.restoring-${id}`),
      before: join(to, `before-${suffix}`),
    })),
    before: place.before,
    spool,
  }
}

/** Keeps what a restore is about to do. */
export interface WorkLog {
  write(work: Work): Promise<void>
  remove(): Promise<void>
}

/** Begins a journal; nothing is written yet. */
export function workLog(stateDir: string, id: string, osUser: string): WorkLog {
  const path = journalPath(stateDir, `${PREFIX}${id}`)
  return {
    write: (work) => writeJournal(path, work, stateAccess(osUser)),
    remove: () => removeJournal(path),
  }
}

/** Makes the folders of a restore. */
export async function makeWork(work: Work, place: Place): Promise<void> {
  const { owner } = place
  const access = { mode: 0o700, ...owner }
  await makeFolder(dirname(work.target), { ...access, mode: 0o755 })
  for (const path of [work.root, work.data, work.socket]) {
    await mkdir(path, { mode: 0o700 })
    if (owner) await chown(path, owner.uid, owner.gid)
  }
  if (work.listens) await makeFolder(work.listens, access)
  for (const { to, temporary } of work.tablespaces) {
    await makeFolder(to, access)
    await mkdir(temporary, { mode: 0o700 })
    if (owner) await chown(temporary, owner.uid, owner.gid)
  }
}

/** Removes everything that a restore has made, and its server. What was there before stays as it is. */
export async function undoWork(work: Work): Promise<void> {
  await killServer(work.data)
  await removeTree(work.socket)
  if (work.listens) await rmdir(work.listens).catch(ignoreKept)
  for (const { temporary } of work.tablespaces) await removeTree(temporary)
  await removeTree(work.root)
}

/**
 * Removes a folder with all that is in it. Programs of a run that was killed, such as its restore_command, may
 * still write into it for a moment: it is tried again for ten seconds.
 */
export async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
}

/**
 * What was there is set aside, and the new one takes its place. Done again, after whatever end of a
 * process, it goes on where it was.
 */
export async function swapWork(work: Work): Promise<void> {
  // While the new one still waits, what is in its place is the old one. It goes first: nobody may start
  // it any more when its tablespaces are those of the new one.
  if (await exists(work.data)) {
    if (work.before !== null && (await exists(work.target)) && !(await exists(work.before)))
      await step({ from: work.target, to: work.before })
  }
  for (const { oid, to, temporary, before } of work.tablespaces) {
    for (const name of await versionFolders(temporary)) {
      if (await exists(join(to, name))) {
        await makeLike(before, to)
        await step({ from: join(to, name), to: join(before, name) })
      }
      await step({ from: join(temporary, name), to: join(to, name) })
    }
    await rmdir(temporary).catch(ignoreMissing)
    const data = (await exists(work.data)) ? work.data : work.target
    await link(work, join(data, 'pg_tblspc', oid), to)
  }
  if (work.spool) await step(work.spool)
  await step({ from: work.data, to: work.target }) // commit point: the restored cluster is there
  await relinkKept(work)
  await removeTree(work.socket)
  await removeTree(work.root)
}

/** What was set aside must find its own tablespaces: started as it was, it would write into the new ones. */
async function relinkKept(work: Work): Promise<void> {
  const { before: dataDir, tablespaces } = work
  if (dataDir === null) return
  const folder = join(dataDir, 'pg_tblspc')
  const names = await readdir(folder).catch((error: unknown) => {
    ignoreMissing(error)
    return []
  })
  for (const name of names) {
    const path = join(folder, name)
    const place = await readlink(path).catch(() => undefined) // a folder, as for allow_in_place_tablespaces
    const space = tablespaces.find(({ to }) => to === place)
    if (space && (await exists(space.before))) await link(work, path, space.before)
  }
}

/** Makes a folder that belongs to whom another one belongs to. */
async function makeLike(path: string, other: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 })
  const { uid, gid } = await stat(other)
  if (process.getuid?.() === 0) await chown(path, uid, gid)
}

/**
 * Finishes or undoes what dead restores to a place left. The caller holds that place.
 * @returns a line for each, for people
 */
export async function recoverWorks(stateDir: string, target: string): Promise<string[]> {
  const lines: string[] = []
  for (const path of await workPaths(stateDir)) {
    const work = await readJournal<Work>(path)
    if (work?.target === target) lines.push(await endWork(path, work))
  }
  return lines
}

/**
 * Finishes or undoes what one dead restore left. The caller holds its place.
 * @param path its journal
 * @returns a line about it, for people
 * @throws {Fail} `target-not-empty` when what it was to take the place of runs again
 */
export async function endWork(path: string, work: Work): Promise<string> {
  if (work.phase === 'fill') await undoWork(work)
  else {
    // Somebody may have started the old one meanwhile.
    if (await exists(work.data)) await assertNotRunning(work.target)
    await swapWork(work)
  }
  await removeJournal(path)
  const how = work.phase === 'fill' ? 'what it had made was removed' : 'it was finished'
  const line = `a restore of ${work.label} to "${work.target}" did not end: ${how}`
  log('notice', `restore: ${line}`)
  return line
}

/** Files in which restores, running or dead, say what they do. */
export async function workPaths(stateDir: string): Promise<string[]> {
  const names = await listJournals(dirname(journalPath(stateDir, PREFIX)))
  return names.filter((name) => name.startsWith(PREFIX)).map((name) => journalPath(stateDir, name))
}

/** Content of a tablespace is in folders such as PG_15_202209061. */
async function versionFolders(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: unknown) => {
    ignoreMissing(error)
    return []
  })
  return names.filter((name) => name.startsWith('PG_'))
}

async function step({ from, to }: Step): Promise<void> {
  if (!(await exists(from))) return // done by a run before
  await rename(from, to)
  await syncFolder(dirname(to))
  if (dirname(from) !== dirname(to)) await syncFolder(dirname(from))
}

/** Never without one: nobody would know any more where the old one led to. */
async function link({ root }: Work, path: string, to: string): Promise<void> {
  if ((await readlink(path).catch(() => undefined)) === to) return // done by a run before
  const made = join(root, 'link') // on the same file system, and in no folder of a server
  await unlink(made).catch(ignoreMissing)
  await symlink(to, made)
  await rename(made, path)
  await syncFolder(dirname(path))
}

/** Ends the server of a restore that is not to be; its data is thrown away. */
export async function killServer(dataDir: string): Promise<void> {
  const isThere = await stat(dataDir).then(
    () => true,
    () => false,
  )
  if (!isThere) return
  for (let waited = 0; waited < 200; waited++) {
    const pid = await livePid(dataDir)
    if (pid === undefined) return
    // SIGQUIT is an immediate shutdown (src/backend/postmaster/postmaster.c, pmdie).
    try {
      process.kill(pid, waited < 100 ? 'SIGQUIT' : 'SIGKILL')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EPERM')
        throw new Fail('not-permitted', `cannot end process ${pid} of a restore: ${messageOf(error)}`)
    }
    await sleep(100)
  }
  throw new Fail('command-failed', `the server of a restore in "${dataDir}" does not end`)
}

function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error
}

/** What is in it was there before, and is not ours. */
function ignoreKept(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') ignoreMissing(error)
}
