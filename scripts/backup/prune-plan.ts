import type { BackupSpec } from '../host/backup-schema.ts'
import type { Entry } from '../store/store.ts'
import { decideKeep, isSegmentNeeded, type KeepBackup, type KeepDecision, type KeepPhysical } from './keep.ts'
import type { Manifest } from './manifest.ts'
import { missingOf, type Shelf } from './shelf.ts'
import { parseLsn, segmentPlace } from './wal/segment.ts'

/** How long a mark of a take counts that is not renewed any more. */
const MARKER_MILLISECONDS = 86_400_000

/** What a prune is planned from. */
export interface PruneFacts {
  /** All stores of the host file. */
  readonly shelves: readonly Shelf[]
  /** Those that are pruned; of the others the backups are looked at only. */
  readonly stores: ReadonlySet<string>
  readonly jobs: Readonly<Record<string, BackupSpec>>
  /** Backups of this job only. */
  readonly job: string | undefined
  /** Of the cluster as it is now. */
  readonly systemIdentifier: string
  /** This machine's name. */
  readonly machine: string
  readonly now: Date
  /** What each store's own clock says. */
  readonly clocks: ReadonlyMap<string, Date>
  /** Labels of backups, by store, whose manifests an earlier prune that died has deleted, or was about to. */
  readonly begun: ReadonlyMap<string, ReadonlySet<string>>
}

/** What is to go, and what stays, in one store. */
export interface StorePlan {
  readonly store: string
  readonly url: string
  readonly backups: readonly PlannedBackup[]
  /** Files of backups that are none any more. */
  readonly leftovers: readonly PlannedFiles[]
  /** Keys of marks whose takes died. */
  readonly staleMarkers: readonly string[]
  readonly wal: readonly PlannedWal[]
  /** For people: what was found and stays. */
  readonly warnings: readonly string[]
}

/** One backup of a plan. */
export interface PlannedBackup {
  readonly label: string
  readonly job: string
  readonly kept: boolean
  readonly reasons: readonly string[]
  /** Bytes in the store. */
  readonly size: number
  readonly keys: readonly string[]
}

/** Files without a manifest. */
export interface PlannedFiles {
  readonly label: string
  readonly reason: string
  readonly size: number
  readonly keys: readonly string[]
}

/** The WAL of one system. */
export interface PlannedWal {
  readonly systemIdentifier: string
  readonly reason: string
  /** Segments that go, in order of their names. */
  readonly segments: readonly string[]
  /** What else goes: beginnings whose whole segment is there, and all else of a system that is not needed. */
  readonly keys: readonly string[]
  /** Bytes that go. */
  readonly size: number
  /** Bytes that stay. */
  readonly keptSize: number
}

/** Plans a prune. Pure. */
export function planOf(facts: PruneFacts): StorePlan[] {
  const judged = new Map(facts.shelves.map((shelf) => [shelf.name, judge(facts, shelf)]))
  const starts = facts.shelves.flatMap((shelf) =>
    judged
      .get(shelf.name)!
      .filter(({ isForPitr }) => isForPitr)
      .map(({ label }) => physicalOf(manifestOf(shelf, label)!)!),
  )
  return facts.shelves
    .filter(({ name }) => facts.stores.has(name))
    .map((shelf) => ({
      store: shelf.name,
      url: shelf.store.url,
      backups: backupsOf(facts, shelf, judged.get(shelf.name)!),
      leftovers: leftoversOf(facts, shelf),
      staleMarkers: shelf.markers.filter((marker) => !isYoung(facts, shelf, marker)).map(({ key }) => key),
      wal: [...shelf.wal].map(([systemIdentifier, entries]) =>
        walOf(facts, starts, systemIdentifier, entries),
      ),
      warnings: warningsOf(facts, shelf, judged.get(shelf.name)!),
    }))
}

/** Whether a plan changes anything. Pure. */
export function isEmptyPlan(plans: readonly StorePlan[]): boolean {
  return plans.every(
    ({ backups, leftovers, staleMarkers, wal }) =>
      backups.every(({ kept }) => kept) &&
      leftovers.length === 0 &&
      staleMarkers.length === 0 &&
      wal.every(({ segments, keys }) => segments.length === 0 && keys.length === 0),
  )
}

/** Where a backup is in the WAL; undefined for a dump. Pure. */
export function physicalOf({ physical, systemIdentifier, timeline }: Manifest): KeepPhysical | undefined {
  if (physical === undefined) return undefined
  const segment = parseLsn(physical.startLsn)! / BigInt(physical.walSegmentSize)
  const { parent, hasBadChecksums } = physical
  return { systemIdentifier, timeline, segment, parent, hasBadChecksums }
}

