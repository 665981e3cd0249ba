import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { dirStore } from '../../scripts/store/dir.ts'
import { run } from '../../scripts/core/exec.ts'
import { broken, chunks, keys, type Opened, storeContract, text } from './contract.ts'

async function open(): Promise<Opened & { readonly path: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-store-'))
  const path = join(folder, 'store')
  return {
    store: dirStore(path),
    path,
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}

describe('store dir', () => {
  storeContract(open)
})

const everything = async (path: string) => (await readdir(path, { recursive: true })).sort()
const isRoot = process.getuid?.() === 0

describe('folder', () => {
  test('list while a file makes room for another: one of the two is always there', async () => {
    await using opened = await open()
    const { store } = opened
    await Promise.all(Array.from({ length: 200 }, (_, index) => store.create(`x/${index}`, Buffer.from('x'))))
    await store.create('x/a', Buffer.from('x'))
    let isOver = false
    const writer = async () => {
      for (let round = 0; !isOver; round++) {
        const [old, next] = round % 2 === 0 ? ['x/a', 'x/b'] : ['x/b', 'x/a']
        await store.put(next, chunks('x'))
        await store.delete([old])
      }
    }
    const writing = writer()
    try {
      for (let look = 0; look < 50; look++) {
        const found = (await Array.fromAsync(store.list('x/'))).map(({ key }) => key)
        expect(found.filter((key) => /[ab]/.test(key))).not.toEqual([])
        expect(found).toEqual(found.toSorted())
      }
    } finally {
      isOver = true
      await writing
    }
  })

  test('url: names the folder', () => {
    expect(dirStore('/srv/with space').url).toBe('file:///srv/with%20space')
  })

  test('modes: files 0600, folders 0750', async () => {
    await using opened = await open()
    await opened.store.put('a/b/c', chunks('x'))
    await opened.store.create('a/d', Buffer.from('x'))
    const mode = async (name: string) => ((await stat(join(opened.path, name))).mode & 0o7777).toString(8)
    expect(await Promise.all(['.', 'a', 'a/b', 'a/b/c', 'a/d'].map(mode))).toEqual([
      '750',
      '750',
      '750',
      '600',
      '600',
    ])
  })

  test('failed put: no temporary file is left', async () => {
    await using opened = await open()
    await opened.store.put('x/y', chunks('old'))
    await expect(opened.store.put('x/y', broken('half'))).rejects.toThrow('the source broke')
    expect(await everything(opened.path)).toEqual(['x', 'x/y'])
  })

  test('put and create: no temporary file is left', async () => {
    await using opened = await open()
    await opened.store.put('y', chunks('1'))
    await opened.store.create('y', Buffer.from('2'))
    await opened.store.create('z', Buffer.from('3'))
    expect(await everything(opened.path)).toEqual(['y', 'z'])
  })

  test('writer killed with SIGKILL in the middle of a put: nothing is seen, and the key can be put again', async () => {
    await using opened = await open()
    const script = `
      import { dirStore } from '${join(import.meta.dirname, '../../scripts/store/dir.ts')}'
      async function* forever() {
        for (let n = 0; ; n++) {
          yield Buffer.alloc(65536, n)
          if (n === 20) process.stdout.write('writing')
          await new Promise((resolve) => setTimeout(resolve, 1))
        }
      }
      await dirStore(${JSON.stringify(opened.path)}).put('a/b', forever())`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'close')
    expect(
      (await everything(join(opened.path, 'a'))).map((name) => name.replace(/[0-9a-f]{18}/, 'X')),
    ).toEqual(['.X.howdah-tmp'])
    expect(await keys(opened.store, '')).toEqual([])
    await expect(opened.store.get('a/b')).rejects.toMatchObject({ code: 'store-missing' })
    await opened.store.put('a/b', chunks('whole'))
    expect(await text(opened.store, 'a/b')).toBe('whole')
  })

  test('delete of the last file in a folder: the folder goes too, the root stays', async () => {
    await using opened = await open()
    await opened.store.put('a/b/c', chunks('x'))
    await opened.store.delete(['a/b/c'])
    expect(await everything(opened.path)).toEqual([])
    expect((await stat(opened.path)).isDirectory()).toBe(true)
  })

  test('folders that others delete while we write: every put succeeds', async () => {
    await using opened = await open()
    const { store } = opened
    await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        await store.put(`a/b/${index}`, chunks('x'))
        await store.delete([`a/b/${index}`])
      }),
    )
    expect(await keys(store, '')).toEqual([])
  })

  test('symbolic link in the store: no entry', async () => {
    await using opened = await open()
    await opened.store.put('real', chunks('x'))
    await symlink('/etc/passwd', join(opened.path, 'link'))
    expect(await keys(opened.store, '')).toEqual(['real'])
  })

  test('file where a folder should be: store-denied with a word on it', async () => {
    await using opened = await open()
    await opened.store.put('a', chunks('x'))
    await expect(opened.store.put('a/b', chunks('x'))).rejects.toMatchObject({
      code: 'store-denied',
      message: expect.stringContaining('a file stands where a folder should'),
    })
  })
})

