import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { debianConfigDir } from '../cluster/debian.ts'
import { run } from '../core/exec.ts'
import { exists, writeFileAtomic } from '../core/file.ts'
import type { Postgres } from '../host/schema.ts'
import { userId } from '../cluster/connect.ts'

/** What a cluster does at boot: the word in its start.conf. */
type Start = 'auto' | 'manual' | 'disabled'

/** Gives a cluster of Debian its port, from its next start on. Nothing to do for a private one. */
export async function setPort(spec: Postgres, port: number): Promise<void> {
  if (spec.kind === 'debian')
    await run(['pg_conftool', String(spec.major), spec.cluster, 'set', 'port', String(port)])
}

/**
 * Says whether a cluster of Debian starts at boot.
 * @param why for whoever looks into start.conf
 */
export async function setStart(spec: Postgres, start: Start, why: string): Promise<void> {
  if (spec.kind !== 'debian') return
  const path = join(debianConfigDir(spec), 'start.conf')
  await writeFileAtomic(path, `# ${why}\n${start}\n`, { mode: 0o644, ...userId('postgres') })
}

/** Lets systemd read start.conf, which its units of clusters are made by; nothing for a private one. */
export async function reloadUnits({ kind }: Postgres): Promise<void> {
  if (kind === 'debian' && (await exists('/run/systemd/system'))) await run(['systemctl', 'daemon-reload'])
}

/** Where the control file of a stopped cluster stands: it moves on with every start. */
export async function checkpointOf({ bindir, dataDir, osUser }: Cluster): Promise<string> {
  const { stdout } = await run([join(bindir, 'pg_controldata'), dataDir], {
    as: osUser,
    env: { LC_ALL: 'C' },
  })
  const value = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(stdout)?.[1] ?? ''
  return `${value('Latest checkpoint location')}, ${value('Database cluster state')}`
}
