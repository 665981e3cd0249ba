import { show } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import { icuLocale } from './icu-locale.ts'
import type { Entry, Manifest } from './manifest.ts'
import { isSameQuery } from './query-text.ts'

/** Something that is not as it was. */
export interface Difference {
  /** For people: `table rows public.t in database shop`. */
  readonly what: string
  readonly before: string | undefined
  readonly after: string | undefined
}

/**
 * What two manifests say differently, in the order of the manifests, where the difference means something: see
 * {@link isSame} for what is written otherwise by another major, and {@link isComparable} for what has no counterpart
 * there. Versions are not compared: an upgrade changes them.
 * @throws {Fail} `usage` when one looked further than the other
 */
export function compareManifests(before: Manifest, after: Manifest): Difference[] {
  if (before.verify !== after.verify) {
    throw new Fail('usage', `a manifest of ${before.verify} cannot be compared with one of ${after.verify}`, {
      hint: 'Take both in the same way.',
    })
  }
  const majors = { before: before.major, after: after.major }
  const [was, is] = [valuesOf(before, majors), valuesOf(after, majors)]
  const differences: Difference[] = []
  for (const what of new Set([...was.keys(), ...is.keys()])) {
    const [old, now] = [was.get(what), is.get(what)]
    if (!isSame(old, now, majors)) differences.push({ what, before: old?.value, after: now?.value })
  }
  return differences
}

interface Majors {
  readonly before: number
  readonly after: number
}

type Value = Pick<Entry, 'kind' | 'value'>

function valuesOf({ entries }: Manifest, majors: Majors): Map<string, Value> {
  const values = new Map<string, Value>()
  for (const entry of entries.filter((each) => isComparable(each, majors))) {
    const { kind, value } = entry
    const what = nameOf(entry)
    // Several of one name: a member with several grantors. None may hide another.
    const other = values.get(what)
    values.set(what, {
      kind,
      value: other === undefined ? value : [other.value, value].toSorted().join('; '),
    })
  }
  return values
}

/**
 * The privilege MAINTAIN came with 17. Before 16 who granted a membership meant nothing, and might be somebody who is
 * gone: pg_dumpall leaves it out, and the new major names the role that initdb made.
 */
function isComparable(entry: Entry, { before, after }: Majors): boolean {
  const oldest = Math.min(before, after)
  if (entry.kind === 'membership grantor') return oldest >= 16 || Math.max(before, after) < 16
  return oldest >= 17 || !isMaintain(entry)
}

/** Since 16 a query of one relation is shown without its name before the columns, and locales of ICU are made canonical. */
function isSame(old: Value | undefined, now: Value | undefined, { before, after }: Majors): boolean {
  if (old === undefined || now === undefined || old.kind !== now.kind) return false
  if (old.value === now.value) return true
  if (old.kind === 'ICU locale') return icuLocale(old.value) === icuLocale(now.value)
  if (old.kind !== 'view') return false
  if (before < 16 && after >= 16) return isSameQuery(old.value, now.value)
  return after < 16 && before >= 16 && isSameQuery(now.value, old.value)
}

function isMaintain({ kind, name }: Entry): boolean {
  return kind.endsWith('grant') && /: MAINTAIN to [^:]*$/.test(name)
}

function nameOf({ database, kind, name }: Entry): string {
  const what = name === '' ? kind : `${kind} ${name}`
  return database === '' ? what : `${what} in database ${show(database)}`
}
