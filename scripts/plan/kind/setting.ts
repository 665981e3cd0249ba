import { join } from 'node:path'
import { type ConfLine, renderConf } from '../../host/conf.ts'
import type { Host } from '../../host/schema.ts'
import { canonicalSetting } from '../assignment.ts'
import type { Change, Step } from '../change.ts'
import { canonicalValue } from '../guc.ts'
import type { Facts, Kind } from '../kind.ts'
import { tune } from '../tune.ts'
import { settingFindings } from './setting-findings.ts'
import { laterValue, observeSettings, type SettingsSeen } from './setting-seen.ts'

/** The settings of one file of ours, by name, and with `seen` what the server makes of them. */
export interface SettingFile {
  readonly values: readonly ConfLine[]
  readonly seen?: SettingsSeen
}

// Read late among the files of its folder (the server takes them in C order), and by no one else.
const FILE = 'conf.d/90-howdah.conf'
const HEADER = 'Written by howdah from the host file: changes made here are lost.'

/**
 * Settings of the server, all in one file of ours: one change, with a line for each setting in it.
 * Computed ones come first, those of the host file have the last word. Nothing is touched when the
 * host file has neither `[settings]` nor `[postgres.tune]`.
 */
export const setting: Kind<SettingFile> = {
  name: 'setting',

  wanted(host, facts) {
    if (host.settings === undefined && host.postgres.tune === undefined) return new Map()
    return new Map([[FILE, { values: wantedLines(host, facts) }]])
  },

  async actual(observe) {
    const wanted = this.wanted(observe.host, observe.facts).get(FILE)
    const seen = await observeSettings(observe, FILE, wanted?.values.map(({ name }) => name) ?? [])
    if (!seen || (!wanted && !seen.isThere)) return new Map()
    return new Map([[FILE, { values: seen.lines.map(canonicalLine), seen }]])
  },

  change(name, wanted, actual, { facts }) {
    if (facts.configDir === '') return undefined
    if (!actual?.seen) return createdWithCluster(name, wanted, facts)
    return changeFile(name, wanted, { values: actual.values, seen: actual.seen }, facts)
  },

  findings(name, wanted, actual, context) {
    return settingFindings(name, wanted.values, actual?.seen, context)
  },

  exported(actual) {
    const values = actual.get(FILE)?.values ?? []
    if (values.length === 0) return {}
    return { settings: Object.fromEntries(values.map(({ name, value }) => [name, value])) }
  },
}

function wantedLines(host: Host, facts: Facts): ConfLine[] {
  const values = new Map(Object.entries(tune(host.postgres, facts)))
  for (const [name, value] of Object.entries(host.settings ?? {})) {
    values.set(name.toLowerCase(), canonicalSetting(name, value))
  }
  return [...values].map(([name, value]) => canonicalLine({ name, value })).sort(byName)
}

// An empty list is an empty text in a file: two double quotes would be a list with an empty element.
function canonicalLine({ name, value }: ConfLine): ConfLine {
  const text = canonicalSetting(name, value)
  return { name, value: text === '""' ? '' : text }
}

function byName(a: ConfLine, b: ConfLine): number {
  return a.name < b.name ? -1 : 1
}

// Whoever made the cluster a moment ago agrees to its restart, so that is no hazard then.
function createdWithCluster(name: string, wanted: SettingFile, facts: Facts): Change | undefined {
  if (wanted.values.length === 0) return undefined
  const lines = wanted.values.map(({ name, value }) => `${name} = ${value}`)
  const steps: Step[] = [...fileSteps(wanted, facts), { run: 'restart' }]
  return { kind: 'setting', name, action: 'create', line: listed(lines), hazards: [], steps }
}

function changeFile(
  name: string,
  wanted: SettingFile,
  actual: Required<SettingFile>,
  facts: Facts,
): Change | undefined {
  const { seen } = actual
  const writes = writeReasons(wanted, actual)
  const needsWrite = writes.length > 0
  const restarts = restartReasons(wanted, actual, needsWrite)
  if (!needsWrite && seen.isLoaded && restarts.length === 0) return undefined
  const lines = [
    ...writes,
    ...(needsWrite || seen.isLoaded ? [] : ['on disk, but the server did not read it yet']),
    ...(restarts.length > 0 ? [`restart for ${restarts.join(', ')}`] : []),
  ]
  return {
    kind: 'setting',
    name,
    action: seen.isThere ? 'alter' : 'create',
    line: listed(lines),
    hazards: restarts.length > 0 ? ['restarts-server'] : [],
    steps: [
      ...(needsWrite ? fileSteps(wanted, facts, seen) : []),
      { run: restarts.length > 0 ? 'restart' : 'reload' },
    ],
  }
}

