import { show } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import type { Entry, Manifest } from './manifest.ts'

/** Something that is not as it was. */
export interface Difference {
  /** For people: `table rows public.t in database shop`. */
  readonly what: string
  readonly before: string | undefined
  readonly after: string | undefined
}

/**
 * What two manifests say differently, in the order of the manifests. The privilege MAINTAIN came with 17:
 * who has it counts only where both majors know it. Since 16 a query is shown without the table's name
 * before a column where it has one table only: across 16, queries are compared without such names. Versions are not compared: an upgrade changes them.
 * @throws {Fail} `usage` when one looked further than the other
 */
export function compareManifests(before: Manifest, after: Manifest): Difference[] {
  if (before.verify !== after.verify) {
    throw new Fail('usage', `a manifest of ${before.verify} cannot be compared with one of ${after.verify}`, {
      hint: 'Take both in the same way.',
    })
  }
  const majors = [before.major, after.major].toSorted((a, b) => a - b)
  const [was, is] = [valuesOf(before, majors), valuesOf(after, majors)]
  const differences: Difference[] = []
  for (const what of new Set([...was.keys(), ...is.keys()])) {
    const [old, now] = [was.get(what), is.get(what)]
    if (old !== now) differences.push({ what, before: old, after: now })
  }
  return differences
}

function valuesOf({ entries }: Manifest, [oldest = 0, newest = 0]: readonly number[]): Map<string, string> {
  const known = oldest >= 17 ? entries : entries.filter((entry) => !isMaintain(entry))
  const isAcross = oldest < 16 && newest >= 16
  const values = new Map<string, string>()
  for (const entry of known) {
    const what = nameOf(entry)
    const value = isAcross && QUERIES.has(entry.kind) ? entry.value.replaceAll(QUALIFIER, '') : entry.value
    // Two things of one name would be a fault of a query here; neither may hide the other.
    const other = values.get(what)
    values.set(what, other === undefined ? value : [other, value].toSorted().join('; '))
  }
  return values
}

const QUERIES: ReadonlySet<string> = new Set(['view', 'rule', 'function'])

const QUALIFIER = /(?:"(?:[^"]|"")*"|[\p{L}_][\p{L}\p{N}_$]*)\./gu

function isMaintain({ kind, name }: Entry): boolean {
  return kind.endsWith('grant') && /: MAINTAIN to [^:]*$/.test(name)
}

function nameOf({ database, kind, name }: Entry): string {
  const what = name === '' ? kind : `${kind} ${name}`
  return database === '' ? what : `${what} in database ${show(database)}`
}
