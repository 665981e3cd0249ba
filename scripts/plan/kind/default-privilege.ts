import { ident, show } from '../../cluster/sql.ts'
import type { Host } from '../../host/schema.ts'
import {
  type Acl,
  defaultAcl,
  type Difference,
  difference,
  type FutureClass,
  mergeHeld,
  NOTHING,
  showGrantees,
  showPrivileges,
  sqlGrantees,
  sqlPrivileges,
  type WantedHeld,
} from '../acl.ts'
import type { Change, Finding } from '../change.ts'
import { type DefaultAcl, readDefaultAcls } from '../default-acl.ts'
import { type GrantEntry, granteesOf, isExact, readEntries, wantedByGrantee } from '../grant-spec.ts'
import type { Context, Facts, Kind, Observe } from '../kind.ts'
import { databasesToLookInto, findMissingRoles, isSchemaPlanned, rolesNeverMade } from '../scope.ts'

/** Where a default privilege belongs: `schema` undefined is wherever its creator makes something. */
interface Place {
  readonly database: string
  readonly creator: string
  readonly on: FutureClass
  readonly schema: string | undefined
}

/** What is granted on objects of a class that a role will make, everywhere or in a schema. */
export interface DefaultPrivilege extends Place {
  /** Wanted, by grantee: here, and for a schema what is wanted everywhere. */
  readonly wanted: ReadonlyMap<string, WantedHeld>
  readonly wantedEverywhere: ReadonlyMap<string, WantedHeld>
  /** Actual: here, and for a schema what is granted everywhere. */
  readonly acl: Acl
  readonly aclEverywhere: Acl
  readonly hasSchema?: boolean
  readonly missingRoles?: readonly string[]
}

/**
 * Default privileges. They belong to the role that makes an object and not to the schema, and those
 * of a schema can only add to those of everywhere: an entry for every schema has no IN SCHEMA, and a
 * REVOKE for what everybody gets everywhere has none either.
 */
export const defaultPrivilege: Kind<DefaultPrivilege> = {
  name: 'default-privilege',
  wanted: (host, facts) =>
    new Map(Object.keys(host.databases).flatMap((database) => wantedIn(host, facts, database))),
  actual,
  change(name, wanted, actual, context) {
    if (!willHaveSchema(wanted, actual, context.host)) return undefined
    return changeFor(name, wanted, actual ?? builtin(wanted, context.facts.major), context)
  },
  drop: (name, actual, context) => changeFor(name, actual, actual, context),
  findings,
}

function wantedIn(host: Host, facts: Facts, database: string): [string, DefaultPrivilege][] {
  const places = new Map<string, { place: Place; entries: GrantEntry[] }>()
  const at = (place: Place) => {
    const name = nameOf(place)
    const known = places.get(name) ?? { place, entries: [] }
    places.set(name, known)
    return known.entries
  }
  const exact = isExact(host, database)
  for (const entry of futureEntries(host, facts, database)) {
    for (const creator of entry.creators) {
      const everywhere: Place = { database, creator, on: entry.on as FutureClass, schema: undefined }
      // Exact: what a named role gets everywhere has to go, or to be wanted there.
      if (exact) at(everywhere)
      if (entry.schemas === '*') at(everywhere).push(entry)
      else for (const schema of entry.schemas) at({ ...everywhere, schema }).push(entry)
    }
  }
  return [...places].map(([name, { place, entries }]) => {
    const above = place.schema === undefined ? undefined : places.get(nameOf({ ...place, schema: undefined }))
    const wanted = wantedByGrantee(entries)
    const wantedEverywhere = wantedByGrantee(above?.entries ?? [])
    return [name, { ...placeOnly(place), wanted, wantedEverywhere }]
  })
}

function placeOnly(place: Place): DefaultPrivilege {
  const { database, creator, on, schema } = place
  const nothing = { wanted: new Map(), wantedEverywhere: new Map(), acl: NOBODY, aclEverywhere: NOBODY }
  return { database, creator, on, schema, ...nothing }
}

const NOBODY: Acl = new Map()

