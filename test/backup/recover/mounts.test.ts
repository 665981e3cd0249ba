import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../../scripts/core/exec.ts'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'
import { ROOT } from '../../support/script.ts'

// In name spaces of root's: with mounts and an /etc/fstab of their own.
describe.runIf(process.getuid?.() === 0)('restore of a cluster and mount points', () => {
  let source: RecoverSource

  beforeAll(async () => {
    source = await recoverSource()
    await source.take()
    await source.ship()
  })

  afterAll(() => source[Symbol.asyncDispose]())

  /** Restores into `<folder>` with mounts that a shell command makes before. */
  async function restoreWith(before: string, folder: string): Promise<{ code: number; stderr: string }> {
    const program = [process.execPath, join(ROOT, 'scripts/restore.ts'), 'cluster', '--to', folder]
    return run(
      ['unshare', '--mount', 'sh', '-ec', `${before}; exec "$@"`, 'sh', ...program, '-c', source.file],
      { okCodes: [0, 42] },
    )
  }

  test('into a folder that is a mount point, which a clean-up would empty and could not remove: refused', async () => {
    const disk = join(source.server.dir, 'disk')
    await mkdir(disk)
    expect(await restoreWith(`mount -t tmpfs tmpfs ${disk}`, disk)).toMatchObject({
      code: 42,
      stderr: expect.stringContaining(`"${disk}" is a mount point`) as string,
    })
  })

  test('onto a disk of /etc/fstab that is not mounted, where it would fill the one below: refused', async () => {
    const disk = join(source.server.dir, 'other')
    await mkdir(disk)
    const fstab = join(source.server.dir, 'fstab')
    await writeFile(fstab, `tmpfs ${disk} tmpfs noauto 0 0\n`)
    expect(await restoreWith(`mount --bind ${fstab} /etc/fstab`, join(disk, 'data'))).toMatchObject({
      code: 42,
      stderr: expect.stringContaining(`is to be on "${disk}", on which nothing is mounted`) as string,
    })
    expect(await readdir(disk)).toEqual([])
  })
})
