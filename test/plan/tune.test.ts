import { expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import type { Facts } from '../../scripts/plan/kind.ts'
import { tune } from '../../scripts/plan/tune.ts'

const GB = 1024 ** 3

function tuned(toml: string, machine: Partial<Facts> = {}, postgres = ''): Record<string, string> {
  const { postgres: spec } = parseHost(
    `format = 1\n[host]\nname = "h"\n[postgres]\nmajor = 15\n${postgres}\n${toml}`,
  )
  return tune(spec, { ...FACTS, ...machine })
}

const FACTS: Facts = {
  major: 15,
  memoryBytes: 2 * GB,
  cpus: 2,
  osUser: 'postgres',
  configDir: '/etc/postgresql/15/main',
  dataDir: '/var/lib/postgresql/15/main',
  socketDir: '/var/run/postgresql',
}

test('tune: not asked for: nothing is computed', () => {
  expect(tuned('')).toEqual({})
})

// The other four lines of that known table are what the server does by itself, and the server test
// of the setting kind sees them: checkpoint_completion_target 0.9, wal_buffers 16MB,
// default_statistics_target 100, max_connections 100.
test('tune: 2 GB, 100 connections, ssd, web: the known table for such a host, without its defaults', () => {
  expect(
    tuned('[postgres.tune]\nmemory = "2GB"\nconnections = 100\nstorage = "ssd"\nworkload = "web"'),
  ).toEqual({
    shared_buffers: '512MB',
    effective_cache_size: '1GB',
    maintenance_work_mem: '128MB',
    random_page_cost: '1.1',
    effective_io_concurrency: '200',
    work_mem: '5MB',
    min_wal_size: '1GB',
    max_wal_size: '4GB',
    jit: 'off',
    wal_compression: 'lz4',
  })
})

test.each([
  ['a 2 GB machine whose kernel keeps 60 MB', 2 * GB - 60 * 1024 ** 2, '512MB'],
  ['the same with a newer kernel that keeps 75 MB', 2 * GB - 75 * 1024 ** 2, '512MB'],
  ['64 GB less 1.2 GB', 62.8 * GB, '16GB'],
])(
  'tune: memory that the machine reports: %s: one step of rounding',
  (_title, memoryBytes, sharedBuffers) => {
    expect(tuned('[postgres.tune]', { memoryBytes })['shared_buffers']).toBe(sharedBuffers)
  },
)

test('tune: memory that the host file names: taken as it is, not rounded', () => {
  expect(tuned('[postgres.tune]\nmemory = "2000MB"')['shared_buffers']).toBe('500MB')
})

test.each([
  [15, '1GB'],
  [16, '1GB'],
  [17, '2GB'],
  [18, '2GB'],
])('tune: 64 GB on major %i: autovacuum gets no more than vacuum can use', (major, vacuum) => {
  const settings = tuned('[postgres.tune]', { memoryBytes: 64 * GB, major })
  expect(settings).toMatchObject({ maintenance_work_mem: '4GB', autovacuum_work_mem: vacuum })
})

test('tune: 512 GB: maintenance_work_mem stops at 8 GB', () => {
  expect(tuned('[postgres.tune]\nmemory = "512GB"\nworkload = "dw"')['maintenance_work_mem']).toBe('8GB')
})

test.each([
  ['13: checkpoints are spread less by default', 13, 'checkpoint_completion_target', '0.9'],
  ['14: the default is right', 14, 'checkpoint_completion_target', undefined],
  ['14: WAL cannot be compressed with lz4 yet', 14, 'wal_compression', undefined],
  ['15: it can', 15, 'wal_compression', 'lz4'],
])('tune: major %s', (_title, major, name, value) => {
  expect(tuned('[postgres.tune]', { major })[name]).toBe(value)
})

test('tune: programs that are not Debian packages: nobody knows whether they have lz4', () => {
  const own = 'kind = "private"\ndata_dir = "/srv/pg"\nbindir = "/opt/pg/bin"'
  expect(tuned('[postgres.tune]', {}, own)['wal_compression']).toBeUndefined()
})

test.each([
  ['hdd', 15, '2', undefined],
  ['hdd', 18, undefined, undefined],
  ['ssd', 15, '200', '1.1'],
  ['ssd', 18, '200', '1.1'],
  ['san', 15, '300', '1.1'],
  ['nvme', 15, '1000', '1.1'],
])(
  'tune: storage %s on major %i: reads at once and the price of a random page',
  (storage, major, reads, cost) => {
    const settings = tuned(`[postgres.tune]\nstorage = "${storage}"`, { major })
    expect(settings['effective_io_concurrency']).toBe(reads)
    expect(settings['random_page_cost']).toBe(cost)
  },
)

test.each([
  ['web', '1GB', '4GB', '119MB', 'off'],
  ['oltp', '2GB', '8GB', '119MB', 'off'],
  ['mixed', '1GB', '4GB', '59MB', 'off'],
  ['dw', '4GB', '16GB', '59MB', undefined],
])('tune: workload %s: WAL, work_mem, jit', (workload, ...rest) => {
  const [minWal, maxWal, work, jit] = rest
  const settings = tuned(`[postgres.tune]\nmemory = "50GB"\nworkload = "${workload}"`)
  expect(settings).toMatchObject({ min_wal_size: minWal, max_wal_size: maxWal, work_mem: work })
  expect(settings['jit']).toBe(jit)
})

test.each([
  [2, undefined, undefined, undefined, undefined],
  [4, undefined, '4', undefined, undefined],
  [8, undefined, undefined, '4', undefined],
  [16, '16', '16', '4', '4'],
  [64, '64', '64', '4', '5'],
])('tune: %i CPUs: workers, never fewer than by default', (cpus, ...rest) => {
  const [workers, parallel, gather, autovacuum] = rest
  const settings = tuned(`[postgres.tune]\ncpus = ${cpus}`)
  expect(settings['max_worker_processes']).toBe(workers)
  expect(settings['max_parallel_workers']).toBe(parallel)
  expect(settings['max_parallel_workers_per_gather']).toBe(gather)
  expect(settings['autovacuum_max_workers']).toBe(autovacuum)
})

test('tune: many connections on little memory: work_mem stays at the default, which is the floor', () => {
  const settings = tuned('[postgres.tune]\nmemory = "1GB"\nconnections = 1000')
  expect(settings['work_mem']).toBeUndefined()
  expect(settings['max_connections']).toBe('1000')
})

test('tune: very little memory: half of it is counted as cache', () => {
  const settings = tuned('[postgres.tune]\nmemory = "768MB"')
  expect(settings).toMatchObject({ shared_buffers: '192MB', effective_cache_size: '384MB' })
})
