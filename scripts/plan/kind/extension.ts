import { ident, literal, show, showPath } from '../../cluster/sql.ts'
import type { Host } from '../../host/schema.ts'
import type { Change, Finding, Step } from '../change.ts'
import { packageOf, preloadOf } from '../extension-facts.ts'
import type { Context, Kind, Observe } from '../kind.ts'
import { databasesToLookInto, schemaOwner } from '../scope.ts'

/** An extension in a database, as it is wanted or as it is. */
export interface Extension {
  readonly database: string
  readonly name: string
  /** Wanted: `latest`, a version, or undefined for whatever is there. */
  readonly version: string | undefined
  /** Wanted undefined: not looked at in one that exists. */
  readonly schema: string | undefined
  /** Actual: false stands for one that is wanted and not there, to carry what the server knows of it. */
  readonly isThere: boolean
  /** Actual: whether it can be moved to another schema. */
  readonly isRelocatable?: boolean
  /** Actual: its control file names its schema. */
  readonly hasFixedSchema?: boolean
  /** Actual: what is installed on the server; undefined when it is not. */
  readonly available?: Available | undefined
  /** Actual: whether the wanted schema is there. */
  readonly hasSchema?: boolean
  /** Actual: versions that the one that is there can be updated to. */
  readonly updates?: readonly string[]
  /** Actual: shared_preload_libraries, where they matter and may be read. */
  readonly preloaded?: readonly string[] | undefined
}

interface Available {
  readonly defaultVersion: string
  readonly versions: readonly string[]
}

/** Extensions. One that the host file does not name is left alone. */
export const extension: Kind<Extension> = {
  name: 'extension',
  wanted: (host) =>
    new Map(
      wantedExtensions(host).map((wanted) => [showPath(wanted.database, wanted.name), wanted] as const),
    ),
  actual,
  change: (name, wanted, actual, { host }) =>
    actual?.isThere
      ? alterExtension(name, wanted, actual, host)
      : createExtension(name, wanted, actual, host),
  findings,
  exported: (actual) => ({ databases: exportedDatabases([...actual.values()]) }),
}

function wantedExtensions(host: Host): Extension[] {
  return Object.entries(host.databases).flatMap(([database, { extensions }]) =>
    extensions.map((spec) => ({
      database,
      name: spec.name,
      version: 'version' in spec ? spec.version : undefined,
      schema: 'schema' in spec ? spec.schema : undefined,
      isThere: true,
    })),
  )
}

interface Row {
  readonly name: string
  readonly version: string
  readonly schema: string
  readonly is_relocatable: boolean
}

const INSTALLED = `
  select e.extname::text as name, e.extversion as version, n.nspname::text as schema,
         e.extrelocatable as is_relocatable
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
   where e.extname <> 'plpgsql' or e.extname = any($1)`

async function actual(observe: Observe): Promise<Map<string, Extension>> {
  const wanted = wantedExtensions(observe.host)
  if (!observe.isRunning || (wanted.length === 0 && !observe.isExport)) return new Map()
  const open = await databasesToLookInto(observe)
  const server = await lookAtServer(observe, wanted)
  const found = new Map<string, Extension>()
  for (const database of open) {
    const here = wanted.filter((one) => one.database === database)
    if (here.length === 0 && !observe.isExport) continue
    for (const one of await installedIn(observe, database, here)) {
      const { available, fixedSchemas } = server
      const facts = { available: available.get(one.name), hasFixedSchema: fixedSchemas.has(one.name) }
      found.set(showPath(database, one.name), Object.assign(one, facts))
    }
  }
  const schemas = await findSchemas(observe, open, wanted)
  for (const one of wanted) {
    const name = showPath(one.database, one.name)
    found.set(name, {
      ...(found.get(name) ?? { ...one, version: undefined, isThere: false }),
      available: server.available.get(one.name),
      hasSchema: one.schema !== undefined && schemas.has(showPath(one.database, one.schema)),
      preloaded: server.preloaded,
    })
  }
  return found
}

async function installedIn(
  observe: Observe,
  database: string,
  wanted: readonly Extension[],
): Promise<Extension[]> {
  const rows = await observe.query<Row>(database, INSTALLED, [wanted.map(({ name }) => name)])
  const updates = await findUpdates(observe, database, rows, wanted)
  return rows.map(({ name, version, schema, is_relocatable }) => ({
    database,
    name,
    version,
    schema,
    isThere: true,
    isRelocatable: is_relocatable,
    updates: updates.get(name) ?? [],
  }))
}

