import { join } from 'node:path'
import { stateAccess } from '../cluster/lock.ts'
import { journalPath, readJournal, removeJournal, writeJournal } from '../core/journal.ts'
import type { Host, Postgres } from '../host/schema.ts'
import type { Verify } from './manifest.ts'

/** How the data goes over. */
export type Method = 'copy' | 'clone' | 'link' | 'swap' | 'dump'

/**
 * What is being done, written down before it is begun:
 *
 * - `prepared`: jobs are paused, so that the operating system can be upgraded
 * - `make`: the new cluster is made and proves its settings; the old one serves
 * - `close`: nobody can reach the old one any more, and what it holds is taken down. The outage begins
 * - `transfer`: its data goes over; both servers are down
 * - `start`: the new one runs behind closed doors and is checked. Linked files are the new one's from here on
 * - `open`: it takes the old one's port and place. The outage ends with it
 * - `after`: it serves; its first backup is taken, jobs run again
 * - `kept`: done; the old one is kept, and stopped
 * - `drop`: the old one is being dropped
 * - `back`: an upgrade is being undone
 */
export type Phase =
  | 'prepared'
  | 'make'
  | 'close'
  | 'transfer'
  | 'start'
  | 'open'
  | 'after'
  | 'kept'
  | 'drop'
  | 'back'

/** An upgrade, as far as it has come: plain data. Times are ISO texts. */
export interface UpgradeState {
  readonly phase: Phase
  readonly old: Postgres
  readonly new: Postgres
  readonly method: Method
  readonly verify: Verify
  /** A port that is free: of the new cluster until it takes the old one's, and of that one afterwards. */
  readonly spare: number
  /** The host file that is edited, by its path. */
  readonly file: string
  readonly begun: string
  /** When the old one closed its doors. */
  readonly closed?: string
  /** Of the old one's control file then: another one says that it has run since. */
  readonly checkpoint?: string
  /** When the new one opened them, and its position in the WAL then. */
  readonly opened?: string
  readonly openedAt?: string
  /** Jobs that are paused until it is over. */
  readonly paused?: readonly string[]
  /** What came out otherwise than it should, for people. */
  readonly notes: readonly string[]
}

/** Keeps the state of the upgrade of one cluster. */
export interface UpgradeLog {
  read(): Promise<UpgradeState | undefined>
  write(state: UpgradeState): Promise<void>
  remove(): Promise<void>
  /** Files that belong to it: manifests, and what the programs said. */
  readonly folder: string
}

/** Of the cluster of a host file, whichever of the two majors the file names by now. */
export function upgradeLog({ host, postgres }: Host, osUser: string): UpgradeLog {
  const name = postgres.kind === 'debian' ? postgres.cluster : `port-${postgres.port}`
  const path = journalPath(host.state_dir, `upgrade-${name}`)
  return {
    read: () => readJournal<UpgradeState>(path),
    write: (state) => writeJournal(path, state, stateAccess(osUser)),
    remove: () => removeJournal(path),
    folder: join(host.state_dir, 'upgrade', encodeURIComponent(name)),
  }
}

/** Whether the new cluster has the place of the old one for good. */
export function isDone({ phase }: UpgradeState): boolean {
  return phase === 'kept' || phase === 'drop'
}

/** Whether the old cluster can serve again as it was. */
export function hasWayBack(state: UpgradeState): boolean {
  return state.phase !== 'drop' && !sharesFiles(state)
}

/** Whether the files of the old cluster are, or may be, those that the new one writes to. */
export function sharesFiles({ method, phase }: Pick<UpgradeState, 'method' | 'phase'>): boolean {
  const isStarted =
    phase === 'start' || phase === 'open' || phase === 'after' || phase === 'kept' || phase === 'drop'
  // Swapped files are gone from the old one as soon as the transfer begins.
  return method === 'swap' ? isStarted || phase === 'transfer' : method === 'link' && isStarted
}
