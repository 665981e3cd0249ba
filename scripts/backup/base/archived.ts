import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail } from '../../core/fail.ts'
import { interrupted } from '../../core/interrupt.ts'
import type { BackupSpec, Host } from '../../host/schema.ts'
import { openStore } from '../../store/open.ts'
import type { Layout } from '../layout.ts'
import type { Physical } from '../manifest.ts'
import { withClient } from '../session.ts'
import type { ClusterSurvey } from '../survey.ts'
import { parseLsn, segmentsBetween } from '../wal/segment.ts'
import { openWalStore, type WalStore } from '../wal/wal-store.ts'

/** Whose WAL is looked for. */
export interface ArchiveScope {
  readonly host: Host
  readonly spec: BackupSpec
  readonly cluster: Cluster
  readonly survey: ClusterSurvey
  readonly layout: Layout
}

/** The WAL of a cluster as the archive of its host stores it. There must be an [archive]. */
export function archiveOf({ host, survey, layout }: ArchiveScope): WalStore {
  return openWalStore({
    store: openStore(host, host.archive!.store, { canBeNew: true }),
    prefix: layout.wal(survey.systemIdentifier),
    level: host.archive!.compression_level,
    recipients: host.encryption?.recipients,
  })
}

/** How long the archive may stand still before it is given up. */
const PATIENCE_SECONDS = 120
/** The same while nobody is there who could move it on: systemd starts the service again within some seconds. */
const ALONE_SECONDS = 20

/**
 * Waits until the archive has all WAL of a backup of a job that wants any moment after it: a hole would
 * be found when it is too late. An archive that is behind is waited for while it goes on.
 * @throws {Fail} `backup-failed` with the first segment that is missing, and why
 */
export async function awaitWal(scope: ArchiveScope, timeline: number, taken: Physical): Promise<void> {
  const { spec, cluster } = scope
  if (spec.pitr === undefined) return
  const wal = archiveOf(scope)
  const [start, stop] = [parseLsn(taken.startLsn)!, parseLsn(taken.stopLsn)!]
  const needed = [...segmentsBetween(timeline, start, stop, taken.walSegmentSize)]
  if (!taken.isFromStandby)
    await withClient(cluster, 'postgres', (client) => client.query('select pg_switch_wal()'))
  let reached: bigint | undefined
  let since = performance.now()
  for (;;) {
    const position = await wal.readPosition()
    const lsn = position === undefined ? undefined : parseLsn(position.lsn)!
    const missing = lsn === undefined || lsn < stop ? undefined : await firstMissing(wal, timeline, needed)
    if (lsn !== undefined && lsn >= stop && missing === undefined) return
    if (lsn !== reached) since = performance.now()
    reached = lsn
    const cause = await causeOf(scope)
    const seconds = (performance.now() - since) / 1000
    if (seconds > (cause.isAlone ? ALONE_SECONDS : PATIENCE_SECONDS)) {
      const first = missing ?? (await firstMissing(wal, timeline, needed)) ?? needed.at(-1)!
      throw new Fail(
        'backup-failed',
        `WAL segment ${first} of the backup is not in the store: ${cause.text}`,
        {
          hint: 'What the archive says: howdah archive status',
        },
      )
    }
    await sleep(500, undefined, { signal: interrupted })
  }
}

async function firstMissing(
  wal: WalStore,
  timeline: number,
  needed: readonly string[],
): Promise<string | undefined> {
  const { segments, partials } = await wal.list(timeline)
  const there = new Set([...segments, ...partials])
  return needed.find((segment) => !there.has(segment))
}

interface Cause {
  readonly text: string
  /** Nobody receives WAL. */
  readonly isAlone: boolean
}

async function causeOf({ host, cluster }: ArchiveScope): Promise<Cause> {
  const { slot } = host.archive!
  const { rows } = await withClient(cluster, 'postgres', (client) =>
    client.query<{ active: boolean; lost: boolean }>(
      `select active, coalesce(wal_status = 'lost', false) as lost from pg_replication_slots where slot_name = $1`,
      [slot],
    ),
  )
  const [row] = rows
  if (row === undefined) return { text: `there is no slot "${slot}", so no archive runs`, isAlone: true }
  if (row.lost) return { text: `slot "${slot}" is lost`, isAlone: true }
  if (!row.active)
    return { text: `nobody receives from slot "${slot}": the archive does not run`, isAlone: true }
  return { text: 'the archive is behind, and does not go on', isAlone: false }
}