/** Only of those whose version the host file says: to know a path all its scripts are looked at. */
async function findUpdates(
  observe: Observe,
  database: string,
  rows: readonly Row[],
  wanted: readonly Extension[],
): Promise<Map<string, string[]>> {
  const names = new Set(wanted.filter(({ version }) => version !== undefined).map(({ name }) => name))
  const asked = rows.filter(({ name }) => names.has(name))
  if (asked.length === 0) return new Map()
  const paths = await observe.query<{ name: string; targets: string[] }>(
    database,
    `select e.name, array_agg(p.target) as targets
       from unnest($1::text[], $2::text[]) as e(name, version)
      cross join lateral pg_extension_update_paths(e.name::name) p
      where p.source = e.version and p.path is not null group by e.name`,
    [asked.map(({ name }) => name), asked.map(({ version }) => version)],
  )
  return new Map(paths.map(({ name, targets }) => [name, targets.toSorted()]))
}

interface Server {
  readonly available: ReadonlyMap<string, Available>
  readonly fixedSchemas: ReadonlySet<string>
  readonly preloaded: readonly string[] | undefined
}

async function lookAtServer(observe: Observe, wanted: readonly Extension[]): Promise<Server> {
  const names = [...new Set(wanted.map(({ name }) => name))]
  const rows = await observe.query<{
    name: string
    default_version: string
    versions: string[]
    has_schema: boolean
  }>(
    'postgres',
    `select e.name::text as name, e.default_version,
            array_agg(v.version order by v.version collate "C") as versions,
            bool_or(v.schema is not null) as has_schema
       from pg_available_extensions e join pg_available_extension_versions v on v.name = e.name
      where e.name = any($1) or $2 group by e.name, e.default_version`,
    [names, observe.isExport ?? false],
  )
  return {
    available: new Map(
      rows.map(({ name, default_version, versions }) => [
        name,
        { defaultVersion: default_version, versions },
      ]),
    ),
    fixedSchemas: new Set(rows.filter(({ has_schema }) => has_schema).map(({ name }) => name)),
    preloaded: names.some(preloadOf) ? await readPreloaded(observe) : undefined,
  }
}

// Hidden from those who may not see it; then nothing is said about it.
async function readPreloaded(observe: Observe): Promise<readonly string[] | undefined> {
  const [row] = await observe.query<{ libraries: string | null }>(
    'postgres',
    `select setting as libraries from pg_settings where name = 'shared_preload_libraries'`,
  )
  return row?.libraries === null || row === undefined ? undefined : librariesOf(row.libraries)
}

