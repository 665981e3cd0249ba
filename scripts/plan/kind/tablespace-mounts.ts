import { dirname } from 'node:path'
import { debianUnit } from '../../cluster/debian.ts'
import { run } from '../../core/exec.ts'
import { exists, readTextIfAny } from '../../core/file.ts'
import type { Host } from '../../host/schema.ts'
import type { Change, Step } from '../change.ts'

/** The drop-in by which systemd mounts the places of tablespaces before it starts the cluster. */
export interface Mounts {
  readonly type: 'mounts'
  /** Empty when there is no such file. */
  readonly content: string
  /** What systemd knows of it; `absent` is a host without systemd. Only of what is there. */
  readonly systemd?: 'loaded' | 'stale' | 'absent'
}

const HEADER = '# Written by howdah from the host file: changes made here are lost.\n[Unit]\n'

/** Where it is. Longer than the name of any tablespace, so the two cannot be taken for each other. */
export function dropInPath({ postgres }: Host): string {
  return `/etc/systemd/system/${debianUnit(postgres)}.d/50-howdah-mounts.conf`
}

/** The drop-in for these locations; undefined where none is needed. Pure. */
export function mountsWanted({ postgres }: Host, locations: readonly string[]): Mounts | undefined {
  if (postgres.kind !== 'debian' || locations.length === 0) return undefined
  return { type: 'mounts', content: HEADER + locations.map(requirement).toSorted().join('') }
}

/** Whether a drop-in asks for the mounts of a location. Pure. */
export function requires({ content }: Mounts, location: string): boolean {
  return content.includes(`\n${requirement(location)}`)
}

/**
 * A line for one location. systemd splits it at spaces, reads quotes and backslashes and replaces
 * `%` (systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers"). Pure.
 */
export function requirement(location: string): string {
  const quoted = location.replaceAll(/["\\]/g, String.raw`\$&`).replaceAll('%', '%%')
  return `RequiresMountsFor="${quoted}"\n`
}

/** What is there; undefined for clusters that systemd does not start. */
export async function mountsThere(host: Host): Promise<Mounts | undefined> {
  if (host.postgres.kind !== 'debian') return undefined
  const content = (await readTextIfAny(dropInPath(host))) ?? ''
  return { type: 'mounts', content, systemd: await systemdState(host, content !== '') }
}

async function systemdState(host: Host, isThere: boolean): Promise<NonNullable<Mounts['systemd']>> {
  if (!(await exists('/run/systemd/system'))) return 'absent'
  if (!isThere) return 'loaded'
  const { stdout } = await run([
    'systemctl',
    'show',
    '--property=NeedDaemonReload',
    '--value',
    debianUnit(host.postgres),
  ])
  return stdout.trim() === 'yes' ? 'stale' : 'loaded'
}

/** Writes the drop-in and tells systemd; undefined when nothing is to be done. Pure. */
export function changeMounts(path: string, wanted: Mounts, actual: Mounts | undefined): Change | undefined {
  if (actual?.systemd === 'absent') return undefined
  const isWritten = actual?.content === wanted.content
  if (isWritten && actual.systemd !== 'stale') return undefined
  const write: Step[] = [
    { run: 'folder', path: dirname(path), mode: 0o755, owner: 'root' },
    { run: 'write', path, content: wanted.content, mode: 0o644, owner: 'root' },
  ]
  return change(path, actual?.content ? 'alter' : 'create', {
    line: isWritten ? 'systemd did not read it yet' : 'systemd mounts the places of tablespaces first',
    steps: [...(isWritten ? [] : write), TELL],
  })
}

/** Takes the drop-in away when no tablespace needs it any more. Pure. */
export function dropMounts(path: string, actual: Mounts): Change | undefined {
  if (actual.content === '' || actual.systemd === 'absent') return undefined
  return change(path, 'drop', {
    line: 'no tablespace needs it',
    steps: [{ run: 'exec', argv: ['rm', '-f', '--', path] }, TELL],
  })
}

const TELL: Step = { run: 'exec', argv: ['systemctl', 'daemon-reload'] }

function change(
  name: string,
  action: Change['action'],
  { line, steps }: { line: string; steps: readonly Step[] },
): Change {
  return { kind: 'tablespace', name, action, line, hazards: [], steps }
}
