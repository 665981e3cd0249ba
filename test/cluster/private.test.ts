import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, readlink, realpath, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Cluster } from '../../scripts/cluster/cluster.ts'
import { openCluster, requireCluster } from '../../scripts/cluster/open.ts'
import { run } from '../../scripts/core/exec.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { ended, runCode, saidBy, startCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'

const isRoot = process.getuid?.() === 0

let server: TestServer
let cluster: Cluster
beforeAll(async () => {
  server = await startServer()
  cluster = server.cluster
})
afterAll(() => server[Symbol.asyncDispose]())

const reopen = async (header = server.header) => (await openCluster(parseHost(header)))!
const headerFor = (data: string) => server.header.replace(/data_dir = .*/, `data_dir = "${data}"`)
const postmaster = async () =>
  Number((await readFile(join(cluster.dataDir, 'postmaster.pid'), 'utf8')).split('\n')[0])

/** Kills the server as a crash of the machine does: all of its processes at once. */
async function crash(): Promise<void> {
  const first = await postmaster()
  process.kill(first, 'SIGKILL') // first of all, so that it makes no more of them
  const seen = new Set([first])
  do {
    for (const pid of await inFolder()) {
      seen.add(pid)
      spawnSync('kill', ['-KILL', String(pid)])
    }
    await sleep(10)
  } while ([...seen].some((pid) => existsSync(`/proc/${pid}`))) // until nobody has its number any more
}

/** Processes that work in the data directory: all of a server's do. */
async function inFolder(): Promise<number[]> {
  const own = await realpath(cluster.dataDir)
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    const cwd = /^\d+$/.test(name) ? await readlink(`/proc/${name}/cwd`).catch(() => undefined) : undefined
    if (cwd === own) found.push(Number(name))
  }
  return found
}

describe('openCluster: a private one', () => {
  test('its facts: from the host file and the folder', () => {
    expect(cluster).toMatchObject({
      kind: 'private',
      label: `private cluster ${server.dir}/data`,
      major: server.major,
      port: 5432,
      socketDir: join(server.dir, 'socket'),
      configDir: cluster.dataDir,
      superuser: 'postgres',
      ...(isRoot && { osUser: 'postgres' }),
    })
  })

  test('no folder, an empty one, one that holds something else: none', async () => {
    await mkdir(join(server.dir, 'empty'))
    await mkdir(join(server.dir, 'else'))
    await writeFile(join(server.dir, 'else/letter.txt'), 'dear')
    for (const name of ['nowhere', 'empty', 'else']) {
      expect(await openCluster(parseHost(headerFor(join(server.dir, name))))).toBeUndefined()
    }
  })

  test('none, where one is needed: is said', async () => {
    await expect(requireCluster(parseHost(headerFor('/nowhere/data')))).rejects.toMatchObject({
      code: 'cluster-mismatch',
      message: 'there is no private cluster in "/nowhere/data"',
      hint: 'Make it with: howdah provision apply',
    })
  })

  test.runIf(isRoot)('a folder that is closed to us: who is needed is said', async () => {
    const { stdout } = await runCode(
      `import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       await openCluster(parseHost(${JSON.stringify(server.header)})).catch((error) => console.log(error.code, error.message, error.hint))`,
      { uid: 65_534, gid: 65_534 },
    )
    expect(stdout).toBe(
      `not-permitted cannot look into the data directory "${cluster.dataDir}" Run this as root, or as its owner.\n`,
    )
  })

  test('it runs somewhere else than the host file says: it is found there', async () => {
    const host = parseHost(server.header.replace('port = 5432', 'port = 6000\nsocket_dir = "/nowhere"'))
    expect(await openCluster(host)).toMatchObject({ port: 5432, socketDir: cluster.socketDir })
  })

  test('programs of PostgreSQL: get in with what they are given', async () => {
    const { argv, env } = cluster.clientArguments('postgres')
    const psql = [join(cluster.bindir, 'psql'), ...argv, '-X', '-A', '-t', '-c', 'select current_user']
    expect((await run(psql, { env, as: cluster.osUser })).stdout).toBe('postgres\n')
  })
})

describe('start, stop, restart', () => {
  afterEach(async () => {
    if (!(await cluster.isRunning())) await cluster.start()
  })

  test('stop and start: it answers when start is through, and not any more when stop is', async () => {
    await cluster.stop()
    expect(await cluster.isRunning()).toBe(false)
    await expect(cluster.connect('postgres')).rejects.toMatchObject({ code: 'server-unreachable' })
    await cluster.start()
    expect(await server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
  })

  test('stop: does not wait for those who are connected', async () => {
    const client = await cluster.connect('postgres')
    await cluster.stop()
    await client.end()
    expect(await cluster.isRunning()).toBe(false)
  })

  test('the folder of its socket and log is gone: start makes it anew, for the owner of the data', async () => {
    await cluster.stop()
    await rm(cluster.socketDir, { recursive: true })
    await cluster.start()
    expect(await server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
    expect((await stat(cluster.socketDir)).uid).toBe((await stat(cluster.dataDir)).uid)
  })

  test('restart: is another server process', async () => {
    const before = await postmaster()
    await cluster.restart()
    expect(await postmaster()).not.toBe(before)
    expect(await cluster.isRunning()).toBe(true)
  })

  test('killed by SIGKILL: the socket and the pid file that stay do not pass for a server, and it starts again', async () => {
    await crash()
    const after = await reopen()
    expect(await after.isRunning()).toBe(false)
    await after.start()
    expect(await server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
  })

  test('its port was changed while it stood still: start waits where it listens now', async () => {
    const conf = join(cluster.dataDir, 'conf.d/50-port.conf')
    await cluster.stop()
    await writeFile(conf, 'port = 5433\n')
    try {
      await cluster.start()
      const moved = await reopen()
      expect(moved.port).toBe(5433)
      expect(await moved.isRunning()).toBe(true)
      await moved.stop()
    } finally {
      await rm(conf)
    }
  })

  test.each(['start', 'restart'] as const)(
    '%s with a setting that it refuses: its last words are the hint',
    async (verb) => {
      const conf = join(cluster.dataDir, 'conf.d/50-bad.conf')
      if (verb === 'start') await cluster.stop()
      await writeFile(conf, "shared_preload_libraries = 'howdah_no_such_library'\n")
      try {
        await expect(cluster[verb]()).rejects.toMatchObject({
          code: 'command-failed',
          message: `${cluster.label} did not ${verb}`,
          hint: expect.stringContaining('howdah_no_such_library'),
        })
        expect(await cluster.isRunning()).toBe(false)
      } finally {
        await rm(conf)
      }
    },
  )

  test('the program that started it is ended by Ctrl-C, then killed with its group: the server lives on', async () => {
    await cluster.stop()
    const child = startCode(
      `import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       await (await openCluster(parseHost(${JSON.stringify(server.header)}))).start()
       console.log('started')
       process.on('SIGINT', () => {})
       setInterval(() => {}, 1000)`,
      { isGroup: true },
    )
    await saidBy(child, 'started')
    process.kill(-child.pid!, 'SIGINT')
    process.kill(-child.pid!, 'SIGKILL')
    await ended(child)
    await sleep(200)
    expect(await server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
  })

  test('a server that is slow to answer, since it recovers: start waits for it', async () => {
    await server.query('postgres', 'create table big as select g from generate_series(1, 200000) g')
    await crash()
    await cluster.start()
    expect(await server.query('postgres', 'select count(*)::int as n from big')).toEqual([{ n: 200_000 }])
  })
})