/**
 * Labels of the backups from which WAL goes on: those of windows of point-in-time recovery, or all
 * physical ones where no job has such a window. Pure.
 */
export function walNeeders(
  shelves: readonly Shelf[],
  jobs: Readonly<Record<string, BackupSpec>>,
  now: Date,
): string[] {
  const hasWindow = Object.values(jobs).some(({ pitr }) => pitr !== undefined)
  const clocks = new Map(shelves.map(({ name }) => [name, now]))
  return shelves.flatMap((shelf) => {
    if (hasWindow)
      return judge({ jobs, now, clocks, machine: '' }, shelf).flatMap(({ label, isForPitr }) =>
        isForPitr ? [label] : [],
      )
    return shelf.catalog.flatMap((entry) =>
      'manifest' in entry && entry.manifest.physical !== undefined ? [entry.label] : [],
    )
  })
}

function manifestOf(shelf: Shelf, label: string): Manifest | undefined {
  const entry = shelf.catalog.find((entry) => entry.label === label)
  return entry && 'manifest' in entry ? entry.manifest : undefined
}

type Judging = Pick<PruneFacts, 'jobs' | 'now' | 'clocks' | 'machine'>

function judge(facts: Judging, shelf: Shelf): KeepDecision[] {
  const backups = shelf.catalog.flatMap((entry): KeepBackup[] => {
    if (!('manifest' in entry)) return []
    const { manifest } = entry
    return [
      {
        label: manifest.label,
        job: manifest.job,
        begun: new Date(manifest.begun),
        ended: new Date(manifest.ended),
        problem: missingOf(manifest, shelf.files.get(manifest.label) ?? []),
        physical: physicalOf(manifest),
      },
    ]
  })
  // A take on this machine would hold the store, so a mark of one is that of a dead one: it does not
  // hold its job back, but its files wait for their day like all others.
  const alive = shelf.markers.filter(
    (marker) => marker.machine !== facts.machine && isYoung(facts, shelf, marker),
  )
  // A mark that does not say its job may be of any.
  const running = alive.some(({ job }) => job === '')
    ? backups.map(({ job }) => job)
    : alive.map(({ job }) => job)
  return decideKeep({
    backups,
    jobs: new Map(Object.entries(facts.jobs)),
    running: new Set(running),
    now: facts.now,
  })
}

function isYoung(facts: Judging, shelf: Shelf, { renewed }: { renewed: Date }): boolean {
  return facts.clocks.get(shelf.name)!.getTime() - renewed.getTime() < MARKER_MILLISECONDS
}

function backupsOf(facts: PruneFacts, shelf: Shelf, decisions: readonly KeepDecision[]): PlannedBackup[] {
  return decisions
    .filter(({ job }) => facts.job === undefined || job === facts.job)
    .map(({ label, job, kept, reasons }) => {
      const files = shelf.files.get(label) ?? []
      return { label, job, kept, reasons, size: sizeOf(files), keys: files.map(({ key }) => key) }
    })
}

function leftoversOf(facts: PruneFacts, shelf: Shelf): PlannedFiles[] {
  const known = new Set(shelf.catalog.map(({ label }) => label))
  const begun = facts.begun.get(shelf.name)
  const isQuiet = !shelf.markers.some((marker) => isYoung(facts, shelf, marker))
  return [...shelf.files].flatMap(([label, files]) => {
    if (known.has(label)) return []
    const isOurs = begun?.has(label) === true
    if (!isOurs && !isQuiet) return [] // of a take that goes on, maybe on another host
    const reason = isOurs ? 'an earlier prune deleted its manifest' : 'no manifest names these files'
    return [{ label, reason, size: sizeOf(files), keys: files.map(({ key }) => key) }]
  })
}

function warningsOf(facts: PruneFacts, shelf: Shelf, decisions: readonly KeepDecision[]): string[] {
  const unread = shelf.catalog.flatMap((entry) =>
    'problem' in entry ? [`${entry.problem}: all of it is kept`] : [],
  )
  const damaged = decisions.flatMap(({ label, reasons }) => {
    const why = reasons.find((reason) => reason.startsWith('damaged: '))
    return why === undefined ? [] : [`backup ${label} is ${why}: what is left of it is kept`]
  })
  const known = new Set(shelf.catalog.map(({ label }) => label))
  const young = shelf.markers.filter((marker) => isYoung(facts, shelf, marker))
  const nameless = [...shelf.files].filter(([label]) => !known.has(label))
  const swept = new Set(leftoversOf(facts, shelf).map(({ label }) => label))
  const held = nameless.filter(([label]) => !swept.has(label))
  const waiting =
    held.length > 0 && young.length > 0
      ? [
          `files without a manifest (${held.map(([label]) => label).join(', ')}) stay: a take goes on, or died less than a day ago`,
        ]
      : []
  return [...unread, ...damaged, ...waiting]
}

