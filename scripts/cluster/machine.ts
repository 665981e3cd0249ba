import { availableParallelism, totalmem } from 'node:os'
import process from 'node:process'
import { readTextIfAny } from '../core/file.ts'

/** What this host, or the cgroup that holds this process, may use. */
export async function machineFacts(): Promise<{ readonly memoryBytes: number; readonly cpus: number }> {
  const constrained = process.constrainedMemory() // 0, or a huge number, where there is no limit
  const memoryBytes = constrained > 0 ? Math.min(constrained, totalmem()) : totalmem()
  const quota = cpuQuota((await readTextIfAny('/sys/fs/cgroup/cpu.max').catch(() => undefined)) ?? 'max')
  return { memoryBytes, cpus: Math.max(1, Math.min(availableParallelism(), Math.ceil(quota))) }
}

/** CPUs that a cgroup's `cpu.max` allows (`"150000 100000"` is 1.5); Infinity without a limit. Pure. */
export function cpuQuota(text: string): number {
  const [quota, period] = text.trim().split(/\s+/).map(Number)
  return Number.isFinite(quota) && period! > 0 ? quota! / period! : Infinity
}
