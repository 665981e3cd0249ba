import type { Client } from 'pg'
import { stateAccess } from '../cluster/lock.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { ident, literal } from '../cluster/sql.ts'
import { journalPath, listJournals, readJournal, removeJournal, writeJournal } from '../core/journal.ts'
import { log } from '../core/log.ts'
import { dirname } from 'node:path'
import { withClient } from './session.ts'

/**
 * What a restore of a database is about to do. Written before it does it:
 * `fill`, the scratch database is made and filled; `swap`, it takes the name of the wanted one in one
 * transaction, so that afterwards it is there under one of the two names; `drop`, the database that
 * was in its place goes.
 */
export interface RestoreJournal {
  readonly phase: 'fill' | 'swap' | 'drop'
  readonly systemIdentifier: string
  readonly label: string
  /** Its random end makes the name one that nobody else uses. */
  readonly scratch: string
  /** The name that it gets. */
  readonly target: string
  /** The name under which the one in its place is kept; null when there is none. */
  readonly before: string | null
  readonly dropsBefore: boolean
}

const PREFIX = 'restore-'
/** Those of restores of whole clusters, which are none of this. */
const OF_CLUSTERS = 'restore-cluster-'

/** Keeps the journal of one restore. */
export interface RestoreLog {
  write(journal: RestoreJournal): Promise<void>
  remove(): Promise<void>
}

/** Begins a journal; nothing is written yet. */
export function restoreLog(stateDir: string, id: string, osUser: string | undefined): RestoreLog {
  const path = journalPath(stateDir, `${PREFIX}${id}`)
  return {
    write: (journal) => writeJournal(path, journal, stateAccess(osUser)),
    remove: () => removeJournal(path),
  }
}

/** Names of the scratch databases of restores, running or dead, on a cluster. */
export async function scratchNames(stateDir: string, systemIdentifier: string): Promise<Set<string>> {
  const journals = await journalsOf(stateDir, systemIdentifier)
  return new Set(journals.map(({ journal }) => journal.scratch))
}

/**
 * Finishes or undoes what dead restores left. The caller holds the cluster, so every journal that is
 * there is a dead one's. Before the swap is committed it is undone, afterwards it is finished.
 * @returns a line for each of them, for people
 */
export async function recoverRestores(
  stateDir: string,
  cluster: Cluster,
  systemIdentifier: string,
): Promise<string[]> {
  const lines: string[] = []
  for (const { path, journal } of await journalsOf(stateDir, systemIdentifier)) {
    const line = await withClient(cluster, maintenanceDatabase(journal.target), (client) =>
      recover(client, journal),
    )
    await removeJournal(path)
    log('notice', `restore: ${line}`)
    lines.push(line)
  }
  return lines
}

/** What restores of databases have written down, running or dead, on whatever cluster. */
export async function restoreJournals(stateDir: string): Promise<RestoreJournal[]> {
  return (await journalsOf(stateDir)).map(({ journal }) => journal)
}

async function recover(client: Client, journal: RestoreJournal): Promise<string> {
  const { scratch, target, before, phase, dropsBefore } = journal
  if (await databaseExists(client, scratch)) {
    await dropDatabase(client, scratch)
    return `a restore of "${target}" did not end: its scratch database "${scratch}" was dropped`
  }
  if (phase === 'fill' || before === null || !dropsBefore)
    return `a restore of "${target}" ended without a last word`
  await dropDatabase(client, before)
  return `a restore of "${target}" did not end: "${before}" was dropped, as it was asked to`
}

/** A database to be connected to while another one is renamed or dropped. */
export function maintenanceDatabase(target: string): string {
  return target === 'postgres' ? 'template1' : 'postgres'
}

/** Whether there is a database of that name. */
export async function databaseExists(client: Client, name: string): Promise<boolean> {
  const { rowCount } = await client.query('select from pg_database where datname = $1', [name])
  return rowCount !== 0
}

/** Drops a database with its sessions; one that is not there is no error. */
export async function dropDatabase(client: Client, name: string): Promise<void> {
  const { rows } = await client.query<{ template: boolean }>(
    `select datistemplate as template from pg_database where datname = ${literal(name)}`,
  )
  if (rows[0]?.template) await client.query(`alter database ${ident(name)} is_template false`)
  await client.query(`drop database if exists ${ident(name)} with (force)`)
}

async function journalsOf(
  stateDir: string,
  systemIdentifier?: string,
): Promise<{ path: string; journal: RestoreJournal }[]> {
  const names = await listJournals(dirname(journalPath(stateDir, PREFIX)))
  const found: { path: string; journal: RestoreJournal }[] = []
  const own = names.filter((name) => name.startsWith(PREFIX) && !name.startsWith(OF_CLUSTERS))
  for (const name of own) {
    const path = journalPath(stateDir, name)
    const journal = await readJournal<RestoreJournal>(path)
    if (journal === undefined) continue
    if (systemIdentifier === undefined || journal.systemIdentifier === systemIdentifier)
      found.push({ path, journal })
  }
  return found
}
