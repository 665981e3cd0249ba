import { parseDuration } from '../core/quantity.ts'
import type { KeepSpec } from '../host/backup-schema.ts'

/** What retention needs to know of one backup. */
export interface KeepBackup {
  readonly label: string
  readonly job: string
  /** By the server's clock. */
  readonly begun: Date
  readonly ended: Date
  /** Why it cannot be restored: a damaged manifest, files that are missing. */
  readonly problem?: string | undefined
  /** Of kinds `base` and `incr`. */
  readonly physical?: KeepPhysical | undefined
}

/** Where a physical backup is in the WAL. */
export interface KeepPhysical {
  readonly systemIdentifier: string
  readonly timeline: number
  /** Number of the segment that holds its start LSN. */
  readonly segment: bigint
  /** The backup that it is on top of. */
  readonly parent: string | null
  /** Whether pages of it had wrong checksums when it was taken. */
  readonly hasBadChecksums?: boolean
}

/** What a job of the host file says. */
export interface KeepJob {
  readonly keep?: KeepSpec | undefined
  /** `7d` */
  readonly pitr?: string | undefined
}

/** What decides. */
export interface KeepRequest {
  readonly backups: readonly KeepBackup[]
  /** By name. */
  readonly jobs: ReadonlyMap<string, KeepJob>
  /** Jobs of which a take is in progress anywhere. */
  readonly running: ReadonlySet<string>
  readonly now: Date
}

/** What becomes of one backup. */
export interface KeepDecision {
  readonly label: string
  readonly job: string
  readonly kept: boolean
  /** Why it stays, or the one reason why it goes. */
  readonly reasons: readonly string[]
  /** Whether any moment after it is to be reachable: its WAL is needed from its start on. */
  readonly isForPitr: boolean
}

/**
 * Decides which backups stay. Whatever is not understood stays: damaged ones, those of a job that the
 * host file no longer has, those that say they are of the future. Pure.
 * @returns one decision for each backup, oldest first
 */
export function decideKeep(request: KeepRequest): KeepDecision[] {
  const backups = request.backups.toSorted(byTime)
  const reasons = new Map<string, string[]>(backups.map(({ label }) => [label, []]))
  const give: Give = (label, reason) => void reasons.get(label)?.push(reason)
  const broken = brokenOf(backups)
  for (const [label, why] of broken) give(label, why)
  const pitr = new Set<string>()
  for (const [job, own] of Map.groupBy(backups, ({ job }) => job)) {
    keepUnknown(request, own, give)
    const good = own.filter(({ label, begun }) => !broken.has(label) && begun <= request.now)
    const last = good.at(-1)
    const spec = request.jobs.get(job)
    if (last) give(last.label, 'last good')
    const clean = lastClean(good)
    if (clean && clean !== last) give(clean.label, 'last with right checksums')
    if (spec === undefined || last === undefined) continue
    applyKeep(good, spec.keep, give)
    for (const label of pitrLabels(good, spec.pitr)) {
      give(label, `within pitr ${spec.pitr}`)
      pitr.add(label)
    }
  }
  keepParents(backups, reasons, give)
  return backups.map(({ label, job }) => {
    const why = reasons.get(label)!
    const kept = why.length > 0
    return { label, job, kept, reasons: kept ? why : ['no rule keeps it'], isForPitr: pitr.has(label) }
  })
}

type Give = (label: string, reason: string) => void

/** Pages that went bad are in every backup after that: the one before may be all that is left of them. */
function lastClean(good: readonly KeepBackup[]): KeepBackup | undefined {
  const bad = new Set<string | null>()
  for (const { label, physical } of good)
    if (physical && (physical.hasBadChecksums || bad.has(physical.parent))) bad.add(label)
  return bad.size === 0 ? undefined : good.findLast(({ label }) => !bad.has(label))
}

/** Keeps what no rule can judge. */
function keepUnknown({ jobs, running, now }: KeepRequest, own: readonly KeepBackup[], give: Give): void {
  for (const { label, job, begun } of own) {
    if (!jobs.has(job)) give(label, `job "${job}" is not in the host file`)
    if (running.has(job)) give(label, 'running: a take of its job goes on')
    // What lies in the future was taken while a clock was wrong: it stays, and takes nobody's place.
    if (begun > now) give(label, 'its time is in the future')
  }
}

/** Whether a segment is needed to go on from any of the backups that are there for point-in-time recovery. Pure. */
export function isSegmentNeeded(
  starts: readonly KeepPhysical[],
  place: { readonly timeline: number; readonly number: bigint },
): boolean {
  // A later timeline may have left an earlier one anywhere after that backup, so it counts as the way on.
  return starts.some(({ timeline, segment }) => timeline <= place.timeline && segment <= place.number)
}

/** A later timeline may begin at a smaller LSN and another system at any, so only time orders backups. */
function byTime(a: KeepBackup, b: KeepBackup): number {
  return a.begun.getTime() - b.begun.getTime() || (a.label < b.label ? -1 : 1)
}

