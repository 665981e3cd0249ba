import type { Host } from '../host/schema.ts'
import {
  defaultAcl,
  NOTHING,
  type ObjectClass,
  privilegeNames,
  type Privileges,
  PRIVILEGES,
  PUBLIC,
  publicPrivileges,
} from './acl.ts'
import type { DefaultAcl } from './default-acl.ts'
import type { ObjectGroup } from './grant-catalog.ts'
import { findGaps } from './grant-diff.ts'
import { type GrantEntry, isFutureClass } from './grant-spec.ts'
import type { Facts } from './kind.ts'
import { defaultCreators } from './scope.ts'

/** What is known of one class of objects in a database. */
export interface GrantsFound {
  readonly database: string
  readonly on: ObjectClass
  readonly groups: readonly ObjectGroup[]
  readonly defaults?: readonly DefaultAcl[]
}

/** A grants entry in the making: one grantee, one schema. */
interface Piece {
  readonly on: ObjectClass
  readonly to: string
  /** `*` is every schema; empty for databases. */
  readonly schema: string
  readonly objects?: readonly string[]
  readonly privileges: Privileges
  readonly isGrantable: boolean
  /** Undefined: existing objects only. */
  readonly creators?: readonly string[]
}

/**
 * The grants entries that say what is granted to others than owners, by database. Entries only add,
 * so what a host file has no words for is left out: a plan against the rest is empty all the same.
 */
export function exportedGrants(
  found: readonly GrantsFound[],
  host: Host,
  facts: Facts,
): Record<string, { grants: unknown[] }> {
  const words = [...Map.groupBy(found, ({ database }) => database)].map(([database, units]) => {
    const defaults = units.flatMap((unit) => unit.defaults ?? [])
    const creators = defaultCreators(host, database)
    const grants = units.flatMap(({ on, groups }) => {
      const future = futurePieces(on, groups, defaults, facts.major)
      return [...future, ...existingPieces(on, groups, future)]
    })
    return [database, { grants: merged(grants).map((piece) => entryWords(piece, creators)) }] as const
  })
  return Object.fromEntries(words.filter(([, { grants }]) => grants.length > 0))
}

/** Of default privileges, those that existing objects bear out: one entry speaks of both. */
function futurePieces(
  on: ObjectClass,
  groups: readonly ObjectGroup[],
  defaults: readonly DefaultAcl[],
  major: number,
): Piece[] {
  if (!isFutureClass(on)) return []
  const pieces = new Map<string, Piece>()
  for (const { creator, schema, on: of, acl } of defaults) {
    if (of !== on) continue
    const builtin = schema === undefined ? defaultAcl(on, creator, major) : new Map()
    for (const [to, held] of acl) {
      if (to === creator || isDangling(to)) continue
      const privileges = held.privileges & ~(builtin.get(to) ?? NOTHING).privileges
      for (const piece of split({ on, to, schema: schema ?? '*' }, privileges, held.grantable)) {
        const key = JSON.stringify(piece)
        pieces.set(key, { ...piece, creators: [...(pieces.get(key)?.creators ?? []), creator] })
      }
    }
  }
  return pieces
    .values()
    .filter((piece) => isBorneOut(piece, groups, major))
    .toArray()
}

function isBorneOut(piece: Piece, groups: readonly ObjectGroup[], major: number): boolean {
  const entry: GrantEntry = {
    ...piece,
    to: [piece.to],
    schemas: piece.schema === '*' ? '*' : new Set([piece.schema]),
    objects: undefined,
    invalid: [],
    creators: [],
  }
  const demand = { on: piece.on, major, entries: [entry], exact: new Set<string>() }
  return findGaps(demand, groups).next().done === true
}

/** What is granted on existing objects and not said by the entries for future ones already. */
function existingPieces(on: ObjectClass, groups: readonly ObjectGroup[], future: readonly Piece[]): Piece[] {
  const pieces: Piece[] = []
  for (const [schema, all] of Map.groupBy(groups, (group) => group.schema)) {
    const place: Place = { all, own: all.filter(({ isProtected }) => !isProtected) }
    const grantees = new Set(place.own.flatMap(({ acl }) => [...acl.keys()]))
    for (const to of [...grantees].toSorted()) {
      // What PUBLIC may do in schema public has a key of its own.
      if (isDangling(to) || (on === 'schema' && schema === PUBLIC && to === PUBLIC)) continue
      const said = future.filter((piece) => piece.to === to && ['*', schema].includes(piece.schema))
      pieces.push(...piecesOf({ on, to, schema }, place, said))
    }
  }
  return pieces
}

/** Objects of one schema: those that entries are for, and all, since a name may mean any of them. */
interface Place {
  readonly own: readonly ObjectGroup[]
  readonly all: readonly ObjectGroup[]
}

