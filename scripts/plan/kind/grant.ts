import { show } from '../../cluster/sql.ts'
import type { Host } from '../../host/schema.ts'
import {
  type Acl,
  aclWithOwner,
  allPrivileges,
  defaultAcl,
  heldByOwnerGrant,
  type ObjectClass,
  privilegeNames,
  privilegeSince,
  PUBLIC,
  showSome,
} from '../acl.ts'
import type { Change, Finding } from '../change.ts'
import { type DefaultAcl, readDefaultAcls } from '../default-acl.ts'
import { type ObjectGroup, readColumnGrants, readDatabaseGroups, readGroups } from '../grant-catalog.ts'
import { findGaps, type GrantDemand, statementsFor } from '../grant-diff.ts'
import { exportedGrants } from '../grant-export.ts'
import { type GrantEntry, granteesOf, isExact, readEntries } from '../grant-spec.ts'
import type { Context, Facts, Kind, Observe } from '../kind.ts'
import {
  besides,
  databaseOwner,
  databaseSpec,
  databasesToLookInto,
  findMissingRoles,
  initialPublicSchema,
  isSchemaPlanned,
  rolesNeverMade,
  schemaOwner,
} from '../scope.ts'

/** All grants of a database on one class of objects, as they are wanted or as they are. */
export interface Grants {
  readonly database: string
  readonly on: ObjectClass
  /** Wanted. */
  readonly entries: readonly GrantEntry[]
  /** Actual: objects, and what the grantees in question hold on them. */
  readonly groups: readonly ObjectGroup[]
  /** Actual: false while the database is not there, or takes no connections. */
  readonly isSeen: boolean
  /** Actual: grantees that nobody made. */
  readonly missingRoles?: readonly string[]
  /** Actual: schemas that are there, of those that entries name. */
  readonly schemas?: ReadonlySet<string>
  /** Actual, where something may be revoked: tables with privileges on their columns. */
  readonly columns?: readonly ColumnGrant[]
  /** Actual, for an export. */
  readonly defaults?: readonly DefaultAcl[]
}

type ColumnGrant = Awaited<ReturnType<typeof readColumnGrants>>[number]

const CLASSES = ['database', 'schema', 'tables', 'sequences', 'functions', 'types'] as const

/**
 * Grants on what is there. Sets of privileges are compared, built-in defaults included, and only
 * what differs is sent: the same GRANT once more would rewrite catalog rows for nothing. Privileges
 * on columns are left alone.
 */
export const grant: Kind<Grants> = {
  name: 'grant',
  wanted: (host, facts) => new Map(wantedUnits(host, facts).map((unit) => [nameOf(unit), unit])),
  actual,
  change,
  findings,
  exported: (actual, { host, facts }) => ({
    databases: exportedGrants([...actual.values()], host, facts),
  }),
}

function nameOf({ database, on }: Pick<Grants, 'database' | 'on'>): string {
  return `${show(database)}: ${on}`
}

function wantedUnits(host: Host, { major }: Facts): Grants[] {
  return Object.keys(host.databases).flatMap((database) =>
    Map.groupBy(readEntries(host, database, major), ({ on }) => on)
      .entries()
      .map(([on, entries]) => ({ database, on, entries, groups: [], isSeen: false }))
      .toArray(),
  )
}

async function actual(observe: Observe): Promise<Map<string, Grants>> {
  if (!observe.isRunning) return new Map()
  const { host, facts } = observe
  const wanted = wantedUnits(host, facts)
  const units = observe.isExport ? await everyUnit(observe) : wanted
  const open = new Set(await databasesToLookInto(observe))
  const missing = await findMissingRoles(observe, granteesOf(wanted.flatMap(({ entries }) => entries)))
  missing.delete(PUBLIC)
  const databases = await databaseGroups(observe, units)
  const found = new Map<string, Grants>()
  for (const { database, on, entries } of units) {
    const named = granteesOf(readEntries(host, database, facts.major))
    const unit = { database, on, entries: [], groups: [], isSeen: false }
    const grantees = observe.isExport ? undefined : [...named]
    found.set(nameOf(unit), {
      ...unit,
      ...(on === 'database' ? seenDatabase(databases.get(database)) : {}),
      ...(on !== 'database' && open.has(database)
        ? await look(observe, { database, on, entries }, grantees)
        : {}),
      missingRoles: [...granteesOf(entries)].filter((name) => missing.has(name)),
    })
  }
  return found
}