/** Backups that cannot be restored, with the reason: damaged, or on top of one that is. */
function brokenOf(backups: readonly KeepBackup[]): Map<string, string> {
  const known = new Map(backups.map((backup) => [backup.label, backup]))
  const broken = new Map<string, string>()
  for (const { label } of backups) {
    const why = brokenChain(known, label)
    if (why !== undefined) broken.set(label, why)
  }
  return broken
}

function brokenChain(known: ReadonlyMap<string, KeepBackup>, label: string): string | undefined {
  const seen = new Set<string>()
  for (let at: string | null = label; at !== null;) {
    const backup = known.get(at)
    if (backup === undefined) return `damaged: its parent ${at} is missing`
    if (backup.problem !== undefined)
      return at === label ? `damaged: ${backup.problem}` : `damaged: its parent ${at} is`
    if (seen.has(at)) return 'damaged: it is its own parent'
    seen.add(at)
    at = backup.physical?.parent ?? null
  }
  return undefined
}

function keepParents(
  backups: readonly KeepBackup[],
  reasons: ReadonlyMap<string, readonly string[]>,
  give: Give,
): void {
  const known = new Map(backups.map((backup) => [backup.label, backup]))
  const kept = backups.filter(({ label }) => reasons.get(label)!.length > 0)
  const told = new Set<string>()
  for (const { label, physical } of kept) {
    let child = label
    let parent = physical?.parent ?? null
    while (parent !== null && !told.has(`${parent} ${child}`)) {
      told.add(`${parent} ${child}`)
      give(parent, `parent of ${child}`)
      child = parent
      parent = known.get(parent)?.physical?.parent ?? null
    }
  }
}

/** Gives the period of a time its name: two times of one period have the same. */
type Period = readonly [name: keyof Omit<KeepSpec, 'within'>, nameOf: (time: Date, index: number) => string]

const PERIODS: readonly Period[] = [
  ['last', (_, index) => String(index + 1)],
  ['hourly', (time) => `${time.toISOString().slice(0, 13).replace('T', ' ')}h`],
  ['daily', (time) => time.toISOString().slice(0, 10)],
  ['weekly', isoWeek],
  ['monthly', (time) => time.toISOString().slice(0, 7)],
  ['yearly', (time) => time.toISOString().slice(0, 4)],
]

/**
 * The rules of `keep` on the good backups of one job, as restic applies them (internal/restic/snapshot_policy.go):
 * of each period the newest backup counts, and while a rule has counts left the oldest of all stays, too.
 */
function applyKeep(good: readonly KeepBackup[], keep: KeepSpec | undefined, give: Give): void {
  if (keep === undefined || Object.values(keep).every((value) => value === undefined)) {
    for (const { label } of good) give(label, 'its job keeps all')
    return
  }
  const newestFirst = good.toReversed()
  for (const [rule, nameOf] of PERIODS) {
    let left = keep[rule] ?? 0
    let before = ''
    for (const [index, { label, begun }] of newestFirst.entries()) {
      if (left === 0) break
      const name = nameOf(begun, index)
      const isOldest = index === newestFirst.length - 1
      if (name === before && !isOldest) continue
      give(label, name === before ? `${rule} ${name}, the oldest` : `${rule} ${name}`)
      before = name
      left -= 1
    }
  }
  if (keep.within === undefined) return
  // Counted from the newest one, not from now: a job that stands still loses nothing.
  const since = newestFirst[0]!.begun.getTime() - parseDuration(keep.within)! * 1000
  for (const { label, begun } of good) if (begun.getTime() > since) give(label, `within ${keep.within}`)
}

/**
 * Backups that a window of point-in-time recovery needs: all in it, and the newest that had ended
 * when it begins. Counted from the newest one, which keeps rather more than counting from now.
 */
function pitrLabels(good: readonly KeepBackup[], pitr: string | undefined): string[] {
  if (pitr === undefined) return []
  const physical = good.filter((backup) => backup.physical !== undefined)
  const newest = physical.at(-1)
  if (newest === undefined) return []
  const begin = newest.begun.getTime() - parseDuration(pitr)! * 1000
  const first = physical.findLastIndex(
    ({ begun, ended }) => Math.max(begun.getTime(), ended.getTime()) <= begin,
  )
  return physical.slice(Math.max(0, first)).map(({ label }) => label)
}

/** `2026-W48`: the week of ISO 8601, whose year is that of its Thursday. Pure. */
export function isoWeek(time: Date): string {
  const day = new Date(Date.UTC(time.getUTCFullYear(), time.getUTCMonth(), time.getUTCDate()))
  day.setUTCDate(day.getUTCDate() + 4 - (day.getUTCDay() || 7))
  const year = day.getUTCFullYear()
  const week = Math.ceil(((day.getTime() - Date.UTC(year, 0, 1)) / 86_400_000 + 1) / 7)
  return `${year}-W${String(week).padStart(2, '0')}`
}
