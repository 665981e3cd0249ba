import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail } from '../../core/fail.ts'
import { interrupted } from '../../core/interrupt.ts'
import { log } from '../../core/log.ts'
import type { BackupSpec, Host } from '../../host/schema.ts'
import { hostIdentity } from '../../store/identity.ts'
import { openStore } from '../../store/open.ts'
import type { Layout } from '../layout.ts'
import type { Physical } from '../manifest.ts'
import { withClient } from '../session.ts'
import type { ClusterSurvey } from '../survey.ts'
import { parseLsn, segmentsBetween, segmentStart } from '../wal/segment.ts'
import { openWalStore, type WalStore } from '../wal/wal-store.ts'

/** Whose WAL is looked for. */
export interface ArchiveScope {
  readonly host: Host
  readonly spec: BackupSpec
  readonly cluster: Cluster
  readonly survey: ClusterSurvey
  readonly layout: Layout
}

/**
 * The WAL of a cluster as the archive of its host stores it. There must be an [archive].
 * @param identity file of the private key, to read what is encrypted
 */
export function archiveOf({ host, survey, layout }: ArchiveScope, identity?: string): WalStore {
  return openWalStore({
    store: openStore(host, host.archive!.store, { canBeNew: true }),
    prefix: layout.wal(survey.systemIdentifier),
    level: host.archive!.compression_level,
    recipients: host.encryption?.recipients,
    identity,
  })
}

/** Seconds that the archive may stand still before it is given up. */
interface Patience {
  readonly behind: number
  /** While nobody is there who could move it on: systemd starts the service again within some seconds. */
  readonly alone: number
}
const PATIENCE: Patience = { behind: 120, alone: 20 }
/** For a job whose backups are whole without the archive: nobody waits for one that does not run. */
const LITTLE_PATIENCE: Patience = { behind: 30, alone: 0 }

/** How long segments are read before the rest of them are taken for what they are listed as. */
const READ_SECONDS = 300

/** The WAL of one backup in the archive. */
interface Needed {
  readonly wal: WalStore
  readonly timeline: number
  /** Every segment from start to stop, in order. */
  readonly segments: readonly string[]
  readonly stop: bigint
  readonly segmentSize: number
}

/**
 * Makes sure that the archive of a host has all WAL of a backup, and that every segment of it can be read:
 * a hole would be found when it is too late. An archive that is behind is waited for while it goes on.
 * A backup has its own WAL and restores alone; so for a job that does not want any moment after it back,
 * what is wrong with the archive is a warning.
 * @throws {Fail} `backup-failed` with the first segment that is missing or damaged, and why; what a store throws
 */
export async function awaitWal(scope: ArchiveScope, timeline: number, taken: Physical): Promise<void> {
  const { host, spec } = scope
  if (host.archive === undefined) return
  // Without the key what is stored can still be compared with its size: no reason to throw a base away.
  await using identity = await hostIdentity(host, undefined).catch((error: unknown) => {
    if (!(error instanceof Fail)) throw error
    log('warning', `backup: the WAL of this base cannot be decrypted to be checked: ${error.message}`)
    return undefined
  })
  const [start, stop] = [parseLsn(taken.startLsn)!, parseLsn(taken.stopLsn)!]
  const needed: Needed = {
    wal: archiveOf(scope, identity?.path),
    timeline,
    segments: [...segmentsBetween(timeline, start, stop, taken.walSegmentSize)],
    stop,
    segmentSize: taken.walSegmentSize,
  }
  try {
    await awaitSegments(scope, needed, taken)
    await readSegments(needed)
  } catch (error) {
    if (spec.pitr !== undefined || !(error instanceof Fail) || interrupted.aborted) throw error
    log('warning', `backup: it restores alone, but no moment after it: ${error.message}`)
  }
}

async function awaitSegments(scope: ArchiveScope, needed: Needed, taken: Physical): Promise<void> {
  const { cluster, spec } = scope
  const { wal, stop, timeline, segments } = needed
  const patience = spec.pitr === undefined ? LITTLE_PATIENCE : PATIENCE
  if (spec.pitr !== undefined && !taken.isFromStandby)
    await withClient(cluster, 'postgres', (client) => client.query('select pg_switch_wal()'))
  let reached: bigint | undefined
  let since = performance.now()
  for (;;) {
    const position = await wal.readPosition()
    const lsn = position === undefined ? 0n : parseLsn(position.lsn)!
    const missing = lsn < stop ? undefined : await firstMissing(wal, timeline, segments)
    if (lsn >= stop && missing === undefined) return
    if (lsn !== reached) since = performance.now()
    reached = lsn
    const cause = await causeOf(scope)
    const seconds = (performance.now() - since) / 1000
    if (seconds > (cause.isAlone ? patience.alone : patience.behind)) {
      const first = missing ?? (await firstMissing(wal, timeline, segments)) ?? segments.at(-1)!
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

/** Reads segments to their ends, with the proof of their hashes. */
async function readSegments(needed: Needed): Promise<void> {
  const begun = performance.now()
  for (const [index, segment] of needed.segments.entries()) {
    interrupted.throwIfAborted()
    if (performance.now() - begun > READ_SECONDS * 1000) {
      const left = needed.segments.length - index
      log('notice', `backup: ${left} segments of its WAL are in the store, and were not read: verify --deep`)
      return
    }
    await readSegment(needed, segment).catch((error: unknown) => {
      if (!(error instanceof Fail) || !['backup-damaged', 'store-missing'].includes(error.code)) throw error
      throw new Fail(
        'backup-failed',
        `WAL segment ${segment} of the backup cannot be read in the store: ${error.message}`,
        {
          hint: 'Take it again: the next one needs later WAL. What else is damaged: howdah backup verify --deep',
        },
      )
    })
  }
}

async function readSegment(needed: Needed, segment: string): Promise<void> {
  const { wal, stop, segmentSize } = needed
  const end = segmentStart(segment, segmentSize) + BigInt(segmentSize)
  // The last one may still be written: it needs to be there as far as the backup goes.
  const used = Number(BigInt(segmentSize) - (stop < end ? end - stop : 0n))
  for (let attempt = 1; ; attempt++) {
    const isWhole = (await wal.has(segment)) === 'whole'
    try {
      const bytes = await lengthOf(isWhole ? wal.get(segment) : wal.getPartial(segment))
      if (bytes >= (isWhole ? segmentSize : used)) return
      throw new Fail('backup-damaged', `it has ${bytes} bytes`)
    } catch (error) {
      if (!(error instanceof Fail)) throw error
      // Without the private key nobody looks inside: that its hash and its bytes can be had is all there is to see.
      if (error.code === 'wrong-key') {
        if (!isWhole || (await wal.readStored(segment)) > 0) return
        throw new Fail('backup-damaged', 'it is empty', { cause: error })
      }
      // A beginning gives way to the whole one.
      if (error.code !== 'store-missing' || isWhole || attempt === 3) throw error
    }
  }
}

async function lengthOf(content: AsyncIterable<Buffer>): Promise<number> {
  let bytes = 0
  for await (const chunk of content) bytes += chunk.length
  return bytes
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