function futureEntries(host: Host, { major }: Facts, database: string): GrantEntry[] {
  return readEntries(host, database, major).filter(({ creators }) => creators.length > 0)
}

function nameOf({ database, creator, on, schema }: Place): string {
  const where = schema === undefined ? '' : ` in ${show(schema)}`
  return `${show(database)}: ${on} made by ${show(creator)}${where}`
}

async function actual(observe: Observe): Promise<Map<string, DefaultPrivilege>> {
  const found = new Map<string, DefaultPrivilege>()
  if (!observe.isRunning) return found
  const { host, facts } = observe
  const open = new Set(await databasesToLookInto(observe))
  const wanted = Object.keys(host.databases).map((database) => ({
    database,
    entries: futureEntries(host, facts, database),
    places: wantedIn(host, facts, database).map(([, place]) => place),
  }))
  const missing = await findMissingRoles(
    observe,
    wanted.flatMap(({ places }) => places.map(({ creator }) => creator)),
  )
  for (const { database, entries, places } of wanted) {
    if (places.length === 0) continue
    const isOpen = open.has(database)
    const grantees = granteesOf(entries)
    const acls = isOpen ? await readDefaultAcls(observe, database, [...grantees]) : []
    const known = new Map(acls.map((row) => [nameOf({ ...row, database }), row]))
    // Schema public is in every new database.
    const schemas = isOpen ? await findSchemas(observe, database, places) : new Set(['public'])
    for (const place of [...places, ...extras(host, database, entries, acls)]) {
      found.set(nameOf(place), {
        ...place,
        ...observed(place, known, facts.major),
        hasSchema: place.schema !== undefined && schemas.has(place.schema),
        missingRoles: missing.has(place.creator) ? [place.creator] : [],
      })
    }
  }
  return found
}

/** Exact only: rows of named roles and named classes that no entry asks for. */
function extras(
  host: Host,
  database: string,
  entries: readonly GrantEntry[],
  acls: readonly DefaultAcl[],
): DefaultPrivilege[] {
  if (!isExact(host, database)) return []
  const classes = new Set(entries.map(({ on }) => on))
  return acls
    .filter(({ on, acl }) => classes.has(on) && acl.size > 0)
    .map(({ creator, on, schema }) => placeOnly({ database, creator, on, schema }))
}

/** What is in force at a place: a row of the catalog, or what is built in where there is none. */
function observed(
  place: Place,
  known: ReadonlyMap<string, DefaultAcl>,
  major: number,
): { acl: Acl; aclEverywhere: Acl } {
  const everywhere =
    known.get(nameOf({ ...place, schema: undefined }))?.acl ?? defaultAcl(place.on, place.creator, major)
  if (place.schema === undefined) return { acl: everywhere, aclEverywhere: NOBODY }
  return { acl: known.get(nameOf(place))?.acl ?? NOBODY, aclEverywhere: everywhere }
}

function builtin(place: DefaultPrivilege, major: number): DefaultPrivilege {
  return { ...place, ...observed(place, new Map(), major) }
}

function willHaveSchema(
  { database, schema }: Place,
  actual: DefaultPrivilege | undefined,
  host: Host,
): boolean {
  if (schema === undefined || isSchemaPlanned(host, database, schema)) return true
  return actual ? actual.hasSchema === true : schema === 'public'
}

async function findSchemas(
  observe: Observe,
  database: string,
  places: readonly Place[],
): Promise<Set<string>> {
  const names = [...new Set(places.flatMap(({ schema }) => schema ?? []))]
  if (names.length === 0) return new Set()
  const rows = await observe.query<{ name: string }>(
    database,
    'select nspname::text as name from pg_namespace where nspname = any($1)',
    [names],
  )
  return new Set(rows.map(({ name }) => name))
}

