import { createHash } from 'node:crypto'
import type { Change, Finding } from './change.ts'
import type { Kind, Observe } from './kind.ts'

/** What a host needs, as data. */
export interface Planned {
  /** In the order in which they are to run. */
  readonly changes: readonly Change[]
  readonly findings: readonly Finding[]
  /** Of what was seen: it moves when the host moves. */
  readonly digest: string
}

/** Any kind: what its values are is its own business. */
export type AnyKind = Kind<never>

/**
 * Compares what the host file wants with what is there, kind after kind; drops come last, in
 * reverse order of the kinds. Writes nothing.
 */
export async function planKinds(kinds: readonly AnyKind[], observe: Observe): Promise<Planned> {
  const changes: Change[] = []
  const drops: Change[] = []
  const findings: Finding[] = []
  const seen: string[] = []
  for (const [kind, actual] of await observeKinds(kinds, observe)) {
    seen.push(kind.name, describeMap(actual))
    const planned = planKind(kind, actual, observe)
    changes.push(...planned.changes)
    drops.unshift(...planned.drops)
    findings.push(...planned.findings)
  }
  const digest = createHash('sha256').update(JSON.stringify(seen)).digest('hex')
  return { changes: [...changes, ...drops], findings, digest }
}

/** Looks at all kinds at once: while passwords are derived, other kinds ask the server. */
async function observeKinds(
  kinds: readonly AnyKind[],
  observe: Observe,
): Promise<[AnyKind, ReadonlyMap<string, never>][]> {
  // All have ended before one fails, so that nothing asks on afterwards; the first kind's error counts.
  const seen = await Promise.allSettled(kinds.map(async (kind) => kind.actual(observe)))
  return seen.map((outcome, index) => {
    if (outcome.status === 'rejected') throw outcome.reason
    return [kinds[index]!, outcome.value]
  })
}

function planKind(
  kind: AnyKind,
  actual: ReadonlyMap<string, never>,
  observe: Observe,
): { changes: Change[]; drops: Change[]; findings: Finding[] } {
  const context = { host: observe.host, facts: observe.facts }
  const wanted = kind.wanted(observe.host, observe.facts)
  const names = [...wanted.keys()].toSorted(byCodePoint)
  const unwanted = [...actual.keys()].filter((name) => !wanted.has(name)).toSorted(byCodePoint)
  const findings = [
    ...names.flatMap((name) => kind.findings?.(name, wanted.get(name)!, actual.get(name), context) ?? []),
    ...unwanted.flatMap((name) => kind.dropFindings?.(name, actual.get(name)!, context) ?? []),
  ]
  const impossible = new Set(findings.filter(({ level }) => level === 'impossible').map(({ name }) => name))
  return {
    changes: names
      .filter((name) => !impossible.has(name))
      .map((name) => kind.change(name, wanted.get(name)!, actual.get(name), context))
      .filter((change) => change !== undefined),
    drops: unwanted
      .filter((name) => !impossible.has(name))
      .map((name) => kind.drop?.(name, actual.get(name)!, context))
      .filter((change) => change !== undefined),
    findings,
  }
}

function describeMap(map: ReadonlyMap<string, unknown>): string {
  return JSON.stringify(
    [...map].toSorted(([a], [b]) => byCodePoint(a, b)),
    plain,
  )
}

// Maps, sets and big numbers have no JSON of their own.
function plain(_key: string, value: unknown): unknown {
  if (value instanceof Map)
    return [...(value as Map<string, unknown>)].toSorted(([a], [b]) => byCodePoint(a, b))
  if (value instanceof Set) return [...(value as Set<string>)].toSorted()
  return typeof value === 'bigint' ? value.toString() : value
}

// Never the order of keys in an object: JavaScript moves those that look like numbers to the front.
function byCodePoint(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