async function everyUnit(observe: Observe): Promise<Pick<Grants, 'database' | 'on' | 'entries'>[]> {
  const databases = await databasesToLookInto(observe)
  return databases.flatMap((database) => CLASSES.map((on) => ({ database, on, entries: [] })))
}

async function databaseGroups(
  observe: Observe,
  units: readonly Pick<Grants, 'on' | 'entries'>[],
): Promise<Map<string, ObjectGroup>> {
  if (!units.some(({ on }) => on === 'database')) return new Map()
  const { host, facts } = observe
  const entries = Object.keys(host.databases).flatMap((name) => readEntries(host, name, facts.major))
  return readDatabaseGroups(observe, { grantees: observe.isExport ? undefined : [...granteesOf(entries)] })
}

function seenDatabase(group: ObjectGroup | undefined): Partial<Grants> {
  return group ? { groups: [group], isSeen: true } : {}
}

async function look(
  observe: Observe,
  {
    database,
    on,
    entries,
  }: { database: string; on: Exclude<ObjectClass, 'database'>; entries: readonly GrantEntry[] },
  grantees: readonly string[] | undefined,
): Promise<Partial<Grants>> {
  const named = [...new Set(entries.flatMap(({ schemas }) => (schemas === '*' ? [] : [...schemas])))]
  const rows = await observe.query<{ name: string }>(
    database,
    'select nspname::text as name from pg_namespace where nspname = any($1)',
    [named],
  )
  const mayRevoke = on === 'tables' && grantees !== undefined && isExact(observe.host, database)
  const isFuture = observe.isExport && on === 'tables'
  return {
    isSeen: true,
    schemas: new Set(rows.map(({ name }) => name)),
    groups: await readGroups(observe, database, on, { grantees, systemSchemas: named }),
    ...(mayRevoke && { columns: await readColumnGrants(observe, database, grantees) }),
    ...(isFuture && { defaults: await readDefaultAcls(observe, database, undefined) }),
  }
}

function change(
  name: string,
  wanted: Grants,
  actual: Grants | undefined,
  { host, facts }: Context,
): Change | undefined {
  const { database, on } = wanted
  const demand = demandOf(wanted, host, facts)
  const gaps = findGaps(demand, expectedGroups(wanted, actual, host, facts))
  const statements = statementsFor(demand, gaps)
  if (statements.length === 0) return undefined
  const at = on === 'database' ? besides(database) : database
  return {
    kind: 'grant',
    name,
    action: statements.some(({ revokes }) => revokes) ? 'alter' : 'create',
    line: statements.map(({ line }) => line).join('; '),
    hazards: [],
    steps: statements.map(({ text }) => ({ run: 'sql', database: at, text, transaction: true })),
  }
}

function demandOf({ database, on, entries }: Grants, host: Host, { major }: Facts): GrantDemand {
  const exact = isExact(host, database) ? granteesOf(readEntries(host, database, major)) : new Set<string>()
  return { on, major, entries, exact }
}

