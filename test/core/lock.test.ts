import { chmod, chown, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { takeLock } from '../../scripts/core/lock.ts'
import { ended, runCode, saidBy, startCode } from '../support/code.ts'

const isRoot = process.getuid?.() === 0
const NOBODY = { uid: 65_534, gid: 65_534 }
const folder = { mode: 0o755 }

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-lock-'))
  await chmod(dir, 0o755)
})
afterAll(() => rm(dir, { recursive: true }))

const holder = (path: string, access: object = folder) => `
  import { takeLock } from 'scripts/core/lock.ts'
  const held = await takeLock(${JSON.stringify(path)}, { folder: ${JSON.stringify(access)} })
  console.log('held')
  process.stdin.once('data', () => held[Symbol.asyncDispose]().then(() => process.exit()))
`

describe('takeLock', () => {
  test('another process holds it: lock-held at once, with how to find who', async () => {
    const path = join(dir, 'locks', 'two')
    const other = startCode(holder(path))
    await saidBy(other, 'held')
    await expect(takeLock(path, { folder })).rejects.toMatchObject({
      code: 'lock-held',
      message: `another run holds "${path}"`,
      hint: `See which one: fuser -v ${path}`,
    })
    other.kill('SIGKILL')
    await ended(other)
    await using _lock = await takeLock(path, { folder })
  })

  test('it waits: gets the lock when the other one gives it back', async () => {
    const path = join(dir, 'waited')
    const other = startCode(holder(path))
    await saidBy(other, 'held')
    const waiting = takeLock(path, { folder, waitSeconds: 30 })
    other.stdin!.write('go\n')
    await using _lock = await waiting
    expect(await ended(other)).toMatchObject({ code: 0 })
  })

  test('it waits too long: lock-held', async () => {
    const path = join(dir, 'too-long')
    await using _lock = await takeLock(path, { folder })
    await expect(takeLock(path, { folder, waitSeconds: 0.3 })).rejects.toMatchObject({ code: 'lock-held' })
  })

  test('disposed of: is free again, and its file stays, since taking it away would open a race', async () => {
    const path = join(dir, 'again')
    for (let count = 0; count < 3; count++) {
      await using _lock = await takeLock(path, { folder })
    }
    expect((await stat(path)).isFile()).toBe(true)
  })

  test.runIf(isRoot)('root took it once: the owner of the folder can take it next', async () => {
    const path = join(dir, 'shared', 'x.lock')
    await mkdir(join(dir, 'shared'))
    const before = process.umask(0o077)
    await using lock = await takeLock(path, { folder }).finally(() => process.umask(before))
    await chown(join(dir, 'shared'), NOBODY.uid, NOBODY.gid)
    const take = () => runCode(`${holder(path)}; process.exit()`, NOBODY)
    expect((await take()).stderr).toContain('another run holds')
    await lock[Symbol.asyncDispose]()
    expect((await take()).stdout).toBe('held\n')
  })

  test('a link in its place: is not followed, nothing is written or made behind it', async () => {
    const target = join(dir, 'target')
    await writeFile(target, 'precious')
    await symlink(target, join(dir, 'link'))
    await expect(takeLock(join(dir, 'link'), { folder })).rejects.toMatchObject({ code: 'not-permitted' })
    await symlink(join(dir, 'made'), join(dir, 'link-to-nothing'))
    await expect(takeLock(join(dir, 'link-to-nothing'), { folder })).rejects.toMatchObject({
      code: 'not-permitted',
    })
    expect(await readFile(target, 'utf8')).toBe('precious')
    await expect(stat(join(dir, 'made'))).rejects.toThrow('ENOENT')
  })

  test.runIf(isRoot)('a folder that is closed to us: who is needed is said', async () => {
    await mkdir(join(dir, 'private'), { mode: 0o700 })
    const { stderr } = await runCode(holder(join(dir, 'private', 'x')), NOBODY)
    expect(stderr).toContain('permission denied')
  })
})
