import { access, constants, lstat, readdir, readFile, realpath, rm, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, isMissing, reasonOf } from '../core/file.ts'

/** Where an administrator's units are. */
export const UNIT_FOLDER = '/etc/systemd/system'

/** Where else a unit of some name may be (systemd.unit(5)); the first one wins. */
const UNIT_FOLDERS = [
  UNIT_FOLDER,
  '/run/systemd/system',
  '/usr/local/lib/systemd/system',
  '/usr/lib/systemd/system',
  '/lib/systemd/system',
] as const

/** Where systemd remembers when a Persistent= timer ran last (systemd.timer(5)). */
const STAMP_FOLDER = '/var/lib/systemd/timers'

/** What Debian 12 has: for units that are looked at where there is no systemd. */
const USUAL_VERSION = 252

/** A unit file that is there. */
export interface FoundUnit {
  readonly name: string
  readonly path: string
  readonly content: string
  /** A link to /dev/null: `systemctl mask` makes it. */
  readonly isMasked: boolean
  readonly changedAt: Date
}

/** What systemd says of a unit. */
export interface UnitState {
  readonly isActive: boolean
  readonly isEnabled: boolean
  /** Its file was changed since systemd has read it. */
  readonly needsReload: boolean
  /** When it became active last. */
  readonly activeSince: Date | undefined
  /** Timers: when it elapses next. */
  readonly next: Date | undefined
  /** Timers: when it elapsed last. */
  readonly lastTrigger: Date | undefined
  /** `success`, `exit-code`, `timeout` and so on (systemd.exec(5), SERVICE_RESULT). */
  readonly result: string
  /** `active`, `activating`, `failed` and so on. */
  readonly activeState: string
  /** Finer, by the type of unit: `running`, `auto-restart` and so on. */
  readonly subState: string
  /** Since when it is not active; undefined when it never was since the boot. */
  readonly inactiveSince: Date | undefined
  /** Services: how often systemd has started it again since somebody started it. */
  readonly restarts: number
  /** There is a file for it, enabled or not. */
  readonly isInstalled: boolean
}

/** Whether systemd is what started this host. sd_booted(3) says where to look. */
export function isBooted(): Promise<boolean> {
  return exists('/run/systemd/system')
}

/** The version of systemd that is there; what Debian 12 has where there is none. */
export async function systemdVersion(): Promise<number> {
  const text = await run(['systemctl', '--version'])
    .then(({ stdout }) => stdout)
    .catch(() => '')
  return Number(/^systemd (\d+)/.exec(text)?.[1] ?? USUAL_VERSION)
}

/**
 * Asserts that units can be installed here: root, a systemd that runs, and an /etc that can be written to.
 * @throws {Fail} `not-permitted`, `file-unreadable`
 */
export async function assertCanInstall(isRoot: boolean): Promise<void> {
  if (!isRoot) {
    throw new Fail('not-permitted', 'cannot change units of systemd: this is not root', {
      hint: 'Run the same command as root.',
    })
  }
  if (!(await isBooted())) {
    throw new Fail('not-permitted', 'cannot change units of systemd: systemd does not run here', {
      hint: 'Without it the jobs run as long as this does: howdah schedule run',
    })
  }
  for (const folder of [UNIT_FOLDER, '/etc/tmpfiles.d']) {
    await access(folder, constants.W_OK).catch((cause: unknown) => {
      if (isMissing(cause)) return
      throw new Fail('file-unreadable', `cannot write units to "${folder}": ${reasonOf(cause)}`, {
        hint: 'Where /etc is made from an image, put them into it: howdah schedule render --out DIR',
        cause,
      })
    })
  }
}

/** Every unit file of one of these names, wherever systemd looks, and every one in /etc that starts with the prefix. */
export async function findUnits(names: readonly string[]): Promise<FoundUnit[]> {
  const found: FoundUnit[] = []
  const seen = new Set<string>()
  for (const folder of UNIT_FOLDERS) {
    const real = await realpath(folder).catch(() => folder)
    if (seen.has(real)) continue // /lib is a link to /usr/lib
    seen.add(real)
    const there = await readdir(folder).catch((error: unknown) => {
      if (isMissing(error)) return []
      throw new Fail('file-unreadable', `cannot read the folder "${folder}": ${reasonOf(error)}`)
    })
    const wanted = there.filter((name) => names.includes(name) || (folder === UNIT_FOLDER && isUnit(name)))
    for (const name of wanted) found.push(...(await readUnit(join(folder, name), name)))
  }
  return found
}

