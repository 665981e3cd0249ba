import { type Code, Fail } from '../core/fail.ts'
import { formatSize } from '../core/quantity.ts'
import { showAge } from './show.ts'
import { compactTime } from './label.ts'
import type { Manifest, ManifestDatabase, ManifestFile } from './manifest.ts'

/** What is wanted of a restore. */
export interface RestoreRequest {
  /** The database as it was named when it was dumped. */
  readonly database: string
  /** The name to restore it under, which must be free. */
  readonly as: string | undefined
  /** Whether it may take the place of one that exists. */
  readonly swap: boolean
  /** Whether that one goes. */
  readonly dropOld: boolean
}

/** What a plan knows of the cluster that a database is restored into. */
export interface TargetFacts {
  readonly label: string
  readonly major: number
  readonly databases: readonly { readonly name: string; readonly sessions: number }[]
  readonly roles: ReadonlySet<string>
  readonly tablespaces: ReadonlySet<string>
  /** Versions of each extension that can be made. */
  readonly extensions: ReadonlyMap<string, readonly string[]>
  /** Locks that all transactions may hold together. */
  readonly lockSlots: number
  /** Databases with prepared transactions, which nobody can end for their owner. */
  readonly prepared: ReadonlySet<string>
  /** Databases with logical replication slots. */
  readonly slots: ReadonlySet<string>
  /** Bytes where its tablespace is; undefined when that cannot be known. */
  readonly freeBytes: number | undefined
  /** Sizes of the backup's files in the store. */
  readonly stored: ReadonlyMap<string, number>
}

/** Something that a person should know before a restore. */
export interface RestoreFinding {
  readonly level: 'warning' | 'impossible'
  readonly text: string
  readonly hint?: string
  /** What an impossible one ends with; default `plan-impossible`. */
  readonly code?: Code
}

/** What a restore does. */
export interface RestorePlan {
  readonly manifest: Manifest
  readonly entry: ManifestDatabase
  readonly file: ManifestFile
  /** The database that it is restored into first. */
  readonly scratch: string
  /** The name that it gets in the end. */
  readonly target: string
  /** The name under which the database in its place is kept; null when there is none. */
  readonly before: string | null
  readonly dropsBefore: boolean
  /** Sessions that are ended for the swap. */
  readonly sessions: number
  /** False when the cluster has too few locks for all objects in one transaction. */
  readonly isSingleTransaction: boolean
  readonly freeBytes: number | undefined
  readonly findings: readonly RestoreFinding[]
}

/** What makes names of a plan unique. */
export interface Moment {
  readonly now: Date
  /** Six letters. */
  readonly random: string
}

/** Plans the restore of one database. Pure. */
export function planRestore(
  manifest: Manifest,
  request: RestoreRequest,
  facts: TargetFacts,
  moment: Moment,
): RestorePlan {
  const entry = manifest.databases.find(({ name }) => name === request.database)!
  const file = manifest.files.find(({ name }) => name === entry.file)!
  const { target, before } = namesOf(request, facts, moment)
  const present = facts.databases.find(({ name }) => name === target)
  const plan: Omit<RestorePlan, 'findings'> = {
    manifest,
    entry,
    file,
    scratch: suffixed(target, `_restored_${moment.random}`),
    target,
    before,
    dropsBefore: present !== undefined && request.dropOld,
    sessions: present?.sessions ?? 0,
    isSingleTransaction: locksNeeded(entry) < facts.lockSlots,
    freeBytes: facts.freeBytes,
  }
  return {
    ...plan,
    findings: [
      ...targetFindings(request, plan, facts),
      ...storeFindings(plan, facts),
      ...needFindings(plan, facts),
      ...spaceFindings(plan),
    ],
  }
}

/** The name that a database gets, and the one that a database which has it gets. Pure. */
export function namesOf(
  request: RestoreRequest,
  { databases }: Pick<TargetFacts, 'databases'>,
  { now }: Pick<Moment, 'now'>,
): Pick<RestorePlan, 'target' | 'before'> {
  const target = request.as ?? request.database
  const isPresent = databases.some(({ name }) => name === target)
  // In lower case, so that nobody needs quotes to drop it.
  return { target, before: isPresent ? suffixed(target, `_before_${compactTime(now).toLowerCase()}`) : null }
}

/** A name with an ending, cut to the 63 bytes that PostgreSQL keeps, never inside a character. Pure. */
export function suffixed(name: string, ending: string): string {
  let kept = name
  while (Buffer.byteLength(kept + ending) > 63) kept = Array.from(kept).slice(0, -1).join('')
  return kept + ending
}

// A table locks itself, its indexes, its TOAST table with index, its row type; half of the slots are
// left to everybody else.
function locksNeeded({ objects }: ManifestDatabase): number {
  return (
    8 * Object.entries(objects).reduce((sum, [kind, count]) => (kind === 'triggers' ? sum : sum + count), 0)
  )
}

type Draft = Omit<RestorePlan, 'findings'>

