import { ident, literal, show } from '../cluster/sql.ts'
import type { SettingValue } from '../host/schema.ts'

/**
 * Settings whose list elements the server quotes as identifiers: GUC_LIST_QUOTE of
 * src/backend/utils/misc/guc_tables.c, the same list as pg_dump's. Extensions may not add to it.
 */
const QUOTED_LISTS = new Set([
  'local_preload_libraries',
  'search_path',
  'session_preload_libraries',
  'shared_preload_libraries',
  'temp_tablespaces',
  'unix_socket_directories',
])

/** Of those, the ones that hold SQL names: without quotes the server folds them to lower case. */
const FOLDED_LISTS = new Set(['search_path', 'temp_tablespaces'])

/**
 * What stands behind `set` in `alter role .. set` and `alter database .. set`:
 * `"search_path" to 'app', 'public'`. A list is quoted element by element; `'app, public'` as one
 * text would be stored as a single schema of that name, so the text of a list setting is split first
 * as postgresql.conf would split it.
 */
export function settingAssignment(name: string, value: SettingValue): string {
  const path = name.split('.').map(ident).join('.')
  const elements = elementsOf(name, value)
  return `${path} to ${(elements.length === 0 ? [''] : elements).map(literal).join(', ')}`
}

/** `reset ..` or `set ..` for the statements above, and a line for people. */
export interface SettingChange {
  readonly clause: string
  readonly line: string
}

/** Settings of a role or a database, by name in lower case, in the form that {@link canonicalSetting} gives. */
export type StoredSettings = ReadonlyMap<string, string>

/** What brings stored settings to the wanted ones, by name; with `exact` those not wanted are reset. */
export function settingChanges(
  wanted: StoredSettings,
  stored: StoredSettings,
  exact: boolean,
): SettingChange[] {
  const changes: SettingChange[] = []
  for (const [name, value] of wanted) {
    const before = stored.get(name)
    if (before === value) continue
    const line = before === undefined ? `set ${name} = ${value}` : `set ${name} = ${before} -> ${value}`
    changes.push({ clause: `set ${settingAssignment(name, settingFromText(name, value))}`, line })
  }
  for (const name of exact ? stored.keys() : []) {
    if (wanted.has(name)) continue
    changes.push({ clause: `reset ${name.split('.').map(ident).join('.')}`, line: `reset ${name}` })
  }
  return changes
}

/** Wanted settings of a host file, ready to be compared. */
export function wantedSettings(settings: Readonly<Record<string, SettingValue>>): Map<string, string> {
  const entries = Object.entries(settings).map(
    ([name, value]) => [name.toLowerCase(), canonicalSetting(name, value)] as const,
  )
  return new Map(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** The entries `name=value` of pg_db_role_setting.setconfig, ready to be compared. */
export function storedSettings(entries: readonly string[] | null): Map<string, string> {
  return wantedSettings(
    Object.fromEntries(
      (entries ?? []).map((entry) => {
        const cut = entry.indexOf('=')
        return [entry.slice(0, cut), entry.slice(cut + 1)]
      }),
    ),
  )
}

/** The host file's words for stored settings: lists as lists. */
export function exportedSettings(stored: StoredSettings): Record<string, SettingValue> {
  return Object.fromEntries([...stored].map(([name, value]) => [name, settingFromText(name, value)]))
}

/** One text for equal values, however they were written: `a, "B"`. */
export function canonicalSetting(name: string, value: SettingValue): string {
  const elements = elementsOf(name, value)
  if (!QUOTED_LISTS.has(name.toLowerCase())) return elements.join(', ')
  return (elements.length === 0 ? [''] : elements).map(show).join(', ')
}

function settingFromText(name: string, text: string): SettingValue {
  return QUOTED_LISTS.has(name) ? elementsOf(name, text) : text
}

function elementsOf(name: string, value: SettingValue): readonly string[] {
  if (typeof value !== 'string') return value
  const key = name.toLowerCase()
  if (!QUOTED_LISTS.has(key)) return [value]
  return splitList(value, FOLDED_LISTS.has(key)) ?? [value]
}

/** Elements of `a, "B c"`, as SplitIdentifierString (varlena.c) reads them; undefined when it would refuse. */
function splitList(text: string, folds: boolean): string[] | undefined {
  if (text.trim() === '') return []
  const elements: string[] = []
  const element = /\s*(?:"((?:[^"]|"")*)"|([^",]+))\s*(,|$)/y
  while (element.lastIndex < text.length) {
    const match = element.exec(text)
    if (match === null) return undefined
    const bare = match[2]?.trim() ?? ''
    elements.push(match[1]?.replaceAll('""', '"') ?? (folds ? bare.replace(/[A-Z]+/g, lower) : bare))
    if (match[3] === '') return elements
  }
  return undefined
}

function lower(text: string): string {
  return text.toLowerCase()
}
