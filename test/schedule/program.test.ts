import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import {
  installProgram,
  planProgram,
  productionPackages,
  removeOldPrograms,
  removeProgram,
} from '../../scripts/schedule/program.ts'
import { runCode, saidBy, startCode } from '../support/code.ts'

// Only root installs a program; the rest is as on any host, in a folder of its own.

let root: string

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'howdah-program-'))
  await chmod(root, 0o755)
})

afterAll(() => rm(root, { recursive: true, force: true }))

describe.runIf(process.getuid!() === 0)('a program', () => {
  test('installed: runs as another user, with its own Node and packages, and nothing for development', async () => {
    const plan = await planProgram(root)
    expect(plan).toMatchObject({ isThere: false, isCurrent: false })
    expect(plan.name).toMatch(/^\d+\.\d+\.\d+-[0-9a-f]{12}$/)
    expect(await installProgram(plan, ['nobody'])).toBeUndefined()
    expect(await readlink(join(root, 'current'))).toBe(plan.name)
    const { stdout } = await run([join(root, 'current/scripts/howdah'), 'schedule', '--help'], {
      as: 'nobody',
      env: { HOWDAH_NO_INSTALL: '1', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    })
    expect(stdout).toContain('Usage: schedule')
    expect((await readdir(plan.path)).toSorted()).toEqual([
      '.node',
      'LICENSE',
      'README.md',
      'conf',
      'node_modules',
      'package-lock.json',
      'package.json',
      'scripts',
      'sql',
      'units',
    ])
    const packages = await readdir(join(plan.path, 'node_modules'))
    expect(packages).toContain('commander')
    expect(packages).toContain('.howdah-lock.json')
    expect(packages).not.toContain('vitest')
  })

  test('installed: nobody but root can change any of it', async () => {
    const { stdout } = await run([
      'find',
      root,
      '-not',
      '-type',
      'l',
      '(',
      '-perm',
      '/022',
      '-o',
      '-not',
      '-uid',
      '0',
      ')',
    ])
    expect(stdout).toBe('')
  })

  test('the same content again: nothing is written', async () => {
    const plan = await planProgram(root)
    expect(plan).toMatchObject({ isThere: true, isCurrent: true })
    const before = (await stat(join(plan.path, 'scripts'))).ctimeMs
    await installProgram(plan, [])
    expect((await stat(join(plan.path, 'scripts'))).ctimeMs).toBe(before)
    expect(await readdir(root)).toHaveLength(2)
  })

  test('the copy itself installs: it is the same version', async () => {
    const plan = await planProgram(root)
    const code = `
      import { planProgram } from '${plan.path}/scripts/schedule/program.ts'
      console.log(JSON.stringify(await planProgram('${root}')))`
    const done = await runCode(code)
    expect(JSON.parse(done.stdout)).toEqual(plan)
  })

  test('somebody has changed a file of it: it is copied anew', async () => {
    const plan = await planProgram(root)
    const path = join(plan.path, 'scripts/backup.ts')
    const right = await readFile(path, 'utf8')
    await writeFile(path, '// nothing\n')
    const broken = await planProgram(root)
    expect(broken).toMatchObject({ name: plan.name, isThere: false, isCurrent: true })
    await installProgram(broken, [])
    expect(await readFile(path, 'utf8')).toBe(right)
  })

  test('old versions: the newest one stays, and one that a process runs from', async () => {
    const { name } = await planProgram(root)
    for (const [index, old] of ['0.0.1-aaaaaaaaaaaa', '0.0.2-bbbbbbbbbbbb', '0.0.3-cccccccccccc'].entries()) {
      await mkdir(join(root, old))
      await utimes(join(root, old), 1e9 + index, 1e9 + index)
    }
    await mkdir(join(root, 'own'))
    await mkdir(join(root, '.new-0123456789ab'))
    const process = spawn('sleep', ['60'], { cwd: join(root, '0.0.1-aaaaaaaaaaaa') })
    await once(process, 'spawn')
    expect(await removeOldPrograms(root)).toEqual(['0.0.2-bbbbbbbbbbbb'])
    process.kill()
    await once(process, 'close')
    expect((await readdir(root)).toSorted()).toEqual([
      '0.0.1-aaaaaaaaaaaa',
      '0.0.3-cccccccccccc',
      name,
      'current',
      'own',
    ])
    expect(await removeOldPrograms(root)).toEqual(['0.0.1-aaaaaaaaaaaa'])
  })

  test('killed while it copies: no version is there by half, and the next one completes', async () => {
    const dir = join(root, 'own')
    const child = startCode(`
      import { installProgram, planProgram } from 'scripts/schedule/program.ts'
      const plan = await planProgram('${dir}')
      console.log('begun')
      await installProgram(plan, [])`)
    await saidBy(child, 'begun')
    while ((await readdir(dir)).length === 0) await sleep(2)
    await sleep(30)
    child.kill('SIGKILL')
    await once(child, 'close')
    expect(await readdir(dir)).toEqual([expect.stringMatching(/^\.new-/)])
    const plan = await planProgram(dir)
    await installProgram(plan, [])
    expect((await readdir(dir)).toSorted()).toEqual([plan.name, 'current'])
  })

  test('removed: nothing of it is left, what others put there stays', async () => {
    await removeProgram(root)
    expect(await readdir(root)).toEqual(['own'])
    await removeProgram(join(root, 'own'))
    expect(await readdir(root)).toEqual([])
    await removeProgram(join(root, 'never'))
  })
})

test('packages of a lock file: those for development are left out', () => {
  const lock = {
    packages: {
      '': { name: 'x' },
      'node_modules/a': {},
      'node_modules/b': { dev: true },
      'node_modules/c': { optional: true },
      'node_modules/d': { devOptional: true },
      'node_modules/a/node_modules/e': {},
    },
  }
  expect(productionPackages(JSON.stringify(lock))).toEqual([
    { path: 'node_modules/a', isOptional: false },
    { path: 'node_modules/c', isOptional: true },
    { path: 'node_modules/a/node_modules/e', isOptional: false },
  ])
})
