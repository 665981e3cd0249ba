import { ident, showPath } from '../cluster/sql.ts'
import {
  classFacts,
  type Difference,
  difference,
  NOTHING,
  type ObjectClass,
  type Privileges,
  PUBLIC,
  showGrantees,
  showPrivileges,
  showSome,
  sqlGrantees,
  sqlPrivileges,
  type WantedHeld,
} from './acl.ts'
import type { ObjectGroup, ObjectName } from './grant-catalog.ts'
import { type GrantEntry, wantedByGrantee } from './grant-spec.ts'

/** Entries of one class of a database, and for whom they are all that is allowed. */
export interface GrantDemand {
  readonly on: ObjectClass
  readonly major: number
  readonly entries: readonly GrantEntry[]
  /** Grantees that may have nothing else; empty: entries only add. */
  readonly exact: ReadonlySet<string>
}

/** What a grantee lacks or has too much of, on objects of one group. */
export interface Gap {
  readonly group: ObjectGroup
  readonly objects: readonly ObjectName[]
  readonly grantee: string
  /** Undefined where there is only something left over. */
  readonly difference: Difference | undefined
  /** Too much, and granted by somebody else than the owner: only that one can revoke it. */
  readonly leftOver: Privileges
}

/** A statement, its line for people, and whether it takes something away. */
export interface GrantStatement {
  readonly text: string
  readonly line: string
  readonly revokes: boolean
}

/** Compares what is held with what entries want, group by group. */
export function* findGaps(demand: GrantDemand, groups: readonly ObjectGroup[]): Generator<Gap> {
  const index = new EntryIndex(demand)
  for (const group of groups) {
    for (const { objects, wanted } of index.parts(group)) {
      for (const grantee of demand.exact.size === 0 ? wanted.keys() : union(wanted, demand.exact)) {
        const gap = gapOf(demand, group, grantee, wanted.get(grantee) ?? NO_WISH)
        if (gap) yield { group, objects, grantee, ...gap }
      }
    }
  }
}

const NO_WISH: WantedHeld = { privileges: 0, grantable: 0 }

function gapOf(
  { on, exact }: GrantDemand,
  group: ObjectGroup,
  grantee: string,
  wanted: WantedHeld,
): Pick<Gap, 'difference' | 'leftOver'> | undefined {
  const held = group.acl.get(grantee) ?? NOTHING
  const isOwner = grantee === group.owner
  // What PUBLIC may do in schema public is said by a key of its own.
  const isElsewhere = on === 'schema' && grantee === PUBLIC && group.schema === PUBLIC
  const isExact = exact.has(grantee) && !group.isProtected && !isElsewhere
  const found = difference(wanted, held, { isOwner, isExact })
  const leftOver = isExact && !isOwner ? held.privileges & ~wanted.privileges & ~held.byOwner : 0
  return found || leftOver ? { difference: found, leftOver } : undefined
}

/** Entries by where they apply, so that no object is held against all of them. */
class EntryIndex {
  readonly #on: ObjectClass
  readonly #anywhere: Slot = newSlot()
  readonly #bySchema = new Map<string, Slot>()
  readonly #wanted = new Map<string, ReadonlyMap<string, WantedHeld>>()

