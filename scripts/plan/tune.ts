import { parseSize } from '../core/quantity.ts'
import type { Host } from '../host/schema.ts'
import type { Facts } from './kind.ts'

type Tune = NonNullable<Host['postgres']['tune']>

/** What a computation starts from. Sizes are megabytes. */
interface Machine {
  readonly memory: number
  readonly cpus: number
  readonly major: number
  readonly connections: number
  readonly storage: Tune['storage']
  readonly workload: Tune['workload']
  /** Whether the programs are Debian's, which are built with lz4. */
  readonly hasLz4: boolean
}

/**
 * Settings computed from memory, CPUs, storage, workload and the number of connections, by name.
 *
 * A value that the server would have anyway is left out, so what stands in the file is what was
 * changed. That is why `wal_buffers` never appears (the server takes a 32nd of shared_buffers, up to
 * a WAL segment), nor `huge_pages` (`try`). Every limit is a rule of thumb for a host that serves
 * PostgreSQL alone: `[postgres.tune] memory` leaves room for others, `[settings]` has the last word.
 */
export function tune(postgres: Host['postgres'], facts: Facts): Record<string, string> {
  if (postgres.tune === undefined) return {}
  const machine = machineOf(postgres, postgres.tune, facts)
  const computed = { ...memorySettings(machine), ...walSettings(machine), ...workerSettings(machine) }
  const defaults = defaultsOf(machine.major)
  return Object.fromEntries(Object.entries(computed).filter(([name, value]) => value !== defaults[name]))
}

/** Defaults of the server for what is computed here: guc_tables.c of each major, in our spelling. */
function defaultsOf(major: number): Readonly<Record<string, string>> {
  return {
    max_connections: '100',
    shared_buffers: '128MB',
    effective_cache_size: '4GB',
    maintenance_work_mem: '64MB',
    work_mem: '4MB',
    min_wal_size: '80MB',
    max_wal_size: '1GB',
    checkpoint_completion_target: major >= 14 ? '0.9' : '0.5',
    default_statistics_target: '100',
    random_page_cost: '4',
    effective_io_concurrency: major >= 18 ? '16' : '1',
    max_worker_processes: '8',
    max_parallel_workers: '8',
    max_parallel_workers_per_gather: '2',
    max_parallel_maintenance_workers: '2',
    autovacuum_max_workers: '3',
    jit: 'on',
    wal_compression: 'off',
  }
}

function machineOf(postgres: Host['postgres'], spec: Tune, facts: Facts): Machine {
  const named = spec.memory === undefined ? undefined : parseSize(spec.memory)
  return {
    memory: named === undefined ? steadyMemory(facts.memoryBytes / MB) : named / MB,
    cpus: spec.cpus ?? facts.cpus,
    major: facts.major,
    connections: spec.connections,
    storage: spec.storage,
    workload: spec.workload,
    hasLz4: postgres.bindir === undefined,
  }
}

const MB = 1024 ** 2

// A kernel keeps some memory for itself, a little more or less from one version to the next. Rounded
// to a quarter of the power of two below, a "2 GB" machine has 2 GB, and an update of the kernel does
// not make a plan ask for a restart.
function steadyMemory(megabytes: number): number {
  const step = 2 ** Math.floor(Math.log2(megabytes)) / 4
  return Math.round(megabytes / step) * step
}

function memorySettings(machine: Machine): Record<string, string> {
  const { memory, connections, workload, major } = machine
  const sharedBuffers = memory / 4
  const isAnalytic = workload === 'dw'
  const maintenance = Math.min(memory / (isAnalytic ? 8 : 16), 8192)
  // Vacuum cannot use more than 1 GB before 17. Each of several workers takes it, so 2 GB are enough after.
  const vacuum = Math.min(maintenance, major >= 17 ? 2048 : 1024)
  // Three sorts or hashes at a time in every session and worker, of what shared buffers leave.
  const perNode = (memory - sharedBuffers) / ((connections + workersOf(machine)) * 3)
  const work = isAnalytic || workload === 'mixed' ? perNode / 2 : perNode
  return {
    max_connections: String(connections),
    shared_buffers: size(sharedBuffers),
    // Three quarters, less what the system and the sessions hold themselves; half on hosts where that weighs most.
    effective_cache_size: size(Math.max(memory / 2, (memory * 3) / 4 - 512)),
    maintenance_work_mem: size(maintenance),
    ...(vacuum < maintenance && { autovacuum_work_mem: size(vacuum) }),
    work_mem: size(Math.max(work, 4)),
  }
}

const WAL: Readonly<Record<Tune['workload'], readonly [min: string, max: string]>> = {
  web: ['1GB', '4GB'],
  mixed: ['1GB', '4GB'],
  oltp: ['2GB', '8GB'],
  dw: ['4GB', '16GB'],
}

const READS_AT_ONCE: Readonly<Record<Tune['storage'], number>> = { hdd: 2, ssd: 200, san: 300, nvme: 1000 }

function walSettings({ workload, storage, major, hasLz4 }: Machine): Record<string, string> {
  const [min, max] = WAL[workload]
  const isDisk = storage === 'hdd'
  return {
    min_wal_size: min,
    max_wal_size: max,
    checkpoint_completion_target: '0.9',
    default_statistics_target: workload === 'dw' ? '500' : '100',
    random_page_cost: isDisk || workload === 'dw' ? '4' : '1.1',
    // From 18 on the server reads ahead by itself, and its default is above what a disk was given before.
    ...(!(isDisk && major >= 18) && { effective_io_concurrency: String(READS_AT_ONCE[storage]) }),
    ...(major >= 15 && hasLz4 && { wal_compression: 'lz4' }),
  }
}

function workerSettings(machine: Machine): Record<string, string> {
  const { cpus, workload } = machine
  const half = Math.ceil(cpus / 2)
  return {
    ...(workload !== 'dw' && { jit: 'off' }),
    autovacuum_max_workers: cpus >= 32 ? '5' : cpus >= 16 ? '4' : '3',
    ...(cpus >= 4 && {
      max_worker_processes: String(workersOf(machine)),
      max_parallel_workers: String(cpus),
      max_parallel_workers_per_gather: String(workload === 'dw' ? half : Math.min(half, 4)),
      max_parallel_maintenance_workers: String(Math.min(half, 4)),
    }),
  }
}

// Never below the default: logical replication and extensions take workers of the same number.
function workersOf({ cpus }: Machine): number {
  return Math.max(8, cpus)
}

/** In the biggest unit that leaves no rest. */
function size(megabytes: number): string {
  const whole = Math.round(megabytes)
  return whole % 1024 === 0 ? `${whole / 1024}GB` : `${whole}MB`
}
