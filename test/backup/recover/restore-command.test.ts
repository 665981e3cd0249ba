import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { restoreScript } from '../../../scripts/backup/recover/restore-command.ts'
import { run } from '../../../scripts/core/exec.ts'

let folder: string
let script: string
const NAME = '000000010000000000000007'

beforeEach(async () => {
  // An odd name, as a data directory may have it.
  folder = await mkdtemp(join(tmpdir(), `howdah it's "odd" $HOME `))
  for (const name of ['ready', 'wanted', 'absent']) await mkdir(join(folder, name))
  script = join(folder, 'restore_command')
  await writeFile(join(folder, 'beat'), '1\n')
  await writeFile(script, restoreScript(folder, 1))
  await chmod(script, 0o755)
})

afterEach(() => rm(folder, { recursive: true }))

const restore = async () => {
  const { code } = await run([script, NAME, join(folder, 'to here')], {
    okCodes: [...Array(256).keys()],
  })
  return code
}

describe('restore_command', () => {
  test('a file that lies ready: it is moved into its place', async () => {
    await writeFile(join(folder, 'ready', NAME), 'content')
    expect(await restore()).toBe(0)
    expect(await readFile(join(folder, 'to here'), 'utf8')).toBe('content')
  })

  test('a file that comes while it waits: it is asked for by its name', async () => {
    const serving = (async () => {
      for (;;) {
        const wanted = await readFile(join(folder, 'wanted', NAME)).catch(() => undefined)
        if (wanted) break
        await sleep(10)
      }
      await writeFile(join(folder, 'ready', NAME), 'late')
    })()
    expect(await restore()).toBe(0)
    await serving
  })

  test('proven absence alone is 1, which a server takes for the end of the WAL', async () => {
    await writeFile(join(folder, 'absent', NAME), '')
    expect(await restore()).toBe(1)
  })

  test('a process that serves no more: 255, which ends the recovery with an error', async () => {
    await writeFile(join(folder, 'failed'), '')
    expect(await restore()).toBe(255)
  })

  test('a failure and an absence at once: 255', async () => {
    await writeFile(join(folder, 'failed'), '')
    await writeFile(join(folder, 'absent', NAME), '')
    expect(await restore()).toBe(255)
  })

  test('a process that is dead, so that nothing ever comes: 255 after a while', async () => {
    expect(await restore()).toBe(255)
  })

  test('a folder that is gone: 255', async () => {
    await rm(join(folder, 'wanted'), { recursive: true })
    expect(await restore()).toBe(255)
  })

  test('a place that cannot be written to: 255', async () => {
    await writeFile(join(folder, 'ready', NAME), 'content')
    await mkdir(join(folder, 'to here', NAME, 'in the way'), { recursive: true })
    expect(await restore()).toBe(255)
  })
})
