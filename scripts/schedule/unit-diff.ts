import { dirname } from 'node:path'
import { Fail } from '../core/fail.ts'
import { TMPFILES_FOLDER, tmpfilesOwner } from './tmpfiles.ts'
import { type FoundUnit, UNIT_FOLDER, type UnitState } from './systemd.ts'
import { parseMark, type UnitFile } from './unit.ts'

/** What `--allow` takes here, and what it costs. */
export const EDITED = 'replaces-edited-unit'

/** What happens to one file. */
export interface FileChange {
  readonly action: 'create' | 'change' | 'remove'
  readonly name: string
  readonly path: string
  /** Undefined: there is none, or there will be none. */
  readonly before: string | undefined
  readonly after: string | undefined
  /** Somebody has changed by hand what is there. */
  readonly isEdited: boolean
}

/**
 * What has to happen to the files of units so that they are those that one host file wants. What others
 * made is left alone. Pure.
 * @param hostFile absolute
 * @throws {Fail} `plan-impossible` when a file of a wanted name is somebody else's
 */
export function diffUnits(
  wanted: readonly UnitFile[],
  found: readonly FoundUnit[],
  hostFile: string,
): FileChange[] {
  for (const unit of found) {
    if (wanted.some(({ name }) => name === unit.name)) assertOurs(unit, hostFile)
  }
  const there = new Map(found.filter((unit) => ownerOf(unit) === hostFile).map((unit) => [unit.name, unit]))
  const changes = wanted.flatMap(({ name, content }): FileChange[] => {
    const before = there.get(name)
    if (before?.content === content) return []
    const action = before ? 'change' : 'create'
    return [
      {
        action,
        name,
        path: pathOf(name),
        before: before?.content,
        after: content,
        isEdited: isEdited(before),
      },
    ]
  })
  const stale = [...there.values()].filter(({ name }) => wanted.every((unit) => unit.name !== name))
  return [
    ...changes,
    ...stale.map(({ name, content, path }) => ({
      action: 'remove' as const,
      name,
      path,
      before: content,
      after: undefined,
      isEdited: false, // what is removed is wanted no more, whoever edited it
    })),
  ]
}

/** The host file that a file was made for; undefined when we did not make it. */
export function ownerOf({ path, content }: Pick<FoundUnit, 'path' | 'content'>): string | undefined {
  switch (dirname(path)) {
    case UNIT_FOLDER:
      return parseMark(content)?.hostFile
    case TMPFILES_FOLDER:
      return tmpfilesOwner(content)
    default:
      return undefined
  }
}

/** Where a file of ours stands. Pure. */
export function pathOf(name: string): string {
  return `${name.endsWith('.conf') ? TMPFILES_FOLDER : UNIT_FOLDER}/${name}`
}

function isEdited(unit: FoundUnit | undefined): boolean {
  return unit !== undefined && parseMark(unit.content)?.isEdited === true
}

function assertOurs(unit: FoundUnit, hostFile: string): void {
  if (unit.isMasked) {
    throw new Fail('plan-impossible', `the unit "${unit.name}" is masked, and is to be installed`, {
      hint: `Look at who did so and why; then: systemctl unmask ${unit.name}`,
    })
  }
  const owner = ownerOf(unit)
  if (owner === hostFile) return
  const whose = owner === undefined ? 'it is not of this program' : `it belongs to the host file "${owner}"`
  throw new Fail('plan-impossible', `cannot install "${unit.name}": "${unit.path}" is there, and ${whose}`, {
    hint: 'Give the units of this host file another name: [schedule] unit_prefix = "..."',
  })
}

/** What is to be done besides writing files. */
export interface UnitActions {
  /** Timers that end before their files change. */
  readonly stop: readonly string[]
  /** Units that systemd is to start at boot. */
  readonly enable: readonly string[]
  /** Timers to be started now, without making up for anything. */
  readonly start: readonly string[]
  /** Services that always run, to be started with what is new. */
  readonly restart: readonly string[]
  /** systemd has not read the files as they are. */
  readonly reload: boolean
}

/** What {@link actionsFor} looks at. */
export interface UnitScene {
  readonly wanted: readonly UnitFile[]
  readonly changes: readonly FileChange[]
  readonly states: ReadonlyMap<string, UnitState>
  /** Timers of jobs that are paused. */
  readonly paused: ReadonlySet<string>
  /** Services that always run. */
  readonly services: readonly string[]
  /** When what a service runs, or its unit, was changed last; Infinity when that is to come. */
  readonly changedAt: (service: string) => number
}

/** What has to happen to timers and services, beside their files. Pure. */
export function actionsFor(scene: UnitScene): UnitActions {
  const { wanted, changes, states, paused, services } = scene
  const changed = new Set(changes.map(({ name }) => name))
  const stale = changes.filter(({ action }) => action === 'remove').map(({ name }) => name)
  const timers = wanted.map(({ name }) => name).filter((name) => name.endsWith('.timer') && !paused.has(name))
  const start = timers.filter((name) => changed.has(name) || !states.get(name)?.isActive)
  const restart = services.filter((name) => {
    const state = states.get(name)
    if (changed.has(name) || !state?.isActive) return true
    // systemd tells in whole seconds; one that is still starting takes what is there.
    const since = state.activeSince?.getTime() ?? Infinity
    return Math.floor(scene.changedAt(name) / 1000) > Math.floor(since / 1000)
  })
  return {
    stop: [
      ...start.filter((name) => states.get(name)?.isActive),
      ...stale.filter((name) => states.get(name)?.isActive),
    ],
    enable: [...timers, ...services].filter((name) => changed.has(name) || !states.get(name)?.isEnabled),
    start,
    restart,
    reload:
      changes.some(({ path }) => dirname(path) === UNIT_FOLDER) ||
      [...states.values()].some(({ needsReload }) => needsReload),
  }
}

/** Whether everything is as it should be. Pure. */
export function isQuiet({ stop, enable, start, restart, reload }: UnitActions): boolean {
  return !reload && [stop, enable, start, restart].every(({ length }) => length === 0)
}