/** Groups as they will be once what comes before the grants is done: made, or with another owner. */
function expectedGroups(
  { database, on }: Grants,
  actual: Grants | undefined,
  host: Host,
  facts: Facts,
): readonly ObjectGroup[] {
  const groups = actual?.groups ?? []
  const spec = databaseSpec(host, database)
  if (on === 'database') {
    const [group] = groups
    if (group) return [withOwner(group, on, spec?.owner, facts)]
    const owner = databaseOwner(host, database)
    return [madeGroup({ on, schema: '', name: database, owner }, facts)]
  }
  if (on !== 'schema') return groups
  const existing = groups.map((group) => {
    const schemas = spec?.schemas ?? {}
    const owner = Object.hasOwn(schemas, group.schema) ? schemas[group.schema]?.owner : undefined
    return withPolicy(withOwner(group, on, owner, facts), spec?.public, facts)
  })
  const known = new Set(existing.map(({ schema }) => schema))
  const names = new Set([
    ...Object.keys(spec?.schemas ?? {}),
    ...(spec?.extensions ?? []).flatMap((one) => ('schema' in one ? (one.schema ?? []) : [])),
    ...(actual?.isSeen ? [] : [PUBLIC]),
  ])
  const made = [...names]
    .filter((schema) => !known.has(schema) && !schema.startsWith('pg_'))
    .map((schema) => withPolicy(madeSchema(host, database, schema, facts), spec?.public, facts))
  return [...existing, ...made]
}

function madeSchema(host: Host, database: string, schema: string, facts: Facts): ObjectGroup {
  const named = databaseSpec(host, database)?.schemas ?? {}
  const initial = initialPublicSchema(host, facts)
  const isNamed = Object.hasOwn(named, schema) && named[schema]?.owner !== undefined
  const owner = schema === PUBLIC && !isNamed ? initial.owner : schemaOwner(host, database, schema)
  const group = madeGroup({ on: 'schema', schema, name: schema, owner }, facts)
  if (schema !== PUBLIC) return group
  return { ...group, acl: new Map([...group.acl, [PUBLIC, heldByOwnerGrant(initial.ofPublic)]]) }
}

function madeGroup(
  { on, schema, name, owner }: { on: ObjectClass; schema: string; name: string; owner: string },
  { major }: Facts,
): ObjectGroup {
  return { schema, owner, isProtected: false, objects: [{ name }], acl: defaultAcl(on, owner, major) }
}

// ALTER .. OWNER TO hands the old owner's entries to the new one.
function withOwner(
  group: ObjectGroup,
  on: ObjectClass,
  owner: string | undefined,
  { major }: Facts,
): ObjectGroup {
  if (owner === undefined || owner === group.owner) return group
  const before: Acl = new Map([...group.acl, [group.owner, heldByOwnerGrant(allPrivileges(on, major))]])
  return { ...group, owner, acl: aclWithOwner(before, group.owner, owner) }
}

function withPolicy(group: ObjectGroup, policy: string | undefined, { major }: Facts): ObjectGroup {
  if (group.schema !== PUBLIC || policy !== 'legacy') return group
  const all = heldByOwnerGrant(allPrivileges('schema', major))
  return { ...group, acl: new Map([...group.acl, [PUBLIC, all]]) }
}

function findings(name: string, wanted: Grants, actual: Grants | undefined, context: Context): Finding[] {
  const report: Report = (level, text, hint) => ({ kind: 'grant', name, level, text, hint })
  const { host, facts } = context
  const grantees = [...granteesOf(wanted.entries)].filter((grantee) => grantee !== PUBLIC)
  const missing = (actual?.missingRoles ?? rolesNeverMade(host, grantees)).map((role) =>
    report(
      'impossible',
      `there is no role ${show(role)} to grant to`,
      role.toLowerCase() === PUBLIC
        ? 'Everybody is "public".'
        : `Add [roles.${show(role)}] to the host file.`,
    ),
  )
  return [
    ...missing,
    ...wanted.entries.flatMap((entry) => entryFindings(report, entry, facts.major)),
    ...(actual?.isSeen ? absentFindings(report, wanted, actual, host) : []),
    ...(actual?.isSeen && isExact(host, wanted.database)
      ? exactFindings(report, wanted, actual, context)
      : []),
  ]
}

