import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { run } from '../scripts/core/exec.ts'
import { runScript } from './support/script.ts'

// Half a minute by itself, and as much again on a machine that is busy with other tests.
vi.setConfig({ testTimeout: 240_000 })

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'howdah-temp-'))
  await chmod(folder, 0o1777)
})
afterEach(() => rm(folder, { recursive: true, force: true }))

/** What a demo in our folder left behind: files, and processes that name it. */
async function leftovers(): Promise<string[]> {
  const { stdout } = await run(['pgrep', '-af', '--', `-D ${folder}/`], { okCodes: [0, 1] })
  return [...(await readdir(folder)), ...stdout.split('\n').filter(Boolean)]
}

test('demo: it survives its disaster and leaves nothing behind', async () => {
  const result = await runScript(['demo'], { env: { TMPDIR: folder } })
  expect([result.code, result.stderr]).toEqual([0, ''])
  const commands = result.stdout.split('\n').filter((line) => line.startsWith('$ '))
  expect(commands.map((line) => line.slice(0, 24))).toMatchInlineSnapshot(`
    [
      "$ howdah secret generate",
      "$ howdah provision plan ",
      "$ howdah provision apply",
      "$ psql -h $DEMO/socket t",
      "$ psql telemetry -c "sel",
      "$ howdah backup take nig",
      "$ psql -h $DEMO/socket p",
      "$ howdah restore databas",
      "$ psql telemetry -c "sel",
      "$ howdah provision plan ",
    ]
  `)
  expect(result.stdout.match(/200,000 rows, [0-9a-f]{32}/g)).toHaveLength(2)
  expect(result.stdout).toMatch(/nothing to do .*\n.*same rows, same content, nothing pending/)
  expect(await leftovers()).toEqual([])
})

test('demo --json: one document with every step', async () => {
  const { stdout } = await runScript(['demo', '--json'], { env: { TMPDIR: folder } })
  const document = JSON.parse(stdout) as {
    ok: boolean
    result: { steps: { command: string; seconds: number }[] }
  }
  expect([document.ok, document.result.steps.length]).toEqual([true, 10])
})

test.each([
  ['SIGINT', 'while the cluster is made', 'secret generate'],
  ['SIGTERM', 'while rows are written', 'provision apply'],
  ['SIGINT', 'while it is backed up', 'select count'],
  ['SIGINT', 'while it is restored', 'drop database'],
] as const)('demo: ended by %s %s: nothing is left behind', async (signal, _when, after) => {
  const result = await runScript(['demo'], {
    env: { TMPDIR: folder },
    onStart: (pid, output) => void endAfter(pid, { signal, after, output }),
  })
  expect([result.code, result.stderr]).toEqual([130, expect.stringContaining(`ended by ${signal}`)])
  expect(await leftovers()).toEqual([])
})

/** Sends a signal a moment after a step is through, so that it meets the one after it. */
async function endAfter(
  pid: number,
  { signal, after, output }: { signal: NodeJS.Signals; after: string; output: () => string },
): Promise<void> {
  while (!output().includes(after)) await sleep(20)
  await sleep(400)
  process.kill(pid, signal)
}