function changeFor(
  name: string,
  wanted: DefaultPrivilege,
  actual: DefaultPrivilege,
  { host, facts }: Context,
): Change | undefined {
  const exact = isExact(host, wanted.database)
  const grantees = exact ? granteesOf(futureEntries(host, facts, wanted.database)) : wanted.wanted.keys()
  // One statement for all who lack the same.
  const alike = new Map<string, { readonly gap: Difference; readonly grantees: string[] }>()
  for (const grantee of grantees) {
    if (grantee === wanted.creator) continue
    const gap = gapOf(grantee, wanted, actual, exact)
    if (!gap) continue
    const key = JSON.stringify(gap)
    const known = alike.get(key)
    if (known) known.grantees.push(grantee)
    else alike.set(key, { gap, grantees: [grantee] })
  }
  const parts = [...alike.values()].flatMap(({ gap, grantees }) =>
    statements(wanted, gap, grantees, facts.major),
  )
  if (parts.length === 0) return undefined
  return {
    kind: 'default-privilege',
    name,
    action: parts.some(({ text }) => text.includes(' revoke ')) ? 'alter' : 'create',
    line: parts.map(({ line }) => line).join('; '),
    hazards: [],
    steps: parts.map(({ text }) => ({ run: 'sql', database: wanted.database, text, transaction: true })),
  }
}

/** What a grantee lacks here, given what the same creator's objects give it everywhere. */
function gapOf(
  grantee: string,
  wanted: DefaultPrivilege,
  actual: DefaultPrivilege,
  exact: boolean,
): Difference | undefined {
  const nothing: WantedHeld = { privileges: 0, grantable: 0 }
  const here = wanted.wanted.get(grantee) ?? nothing
  const everywhere = wanted.wantedEverywhere.get(grantee) ?? nothing
  // What is not wanted everywhere is about to be revoked there.
  const above = exact ? nothing : (actual.aclEverywhere.get(grantee) ?? nothing)
  const held = actual.acl.get(grantee) ?? NOTHING
  const inForce = mergeHeld(held, {
    privileges: above.privileges | everywhere.privileges,
    grantable: above.grantable | everywhere.grantable,
    byOwner: 0,
    grantableByOwner: 0,
  })
  const all = {
    privileges: here.privileges | everywhere.privileges,
    grantable: here.grantable | everywhere.grantable,
  }
  return difference(all, inForce, { isOwner: false, isExact: exact })
}

function statements(
  { creator, schema, on }: Place,
  gap: Difference,
  grantees: readonly string[],
  major: number,
): { text: string; line: string }[] {
  const where = schema === undefined ? '' : ` in schema ${ident(schema)}`
  const lead = `alter default privileges for role ${ident(creator)}${where}`
  const who = sqlGrantees(grantees)
  const parts = [
    { set: gap.revoke, verb: 'revoke', end: `from ${who}`, to: 'from', note: '' },
    { set: gap.revokeOption, verb: 'revoke grant option for', end: `from ${who}`, to: 'from', note: '' },
    { set: gap.grant, verb: 'grant', end: `to ${who}`, to: 'to', note: '' },
    {
      set: gap.grantWithOption,
      verb: 'grant',
      end: `to ${who} with grant option`,
      to: 'to',
      note: ' with grant option',
    },
  ]
  return parts
    .filter(({ set }) => set !== 0)
    .map(({ set, verb, end, to, note }) => ({
      text: `${lead} ${verb} ${sqlPrivileges(set)} on ${on} ${end}`,
      line: `${verb} ${showPrivileges(set, on, major)} ${to} ${showGrantees(grantees)}${note}`,
    }))
}

function findings(
  name: string,
  wanted: DefaultPrivilege,
  actual: DefaultPrivilege | undefined,
  { host }: Context,
): Finding[] {
  const missing = actual?.missingRoles ?? rolesNeverMade(host, [wanted.creator])
  const found: Finding[] = missing.map((role) => ({
    kind: 'default-privilege',
    name,
    level: 'impossible',
    text: `there is no role ${show(role)} to make objects`,
    hint: `Add [roles.${show(role)}] to the host file, or name other creators.`,
  }))
  const { database, schema } = wanted
  if (schema !== undefined && !willHaveSchema(wanted, actual, host)) {
    found.push({
      kind: 'default-privilege',
      name,
      level: 'warning',
      text: `schema ${show(schema)} is not there, so nothing can be said on what is made in it`,
      hint: `Add [databases.${show(database)}.schemas.${show(schema)}], or apply again when it is there.`,
    })
  }
  return found
}
