import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { Tree } from '../../scripts/reingest/watch-tree.ts'
import { ROOT } from '../support/script.ts'

let dir: string
let told: string[]

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-tree-'))
  told = []
})
afterEach(() => rm(dir, { recursive: true, force: true }))

const NOTHING_IGNORED = { files: [], folders: [] }

function treeOf(...folders: readonly string[]): Tree {
  return new Tree({
    folders,
    ignore: NOTHING_IGNORED,
    onFile: (path) => told.push(path.slice(dir.length + 1)),
    onTrouble: (reason) => told.push(reason),
  })
}

test('a link to a folder above: is not followed, so there is no end of folders', async () => {
  await mkdir(join(dir, 'a/b'), { recursive: true })
  await symlink(dir, join(dir, 'a/b/loop'))
  using tree = treeOf(dir)
  await tree.refresh()
  expect(tree.followed).toBe(3)
  await writeFile(join(dir, 'a/b/x'), '')
  await expect.poll(() => told).toContain('a/b/x')
})

test('one folder in another, and one that is not there: each is followed once, and the rest goes on', async () => {
  await mkdir(join(dir, 'a/b'), { recursive: true })
  using tree = treeOf(dir, join(dir, 'a'), join(dir, 'no'))
  await tree.refresh()
  expect([tree.followed, tree.unfollowed]).toEqual([3, 0])
})

test('folders that are gone: are let go of, those inside them, too', async () => {
  await mkdir(join(dir, 'a/b/c'), { recursive: true })
  using tree = treeOf(dir)
  await tree.refresh()
  expect(tree.followed).toBe(4)
  await rm(join(dir, 'a'), { recursive: true })
  await expect.poll(() => tree.followed).toBe(1)
})

// In a container /proc/sys may not be written to.
const canLimit =
  spawnSync('unshare', ['--user', '--map-root-user', 'test', '-w', '/proc/sys/user/max_inotify_watches'])
    .status === 0

test.runIf(canLimit)(
  'more folders than the kernel follows: it is told once, with the setting; the others are followed',
  async () => {
    for (const name of ['a', 'b', 'c', 'd', 'e']) await mkdir(join(dir, name))
    // The limit of a user namespace of its own (user_namespaces(7), /proc/sys/user).
    const program = `
    import { Tree } from '${ROOT}/scripts/reingest/watch-tree.ts'
    const told = []
    const options = { folders: ['${dir}'], ignore: { files: [], folders: [] }, onFile() {}, onTrouble: (text) => told.push(text) }
    using tree = new Tree(options)
    await tree.refresh()
    const first = [tree.followed, tree.unfollowed]
    await tree.refresh()
    console.log(JSON.stringify({ first, again: [tree.followed, tree.unfollowed], told }))`
    const limit = 'echo 5 >/proc/sys/user/max_inotify_watches && exec "$0" --input-type=module -e "$1"'
    const argv = ['unshare', '--user', '--map-root-user', 'sh', '-c', limit, process.execPath, program]
    const { stdout } = await run(argv)
    expect(JSON.parse(stdout)).toEqual({
      first: [5, 1],
      again: [5, 1],
      told: [expect.stringMatching(/^the kernel follows no more folders .*fs\.inotify\.max_user_watches/)],
    })
  },
)
