import type { Client } from 'pg'
import { copyIn } from '../cluster/copy.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { type Job, type Recipe, recipeOf } from './job.ts'
import {
  claim,
  type Claimed,
  type Entry,
  findSame,
  type Origin,
  writeEntry,
  writeIngestTime,
  writeOrigin,
  writeRejects,
} from './ledger.ts'
import { type Found, nothingFound, rowsOf } from './rows.ts'
import { openFirst } from './open-first.ts'
import type { Source } from './source.ts'

/** What became of a file that was tried: it has an entry now, or somebody else has it, or it needs none. */
export type Tried = Entry | 'held' | 'done'

/** A run over many files. */
export interface Run {
  readonly job: Job
  /** When it began, by the clock of the server. */
  readonly begun: string
  /** The host and the process that it is. */
  readonly by: string
}

/** A file that was written to so lately may be written to now. */
const OPEN_SECONDS = 3600

/**
 * Reads a file into the table: its rows, its rejects and its entry in the ledger in one transaction.
 * @throws when the connection is lost, or the server has no room; what is wrong with the file is in its entry
 */
export async function storeFile(client: Client, run: Run, origin: Origin): Promise<Tried> {
  await client.query('begin')
  try {
    const claimed = await claim(client, origin, { begun: run.begun, hostname: run.job.hostname })
    if (typeof claimed === 'string') {
      await client.query('rollback')
      return claimed
    }
    const entry = await tryFile(client, run, { origin, claimed })
    await writeEntry(client, origin, entry, run.by)
    await client.query('commit')
    return entry
  } catch (error) {
    await client.query('rollback').catch(() => {})
    throw error
  }
}

interface Task {
  readonly origin: Origin
  readonly claimed: Claimed
}

/** What the server can say against the rows of one file: SQLSTATE classes data exception, integrity constraint, limits. */
const OF_THE_FILE = /^(22|23|54)|^53100$/
/** A smaller file may have room; when not even the ledger has, the run ends. */
const DISK_FULL = '53100'
const UNIQUE_VIOLATION = '23505'

async function tryFile(client: Client, run: Run, task: Task): Promise<Entry> {
  await client.query('savepoint file')
  try {
    return await readFile(client, run, task)
  } catch (error) {
    const { code } = error as { code?: string }
    const isOfFile =
      error instanceof Fail
        ? ['file-unreadable', 'command-failed', 'not-permitted'].includes(error.code)
        : typeof code === 'string' && (OF_THE_FILE.test(code) || FILE_ERRNO.test(code))
    if (!isOfFile) throw error
    await client.query('rollback to savepoint file')
    const said = messageOf(error)
    return failed(task.claimed, code === DISK_FULL ? `the server has no room for it: ${said}` : said)
  }
}

/** What the system says against reading it. */
const FILE_ERRNO = /^(EIO|EACCES|EPERM|ESTALE|ELOOP|ENAMETOOLONG|EISDIR|ENXIO)$/

function failed({ size, modified }: Claimed, reason: string): Entry {
  const none = { device: null, sha256: null, rows: 0, known: 0, conflicts: 0, rejects: 0 }
  return { ...none, state: 'failed', reason: reason.replaceAll('\0', ''), size, modified }
}

async function readFile(client: Client, { job }: Run, { origin, claimed }: Task): Promise<Entry> {
  const recipe = recipeOf(job, origin.path)
  await using opened = await openFirst(job, { origin, claimed }, recipe)
  const { source, isOriginal, isOther } = opened
  // A copy that is what the original was when it was last seen stands for it.
  const { size, modified } =
    isOriginal || isOther ? { size: String(source.size), modified: source.modified } : claimed
  const same = await findSame(client, origin, { ...recipe, hash: () => source.hash() })
  const about = { device: recipe.device, size, modified }
  if (isOriginal) await writeOrigin(client, origin, source)
  if (same !== undefined) {
    const none = { rows: 0, known: 0, conflicts: 0, rejects: 0 }
    await writeRejects(client, origin, [])
    return { ...about, ...none, state: 'same', reason: `the same as ${same}`, sha256: await source.hash() }
  }
  const { found, stored } = await copyRows(client, { source, recipe, isAgain: claimed.isAgain })
  const end = await source.end()
  const isLive = isOriginal && (end.isChanged || Date.now() / 1000 - source.modifiedSeconds < OPEN_SECONDS)
  const verdict = judge(found, { ...end, isOther }, isLive)
  const torn = found.torn !== undefined && !isLive ? [found.torn] : []
  await writeRejects(client, origin, [...found.rejects, ...torn])
  await writeIngestTime(client, origin, recipe)
  return { ...about, ...stored, ...verdict, sha256: end.sha256, rejects: found.rejected + torn.length }
}