/** Privileges that the same objects have make one piece; where all objects have them, none is named. */
function piecesOf(base: Pick<Piece, 'on' | 'to' | 'schema'>, place: Place, said: readonly Piece[]): Piece[] {
  const alike = new Map<
    string,
    { privileges: Privileges; having: readonly ObjectGroup[]; isGrantable: boolean }
  >()
  for (const index of PRIVILEGES.keys()) {
    const bit = 1 << index
    if (base.to === PUBLIC && publicPrivileges(base.on) & bit) continue
    for (const { having, isGrantable } of havingOf(base.to, bit, place.own)) {
      if (said.some((piece) => piece.privileges & bit && (piece.isGrantable || !isGrantable))) continue
      const key = `${isGrantable} ${having.map((group) => place.own.indexOf(group)).join()}`
      const privileges = (alike.get(key)?.privileges ?? 0) | bit
      alike.set(key, { privileges, having, isGrantable })
    }
  }
  return alike
    .values()
    .flatMap(({ having, ...same }) => {
      const piece = { ...base, ...same }
      if (having.length === place.own.length) return [piece]
      const objects = namesOnlyIn(having, place.all)
      return objects.length === 0 ? [] : [{ ...piece, objects }]
    })
    .toArray()
}

/** Who owns an object has it all; that alone is worth no entry. */
function havingOf(
  grantee: string,
  bit: Privileges,
  groups: readonly ObjectGroup[],
): { having: readonly ObjectGroup[]; isGrantable: boolean }[] {
  const owns = ({ owner }: ObjectGroup) => owner === grantee
  const having = groups.filter(({ acl }) => (acl.get(grantee)?.privileges ?? 0) & bit)
  const granting = having.filter((group) => owns(group) || (group.acl.get(grantee)?.grantable ?? 0) & bit)
  return [
    { having: granting, isGrantable: true },
    { having: granting.length === having.length ? [] : having, isGrantable: false },
  ].filter((one) => !one.having.every(owns))
}

/** Names of objects, without those that other objects have too: a name says all its signatures. */
function namesOnlyIn(having: readonly ObjectGroup[], all: readonly ObjectGroup[]): string[] {
  const others = all.filter((group) => !having.includes(group))
  const taken = new Set(others.flatMap(({ objects }) => objects.map(({ name }) => name)))
  const names = having.flatMap(({ objects }) => objects.map(({ name }) => name))
  return [...new Set(names)].filter((name) => !taken.has(name)).toSorted()
}

function split(
  base: Pick<Piece, 'on' | 'to' | 'schema'>,
  privileges: Privileges,
  grantable: Privileges,
): Piece[] {
  return [
    { ...base, privileges: privileges & grantable, isGrantable: true },
    { ...base, privileges: privileges & ~grantable, isGrantable: false },
  ].filter((piece) => piece.privileges !== 0)
}

/** What pg_get_userbyid() says of a role that was removed by force. */
function isDangling(grantee: string): boolean {
  return /^unknown \(OID=\d+\)$/.test(grantee)
}

interface Entry extends Omit<Piece, 'to' | 'schema'> {
  readonly to: readonly string[]
  readonly schemas: readonly string[]
}

/** Pieces that differ in their grantee only become one entry; then those that differ in their schema only. */
function merged(pieces: readonly Piece[]): Entry[] {
  const byGrantee = new Map<string, { piece: Piece; to: string[] }>()
  for (const piece of pieces) {
    const key = JSON.stringify({ ...piece, to: '' })
    const known = byGrantee.get(key)
    if (known) known.to.push(piece.to)
    else byGrantee.set(key, { piece, to: [piece.to] })
  }
  const entries = new Map<string, Entry & { schemas: string[] }>()
  for (const { piece, to } of byGrantee.values()) {
    const { schema, ...same } = piece
    const isNarrow = schema === '*' || piece.objects !== undefined
    const key = JSON.stringify([{ ...same, to }, isNarrow ? schema : ''])
    const known = entries.get(key)
    if (known) known.schemas.push(schema)
    else entries.set(key, { ...same, to, schemas: [schema] })
  }
  return [...entries.values()]
}

function entryWords(entry: Entry, defaults: readonly string[]): Record<string, unknown> {
  const { on, to, schemas, objects, creators } = entry
  const hasSchema = on !== 'database' && schemas[0] !== '*'
  const isUsual = creators !== undefined && sameSet(creators, defaults)
  return {
    to: oneOf(to.toSorted()),
    on,
    ...(hasSchema && { schema: oneOf(schemas.toSorted()) }),
    ...(objects && { objects }),
    privileges: privilegeNames(entry.privileges),
    ...(isFutureClass(on) && !objects && !creators && { future: false }),
    ...(creators && !isUsual && { creators: creators.toSorted() }),
    ...(entry.isGrantable && { grantable: true }),
  }
}

function oneOf(names: readonly string[]): string | readonly string[] {
  return names.length === 1 ? names[0]! : names
}

function sameSet(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((name) => other.includes(name))
}
