import { ident, literal } from '../cluster/sql.ts'
import type { ManifestDatabase } from './manifest.ts'
import type { DatabaseProperties, Privilege } from './survey.ts'

/**
 * Settings that hold lists, which the server stores as one text and quotes element by element when
 * it is given several: GUC_LIST_QUOTE of src/backend/utils/misc/guc_tables.c.
 */
const LISTS = new Set([
  'local_preload_libraries',
  'search_path',
  'session_preload_libraries',
  'temp_tablespaces',
])

/** `create database` under another name, as the one that was dumped was made. Pure. */
export function createStatement(name: string, database: ManifestDatabase, major: number): string {
  const options = [
    'template template0',
    `owner ${ident(database.owner)}`,
    `encoding ${literal(database.encoding)}`,
    `lc_collate ${literal(database.collate)}`,
    `lc_ctype ${literal(database.ctype)}`,
    ...providerOptions(database, major),
    `tablespace ${ident(database.tablespace)}`,
  ]
  return `create database ${ident(name)} with ${options.join(' ')}`
}

// Clauses of CREATE DATABASE by major: providers came in 15, ICU rules in 16, the builtin one in 17.
function providerOptions({ localeProvider, locale, icuRules }: ManifestDatabase, major: number): string[] {
  if (major < 15) return []
  const options = [`locale_provider ${localeProvider}`]
  if (localeProvider === 'icu' && locale !== null) options.push(`icu_locale ${literal(locale)}`)
  if (localeProvider === 'builtin' && locale !== null) options.push(`builtin_locale ${literal(locale)}`)
  if (icuRules !== null) options.push(`icu_rules ${literal(icuRules)}`)
  return options
}

/** Statements that give a database its properties back, for one transaction, in order. Pure. */
export function propertyStatements(name: string, owner: string, properties: DatabaseProperties): string[] {
  const database = ident(name)
  const statements = [
    ...privilegeStatements(database, owner, properties.privileges),
    ...properties.settings.flatMap(({ role, entries }) =>
      entries.flatMap((entry) => settingStatements(database, role, entry)),
    ),
  ]
  if (properties.comment !== null)
    statements.push(`comment on database ${database} is ${literal(properties.comment)}`)
  if (properties.connectionLimit !== -1) {
    statements.push(`alter database ${database} connection limit ${properties.connectionLimit}`)
  }
  if (properties.isTemplate) statements.push(`alter database ${database} is_template true`)
  return statements
}

function privilegeStatements(
  database: string,
  owner: string,
  privileges: readonly Privilege[] | null,
): string[] {
  if (privileges === null) return []
  const clean = [
    `revoke all on database ${database} from public`,
    `revoke all on database ${database} from ${ident(owner)}`,
  ]
  // What somebody else granted comes after what entitled them to.
  const ordered = privileges.toSorted((a, b) => Number(a.grantor !== owner) - Number(b.grantor !== owner))
  return [...clean, ...ordered.flatMap((privilege) => grantStatements(database, owner, privilege))]
}

function grantStatements(
  database: string,
  owner: string,
  { grantee, grantor, privilege, grantable }: Privilege,
): string[] {
  const to = grantee === null ? 'public' : ident(grantee)
  // A superuser's grant counts as the owner's, so that of anybody else must be made as that role.
  const grant = `grant ${privilege} on database ${database} to ${to}${grantable ? ' with grant option' : ''}`
  return grantor === owner ? [grant] : [`set local role ${ident(grantor)}`, grant, 'reset role']
}

function settingStatements(database: string, role: string | null, entry: string): string[] {
  const cut = entry.indexOf('=')
  const name = entry.slice(0, cut)
  const value = entry.slice(cut + 1)
  const path = name.split('.').map(ident).join('.')
  const where =
    role === null ? `alter database ${database}` : `alter role ${ident(role)} in database ${database}`
  if (!LISTS.has(name)) return [`${where} set ${path} to ${literal(value)}`]
  // The server takes its own list apart better than anybody else.
  return [`select set_config(${literal(name)}, ${literal(value)}, true)`, `${where} set ${path} from current`]
}