/** A line for each reason to write our file. */
function writeReasons(wanted: SettingFile, actual: Required<SettingFile>): string[] {
  const { seen } = actual
  const reasons = [
    ...differencesOf(wanted, actual),
    ...(needsInclude(wanted, seen) ? ["postgresql.conf: include_dir = 'conf.d'"] : []),
  ]
  if (reasons.length > 0 || !seen.isThere || seen.isClean) return reasons
  return ['written anew: it holds lines that are not ours']
}

// Without a setting in it nobody needs to read our file.
function needsInclude(wanted: SettingFile, seen: SettingsSeen): boolean {
  return seen.main !== undefined && wanted.values.length > 0
}

// The folder and the include come first: by themselves they change nothing, and the server judges
// the values when it can already see them.
function fileSteps(wanted: SettingFile, facts: Facts, seen?: SettingsSeen): Step[] {
  const isDebian = facts.configDir !== facts.dataDir
  const folder = join(facts.configDir, 'conf.d')
  return [
    ...(seen?.hasFolder
      ? []
      : [{ run: 'folder', path: folder, mode: isDebian ? 0o755 : 0o700, owner: facts.osUser } as const]),
    ...(seen?.main && needsInclude(wanted, seen)
      ? [{ run: 'write', check: 'settings', ...seen.main } as const]
      : []),
    {
      run: 'write',
      path: join(facts.configDir, FILE),
      content: renderConf(HEADER, wanted.values),
      mode: isDebian ? 0o644 : 0o600,
      owner: facts.osUser,
      check: 'settings',
    },
  ]
}

/** A line for each setting whose value in the file is not the wanted one, however it is spelled. */
function differencesOf(wanted: SettingFile, { values, seen }: Required<SettingFile>): string[] {
  const before = new Map(values.map(({ name, value }) => [name, value]))
  const after = new Map(wanted.values.map(({ name, value }) => [name, value]))
  const shown = (name: string) => before.get(name) ?? seen.gucs.get(name)?.shown
  const changed = wanted.values.filter(({ name, value }) => !isSame(seen, name, before.get(name), value))
  const removed = values.filter(({ name }) => !after.has(name))
  return [
    ...changed.map(({ name, value }) =>
      shown(name) === undefined
        ? `${name} = ${text(value)}`
        : `${name} ${text(shown(name)!)} -> ${text(value)}`,
    ),
    ...removed.map(({ name, value }) => `${name} ${text(value)} -> what it is without this file`),
  ]
}

function text(value: string): string {
  return value === '' ? "''" : value
}

function isSame(seen: SettingsSeen, name: string, a: string | undefined, b: string): boolean {
  if (a === undefined || a === b) return a === b
  const guc = seen.gucs.get(name)
  if (!guc) return false
  const value = canonicalValue(guc, a)
  return value !== undefined && value === canonicalValue(guc, b)
}

/**
 * Settings that only a restart brings to what they should be: those that the file is about to
 * change, and those that the server itself says are waiting for one.
 */
function restartReasons(wanted: SettingFile, actual: Required<SettingFile>, needsWrite: boolean): string[] {
  const { seen } = actual
  const after = new Map(wanted.values.map(({ name, value }) => [name, value]))
  const runsWith = (name: string, value: string) => isSame(seen, name, seen.gucs.get(name)?.setting, value)
  const isFixed = (name: string) => seen.gucs.get(name)?.context === 'postmaster'
  const changed = wanted.values.filter(
    ({ name, value }) =>
      needsWrite && isFixed(name) && !runsWith(name, value) && laterValue(seen, name, value) === undefined,
  )
  const removed = actual.values.filter(({ name }) => {
    if (after.has(name) || !isFixed(name) || !seen.gucs.get(name)!.isOurs) return false
    const other = seen.elsewhere.findLast((line) => line.name === name)
    return other === undefined || !runsWith(name, other.value)
  })
  const pending = seen.pending.filter((name) => !(after.has(name) && runsWith(name, after.get(name)!)))
  return [...new Set([...changed.map(nameOf), ...removed.map(nameOf), ...pending])]
}

function nameOf({ name }: ConfLine): string {
  return name
}

function listed(lines: readonly string[]): string {
  return lines.length === 1 ? lines[0]! : `${lines.length} lines\n    ${lines.join('\n    ')}`
}