type Report = (level: Finding['level'], text: string, hint: string) => Finding

/** What no server could do. */
function entryFindings(report: Report, entry: GrantEntry, major: number): Finding[] {
  const { on, invalid, objects, to, isGrantable } = entry
  const found = invalid.map((word) => {
    const since = privilegeSince(word, on)
    const text =
      since === undefined
        ? `${word} is no privilege on ${on}`
        : `${word} on ${on} came with PostgreSQL ${since}, this is ${major}`
    const all = privilegeNames(allPrivileges(on, major)).join(', ')
    return report('impossible', text, `Privileges on ${on}: ${all}; or ALL.`)
  })
  if (objects !== undefined && (on === 'database' || on === 'schema')) {
    const hint = on === 'schema' ? 'Name the schemas with the key schema.' : 'Leave it out.'
    found.push(report('impossible', `objects cannot be named with on = "${on}"`, hint))
  }
  if (isGrantable && to.includes(PUBLIC)) {
    const hint = 'Leave out grantable, or name roles.'
    found.push(report('impossible', 'a grant to public cannot be grantable', hint))
  }
  return found
}

/** Named, and not there (yet): a migration may make it. */
function absentFindings(
  report: Report,
  { entries, database, on }: Grants,
  actual: Grants,
  host: Host,
): Finding[] {
  const schemas = new Set(entries.flatMap(({ schemas }) => (schemas === '*' ? [] : [...schemas])))
  const absent = [...schemas].filter(
    (schema) => on !== 'database' && !actual.schemas?.has(schema) && !isSchemaPlanned(host, database, schema),
  )
  const found = absent.map((schema) =>
    report(
      'warning',
      `schema ${show(schema)} is not there, so nothing is granted in it`,
      `Add [databases.${show(database)}.schemas.${show(schema)}], or apply again when it is there.`,
    ),
  )
  const wanted = new Set(entries.flatMap(({ objects }) => [...(objects ?? [])]))
  for (const { schema, objects } of wanted.size === 0 ? [] : actual.groups) {
    for (const { name } of objects) {
      if (
        entries.some(({ objects, schemas }) => objects?.has(name) && (schemas === '*' || schemas.has(schema)))
      )
        wanted.delete(name)
    }
  }
  if (wanted.size > 0 && on !== 'database' && on !== 'schema') {
    const names = showSome([...wanted].map(show))
    found.push(
      report(
        'warning',
        `not there, so not granted: ${names}`,
        'Apply again when they are, or correct the names.',
      ),
    )
  }
  return found
}

/** What revoking cannot reach, and what it takes along. */
function exactFindings(report: Report, wanted: Grants, actual: Grants, { host, facts }: Context): Finding[] {
  const gaps = [...findGaps(demandOf(wanted, host, facts), expectedGroups(wanted, actual, host, facts))]
  const found: Finding[] = []
  for (const { group, objects, grantee, leftOver } of gaps.filter((gap) => gap.leftOver !== 0)) {
    const names = showSome(objects.map(({ name }) => show(name)))
    const what = privilegeNames(leftOver).join(', ').toLowerCase()
    found.push(
      report(
        'warning',
        `${show(grantee)} has ${what} on ${names} from somebody else than its owner ${show(group.owner)}`,
        'Only the role that granted it can revoke it; psql shows it with \\dp.',
      ),
    )
  }
  const revoked = gaps.filter(({ difference }) => difference?.revoke)
  for (const { schema, table, grantee } of actual.columns ?? []) {
    const isHit = revoked.some(
      (gap) =>
        gap.grantee === grantee &&
        gap.group.schema === schema &&
        gap.objects.some(({ name }) => name === table),
    )
    if (!isHit) continue
    found.push(
      report(
        'warning',
        `revoking on ${show(schema)}.${show(table)} takes what ${show(grantee)} has on its columns, too`,
        'Set manage = "add" on the database to keep it.',
      ),
    )
  }
  return found
}