/** What is to be said of a file that was read to its end. */
function judge(found: Found, end: End, isLive: boolean): Pick<Entry, 'state' | 'reason'> {
  if (found.rejected > 0 && found.rows === 0) {
    const [first] = found.rejects
    throw new Fail('file-unreadable', `none of its ${found.rejected} lines is a row: ${first!.reason}`)
  }
  if (end.damage !== undefined && found.rows === 0) throw new Fail('file-unreadable', end.damage)
  const isCut = end.isTorn || found.torn !== undefined
  const reason = reasonsOf(found, end).join('; ') || null
  const isPart = found.rejected > 0 || end.isOther || end.damage !== undefined
  if (isPart || (isCut && !isLive)) return { state: 'partial', reason }
  return { state: isCut || end.isChanged ? 'open' : 'whole', reason }
}

interface End {
  readonly isTorn: boolean
  readonly damage: string | undefined
  readonly isChanged: boolean
  /** It was a copy, and not of what the original was. */
  readonly isOther: boolean
}

function reasonsOf({ rejected, torn }: Found, { isTorn, damage, isChanged, isOther }: End): string[] {
  return [
    ...(rejected > 0 ? [`${rejected} lines are no rows`] : []),
    ...(isTorn ? ['the packed stream has no end'] : []),
    ...(damage === undefined ? [] : [damage]),
    ...(torn ? [torn.reason] : []),
    ...(isChanged ? ['it was changed while it was read'] : []),
    ...(isOther ? ['it was read from a copy that is not what the original was'] : []),
  ]
}

interface Input {
  readonly source: Source
  readonly recipe: Recipe
  readonly isAgain: boolean
}

type Stored = Pick<Entry, 'rows' | 'known' | 'conflicts'>

/** Straight into the table where no row of the file is there yet, which is found out by trying; through a table of its own else. */
async function copyRows(client: Client, input: Input): Promise<{ found: Found; stored: Stored }> {
  if (!input.isAgain) {
    const found = nothingFound()
    await client.query('savepoint straight')
    try {
      const rows = await copyIn(
        client,
        COPY.replace('TABLE', 'telem'),
        rowsOf(input.source.blocks(), input.recipe, found),
      )
      await client.query('release savepoint straight')
      return { found, stored: { rows, known: 0, conflicts: 0 } }
    } catch (error) {
      if ((error as { code?: string }).code !== UNIQUE_VIOLATION) throw error
      await client.query('rollback to savepoint straight')
    }
  }
  const found = nothingFound()
  await client.query(STAGE)
  const sent = await copyIn(
    client,
    COPY.replace('TABLE', 'pg_temp.staged'),
    rowsOf(input.source.blocks(), input.recipe, found),
  )
  const { rowCount } = await client.query(MERGE)
  const { rows } = await client.query<{ conflicts: string }>(CONFLICTS)
  const [stored, conflicts] = [rowCount ?? 0, Number(rows[0]!.conflicts)]
  await client.query('drop table pg_temp.staged')
  return { found, stored: { rows: stored, conflicts, known: sent - stored - conflicts } }
}

/** A COPY of what {@link rowsOf} makes. */
const COPY = 'copy TABLE (ts, device, ec, msg) from stdin'

const STAGE = `create temp table staged (ts timestamptz, device varchar(50), ec varchar(20), msg jsonb,
  line bigint generated always as identity)`

// Of two records with one time the first one of the file stays. Everybody inserts in the same order, so that none
// waits for one who waits for him.
const MERGE = `insert into telem (ts, device, ec, msg) select ts, device, ec, msg from pg_temp.staged
  order by device, ts, line on conflict do nothing`

const CONFLICTS = `select count(*) as conflicts from pg_temp.staged s join telem t using (ts, device)
  where (s.ec, s.msg) is distinct from (t.ec, t.msg)`
