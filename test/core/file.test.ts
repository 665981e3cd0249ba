import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { exists, makeFolder, readText, readTextIfAny, writeFileAtomic } from '../../scripts/core/file.ts'
import { runCode } from '../support/code.ts'

const isRoot = process.getuid?.() === 0
const NOBODY = { uid: 65_534, gid: 65_534 }

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-file-'))
  await chmod(dir, 0o755)
})
afterAll(() => rm(dir, { recursive: true }))

const accessOf = async (path: string) => {
  const { mode, uid, gid } = await stat(path)
  return { mode: mode & 0o7777, uid, gid }
}

const mine = { uid: process.getuid!(), gid: process.getgid!() }

describe('writeFileAtomic', () => {
  test.each([0o400, 0o600, 0o640, 0o644])('mode %o: is the mode, whatever the umask', async (mode) => {
    const path = join(dir, `mode-${mode}`)
    const before = process.umask(0o077)
    await writeFileAtomic(path, 'text', { mode }).finally(() => process.umask(before))
    expect(await accessOf(path)).toEqual({ mode, ...mine })
    expect(await readFile(path, 'utf8')).toBe('text')
  })

  test.runIf(isRoot)('an owner: gets the file', async () => {
    const path = join(dir, 'owner')
    await writeFileAtomic(path, 'text', { mode: 0o600, ...NOBODY })
    expect(await accessOf(path)).toEqual({ mode: 0o600, ...NOBODY })
  })

  test('a file that is there: is replaced, and its mode too', async () => {
    const path = join(dir, 'replaced')
    await writeFile(path, 'old text that is longer', { mode: 0o666 })
    await writeFileAtomic(path, 'new', { mode: 0o600 })
    expect([await readFile(path, 'utf8'), (await accessOf(path)).mode]).toEqual(['new', 0o600])
  })

  test('bytes: are written as they are', async () => {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
    await writeFileAtomic(join(dir, 'bytes'), bytes, { mode: 0o600 })
    expect(await readFile(join(dir, 'bytes'))).toEqual(bytes)
  })

  test('a reader while it is replaced: sees the old text or the new one, never a part', async () => {
    const path = join(dir, 'whole')
    const texts = ['a', 'b'].map((letter) => letter.repeat(300_000))
    await writeFileAtomic(path, texts[0]!, { mode: 0o600 })
    let isDone = false
    const reading = (async () => {
      const seen = new Set<string>()
      while (!isDone) seen.add(await readFile(path, 'utf8'))
      return seen
    })()
    for (let count = 0; count < 20; count++) await writeFileAtomic(path, texts[count % 2]!, { mode: 0o600 })
    isDone = true
    expect([...(await reading)].every((text) => texts.includes(text))).toBe(true)
  })

  test('the place is a folder: it is said, and nothing is left beside it', async () => {
    const path = join(dir, 'in', 'folder')
    await mkdir(path, { recursive: true })
    await expect(writeFileAtomic(path, 'x', { mode: 0o600 })).rejects.toMatchObject({
      code: 'file-unreadable',
      message: `cannot write "${path}": it is a folder`,
    })
    expect(await readdir(join(dir, 'in'))).toEqual(['folder'])
  })

  test('no folder to write in: is said', async () => {
    const path = join(dir, 'missing', 'file')
    await expect(writeFileAtomic(path, 'x', { mode: 0o600 })).rejects.toMatchObject({
      message: `cannot write "${path}": no such file or folder`,
    })
  })

  test.runIf(isRoot)('a folder of somebody else: who is needed is said', async () => {
    const { stdout } = await runCode(
      `import { writeFileAtomic } from 'scripts/core/file.ts'
       await writeFileAtomic('${dir}/x', 'x', { mode: 0o600 }).catch((error) => console.log(error.code, error.message, error.hint))`,
      NOBODY,
    )
    expect(stdout).toBe(
      `file-unreadable cannot write "${dir}/x": permission denied Run this as root, or as the owner of ${dir}.\n`,
    )
  })

  test.runIf(isRoot)(
    'a full disk: the old file stays, nothing is left beside it, and the space is named',
    async () => {
      const mount = join(dir, 'full')
      await mkdir(mount)
      await run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mount])
      try {
        const path = join(mount, 'file')
        await writeFileAtomic(path, 'old', { mode: 0o600 })
        await expect(writeFileAtomic(path, 'x'.repeat(200_000), { mode: 0o600 })).rejects.toMatchObject({
          code: 'file-unreadable',
          message: `cannot write "${path}": no space left on the device`,
          hint: `Free some space: df -h ${mount}`,
        })
        expect([await readFile(path, 'utf8'), await readdir(mount)]).toEqual(['old', ['file']])
      } finally {
        await run(['umount', mount])
      }
    },
  )
})