// A file system of its own that is full after 1 MB. Root only.
describe.runIf(isRoot)('as root', () => {
  test('full disk in the middle of a put: no-space, and nothing is left of it', async () => {
    await using opened = await open()
    await mkdir(opened.path)
    await run(['mount', '-t', 'tmpfs', '-o', 'size=1m,mode=0750', 'tmpfs', opened.path])
    try {
      await opened.store.put('small', chunks('x'))
      const big = Array.from({ length: 64 }, () => Buffer.alloc(65_536, 1))
      await expect(opened.store.put('a/big', chunks(...big))).rejects.toMatchObject({
        code: 'no-space',
        hint: expect.stringContaining('df -h'),
      })
      expect(await everything(opened.path)).toEqual(['small'])
      await opened.store.put('a/next', chunks('fits'))
    } finally {
      await run(['umount', opened.path])
    }
  })

  test('what root writes: belongs to the owner of the store', async () => {
    await using opened = await open()
    const { store } = opened
    await mkdir(opened.path)
    await chown(opened.path, 12_345, 12_346)
    await store.put('a/b', chunks('x'))
    await store.create('a/c', Buffer.from('x'))
    const owners = await Promise.all(
      ['a', 'a/b', 'a/c'].map(async (name) => {
        const { uid, gid } = await stat(join(opened.path, name))
        return `${name} ${uid}:${gid}`
      }),
    )
    expect(owners).toEqual(['a 12345:12346', 'a/b 12345:12346', 'a/c 12345:12346'])
  })

  test('new store of root for somebody: belongs to them', async () => {
    await using opened = await open()
    await dirStore(opened.path, { uid: 12_345, gid: 12_346 }).put('a', chunks('x'))
    expect(await stat(opened.path)).toMatchObject({ uid: 12_345, gid: 12_346 })
    expect(await stat(join(opened.path, 'a'))).toMatchObject({ uid: 12_345, gid: 12_346 })
  })

  test('key that another user may not read: store-denied, which is not store-missing', async () => {
    await using opened = await open()
    await mkdir(join(opened.path, 'closed'), { recursive: true })
    await writeFile(join(opened.path, 'closed', 'x'), 'x')
    await chmod(join(opened.path, '..'), 0o755)
    await chmod(opened.path, 0o755)
    await chmod(join(opened.path, 'closed'), 0o700)
    const result = await asNobody(opened.path)
    expect(result).toEqual({
      get: 'store-denied',
      list: 'store-denied',
      put: 'store-denied',
      create: 'store-denied',
      delete: 'store-denied',
      missing: 'store-missing',
    })
  })
})

async function asNobody(path: string): Promise<unknown> {
  const script = `
    import { dirStore } from '${join(import.meta.dirname, '../../scripts/store/dir.ts')}'
    process.setgroups([]); process.setgid(65534); process.setuid(65534)
    const store = dirStore(${JSON.stringify(path)})
    const code = (promise) => promise.then(() => 'done', (error) => error.code)
    async function* x() { yield Buffer.from('x') }
    console.log(JSON.stringify({
      get: await code(store.get('closed/x')),
      list: await code(Array.fromAsync(store.list(''))),
      put: await code(store.put('closed/y', x())),
      create: await code(store.create('closed/z', Buffer.from('x'))),
      delete: await code(store.delete(['closed/x'])),
      missing: await code(store.get('nothing')),
    }))`
  const { stdout } = await run([process.execPath, '--input-type=module', '-e', script])
  return JSON.parse(stdout)
}
