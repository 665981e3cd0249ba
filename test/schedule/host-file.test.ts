import { chmod, chown, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { assertCommand, writableBy } from '../../scripts/schedule/host-file.ts'

const isRoot = process.getuid?.() === 0

describe('who can change something', () => {
  test.each([
    [{ uid: 0, gid: 0, mode: 0o100_755 }, undefined],
    [{ uid: 0, gid: 0, mode: 0o100_775 }, undefined],
    [{ uid: 0, gid: 50, mode: 0o100_755 }, undefined],
    [{ uid: 0, gid: 50, mode: 0o042_775 }, 'its group 50'],
    [{ uid: 0, gid: 0, mode: 0o041_777 }, 'everybody'],
    [{ uid: 26, gid: 26, mode: 0o100_500 }, 'its owner, the user 26'],
    [{ uid: 0, gid: 0, mode: 0o120_777 }, undefined],
  ])('%j: %s', (found, whose) => {
    expect(writableBy(found)).toBe(whose)
  })
})

describe.runIf(isRoot)('a program that root is to run', () => {
  let dir: string

  beforeAll(async () => {
    dir = await mkdtemp('/root/howdah-programs-') // all above it is root's
    await chmod(dir, 0o755)
    for (const name of ['mailer', 'of-nobody', 'of-all', 'open/mailer', 'my "mailer"; exit 1']) {
      await mkdir(join(dir, name, '..'), { recursive: true })
      await writeFile(join(dir, name), '#!/bin/sh\n', { mode: 0o755 })
    }
    await chown(join(dir, 'of-nobody'), 65_534, 65_534)
    await chmod(join(dir, 'of-all'), 0o777)
    await chmod(join(dir, 'open'), 0o777)
    await symlink(join(dir, 'mailer'), join(dir, 'good-link'))
    await symlink(join(dir, 'open/mailer'), join(dir, 'bad-link'))
  })
  afterAll(() => rm(dir, { recursive: true }))

  test.each(['mailer', 'good-link', 'my "mailer"; exit 1'])(
    '%j, which only root writes to: may be',
    async (name) => {
      await expect(assertCommand([join(dir, name), '-t'])).resolves.toBeUndefined()
    },
  )

  test.each([
    ['of-nobody', 'can be changed by its owner, the user 65534'],
    ['of-all', 'can be changed by everybody'],
    ['open/mailer', '/open" can be changed by everybody'],
    ['bad-link', '/open" can be changed by everybody'],
  ])('%j: is refused', async (name, message) => {
    await expect(assertCommand([join(dir, name), '-t'])).rejects.toMatchObject({
      code: 'not-permitted',
      message: expect.stringContaining(message),
      hint: expect.stringContaining('/usr/local/sbin'),
    })
  })

  test.each([
    ['open/mailer', '/open" can be changed by everybody'],
    ['open/made-later', '/open" can be changed by everybody'],
    ['bad-link', '/open" can be changed by everybody'],
  ])('a script that the program is told to run, %j: is refused', async (name, message) => {
    await expect(assertCommand(['/bin/sh', join(dir, name)])).rejects.toMatchObject({
      code: 'not-permitted',
      message: expect.stringMatching(new RegExp(`cannot run "/bin/sh" to tell people: .*${message}`)),
    })
    await expect(assertCommand(['/bin/sh', join(dir, 'mailer'), '/dev/null'])).resolves.toBeUndefined()
  })

  test('none, or one that depends on where it is run: is refused', async () => {
    await expect(assertCommand([join(dir, 'gone')])).rejects.toMatchObject({ code: 'file-unreadable' })
    await expect(assertCommand(['sendmail'])).rejects.toMatchObject({ code: 'not-permitted' })
  })
})