  constructor({ on, entries }: GrantDemand) {
    this.#on = on
    for (const entry of entries) {
      const slots =
        entry.schemas === '*' ? [this.#anywhere] : [...entry.schemas].map((name) => this.#slot(name))
      for (const slot of slots) {
        if (entry.objects === undefined) slot.whole.push(entry)
        for (const name of entry.objects ?? []) {
          const named = slot.named.get(name) ?? []
          slot.named.set(name, named)
          named.push(entry)
        }
      }
    }
  }

  /** Parts of a group for whose objects the same is wanted. */
  parts(group: ObjectGroup): { objects: readonly ObjectName[]; wanted: ReadonlyMap<string, WantedHeld> }[] {
    const slots = [this.#anywhere, this.#bySchema.get(group.schema) ?? newSlot()]
    const isNamed = ({ name }: ObjectName) => slots.some(({ named }) => named.has(name))
    const rest = group.objects.filter((object) => !isNamed(object))
    const whole = this.#whole(group, slots)
    const parts = rest.length === 0 ? [] : [{ objects: rest, wanted: this.#forWhole(group, whole) }]
    const named = group.objects.filter(isNamed).map((object) => {
      const entries = slots.flatMap((slot) => slot.named.get(object.name) ?? [])
      return { objects: [object], wanted: wantedByGrantee([...whole, ...entries]) }
    })
    return [...parts, ...named]
  }

  #whole({ isProtected }: ObjectGroup, slots: readonly Slot[]): GrantEntry[] {
    if (!isProtected) return slots.flatMap(({ whole }) => whole)
    // A schema that is named is meant, whomever it belongs to.
    return this.#on === 'schema' ? slots[1]!.whole : []
  }

  #forWhole(
    { schema, isProtected }: ObjectGroup,
    whole: readonly GrantEntry[],
  ): ReadonlyMap<string, WantedHeld> {
    const place = this.#bySchema.has(schema) ? schema : ''
    const key = `${isProtected} ${place}`
    const wanted = this.#wanted.get(key) ?? wantedByGrantee(whole)
    this.#wanted.set(key, wanted)
    return wanted
  }

  #slot(schema: string): Slot {
    const slot = this.#bySchema.get(schema) ?? newSlot()
    this.#bySchema.set(schema, slot)
    return slot
  }
}

interface Slot {
  readonly whole: GrantEntry[]
  readonly named: Map<string, GrantEntry[]>
}

function newSlot(): Slot {
  return { whole: [], named: new Map() }
}

function union(wanted: ReadonlyMap<string, unknown>, exact: ReadonlySet<string>): Set<string> {
  return new Set([...wanted.keys(), ...exact])
}

/** Statements that close gaps: alike ones together, with many grantees and many objects in each. */
export function statementsFor({ on, major }: GrantDemand, gaps: Iterable<Gap>): GrantStatement[] {
  const alike = new Map<string, Closing>()
  for (const closing of closingsOf(on, gaps)) {
    const key = JSON.stringify([closing.difference, closing.grantees])
    const known = alike.get(key)
    if (known) known.targets.push(...closing.targets)
    else alike.set(key, closing)
  }
  return [...alike.values()].flatMap((closing) =>
    chunks(closing.targets, TARGETS_PER_STATEMENT).flatMap((targets) =>
      statements(on, major, { ...closing, targets }),
    ),
  )
}

const TARGETS_PER_STATEMENT = 500

/** One difference, for all grantees and objects that have it. */
interface Closing {
  readonly difference: Difference
  readonly grantees: string[]
  readonly targets: Target[]
}

interface Target {
  readonly sql: string
  readonly shown: string
}

/** Gaps of the same objects with the same difference become one, with all their grantees. */
function closingsOf(on: ObjectClass, gaps: Iterable<Gap>): Closing[] {
  const parts = new Map<readonly ObjectName[], Map<string, Closing>>()
  for (const { group, objects, grantee, difference } of gaps) {
    if (!difference) continue
    const part = parts.get(objects) ?? new Map<string, Closing>()
    parts.set(objects, part)
    const key = JSON.stringify(difference)
    const known = part.get(key)
    if (known) known.grantees.push(grantee)
    else {
      const targets = objects.map((object) => targetOf(on, group.schema, object))
      part.set(key, { difference, grantees: [grantee], targets })
    }
  }
  return parts
    .values()
    .flatMap((part) => part.values())
    .toArray()
}

function targetOf(on: ObjectClass, schema: string, object: ObjectName): Target {
  const path = on === 'database' || on === 'schema' ? [object.name] : [schema, object.name]
  const end = object.arguments === undefined ? '' : `(${object.arguments})`
  return { sql: `${path.map(ident).join('.')}${end}`, shown: `${showPath(...path)}${end}` }
}

function statements(
  on: ObjectClass,
  major: number,
  { difference, grantees, targets }: Closing,
): GrantStatement[] {
  const where = `on ${classFacts(on).keyword} ${targets.map(({ sql }) => sql).join(', ')}`
  const shown = `on ${showSome(targets.map((target) => target.shown))}`
  const one = (set: Privileges, verb: string, preposition: 'to' | 'from', end = ''): GrantStatement[] => {
    if (set === 0) return []
    const text = `${verb} ${sqlPrivileges(set)} ${where} ${preposition} ${sqlGrantees(grantees)}${end}`
    const privileges = showPrivileges(set, on, major)
    const line = `${verb} ${privileges} ${shown} ${preposition} ${showGrantees(grantees)}${end}`
    return [{ text, line, revokes: preposition === 'from' }]
  }
  return [
    ...one(difference.revoke, 'revoke', 'from'),
    ...one(difference.revokeOption, 'revoke grant option for', 'from'),
    ...one(difference.grant, 'grant', 'to'),
    ...one(difference.grantWithOption, 'grant', 'to', ' with grant option'),
  ]
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_empty, index) =>
    items.slice(index * size, (index + 1) * size),
  )
}