const SEGMENT_KEY = /\/([0-9A-F]{24})(\.partial)?(\.[^/]*)$/

function walOf(
  facts: PruneFacts,
  starts: readonly KeepPhysical[],
  systemIdentifier: string,
  entries: readonly Entry[],
): PlannedWal {
  const own = starts.filter((start) => start.systemIdentifier === systemIdentifier)
  const why = whyKept(facts, starts, own, systemIdentifier)
  const all = sizeOf(entries)
  if (why === undefined && own.length === 0) {
    const names = entries.map(({ key }) => SEGMENT_KEY.exec(key)?.[1]).filter((name) => name !== undefined)
    return {
      systemIdentifier,
      reason: 'of a system that no backup within pitr is of',
      segments: [...new Set(names)].sort(),
      keys: entries.filter(({ key }) => !SEGMENT_KEY.test(key)).map(({ key }) => key),
      size: all,
      keptSize: 0,
    }
  }
  const doomed = why === undefined ? unneeded(facts, own, systemIdentifier, entries) : new Set<string>()
  const isDoomed = ({ key }: Entry) => doomed.has(SEGMENT_KEY.exec(key)?.[1] ?? '')
  const partials = superseded(entries).filter((entry) => !isDoomed(entry))
  const size = sizeOf(entries.filter(isDoomed)) + sizeOf(partials)
  return {
    systemIdentifier,
    reason: why ?? 'older than every backup within pitr',
    segments: [...doomed].sort(),
    keys: partials.map(({ key }) => key),
    size,
    keptSize: all - size,
  }
}

/** Why all whole segments of a system stay; undefined when it is decided one by one. */
function whyKept(
  { jobs, shelves, systemIdentifier: current }: PruneFacts,
  starts: readonly KeepPhysical[],
  own: readonly KeepPhysical[],
  systemIdentifier: string,
): string | undefined {
  if (!Object.values(jobs).some(({ pitr }) => pitr !== undefined))
    return 'no job says "pitr": all of it stays'
  const unread = shelves
    .flatMap(({ catalog }) => catalog)
    .find((entry) => 'problem' in entry && !/-dump-/.test(entry.label))
  if (unread) return `the manifest of ${unread.label} cannot be read, and it may need any of it`
  if (starts.length === 0) return 'there is no backup within pitr yet'
  if (own.length === 0 && systemIdentifier === current) return 'no backup of this system is within pitr yet'
  return undefined
}

function unneeded(
  { shelves }: PruneFacts,
  own: readonly KeepPhysical[],
  systemIdentifier: string,
  entries: readonly Entry[],
): Set<string> {
  const manifests = shelves
    .flatMap(({ catalog }) => catalog)
    .flatMap((entry) => ('manifest' in entry ? [entry.manifest] : []))
  const size = manifests.find(
    (manifest) => manifest.systemIdentifier === systemIdentifier && manifest.physical !== undefined,
  )!.physical!.walSegmentSize
  const names = entries.map(({ key }) => SEGMENT_KEY.exec(key)?.[1]).filter((name) => name !== undefined)
  return new Set(names.filter((name) => !isSegmentNeeded(own, segmentPlace(name, size))))
}

/** Beginnings of segments that are there as a whole. */
function superseded(entries: readonly Entry[]): Entry[] {
  const parts = entries.map((entry) => ({ entry, match: SEGMENT_KEY.exec(entry.key) }))
  const having = (isWanted: (ending: string) => boolean) =>
    new Set(
      parts.flatMap(({ match }) =>
        match && match[2] === undefined && isWanted(match[3]!) ? [match[1]!] : [],
      ),
    )
  const hashes = having((ending) => ending === '.sha256')
  const bodies = having((ending) => ending !== '.sha256')
  return parts
    .filter(({ match }) => match?.[2] !== undefined && hashes.has(match[1]!) && bodies.has(match[1]!))
    .map(({ entry }) => entry)
}

function sizeOf(entries: readonly Entry[]): number {
  return entries.reduce((sum, { size }) => sum + size, 0)
}
