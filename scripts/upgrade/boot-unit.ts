import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { run } from '../core/exec.ts'
import { exists, writeFileAtomic } from '../core/file.ts'
import type { Host } from '../host/schema.ts'

/**
 * A unit of systemd that, should the machine go down while nobody can connect, finishes or undoes the upgrade when it
 * is up again: until then neither cluster might serve. It stands from before the doors close until they are open.
 * @param file absolute path of the host file
 * @param overrides the `a.b=value` arguments that were put over it
 */
export async function installBootUnit(host: Host, file: string, overrides: readonly string[]): Promise<void> {
  if (!(await isWanted(host))) return
  await writeFileAtomic(pathOf(host), bootUnitText(file, overrides), { mode: 0o644 })
  await run(['systemctl', 'daemon-reload'])
  await run(['systemctl', '--quiet', 'enable', unitOf(host)])
}

/** Removes it; nothing happens where there is none. */
export async function removeBootUnit(host: Host): Promise<void> {
  if (!(await isWanted(host)) || !(await exists(pathOf(host)))) return
  await run(['systemctl', '--quiet', 'disable', unitOf(host)])
  await rm(pathOf(host), { force: true })
  await run(['systemctl', 'daemon-reload'])
}

async function isWanted({ postgres }: Host): Promise<boolean> {
  return postgres.kind === 'debian' && process.getuid?.() === 0 && exists('/run/systemd/system')
}

function unitOf({ schedule, postgres }: Host): string {
  return `${schedule.unit_prefix}-upgrade-${postgres.cluster}.service`
}

function pathOf(host: Host): string {
  return join('/etc/systemd/system', unitOf(host))
}

const LAUNCHER = join(import.meta.dirname, '../howdah')

/** The text of that unit, which comes after the clusters that start at boot: those that can do so are up by then. Pure. */
export function bootUnitText(file: string, overrides: readonly string[]): string {
  const argv = [LAUNCHER, 'upgrade', 'resume', '-c', file, ...overrides]
  return `# Written by howdah upgrade run, which removes it.
[Unit]
Description=Howdah: finishes or undoes an upgrade that was cut off
After=local-fs.target postgresql.service
RequiresMountsFor=${quoted(LAUNCHER)} ${quoted(file)}

[Service]
Type=oneshot
ExecStart=${argv.map((word) => quoted(word)).join(' ')}
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
`
}

/** A word of a unit file: systemd.syntax(7), with "%" for itself. */
function quoted(text: string): string {
  const escaped = text.replaceAll('\\', String.raw`\\`).replaceAll('"', String.raw`\"`)
  return `"${escaped.replaceAll('%', '%%').replaceAll('$', '$$$$')}"`
}
