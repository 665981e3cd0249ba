import { createHash } from 'node:crypto'
import process from 'node:process'
import { Fail } from '../core/fail.ts'
import { readText, writeFileAtomic } from '../core/file.ts'
import type { Change, Hazard } from './change.ts'
import type { Planned } from './planner.ts'

const FORMAT = 1

/** A plan in a file: what would be done, and what it was made for. Holds no secret and no verifier. */
export interface SavedPlan {
  readonly format: number
  /** Version of Howdah. */
  readonly howdah: string
  /** SHA-256 of the host file's text and the overrides. */
  readonly hostHash: string
  /** Empty while there is no cluster. */
  readonly systemIdentifier: string
  readonly major: number
  /** Words of `--only`; null is everything. */
  readonly only: readonly string[] | null
  readonly hazards: readonly Hazard[]
  /** Of what was observed. */
  readonly digest: string
  readonly changes: readonly Change[]
}

/** What a plan belongs to, besides what was planned. */
export type PlanOrigin = Pick<SavedPlan, 'howdah' | 'hostHash' | 'systemIdentifier' | 'major' | 'only'>

/** The hash that binds a plan to a host file. Pure. */
export function hashHost(text: string, overrides: readonly string[]): string {
  return createHash('sha256')
    .update(JSON.stringify([text, overrides]))
    .digest('hex')
}

/**
 * Writes a plan, readable by its owner only.
 * @throws {Fail} `file-unreadable`
 */
export async function savePlan(path: string, origin: PlanOrigin, planned: Planned): Promise<void> {
  const { changes, digest } = planned
  const saved: SavedPlan = { format: FORMAT, ...origin, hazards: hazardsOf(changes), digest, changes }
  const owner = { uid: process.getuid?.(), gid: process.getgid?.() }
  await writeFileAtomic(path, `${JSON.stringify(saved, undefined, 2)}\n`, { mode: 0o600, ...owner })
}

/**
 * Reads a plan.
 * @throws {Fail} `file-unreadable`, `plan-stale` for one of another format or version
 */
export async function readPlan(path: string, howdah: string): Promise<SavedPlan> {
  const plan = parsePlan(await readText(path), path)
  const stale = (why: string) => new Fail('plan-stale', `"${path}" ${why}`, { hint: AGAIN })
  if (plan.howdah !== howdah) throw stale(`was made by Howdah ${plan.howdah}, this is ${howdah}`)
  if (plan.format !== FORMAT) throw stale(`has format ${plan.format}, this version knows ${FORMAT}`)
  return plan
}

const AGAIN = 'Make it anew: howdah provision plan --out FILE'

/**
 * Refuses a plan that was made for something else than what is there now.
 * @throws {Fail} `plan-stale` with what moved
 */
export function assertFresh(saved: SavedPlan, origin: PlanOrigin, planned: Planned): void {
  const stale = (what: string) => new Fail('plan-stale', `the plan was not run: ${what}`, { hint: AGAIN })
  if (saved.hostHash !== origin.hostHash)
    throw stale('the host file, or an override, has changed since it was made')
  if (saved.systemIdentifier !== origin.systemIdentifier || saved.major !== origin.major) {
    throw stale('it was made for another cluster')
  }
  if (JSON.stringify(saved.only) !== JSON.stringify(origin.only)) {
    throw stale('it was made with another --only')
  }
  if (saved.digest !== planned.digest || JSON.stringify(saved.changes) !== JSON.stringify(planned.changes)) {
    throw stale('the host has moved on since it was made')
  }
}

/** The hazards of some changes, each once, in order of the alphabet. Pure. */
export function hazardsOf(changes: readonly Change[]): Hazard[] {
  return [...new Set(changes.flatMap(({ hazards }) => hazards))].toSorted()
}

function parsePlan(text: string, path: string): SavedPlan {
  try {
    const plan = JSON.parse(text) as SavedPlan | null
    if (typeof plan?.howdah === 'string' && Array.isArray(plan.changes)) return plan
  } catch {
    // Not JSON: no plan either.
  }
  throw new Fail('file-unreadable', `"${path}" is no plan`, { hint: AGAIN })
}