function isUnit(name: string): boolean {
  return /\.(service|timer)$/.test(name)
}

async function readUnit(path: string, name: string): Promise<FoundUnit[]> {
  const { mtime } = await lstat(path)
  const target = await realpath(path).catch(() => undefined)
  if (target === undefined) return [{ name, path, content: '', isMasked: false, changedAt: mtime }]
  if (target === '/dev/null') return [{ name, path, content: '', isMasked: true, changedAt: mtime }]
  const content = await readFile(path, 'utf8').catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code === 'EISDIR') return undefined
    throw new Fail('file-unreadable', `cannot read "${path}": ${reasonOf(cause)}`, { cause })
  })
  return content === undefined ? [] : [{ name, path, content, isMasked: false, changedAt: mtime }]
}

const PROPERTIES = [
  'Id',
  'ActiveState',
  'UnitFileState',
  'NeedDaemonReload',
  'ActiveEnterTimestamp',
  'NextElapseUSecRealtime',
  'LastTriggerUSec',
  'Result',
  'SubState',
  'InactiveEnterTimestamp',
  'NRestarts',
] as const

/**
 * What systemd says of units, by their names; nothing is known of a unit that is not there.
 * @throws {Fail} `command-failed`
 */
export async function unitStates(names: readonly string[]): Promise<Map<string, UnitState>> {
  if (names.length === 0) return new Map()
  // Times are printed for the zone of whoever asks.
  const { stdout } = await run(['systemctl', 'show', `--property=${PROPERTIES.join(',')}`, '--', ...names], {
    env: { TZ: 'UTC', LC_ALL: 'C.UTF-8' },
  })
  return parseStates(stdout)
}

/** What `systemctl show` prints of units, in UTC. Pure. */
export function parseStates(text: string): Map<string, UnitState> {
  const states = new Map<string, UnitState>()
  for (const block of text.split('\n\n')) {
    const values = new Map(
      block
        .split('\n')
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)] as const),
    )
    const name = values.get('Id')
    if (name === undefined) continue
    const activeState = values.get('ActiveState') ?? ''
    states.set(name, {
      isActive: ['active', 'activating', 'reloading'].includes(activeState),
      isEnabled: values.get('UnitFileState') === 'enabled',
      needsReload: values.get('NeedDaemonReload') === 'yes',
      activeSince: timeOf(values.get('ActiveEnterTimestamp')),
      next: timeOf(values.get('NextElapseUSecRealtime')),
      lastTrigger: timeOf(values.get('LastTriggerUSec')),
      result: values.get('Result') ?? '',
      activeState,
      subState: values.get('SubState') ?? '',
      inactiveSince: timeOf(values.get('InactiveEnterTimestamp')),
      restarts: Number(values.get('NRestarts') ?? 0),
      isInstalled: (values.get('UnitFileState') ?? '') !== '',
    })
  }
  return states
}

/** `Mon 2026-11-23 02:00:00 UTC`; older ones say `n/a` where there is none. */
function timeOf(text: string | undefined): Date | undefined {
  const found = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.\d+)? UTC$/.exec(text ?? '')
  return found ? new Date(`${found[1]}T${found[2]}Z`) : undefined
}

/**
 * Runs systemctl.
 * @throws {Fail} `command-failed`
 */
export async function systemctl(args: readonly string[], evenInterrupted = false): Promise<void> {
  // A job that is stopped may take its time: TimeoutStopSec= is the limit.
  await run(['systemctl', '--quiet', ...args], { evenInterrupted, timeoutSeconds: 1200 })
}

/**
 * Makes systemd forget what a timer missed until now: one that is changed, or was stopped for some time,
 * would otherwise run at once when it starts, for its Persistent= compares with when it ran last.
 */
export async function forgetMissed(timer: string): Promise<void> {
  const now = new Date()
  await utimes(stampPath(timer), now, now).catch((error: unknown) => {
    if (!isMissing(error)) throw error // systemd makes one when it starts the timer
  })
}

/** Removes what systemd remembers of a timer that is gone. */
export async function removeStamp(timer: string): Promise<void> {
  await rm(stampPath(timer), { force: true })
}

function stampPath(timer: string): string {
  return join(STAMP_FOLDER, `stamp-${timer}`)
}
