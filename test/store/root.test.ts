import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { openStoreUrl } from '../../scripts/store/open.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { guardRoot } from '../../scripts/store/root.ts'
import { chunks, keys, type Opened, storeContract, text } from './contract.ts'

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'howdah-root-'))
  onTestFinished(() => rm(path, { recursive: true, force: true }))
  return path
}

describe('guarded store dir', () => {
  storeContract(async (): Promise<Opened> => {
    const path = await mkdtemp(join(tmpdir(), 'howdah-root-'))
    return {
      store: guardRoot(dirStore(join(path, 'store')), join(path, 'store'), { canBeNew: true }),
      [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
    }
  })
})

describe('a folder that is not there', () => {
  test('of a store that is only used: store-unreachable, whatever is asked, and it is not made', async () => {
    const dir = await folder()
    const store = openStoreUrl(`file://${dir}/store`)
    const failed = {
      code: 'store-unreachable',
      message: `the store has no folder "${dir}/store"`,
      hint: expect.stringContaining('Is its disk mounted?') as string,
    }
    await expect(keys(store, '')).rejects.toMatchObject(failed)
    await expect(store.get('x')).rejects.toMatchObject(failed)
    await expect(store.put('x', chunks('x'))).rejects.toMatchObject(failed)
    await expect(store.create('x', Buffer.from('x'))).rejects.toMatchObject(failed)
    await expect(store.delete(['x'])).rejects.toMatchObject(failed)
    expect(await readdir(dir)).toEqual([])
  })

  test('of a store that is begun: empty, and the first write makes it', async () => {
    const path = join(await folder(), 'store')
    const store = guardRoot(dirStore(path), path, { canBeNew: true })
    expect(await keys(store, '')).toEqual([])
    await store.put('x', chunks('content'))
    expect(await text(guardRoot(dirStore(path), path), 'x')).toBe('content')
  })
})

// A file system of its own, and an /etc of its own that declares it: only in a name space of root's.
describe.runIf(process.getuid?.() === 0)('a disk that /etc/fstab or a unit of systemd declares', () => {
  /** What each use of a store on `<disk>/store` leads to. `before` is a shell command. */
  async function uses(disk: string, declare: string, before: string): Promise<Record<string, string>> {
    const program = `
      import { guardRoot } from '${join(import.meta.dirname, '../../scripts/store/root.ts')}'
      import { dirStore } from '${join(import.meta.dirname, '../../scripts/store/dir.ts')}'
      const path = ${JSON.stringify(join(disk, 'store'))}
      const store = guardRoot(dirStore(path), path, { canBeNew: true })
      const code = (promise) => promise.then(() => 'done', (error) => error.code + ': ' + error.message)
      async function* x() { yield Buffer.from('x') }
      console.log(JSON.stringify({
        put: await code(store.put('a', x())),
        create: await code(store.create('b', Buffer.from('x'))),
        list: await code(Array.fromAsync(store.list(''))),
        get: await code(store.get('a')),
        delete: await code(store.delete(['b'])),
      }))`
    const { stdout } = await run([
      'unshare',
      '--mount',
      'sh',
      '-ec',
      `${declare}; ${before}; exec "$0" --input-type=module -e "$1"`,
      process.execPath,
      program,
    ])
    return JSON.parse(stdout) as Record<string, string>
  }

  const byFstab = async (dir: string, point: string) => {
    await writeFile(join(dir, 'fstab'), `tmpfs ${point} tmpfs noauto 0 0\n`)
    return `mount --bind ${dir}/fstab /etc/fstab`
  }
  const byUnit = async (dir: string, point: string) => {
    await mkdir(join(dir, 'units'))
    await writeFile(join(dir, 'units', 'disk.mount'), `[Mount]\nWhat=tmpfs\nWhere=${point}\nType=tmpfs\n`)
    return `mount --bind ${dir}/units /etc/systemd/system`
  }

  test.each([
    ['/etc/fstab', byFstab],
    ['a unit', byUnit],
  ])(
    'by %s, not mounted: nothing is read from, and nothing written to, the disk below',
    async (_by, declare) => {
      const dir = await folder()
      const disk = join(dir, 'disk')
      await mkdir(disk)
      const found = await uses(disk, await declare(dir, disk), 'true')
      const refused = `store-unreachable: the store "${disk}/store" is to be on "${disk}", on which nothing is mounted`
      expect(found).toEqual({ put: refused, create: refused, list: refused, get: refused, delete: refused })
      expect(await readdir(disk)).toEqual([])
    },
  )

  test('mounted: used, and its folder is made', async () => {
    const dir = await folder()
    const disk = join(dir, 'disk')
    await mkdir(disk)
    const found = await uses(disk, await byFstab(dir, disk), `mount -t tmpfs tmpfs ${disk}`)
    expect(found).toEqual({ put: 'done', create: 'done', list: 'done', get: 'done', delete: 'done' })
    expect(await readdir(disk)).toEqual([])
  })

  test('a symbolic link to it, while it is not mounted: refused all the same', async () => {
    const dir = await folder()
    const disk = join(dir, 'disk')
    await mkdir(disk)
    const link = join(dir, 'link')
    await run(['ln', '-s', disk, link])
    const found = await uses(link, await byFstab(dir, disk), 'true')
    expect(found['put']).toMatch(/^store-unreachable: .* is to be on ".*\/disk"/)
    expect(await readdir(disk)).toEqual([])
  })
})
