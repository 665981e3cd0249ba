import { availableParallelism, totalmem } from 'node:os'
import { expect, test } from 'vitest'
import { cgroupCpus, cpuQuota, machineFacts, memoryLimit } from '../../scripts/cluster/machine.ts'

test.each([
  ['a whole number of CPUs', '200000 100000\n', 2],
  ['a part of a CPU', '50000 100000', 0.5],
  ['one and a half', '150000 100000\n', 1.5],
  ['no limit', 'max 100000\n', Infinity],
  ['no limit of version 1', '-1\n 100000\n', Infinity],
  ['nothing', '', Infinity],
  ['something else', 'undefined undefined', Infinity],
  ['a period of zero', '100000 0', Infinity],
])('cpuQuota: %s: CPUs of quota and period', (_title, text, cpus) => {
  expect(cpuQuota(text)).toBe(cpus)
})

test.each([
  ['no limit at all', 0, 8, 8],
  ['a limit below what is there', 2, 8, 2],
  ['the huge number that means none', 0x7ffffffffffff000, 8, 8],
])('memoryLimit: %s: never more than the machine has', (_title, constrained, total, bytes) => {
  expect(memoryLimit(constrained, total)).toBe(bytes)
})

const files = (tree: Record<string, string>) => (path: string) => Promise.resolve(tree[path])

test.each([
  [
    'a limit on a level above the own one counts too',
    '0::/system.slice/db.service\n',
    {
      '/sys/fs/cgroup/system.slice/db.service/cpu.max': '400000 100000\n',
      '/sys/fs/cgroup/system.slice/cpu.max': '150000 100000\n',
    },
    1.5,
  ],
  [
    'version 1 has a folder named after its controllers',
    '4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n',
    {
      '/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us': '300000\n',
      '/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us': '100000\n',
    },
    3,
  ],
  [
    "in a container the path is the host's and the limit is at the root",
    '0::/../../docker/abc\n',
    { '/sys/fs/cgroup/cpu.max': '100000 100000\n' },
    1,
  ],
  ['no file at all is no limit', '0::/a\n', {}, Infinity],
  ['no membership is no limit', '', {}, Infinity],
])('cgroupCpus: %s', async (_title, membership, tree, cpus) => {
  expect(await cgroupCpus(membership, files(tree as Record<string, string>))).toBe(cpus)
})

test('machineFacts: this machine: between one CPU and all of them, and some memory', async () => {
  const { memoryBytes, cpus } = await machineFacts()
  expect(cpus).toBeGreaterThanOrEqual(1)
  expect(cpus).toBeLessThanOrEqual(availableParallelism())
  expect(memoryBytes).toBeGreaterThan(64 * 1024 ** 2)
  expect(memoryBytes).toBeLessThanOrEqual(totalmem())
})
