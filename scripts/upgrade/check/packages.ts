import { join } from 'node:path'
import type { Client } from 'pg'
import { run } from '../../core/exec.ts'
import { exists } from '../../core/file.ts'
import type { Postgres } from '../../host/schema.ts'
import { bindirOf } from '../make.ts'
import { type Finding, listed } from './finding.ts'

/** Debian's package of an extension, for a major. */
export type PackageOf = (extension: string, major: number) => string

/** What an upgrade runs of the new major. */
const PROGRAMS = ['postgres', 'initdb', 'pg_ctl', 'pg_dump', 'pg_dumpall', 'pg_restore', 'psql', 'pg_upgrade']

/** Whether the programs of the new major are there; without them nothing else of it can be asked. */
export async function programFindings(spec: Postgres): Promise<Finding[]> {
  const bindir = bindirOf(spec)
  const missing: string[] = []
  for (const name of PROGRAMS) if (!(await exists(join(bindir, name)))) missing.push(name)
  if (missing.length === 0) return []
  const found = {
    severity: 'error',
    code: 'programs',
    database: '',
    message: `programs of ${spec.major} are not in "${bindir}": ${listed(missing)}; settings, extensions and views were not looked at`,
  } as const
  if (!bindir.startsWith(`/usr/lib/postgresql/${spec.major}/`))
    return [{ ...found, hint: 'Put them there, or name their folder: --bindir DIR' }]
  const name = `postgresql-${spec.major}`
  if (await isInstallable(name))
    return [{ ...found, hint: `Install them: apt-get install ${name}, or --allow install`, packages: [name] }]
  return [
    {
      ...found,
      hint: `This OS has no package ${name}. The OS is upgraded first (howdah upgrade prepare-os), or apt gets a source that has it.`,
    },
  ]
}

async function isInstallable(name: string): Promise<boolean> {
  if (!(await exists('/usr/bin/apt-cache'))) return false
  const { stdout } = await run(['apt-cache', 'policy', '--', name], { env: { LC_ALL: 'C' } })
  return /^ {2}Candidate: (?!\(none\))/m.test(stdout)
}

/** An extension of a database. */
export interface Extension {
  readonly database: string
  readonly name: string
  readonly version: string
}

/** Asks a database of the old cluster. */
export async function extensionsOf(client: Client, database: string): Promise<Extension[]> {
  const { rows } = await client.query<Omit<Extension, 'database'>>(
    `select extname as name, extversion as version from pg_extension where extname <> 'plpgsql' order by 1`,
  )
  return rows.map((row) => ({ database, ...row }))
}

/** Extensions that the new server does not have, or has no way to from the version that is there. */
export async function extensionFindings(
  server: Client,
  extensions: readonly Extension[],
  { spec, packageOf }: { readonly spec: Postgres; readonly packageOf: PackageOf },
): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const extension of extensions) {
    const { database, name, version } = extension
    const { rows } = await server.query<{ newest: string; reaches: boolean }>(REACHES, [name, version])
    if (rows.length === 0) findings.push(await missing(extension, spec, packageOf))
    else if (!rows[0]!.reaches) {
      findings.push({
        severity: 'warning',
        code: 'extension-version',
        database,
        message: `extension ${name} is ${version}, and ${spec.major} knows no way from there to its ${rows[0]!.newest}`,
        hint: `Update it before: alter extension "${name}" update; or to a version that both know.`,
      })
    }
  }
  return findings
}

const REACHES = `
  select default_version as newest, default_version = $2 or exists (
    select from pg_extension_update_paths(name) where source = $2 and target = default_version and path is not null) as reaches
  from pg_available_extensions where name = $1`

/** What PostgreSQL brings itself is there, or there is no such thing any more. */
const OWN_PACKAGE = 'postgresql-contrib'

async function missing(
  { database, name }: Extension,
  { major }: Postgres,
  packageOf: PackageOf,
): Promise<Finding> {
  const found = {
    severity: 'error',
    code: 'extension',
    database,
    message: `${major} has no extension ${name}`,
  } as const
  const debian = packageOf(name, major!)
  if (debian === OWN_PACKAGE) {
    return {
      ...found,
      hint: `PostgreSQL ${major} does not bring it any more: drop extension "${name}", if nothing needs it`,
    }
  }
  if (!(await isInstallable(debian))) {
    return {
      ...found,
      hint: `It would be in a package such as ${debian}, which apt does not know: add its source, or drop extension "${name}"`,
    }
  }
  return { ...found, hint: `Install it: apt-get install ${debian}, or --allow install`, packages: [debian] }
}

/** Libraries that the old server loads by its settings and that the new one does not have. */
export async function libraryFindings(
  server: Client,
  libraries: readonly string[],
  { spec, packageOf }: { readonly spec: Postgres; readonly packageOf: PackageOf },
): Promise<Finding[]> {
  const { rows } = await server.query<{ folder: string }>(
    `select setting as folder from pg_config where name = 'PKGLIBDIR'`,
  )
  const findings: Finding[] = []
  for (const library of new Set(libraries)) {
    const path = library.replace('$libdir', rows[0]!.folder)
    const file = (path.includes('/') ? path : join(rows[0]!.folder, path)).replace(/(\.so)?$/, '.so')
    if (await exists(file)) continue
    const debian = packageOf(library, spec.major!)
    const isKnown = debian !== OWN_PACKAGE && (await isInstallable(debian))
    findings.push({
      severity: 'error',
      code: 'library',
      database: '',
      message: `the server loads ${library}, and ${spec.major} has no "${file}": it would not start`,
      hint: isKnown
        ? `Install it: apt-get install ${debian}, or --allow install`
        : 'Install it for the new major, or take it out of shared_preload_libraries.',
      ...(isKnown && { packages: [debian] }),
    })
  }
  return findings
}

/** What `--allow install` is to install: the packages that findings name. Pure. */
export function packagesIn(findings: readonly Finding[]): string[] {
  return [...new Set(findings.flatMap(({ packages = [] }) => packages))]
}
