import { createHash } from 'node:crypto'
import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { stateAccess } from '../cluster/lock.ts'
import { Fail } from '../core/fail.ts'
import { readTextIfAny, writeFileAtomic } from '../core/file.ts'
import { journalPath, listJournals, readJournal, removeJournal, writeJournal } from '../core/journal.ts'
import { type Step } from './change.ts'

type Write = Extract<Step, { run: 'write' }>
type Check = NonNullable<Write['check']>

/** A file that was replaced and does not count yet: what it was, so that it can be put back. */
interface Pending {
  readonly path: string
  readonly check: Check
  /** Null when there was no file. */
  readonly previous: string | null
  readonly mode: number
  readonly uid: number
  readonly gid: number
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
  const previous = (await readTextIfAny(step.path)) ?? null
  const mode = previous === null ? step.mode : (await stat(step.path)).mode & 0o777
  const pending: Pending = { path: step.path, check: step.check!, previous, mode, uid, gid }
  const journal = journalOf(stateDir, step.path)
  // A journal that is there is of a run that died: what the file was before that one is what counts.
  if ((await readJournal(journal)) === undefined)
    await writeJournal(journal, pending, stateAccess(cluster?.osUser))
  await writeFileAtomic(step.path, step.content, { mode: step.mode, uid, gid })
  const problems = await problemsOf(step.check!, cluster)
  if (problems.length === 0) return
  await undoWrites(stateDir)
  throw new Fail(
    'change-undone',
    `the server refuses the new ${fileTitle(step.check!)}: ${problems.join('; ')}`,
    {
      hint: `"${step.path}" is as it was; the rules in force did not change. Correct the host file.`,
    },
  )
}

/** The files written so far count now: the server has taken them over. */
export async function acceptWrites(stateDir: string): Promise<void> {
  for (const journal of await pendingJournals(stateDir)) await removeJournal(journal)
}

/** Puts back every file that does not count yet. @returns their paths */
export async function undoWrites(stateDir: string): Promise<string[]> {
  const paths: string[] = []
  for (const journal of await pendingJournals(stateDir)) {
    const pending = await readJournal<Pending>(journal)
    if (!pending) continue
    const { path, previous, mode, uid, gid } = pending
    if (previous === null) await rm(path, { force: true })
    else await writeFileAtomic(path, previous, { mode, uid, gid })
    await removeJournal(journal)
    paths.push(path)
  }
  return paths
}

/**
 * Clears up after a run that died between a write and the reload: a file that the server refuses, or
 * with which it does not run, is put back; one that it likes stays.
 * @returns the paths put back
 */
export async function recoverWrites(stateDir: string, cluster: Cluster | undefined): Promise<string[]> {
  const journals = await pendingJournals(stateDir)
  if (journals.length === 0) return []
  if (!cluster || !(await cluster.isRunning())) return undoWrites(stateDir)
  for (const journal of journals) {
    const pending = await readJournal<Pending>(journal)
    if (pending && (await problemsOf(pending.check, cluster)).length > 0) return undoWrites(stateDir)
  }
  await acceptWrites(stateDir)
  return []
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
