import { Fail } from '../../core/fail.ts'
import type { CatalogEntry, Found } from '../catalog.ts'
import type { Manifest, Physical } from '../manifest.ts'
import { formatLsn, type HistoryLine, parseLsn } from '../wal/segment.ts'
import { showTarget, type Target } from './target.ts'

/** A backup of a whole cluster. */
export interface PhysicalFound extends Found {
  readonly manifest: Manifest & { readonly physical: Physical }
}

/** What is asked of the backup. */
export interface BaseChoice {
  /** A label, or `latest`. */
  readonly label: string
  readonly job?: string | undefined
  readonly target: Target
}

/** The history of the timeline that is to be followed. */
export interface Way {
  readonly timeline: number
  /** Of that timeline; empty for the first one. */
  readonly history: readonly HistoryLine[]
}

/**
 * The newest backup from which the target can be reached. Pure.
 * @param way gives the way of a system's WAL; undefined: nothing is known of timelines
 * @throws {Fail} `backup-missing`, `backup-damaged`
 */
export function chooseBase(
  catalog: readonly CatalogEntry[],
  choice: BaseChoice,
  way: (systemIdentifier: string) => Way | undefined,
): PhysicalFound {
  if (choice.label !== 'latest') return byLabel(catalog, choice, way)
  const reasons: string[] = []
  for (const entry of catalog.toReversed()) {
    if ('problem' in entry) {
      // It may be the one that is meant. An older one never stands in for it.
      if (choice.target.kind === 'latest') throw entry.problem
      continue
    }
    if (!isPhysical(entry)) continue
    if (choice.job !== undefined && entry.manifest.job !== choice.job) continue
    const reason = whyNot(entry.manifest, choice.target, way(entry.manifest.systemIdentifier))
    if (reason === undefined) return entry
    reasons.push(`${entry.label} ${reason}`)
  }
  const of = choice.job === undefined ? '' : ` of job "${choice.job}"`
  if (reasons.length > 0) {
    throw new Fail(
      'backup-missing',
      `no backup${of} leads to ${showTarget(choice.target)}: ${reasons.slice(-3).join('; ')}`,
      { hint: 'The target must be after the end of a backup: howdah backup list' },
    )
  }
  throw new Fail('backup-missing', `there is no backup of the whole cluster${of}`, {
    hint: 'Take one with a job of kind "base": howdah backup take JOB',
  })
}

/**
 * Backups that were made before another one and lead to the same target as far as that shows, the newest
 * first. Pure.
 */
export function olderThan(
  catalog: readonly CatalogEntry[],
  chosen: PhysicalFound,
  target: Target,
  way: Way | undefined,
): string[] {
  const { label, systemIdentifier } = chosen.manifest
  const before = catalog.slice(
    0,
    catalog.findIndex((entry) => 'manifest' in entry && entry.label === label),
  )
  return before
    .filter(isPhysical)
    .filter(({ manifest }) => manifest.systemIdentifier === systemIdentifier)
    .filter(({ manifest }) => whyNot(manifest, target, way) === undefined)
    .map((entry) => entry.manifest.label)
    .toReversed()
}

/**
 * The backups that one stands on, the full one first, itself last. Pure.
 * @throws {Fail} `backup-missing`, `backup-damaged`
 */
export function chainOf(catalog: readonly CatalogEntry[], chosen: PhysicalFound): PhysicalFound[] {
  const chain = [chosen]
  for (let parent = chosen.manifest.physical.parent; parent !== null;) {
    const entries = catalog.filter(({ label }) => label === parent)
    const entry = entries.find((each): each is CatalogEntry & PhysicalFound => isPhysical(each))
    if (entry === undefined) {
      const problem = entries.find((each) => 'problem' in each)
      if (problem && 'problem' in problem) throw problem.problem
      throw new Fail(
        'backup-missing',
        `backup ${chain[0]!.manifest.label} stands on ${parent}, which is not there`,
        { hint: 'Name another backup with --backup: howdah backup list' },
      )
    }
    if (chain.some(({ manifest }) => manifest.label === parent))
      throw new Fail('backup-damaged', `backup ${parent} stands on itself`)
    chain.unshift(entry)
    parent = entry.manifest.physical.parent
  }
  return chain
}

/**
 * Whether a position of a timeline is on the way to another one: only what was written before a
 * timeline was left is. Pure.
 */
export function isOnWay(way: Way, timeline: number, lsn: bigint): boolean {
  if (timeline === way.timeline) return true
  const left = way.history.find((line) => line.timeline === timeline)
  return left !== undefined && lsn <= left.switchLsn
}

function byLabel(
  catalog: readonly CatalogEntry[],
  choice: BaseChoice,
  way: (systemIdentifier: string) => Way | undefined,
): PhysicalFound {
  const entries = catalog.filter(({ label }) => label === choice.label)
  const entry = entries.find((each) => 'manifest' in each) ?? entries[0]
  if (entry === undefined) {
    throw new Fail('backup-missing', `there is no backup "${choice.label}"`, {
      hint: 'See what there is: howdah backup list',
    })
  }
  if ('problem' in entry) throw entry.problem
  if (!isPhysical(entry)) {
    throw new Fail('backup-missing', `backup ${choice.label} is of kind "${entry.manifest.kind}"`, {
      hint: 'It has databases one by one: howdah restore database NAME',
    })
  }
  const reason = whyNot(entry.manifest, choice.target, way(entry.manifest.systemIdentifier))
  if (reason === undefined) return entry
  throw new Fail(
    'backup-missing',
    `backup ${choice.label} does not lead to ${showTarget(choice.target)}: it ${reason}`,
    { hint: 'Leave --backup out, and the right one is found.' },
  )
}

function isPhysical(entry: CatalogEntry): entry is CatalogEntry & PhysicalFound {
  return 'manifest' in entry && entry.manifest.physical !== undefined
}

function whyNot(
  manifest: PhysicalFound['manifest'],
  target: Target,
  way: Way | undefined,
): string | undefined {
  const { physical, ended, timeline } = manifest
  const stop = parseLsn(physical.stopLsn)!
  // PostgreSQL reports no error for a target before the end: it stops as soon as it is consistent.
  if (target.kind === 'time' && Date.parse(ended) > Date.parse(target.time)) return `ended at ${ended}`
  if (target.kind === 'lsn' && stop > target.lsn) return `ended at LSN ${formatLsn(stop)}`
  if (target.kind !== 'immediate' && way && !isOnWay(way, timeline, stop))
    return `is of timeline ${timeline}, which does not lead to timeline ${way.timeline}`
  return undefined
}