/** What is in the way of the name that a database is to get. Pure. */
export function targetFindings(
  request: RestoreRequest,
  plan: Pick<RestorePlan, 'target' | 'before'>,
  facts: Pick<TargetFacts, 'prepared' | 'slots'>,
): RestoreFinding[] {
  const { target, before } = plan
  const findings: RestoreFinding[] = []
  if (Buffer.byteLength(target) > 63 || target === '' || target === 'template0') {
    findings.push(impossible(`"${target}" is no name for a database`, 'It has 1 to 63 bytes.', 'usage'))
  }
  if (before === null) return findings
  if (request.as !== undefined || !request.swap) {
    const swap =
      request.as === undefined
        ? `add --swap to put the restored one in its place (it is kept as "${before}"), or `
        : ''
    findings.push(
      impossible(
        `database "${target}" exists`,
        `To go on, ${swap}name a free one with --as.`,
        'target-not-empty',
      ),
    )
  }
  if (facts.prepared.has(target)) {
    findings.push(
      impossible(
        `database "${target}" has a prepared transaction, so it cannot be renamed`,
        'Commit or roll it back: select * from pg_prepared_xacts',
      ),
    )
  }
  if (facts.slots.has(target)) {
    findings.push({
      level: 'warning',
      text: `logical replication slots of "${target}" stay with the database that is kept`,
    })
  }
  return findings
}

function storeFindings({ manifest }: Draft, { stored }: TargetFacts): RestoreFinding[] {
  return manifest.files.flatMap(({ name, size }) => {
    const found = stored.get(name)
    if (found === size) return []
    const how =
      found === undefined ? 'is not in the store' : `has ${found} bytes in the store, ${size} were written`
    return [
      impossible(
        `file "${name}" of ${manifest.label} ${how}`,
        'Restore from another one with --backup LABEL: howdah backup list',
        'backup-damaged',
      ),
    ]
  })
}

function needFindings({ manifest, entry }: Draft, facts: TargetFacts): RestoreFinding[] {
  const findings: RestoreFinding[] = []
  if (manifest.postgres.major > facts.major) {
    findings.push(
      impossible(
        `the backup is of PostgreSQL ${manifest.postgres.major}, ${facts.label} is of ${facts.major}, which is older`,
        `Restore it into PostgreSQL ${manifest.postgres.major} or newer.`,
      ),
    )
  }
  const missing = (names: readonly string[], there: { has(name: string): boolean }) =>
    names
      .filter((name) => !there.has(name))
      .map((name) => `"${name}"`)
      .join(', ')
  const roles = missing(entry.roles, facts.roles)
  if (roles !== '') {
    findings.push(
      impossible(
        `these roles are missing: ${roles}`,
        'Make them first: howdah provision apply, or by globals.sql of the backup.',
      ),
    )
  }
  const tablespaces = missing(entry.tablespaces, facts.tablespaces)
  if (tablespaces !== '') {
    findings.push(
      impossible(`these tablespaces are missing: ${tablespaces}`, 'Make them first: howdah provision apply'),
    )
  }
  const extensions = missing(
    entry.extensions.map(({ name }) => name),
    facts.extensions,
  )
  if (extensions !== '') {
    findings.push(
      impossible(
        `these extensions are not installed: ${extensions}`,
        `Install their packages for PostgreSQL ${facts.major}.`,
      ),
    )
  }
  for (const { name, version } of entry.extensions) {
    const versions = facts.extensions.get(name)
    if (versions === undefined || versions.includes(version)) continue
    findings.push({
      level: 'warning',
      text: `extension "${name}" was version ${version}, here it becomes one of ${versions.join(', ')}`,
    })
  }
  return findings
}

function spaceFindings({ entry, file, freeBytes }: Draft): RestoreFinding[] {
  if (freeBytes === undefined) return []
  const needed = file.plainSize ?? file.size
  const text = `${formatSize(freeBytes)} are free where tablespace "${entry.tablespace}" is, the database had ${formatSize(entry.size)}`
  if (freeBytes < needed)
    return [impossible(`${text}, its data alone ${formatSize(needed)}`, 'Free some space first.', 'no-space')]
  return freeBytes < entry.size ? [{ level: 'warning', text }] : []
}

function impossible(text: string, hint: string, code?: Code): RestoreFinding {
  return { level: 'impossible', text, hint, ...(code && { code }) }
}

/**
 * Refuses a plan that cannot be run, with everything that speaks against it at once.
 * @throws {Fail} the code of the first finding: `target-not-empty`, `no-space`, `backup-damaged`, `plan-impossible`, `usage`
 */
export function assertPossible(plan: Pick<RestorePlan, 'findings'>): void {
  const findings = plan.findings.filter(({ level }) => level === 'impossible')
  const [first] = findings
  if (!first) return
  const text = findings.map(({ text }) => text).join('; ')
  throw new Fail(first.code ?? 'plan-impossible', `nothing was changed: ${text}`, {
    hint: findings.flatMap(({ hint }) => hint ?? []).join(' ') || undefined,
  })
}

/** A plan for people. Pure. */
export function showRestorePlan(plan: RestorePlan, now: Date): string {
  const { manifest, entry, file, scratch, target, before } = plan
  const free = plan.freeBytes === undefined ? '' : `, ${formatSize(plan.freeBytes)} free`
  const lines = [
    `database ${entry.name} of ${manifest.label} (job ${manifest.job}, ${showAge(manifest.label, now)} ago)`,
    `+ database ${scratch}: ${formatSize(file.size)} to fetch, ${formatSize(entry.size)} on disk${free}`,
  ]
  if (before !== null) {
    lines.push(
      `~ database ${target}: becomes ${before}${plan.sessions > 0 ? `, ${plan.sessions} sessions are ended` : ''}`,
    )
  }
  lines.push(`~ database ${scratch}: becomes ${target}`)
  if (plan.dropsBefore) lines.push(`- database ${before}: its data is gone`)
  for (const { text, hint } of plan.findings) lines.push(`! ${text}${hint === undefined ? '' : ` (${hint})`}`)
  return lines.join('\n')
}
