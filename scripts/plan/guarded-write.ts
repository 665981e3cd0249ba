import { createHash } from 'node:crypto'
import { readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { stateAccess } from '../cluster/lock.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { isMissing, reasonOf, writeFileAtomic } from '../core/file.ts'
import { journalPath, listJournals, readJournal, removeJournal, writeJournal } from '../core/journal.ts'
import type { Step } from './change.ts'

type Write = Extract<Step, { run: 'write' }>
type Check = NonNullable<Write['check']>

/** A file that was replaced and does not count yet: what it was, so that it can be put back. */
interface Pending {
  readonly path: string
  readonly check: Check
  /** Its bytes in base64, since a file may hold comments in any encoding; null when there was no file. */
  readonly previous: string | null
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** SHA-256 of what was written: who finds something else there must not put it back. */
  readonly written: string
}

const PREFIX = 'write-'

/**
 * Replaces a file that the server reads at its next reload or start, and lets the server judge it
 * right away. What it was is journalled first: until {@link acceptWrites} it can be put back, after
 * SIGKILL too.
 * @throws {Fail} `change-undone` when the server refuses it; the file is then what it was
 */
export async function writeGuarded(
  step: Write,
  stateDir: string,
  cluster: Cluster | undefined,
): Promise<void> {
  const { uid, gid } = userId(step.owner)
  const journal = journalOf(stateDir, step.path)
  const written = hash(step.content)
  // Written twice in one run: what the file was before the first time is what counts.
  const before = (await readJournal<Pending>(journal)) ??
    (await lookAt(step.path)) ?? { previous: null, mode: 0, uid, gid }
  const pending: Pending = { ...before, path: step.path, check: step.check!, written }
  await writeJournal(journal, pending, stateAccess(cluster?.osUser))
  await writeFileAtomic(step.path, step.content, { mode: step.mode, uid, gid })
  const problems = await problemsOf(step.check!, cluster)
  if (problems.length === 0) return
  await undoWrites(stateDir)
  throw new Fail(
    'change-undone',
    `the server refuses the new ${fileTitle(step.check!)}: ${problems.join('; ')}`,
    {
      hint: `"${step.path}" is as it was, and nothing else is in force than before. Correct the host file, or the line that is named.`,
    },
  )
}

/** The files written so far count now: the server has taken them over. */
export async function acceptWrites(stateDir: string): Promise<void> {
  for (const journal of await pendingJournals(stateDir)) await removeJournal(journal)
}

/** Puts back every file that does not count yet. @returns their paths */
export async function undoWrites(stateDir: string): Promise<string[]> {
  return putBack(stateDir, () => Promise.resolve(true))
}

/**
 * Clears up after a run that died before the server had taken over what it wrote: puts the files back,
 * so that they are written again with all that guards them, and makes a running server read them. A
 * file that somebody changed since then stays as it is.
 * @returns the paths put back
 */
export async function recoverWrites(stateDir: string, cluster: Cluster | undefined): Promise<string[]> {
  const paths = await putBack(stateDir, async ({ path, written }) => {
    const bytes = await readFile(path).catch(() => undefined)
    return bytes !== undefined && hash(bytes) === written
  })
  if (paths.length > 0 && cluster && (await cluster.isRunning())) await signalReload(cluster)
  return paths
}

/** A reload without a connection: the one way left when nobody is let in any more. */
export async function signalReload(cluster: Cluster): Promise<void> {
  await run([join(cluster.bindir, 'pg_ctl'), '-s', '-D', cluster.dataDir, 'reload'], { as: cluster.osUser })
}

async function putBack(stateDir: string, isOurs: (pending: Pending) => Promise<boolean>): Promise<string[]> {
  const paths: string[] = []
  for (const journal of await pendingJournals(stateDir)) {
    const pending = await readJournal<Pending>(journal)
    if (pending && (await isOurs(pending))) {
      const { path, previous, mode, uid, gid } = pending
      if (previous === null) await rm(path, { force: true })
      else await writeFileAtomic(path, Buffer.from(previous, 'base64'), { mode, uid, gid })
      paths.push(path)
    }
    await removeJournal(journal)
  }
  return paths
}

async function lookAt(path: string): Promise<Omit<Pending, 'path' | 'check' | 'written'> | undefined> {
  try {
    const { mode, uid, gid } = await stat(path)
    return { previous: (await readFile(path)).toString('base64'), mode: mode & 0o7777, uid, gid }
  } catch (cause) {
    if (isMissing(cause)) return undefined
    throw new Fail('file-unreadable', `cannot read "${path}": ${reasonOf(cause)}`, {
      hint: 'Run this as root, or as its owner.',
      cause,
    })
  }
}

function hash(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex')
}

/** What the server says about its files as they are now on disk; both views parse them anew. */
async function problemsOf(check: Check, cluster: Cluster | undefined): Promise<string[]> {
  if (!cluster || !(await cluster.isRunning())) return []
  const client = await cluster.connect('postgres')
  try {
    const { rows } = await client.query<{ problem: string }>(PROBLEMS[check])
    return rows.map(({ problem }) => problem)
  } finally {
    await client.end()
  }
}

// "setting could not be applied" is what pg_file_settings says of a value that needs a restart too,
// and the other text of a line that is gone and needs one (src/backend/utils/misc/guc.c,
// ProcessConfigFileInternal), so those are no problems. A rule with a type and an error is only
// commented on: a hostssl rule while ssl is off (src/backend/libpq/hba.c, parse_hba_line).
const PROBLEMS: Readonly<Record<Check, string>> = {
  settings: `
    select format('%s:%s: %s: %s', f.sourcefile, f.sourceline, f.name, f.error) as problem
      from pg_catalog.pg_file_settings f
      left join pg_catalog.pg_settings s on lower(s.name) = lower(f.name)
     where f.error is not null
       and not (f.error = 'setting could not be applied' and s.context is not distinct from 'postmaster')
       and not (f.name is null and f.error like 'parameter "%" cannot be changed without restarting the server')
     order by f.seqno`,
  hba: `
    select format('line %s: %s', line_number, error) as problem
      from pg_catalog.pg_hba_file_rules
     where error is not null and type is null order by line_number`,
}

function fileTitle(check: Check): string {
  return check === 'hba' ? 'pg_hba.conf' : 'settings'
}

function journalOf(stateDir: string, path: string): string {
  return journalPath(stateDir, `${PREFIX}${createHash('sha256').update(path).digest('hex').slice(0, 16)}`)
}

async function pendingJournals(stateDir: string): Promise<string[]> {
  const names = await listJournals(join(stateDir, 'journal'))
  return names
    .filter((name) => name.startsWith(PREFIX))
    .map((name) => join(stateDir, 'journal', `${name}.json`))
}