describe('makeFolder', () => {
  test('folders above that are not there: are made too, open to look through', async () => {
    const before = process.umask(0o077)
    await makeFolder(join(dir, 'deep/er/est'), { mode: 0o750 }).finally(() => process.umask(before))
    const modes = await Promise.all(
      ['deep', 'deep/er', 'deep/er/est'].map((path) => accessOf(join(dir, path))),
    )
    expect(modes.map(({ mode }) => mode)).toEqual([0o755, 0o755, 0o750])
  })

  test('one that is there: keeps its mode', async () => {
    const path = join(dir, 'kept')
    await mkdir(path, { mode: 0o711 })
    await makeFolder(path, { mode: 0o700 })
    expect((await accessOf(path)).mode).toBe(0o711)
  })

  test.runIf(isRoot)('an owner: gets all that were made, and none that were there', async () => {
    await makeFolder(join(dir, 'his/own'), { mode: 0o700, ...NOBODY })
    expect(await accessOf(join(dir, 'his'))).toEqual({ mode: 0o755, ...NOBODY })
    expect(await accessOf(join(dir, 'his/own'))).toEqual({ mode: 0o700, ...NOBODY })
    expect((await accessOf(dir)).uid).toBe(mine.uid)
  })

  test('twice at the same time: both succeed', async () => {
    const path = join(dir, 'race/a/b')
    await Promise.all(Array.from({ length: 8 }, () => makeFolder(path, { mode: 0o755 })))
    expect((await stat(path)).isDirectory()).toBe(true)
  })

  test('a file is in the way: is said', async () => {
    await writeFile(join(dir, 'way'), '')
    await expect(makeFolder(join(dir, 'way'), { mode: 0o755 })).rejects.toMatchObject({
      code: 'file-unreadable',
      message: `cannot make folder "${dir}/way": it is no folder`,
    })
    await expect(makeFolder(join(dir, 'way/below'), { mode: 0o755 })).rejects.toMatchObject({
      code: 'file-unreadable',
    })
  })
})

describe('reading', () => {
  test('readTextIfAny: no file, no folder, a file instead of a folder: undefined', async () => {
    await writeFile(join(dir, 'plain'), 'text')
    expect(await readTextIfAny(join(dir, 'plain'))).toBe('text')
    expect(await readTextIfAny(join(dir, 'nothing'))).toBeUndefined()
    expect(await readTextIfAny(join(dir, 'nothing/at/all'))).toBeUndefined()
    expect(await readTextIfAny(join(dir, 'plain/below'))).toBeUndefined()
  })

  test('readTextIfAny: a folder: is said', async () => {
    await expect(readTextIfAny(dir)).rejects.toMatchObject({
      message: `cannot read "${dir}": it is a folder`,
    })
  })

  test('readText: no file: is said', async () => {
    await expect(readText(join(dir, 'nothing'))).rejects.toMatchObject({
      code: 'file-unreadable',
      message: `cannot read "${dir}/nothing": no such file`,
    })
  })

  test('exists: a file, nothing, a link to nothing', async () => {
    await symlink(join(dir, 'nowhere'), join(dir, 'dangling'))
    const found = await Promise.all([dir, join(dir, 'nothing'), join(dir, 'dangling')].map(exists))
    expect(found).toEqual([true, false, false])
  })

  test.runIf(isRoot)(
    'exists: behind a folder that is closed to us: is not taken for "not there"',
    async () => {
      await mkdir(join(dir, 'closed'), { mode: 0o700 })
      const { stdout } = await runCode(
        `import { exists } from 'scripts/core/file.ts'
       await exists('${dir}/closed/x').catch((error) => console.log(error.code, error.message))`,
        NOBODY,
      )
      expect(stdout).toBe(`file-unreadable cannot look at "${dir}/closed/x": permission denied\n`)
    },
  )
})
