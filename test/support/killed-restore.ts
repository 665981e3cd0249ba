import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'vitest'
import type { RecoverPhase } from '../../scripts/backup/recover/run.ts'
import { ROOT } from './script.ts'

/** What a restore of a cluster has just done, or is doing. */
export type RestoreMoment = RecoverPhase | 'copying' | 'recovering'

/**
 * A restore of a cluster to its newest WAL that is killed with SIGKILL at a moment.
 * @param to folder of a copy; without it in the cluster's own place
 */
export async function killRestoreAt(file: string, moment: RestoreMoment, to?: string): Promise<void> {
  const child = startRestore(file, to, { moment, signal: 'SIGKILL' })
  const [, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  expect(signal).toBe('SIGKILL')
}

/** The same one; it sends itself some other signal, such as SIGSTOP. */
export function startRestore(
  file: string,
  to: string | undefined,
  { moment, signal }: { readonly moment: RestoreMoment; readonly signal: NodeJS.Signals },
): ChildProcess {
  const script = `
    import { loadHost } from '${ROOT}/scripts/cluster/open.ts'
    import { restoreCluster } from '${ROOT}/scripts/backup/recover/run.ts'
    import { hostSources } from '${ROOT}/scripts/backup/recover/sources.ts'
    const { host } = await loadHost(${JSON.stringify(file)})
    const reach = (moment) => moment === '${moment}' && process.kill(process.pid, '${signal}')
    const target = { kind: 'latest' }
    const request = { label: 'latest', target, tablespaces: new Map(), starts: false, ...${JSON.stringify({ to })} }
    let bytes = 0
    await restoreCluster(host, hostSources(host), request, {
      onPhase: reach,
      onBytes: (count) => (bytes += count) > 500_000 && reach('copying'),
      onState: () => reach('recovering'),
    })`
  return spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
}
