import { availableParallelism, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { readTextIfAny } from '../core/file.ts'

const CGROUP_ROOT = '/sys/fs/cgroup'

/** What this host, or the cgroup that holds this process, may use. */
export async function machineFacts(): Promise<{ readonly memoryBytes: number; readonly cpus: number }> {
  const memoryBytes = memoryLimit(process.constrainedMemory(), totalmem())
  const quota = await cgroupCpus((await look('/proc/self/cgroup')) ?? '', look)
  return { memoryBytes, cpus: Math.max(1, Math.min(availableParallelism(), Math.ceil(quota))) }
}

/**
 * Bytes that may be used. A limit of 0 is no limit, and so is one above what is there: cgroup v1 says
 * "none" as the largest multiple of a page, v2 without one gives the largest number there is. Pure.
 */
export function memoryLimit(constrained: number, total: number): number {
  return constrained > 0 ? Math.min(constrained, total) : total
}

/**
 * CPUs that a process's cgroups allow, the tightest of all levels above it; Infinity without a limit.
 * @param membership text of /proc/PID/cgroup
 * @param read the text of a file, undefined when there is none
 */
export async function cgroupCpus(
  membership: string,
  read: (path: string) => Promise<string | undefined>,
): Promise<number> {
  const limits: number[] = []
  for (const { folder, path } of cpuCgroups(membership)) {
    // Inside a container the path is often the host's, which is not there: its own limits are at the root.
    for (const level of levels(path)) {
      const at = join(CGROUP_ROOT, folder, level)
      const unified = await read(join(at, 'cpu.max'))
      const quota =
        unified ?? `${await read(join(at, 'cpu.cfs_quota_us'))} ${await read(join(at, 'cpu.cfs_period_us'))}`
      limits.push(cpuQuota(quota))
    }
  }
  return Math.min(Infinity, ...limits)
}

/**
 * CPUs that a quota allows: `"150000 100000"` (cgroup v2's `cpu.max`: microseconds, of a period) is
 * 1.5; Infinity for `"max 100000"`, v1's quota of -1, and anything else. Pure.
 */
export function cpuQuota(text: string): number {
  const [quota, period] = text.trim().split(/\s+/).map(Number)
  return quota! > 0 && period! > 0 ? quota! / period! : Infinity
}

/** Where the cpu controller of a process is: `0::/a` is v2, `4:cpu,cpuacct:/a` is v1, under a folder of its name. */
function cpuCgroups(membership: string): { folder: string; path: string }[] {
  return membership.split('\n').flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined) return []
    if (controllers === '') return [{ folder: '', path }]
    return controllers.split(',').includes('cpu') ? [{ folder: controllers, path }] : []
  })
}

function levels(path: string): string[] {
  return path === '/' ? ['/'] : [path, ...levels(dirname(path))]
}

// What may not be looked at limits nothing that we could know of.
function look(path: string): Promise<string | undefined> {
  return readTextIfAny(path).catch(() => undefined)
}
