import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import { Fail } from '../core/fail.ts'
import type { Host, Postgres } from '../host/schema.ts'
import { clusterFindings, installUserFindings, type Way } from './check/databases.ts'
import { type Finding, SETUP } from './check/finding.ts'
import { collationFindings, databaseLocaleFindings, systemLocales } from './check/locale.ts'
import { objectFindings } from './check/objects.ts'
import {
  type Extension,
  extensionFindings,
  extensionsOf,
  libraryFindings,
  type PackageOf,
  programFindings,
} from './check/packages.ts'
import { pgUpgradeFindings } from './check/pair.ts'
import { placeFindings } from './check/place.ts'
import { makeScratch, type Scratch } from './check/scratch.ts'
import {
  type Assignment,
  defaultFindings,
  type Defaults,
  defaultsOf,
  fileAssignments,
  functionAssignments,
  sessionAssignments,
  settingFindings,
} from './check/settings.ts'
import {
  type ColumnOption,
  columnOptionFindings,
  columnOptionsOf,
  type Use,
  usesOf,
  viewFindings,
} from './check/views.ts'
import { type Origin, originOf } from './origin.ts'
import type { Method } from './state.ts'

export type { Finding } from './check/finding.ts'
export { packagesIn } from './check/packages.ts'

/** Where an upgrade is to go. */
export interface CheckTarget {
  readonly host: Host
  /** The cluster that is to be made. */
  readonly spec: Postgres
  readonly method: Method | 'auto'
  /** The Debian package that most likely brings an extension. */
  readonly packageOf: PackageOf
}

/**
 * Looks for all that is in the way of an upgrade while the old cluster serves, and changes nothing of it. What
 * only the new major can say is asked of an empty cluster of it, which is thrown away.
 * @returns errors first; an upgrade without any goes well as far as can be told beforehand
 * @throws {Fail} `server-unreachable`, `server-denied`, `server-failed`, `not-permitted`
 */
export async function checkUpgrade(old: Cluster, target: CheckTarget): Promise<Finding[]> {
  const origin = await originOf(old)
  const asked = await askOld(old, target)
  const findings = [
    ...asked.findings,
    ...(await installUserFindings(old, origin.installUser)),
    ...(await programFindings(target.spec)),
  ]
  const hasPrograms = !findings.some(({ code }) => code === 'programs')
  if (hasPrograms) findings.push(...(await askNew(old, target, origin, asked)))
  return findings.toSorted((a, b) => RANK[a.severity] - RANK[b.severity])
}

const RANK = { error: 0, warning: 1, note: 2 } as const

/** What the old cluster says, and what of it the new major is to be asked about. */
interface Asked {
  readonly findings: Finding[]
  readonly libraries: string[]
  readonly defaults: Defaults
  readonly assignments: Assignment[]
  readonly extensions: Extension[]
  readonly uses: Use[]
  readonly options: ColumnOption[]
}

async function askOld(old: Cluster, { spec, method }: CheckTarget): Promise<Asked> {
  const way: Way = { from: old.major, to: spec.major!, isDump: method === 'dump' }
  const locales = await systemLocales()
  const session = <T>(database: string, body: (client: Client) => Promise<T>) =>
    withSession({ cluster: old, database, setup: SETUP }, body)
  const { names, asked } = await session('postgres', async (client) => {
    const { rows: names } = await client.query<{ name: string }>(CONNECTABLE)
    const { rows: libraries } = await client.query<{ name: string }>(LIBRARIES)
    const asked: Asked = {
      findings: [
        ...(await clusterFindings(client, way)),
        ...(await placeFindings(client, old, spec, method)),
        ...(await databaseLocaleFindings(client, old.major, locales)),
      ],
      libraries: libraries.map(({ name }) => name),
      defaults: await defaultsOf(client),
      assignments: [...(await fileAssignments(client)), ...(await sessionAssignments(client))],
      extensions: [],
      uses: [],
      options: [],
    }
    return { names, asked }
  })
  for (const { name } of names) {
    await session(name, async (client) => {
      asked.findings.push(...(await objectFindings(client, name, way)))
      asked.findings.push(...(await collationFindings(client, name, locales)))
      asked.assignments.push(...(await functionAssignments(client, name)))
      asked.extensions.push(...(await extensionsOf(client, name)))
      asked.uses.push(...(await usesOf(client, name)))
      asked.options.push(...(await columnOptionsOf(client, name)))
    })
  }
  return asked
}

const CONNECTABLE = `select datname as name from pg_database
  where datallowconn and datname <> 'template0' and datconnlimit <> -2 order by 1`

const LIBRARIES = `
  select trim(both ' "' from name) as name from regexp_split_to_table(current_setting('shared_preload_libraries'), ',') name
  where trim(name) <> ''`

async function askNew(old: Cluster, target: CheckTarget, origin: Origin, asked: Asked): Promise<Finding[]> {
  let made: Scratch
  try {
    made = await makeScratch(target.host, target.spec, origin, old.osUser)
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    return [refusedFinding(target.spec, error)]
  }
  await using scratch = made
  const findings = await askScratch(await scratch.start(), target, asked)
  await scratch.stop()
  if (target.method === 'dump') return findings
  const isMissing = findings.some(({ code }) => code === 'library')
  const libraries = isMissing ? [] : asked.libraries
  // One that was refused is no word that pg_upgrade is to hear.
  const method = asked.findings.some(({ code }) => code === 'method') ? 'auto' : target.method
  const { installUser } = origin
  return [...findings, ...(await pgUpgradeFindings(old, scratch, { method, installUser, libraries }))]
}

function refusedFinding({ major }: Postgres, { message, hint }: Fail): Finding {
  return {
    severity: 'error',
    code: 'initdb',
    database: '',
    message: `${major} makes no cluster that is like the old one: ${message}${hint === undefined ? '' : `: ${hint}`}`,
    hint: 'See to what it names, such as a locale that this host does not have.',
  }
}

async function askScratch(server: Cluster, target: CheckTarget, asked: Asked): Promise<Finding[]> {
  const { major } = server
  const setup = 'set search_path to pg_catalog; set statement_timeout to 0'
  return withSession({ cluster: server, database: 'postgres', setup }, async (client) => {
    const findings = [
      ...(await extensionFindings(client, asked.extensions, target)),
      ...(await libraryFindings(client, asked.libraries, target)),
      ...(await viewFindings(client, major, asked.uses)),
      ...(await columnOptionFindings(client, major, asked.options)),
      ...defaultFindings(asked.defaults, await defaultsOf(client), major),
      ...(await settingFindings(client, major, asked.assignments)),
    ]
    // Nothing of what was tried stays.
    await client.query('alter system reset all')
    await client.query('alter role current_user reset all')
    return findings
  })
}
