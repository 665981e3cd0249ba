import { statfs } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail } from '../../core/fail.ts'
import { formatDuration, formatSize, parseDuration } from '../../core/quantity.ts'
import type { BackupSpec, Host } from '../../host/schema.ts'
import type { Store } from '../../store/store.ts'
import type { Layout } from '../layout.ts'
import { withClient } from '../session.ts'
import type { ClusterSurvey } from '../survey.ts'
import { archiveOf } from './archived.ts'
import { OLDEST_MAJOR } from './base.ts'
import type { PhysicalSurvey } from './survey.ts'

/** What a base backup is checked against. */
export interface CheckScope {
  readonly host: Host
  readonly spec: BackupSpec
  readonly cluster: Cluster
  readonly survey: ClusterSurvey
  readonly physical: PhysicalSurvey
  readonly store: Store
  readonly layout: Layout
}

/** A store smaller than this part of the data cannot hold it, however well it compresses. */
const SMALLEST_PART = 20

/**
 * Looks for what would make a base backup fail, or be of no use, before its first byte is read: better
 * in a second than after hours.
 * @returns what a person should know
 * @throws {Fail} `backup-failed`, `no-space`
 */
export async function checkBefore(scope: CheckScope): Promise<string[]> {
  const { cluster, physical } = scope
  if (cluster.major < OLDEST_MAJOR) {
    throw new Fail(
      'backup-failed',
      `${cluster.label} is of PostgreSQL ${cluster.major}: a base backup needs ${OLDEST_MAJOR} or newer`,
      { hint: 'Back it up with kind = "dump", or upgrade it.' },
    )
  }
  const { settings } = physical
  if (settings['wal_level'] === 'minimal') {
    throw new Fail('backup-failed', `${cluster.label} has wal_level = "minimal": its WAL cannot restore it`, {
      hint: 'Set wal_level = "replica" under [settings], and apply: howdah provision apply',
    })
  }
  if (physical.isFromStandby && settings['full_page_writes'] === 'off') {
    throw new Fail('backup-failed', `${cluster.label} is a standby, and full_page_writes is off`, {
      hint: 'Set full_page_writes = "on" on its primary: pages that were torn meanwhile could not be restored.',
    })
  }
  const inside = physical.tablespaces.find(({ location }) => !location.startsWith('/'))
  if (inside && cluster.major < 16) {
    throw new Fail(
      'backup-failed',
      `PostgreSQL ${cluster.major} leaves tablespace "${inside.name}" out of a base backup: it is within the data directory`,
      { hint: 'Move what is in it to another one (alter table ... set tablespace), and drop it.' },
    )
  }
  await assertPlaces(cluster)
  await assertSpace(scope)
  return archiveFindings(scope)
}

/** One connection streams, a second one holds the WAL by a slot of its own. */
const SENDERS = 2

async function assertPlaces(cluster: Cluster): Promise<void> {
  const { rows } = await withClient(cluster, 'postgres', (client) =>
    client.query<{ may: boolean; senders: number; slots: number }>(`select
      (select rolsuper or rolreplication from pg_roles where rolname = current_user) as may,
      current_setting('max_wal_senders')::int
        - (select count(*)::int from pg_stat_activity where backend_type = 'walsender') as senders,
      current_setting('max_replication_slots')::int - (select count(*)::int from pg_replication_slots) as slots`),
  )
  const { may, senders, slots } = rows[0]!
  if (!may) {
    throw new Fail('backup-failed', `role "${cluster.superuser}" may not replicate ${cluster.label}`, {
      hint: `A base backup needs it: alter role "${cluster.superuser}" replication`,
    })
  }
  if (senders < SENDERS) throw noPlace(cluster, `${senders} of max_wal_senders are free`, SENDERS)
  if (slots < 1) throw noPlace(cluster, 'none of max_replication_slots is free', 1)
}

function noPlace(cluster: Cluster, what: string, needed: number): Fail {
  return new Fail('backup-failed', `of ${cluster.label} ${what}, ${needed} needed`, {
    hint: 'Who has them: select * from pg_replication_slots, pg_stat_replication. Or raise it under [settings].',
  })
}

async function assertSpace({ store, physical }: CheckScope): Promise<void> {
  if (!store.url.startsWith('file:')) return
  const folder = fileURLToPath(store.url)
  const free = await statfs(folder).then(
    ({ bavail, bsize }) => bavail * bsize,
    () => Infinity, // not there yet, or not ours to look at
  )
  if (free >= physical.dataSize / SMALLEST_PART) return
  throw new Fail(
    'no-space',
    `${formatSize(free)} are free in "${folder}", for ${formatSize(physical.dataSize)} of data`,
    { hint: `Free some space: df -h ${folder}` },
  )
}

async function archiveFindings(scope: CheckScope): Promise<string[]> {
  const { host, spec, survey } = scope
  if (host.archive === undefined) return []
  const position = await archiveOf(scope).readPosition()
  const age = position === undefined ? Infinity : (Date.parse(survey.now) - Date.parse(position.time)) / 1000
  if (age <= Math.max(600, parseDuration(host.archive.max_loss)! * 2)) return []
  const what =
    position === undefined
      ? 'no WAL of this cluster is in the store'
      : `the newest WAL in the store is ${formatDuration(age)} old`
  if (spec.pitr === undefined || position !== undefined)
    return [`${what}: does the archive run? See: howdah archive status`]
  throw new Fail('backup-failed', `${what}, and pitr = "${spec.pitr}" is to restore any moment`, {
    hint: 'Start the archive first: howdah archive run. What it says: howdah archive status',
  })
}