function librariesOf(setting: string | readonly string[]): string[] {
  const names = typeof setting === 'string' ? setting.split(',') : setting
  return names
    .map((name) =>
      name
        .trim()
        .replaceAll('"', '')
        .replace(/^\$libdir\//, ''),
    )
    .filter(Boolean)
}

async function findSchemas(
  observe: Observe,
  open: readonly string[],
  wanted: readonly Extension[],
): Promise<Set<string>> {
  const found = new Set<string>()
  for (const database of open) {
    const names = wanted.filter((one) => one.database === database).flatMap(({ schema }) => schema ?? [])
    if (names.length === 0) continue
    const rows = await observe.query<{ name: string }>(
      database,
      'select nspname::text as name from pg_namespace where nspname = any($1)',
      [names],
    )
    for (const { name } of rows) found.add(showPath(database, name))
  }
  return found
}

function createExtension(name: string, wanted: Extension, actual: Extension | undefined, host: Host): Change {
  const version = versionOf(wanted, actual)
  const options = [
    // Without a schema it would land in the first of search_path. With CASCADE a schema that the
    // extension's control file names wins over this one without an error (CreateExtensionInternal).
    `schema ${ident(wanted.schema ?? 'public')}`,
    ...(version === undefined ? [] : [`version ${literal(version)}`]),
    // What it requires comes along; where the host file names that too, it is found there.
    'cascade',
  ]
  const lines = [
    ...(version === undefined ? [] : [`version ${version}`]),
    ...(wanted.schema === undefined ? [] : [`in schema ${show(wanted.schema)}`]),
  ]
  return {
    kind: 'extension',
    name,
    action: 'create',
    line: lines.join(' ') || 'the default version',
    hazards: [],
    steps: [
      ...schemaStep(wanted, actual, host),
      sql(wanted, `create extension if not exists ${ident(wanted.name)} ${options.join(' ')}`),
    ],
  }
}

function alterExtension(name: string, wanted: Extension, actual: Extension, host: Host): Change | undefined {
  const lines: string[] = []
  const steps: Step[] = []
  const version = versionOf(wanted, actual)
  if (version !== undefined && version !== actual.version) {
    lines.push(`version ${actual.version} -> ${version}`)
    steps.push(sql(wanted, `alter extension ${ident(wanted.name)} update to ${literal(version)}`))
  }
  if (wanted.schema !== undefined && wanted.schema !== actual.schema && actual.isRelocatable) {
    lines.push(`schema ${show(actual.schema!)} -> ${show(wanted.schema)}`)
    steps.push(
      ...schemaStep(wanted, actual, host),
      sql(wanted, `alter extension ${ident(wanted.name)} set schema ${ident(wanted.schema)}`),
    )
  }
  if (steps.length === 0) return undefined
  return { kind: 'extension', name, action: 'alter', line: lines.join(', '), hazards: [], steps }
}

/** Schemas are made after extensions, so an extension's own schema is made with it. */
function schemaStep(wanted: Extension, actual: Extension | undefined, host: Host): Step[] {
  const { database, schema } = wanted
  if (schema === undefined || schema === 'public' || schema.startsWith('pg_') || actual?.hasSchema) return []
  const owner = ident(schemaOwner(host, database, schema))
  return [sql(wanted, `create schema if not exists ${ident(schema)} authorization ${owner}`)]
}

function versionOf(wanted: Extension, actual: Extension | undefined): string | undefined {
  return wanted.version === 'latest' ? actual?.available?.defaultVersion : wanted.version
}

function sql(wanted: Extension, text: string): Step {
  return { run: 'sql', database: wanted.database, text, transaction: true }
}

type Report = (level: Finding['level'], text: string, hint: string) => Finding

function findings(
  name: string,
  wanted: Extension,
  actual: Extension | undefined,
  context: Context,
): Finding[] {
  if (!actual) return []
  const report: Report = (level, text, hint) => ({ kind: 'extension', name, level, text, hint })
  if (!actual.available && !actual.isThere) return [notInstalled(report, wanted, context)]
  return [
    ...versionFindings(report, wanted, actual),
    ...schemaFindings(report, wanted, actual),
    ...preloadFindings(report, wanted, actual, context.host),
  ]
}

function notInstalled(report: Report, wanted: Extension, { host, facts }: Context): Finding {
  const text = `the server has no extension ${show(wanted.name)} for PostgreSQL ${facts.major}`
  const debian = packageOf(wanted.name, facts.major)
  if (host.postgres.packages.includes(debian))
    return report('warning', `${text} yet`, `Package ${debian} of this host file should bring it.`)
  return report('impossible', text, `It is most likely in: apt-get install ${debian}`)
}

function versionFindings(report: Report, wanted: Extension, actual: Extension): Finding[] {
  const version = versionOf(wanted, actual)
  if (version === undefined || version === actual.version) return []
  const versions = actual.available?.versions ?? []
  if (!versions.includes(version)) {
    const hint = `Installed on the server: ${versions.join(', ') || 'none'}.`
    return [report('impossible', `there is no version ${version}`, hint)]
  }
  if (!actual.isThere || actual.updates?.includes(version)) return []
  const text = `there is no way from version ${actual.version} to ${version}`
  return [report('impossible', text, 'Drop it and make it anew, or name another version.')]
}

function schemaFindings(report: Report, wanted: Extension, actual: Extension): Finding[] {
  const { schema } = wanted
  if (!actual.isThere || schema === undefined || schema === actual.schema || actual.isRelocatable) return []
  const text = `is in schema ${show(actual.schema!)} and cannot be moved to ${show(schema)}`
  return [report('warning', text, 'Name the schema it is in, or drop it and make it anew.')]
}

function preloadFindings(report: Report, wanted: Extension, actual: Extension, host: Host): Finding[] {
  const need = preloadOf(wanted.name)
  if (!need || actual.preloaded === undefined) return []
  const setting = host.settings?.['shared_preload_libraries']
  const libraries = setting === undefined ? actual.preloaded : librariesOf(setting)
  if (libraries.includes(need.library)) return []
  const text = `needs ${need.library} in shared_preload_libraries`
  const hint = `Add it to [settings] shared_preload_libraries: the server restarts for it.`
  return [report(need.refuses && !actual.isThere ? 'impossible' : 'warning', text, hint)]
}

function exportedDatabases(found: readonly Extension[]): Record<string, unknown> {
  const databases = Map.groupBy(
    found.filter(({ isThere }) => isThere),
    ({ database }) => database,
  )
  return Object.fromEntries(
    [...databases].map(([database, extensions]) => [database, { extensions: extensions.map(words) }]),
  )
}

function words({ name, schema, hasFixedSchema }: Extension): unknown {
  return schema === 'public' || hasFixedSchema ? name : { name, schema }
}
