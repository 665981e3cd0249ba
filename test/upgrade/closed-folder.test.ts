import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { chown, mkdir, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { closedFolder } from '../../scripts/cluster/closed-folder.ts'
import { userId } from '../../scripts/cluster/connect.ts'
import { livePid } from '../../scripts/cluster/ready.ts'
import { runScript } from '../support/script.ts'
import { upgradeHost } from '../support/upgrade.ts'

/** Folders that a process has made. */
function foldersOf(pid: number): string[] {
  const names = readdirSync(tmpdir()).filter((name) => name.startsWith(`howdah-closed-${pid}-`))
  return names.map((name) => join(tmpdir(), name))
}

test('a rehearsal that was killed: its folder goes with the next one, and the server that has its data there', async () => {
  await using host = await upgradeHost([15, 17])
  const args = ['upgrade', 'rehearse', '--to', '17', '--bindir', host.bindir, '-c', host.file]
  let folder = ''
  let server = 0
  const killed = await runScript(args, {
    onStart: async (pid) => {
      while (folder === '') {
        folder = foldersOf(pid).find((path) => existsSync(join(path, '.s.PGSQL.5432.lock'))) ?? ''
        await sleep(2)
      }
      server = (await livePid(join(folder, 'data')))!
      process.kill(pid, 'SIGKILL')
    },
  })
  expect(killed.signal).toBe('SIGKILL')
  expect(existsSync(`/proc/${server}`)).toBe(true)
  await using own = await closedFolder(host.server.cluster.osUser)
  expect([existsSync(own.path), existsSync(folder), existsSync(`/proc/${server}`)]).toEqual([
    true,
    false,
    false,
  ])
})

test('the folder of a process that lives: stays', async () => {
  await using one = await closedFolder('postgres')
  await using other = await closedFolder('postgres')
  expect([existsSync(one.path), existsSync(other.path)]).toEqual([true, true])
})

test.runIf(process.getuid?.() === 0)(
  'a folder of that name that somebody else made, with a link to the data of a server that serves: nothing happens to either',
  async () => {
    await using host = await upgradeHost([15, 17])
    const { dataDir, osUser } = host.server.cluster
    const dead = spawnSync('true').pid
    for (const [name, uid] of [
      [`howdah-closed-${dead}-theirs`, 65_534],
      [`howdah-closed-${dead}-linked`, userId(osUser).uid],
    ] as const) {
      const folder = join(tmpdir(), name)
      await mkdir(folder)
      await symlink(dataDir, join(folder, 'data'))
      await chown(folder, uid, uid)
    }
    await using own = await closedFolder(osUser)
    expect(existsSync(own.path)).toBe(true)
    expect(await host.query('postgres', 'select 1 as n')).toEqual([{ n: 1 }])
    expect(foldersOf(dead).map((path) => path.split('-').at(-1))).toEqual(['theirs'])
    await rm(join(tmpdir(), `howdah-closed-${dead}-theirs`), { recursive: true })
  },
)
