import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { environment, measureProcess, type ProcessOptions, type ProcessRun } from './process.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-bench-'))
})
afterAll(() => rm(dir, { recursive: true }))

function measure(script: string, options: Partial<ProcessOptions> = {}): Promise<ProcessRun> {
  return measureProcess(['sh', '-c', script, process.execPath], {
    env: environment(),
    scratch: join(dir, 'peak'),
    ...options,
  })
}

/** A process that has so many megabytes for a second; its program is $0. */
const HOLD = (megabytes: number) => `"$0" -e 'b = Buffer.alloc(${megabytes}e6, 1); setTimeout(() => b, 1000)'`

test('tree: two processes at the same time: their memory is added up', async () => {
  const run = await measure(`${HOLD(60)} & ${HOLD(60)} & wait`, { tree: true })
  expect(run.peakBytes).toBeGreaterThan(60e6)
  expect(run.peakBytes).toBeLessThan(180e6)
  expect(run.treePeakBytes).toBeGreaterThan(125e6)
})

test('CPU: that of children that have ended is part of it', async () => {
  const run = await measure('head -c 300000000 /dev/zero | sha256sum')
  expect(run.cpuSeconds).toBeGreaterThan(0.05)
})

/** Two seconds, in which a signal ends it with 0. */
const SERVICE = 'trap "exit 0" TERM; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; done; echo over'

test('until: the clock stops then, and a service is told to end', async () => {
  let asked = 0
  const run = await measure(SERVICE, { until: async () => ++asked === 20 })
  expect(run.stdout).toBe('')
  expect(run.seconds).toBeGreaterThan(0.15)
})

test('until, and it goes on: the clock stops then, and it runs to its end', async () => {
  let asked = 0
  const run = await measure(SERVICE, { until: async () => ++asked === 20, goesOn: true })
  expect(run.stdout).toBe('over\n')
  expect(run.seconds).toBeLessThan(1.9)
})
