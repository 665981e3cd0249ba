import { readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { holdResource, stateAccess, systemIdentifier } from '../../scripts/cluster/lock.ts'
import { parseHost } from '../../scripts/host/host.ts'
import type { Host } from '../../scripts/host/schema.ts'
import { ended, saidBy, startCode } from '../support/code.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let host: Host
beforeAll(async () => {
  server = await startServer()
  host = server.host('')
})
afterAll(() => server[Symbol.asyncDispose]())

describe('systemIdentifier', () => {
  test('of a server, and of its files while it is down: is the same', async () => {
    const [row] = await server.query<{ id: string }>(
      'postgres',
      'select system_identifier::text as id from pg_control_system()',
    )
    expect(await systemIdentifier(server.cluster)).toBe(row!.id)
    await server.cluster.stop()
    expect(await systemIdentifier(server.cluster)).toBe(row!.id)
    await server.cluster.start()
  })

  test('of a folder that was not made to its end: is empty', async () => {
    const dataDir = join(server.dir, 'half')
    expect(await systemIdentifier({ ...server.cluster, dataDir, isRunning: async () => false })).toBe('')
  })

  test('of files that cannot be read: who is needed is said', async () => {
    const dataDir = join(server.dir, 'x\0y')
    await expect(
      systemIdentifier({ ...server.cluster, dataDir, isRunning: async () => false }),
    ).rejects.toMatchObject({ code: 'not-permitted', hint: expect.stringContaining('Run this as root') })
  })
})

describe('holdResource', () => {
  test('another process holds it: lock-held; other resources of the cluster are free', async () => {
    const child = startCode(
      `import { holdResource } from 'scripts/cluster/lock.ts'
       import { openCluster } from 'scripts/cluster/open.ts'
       import { parseHost } from 'scripts/host/host.ts'
       const host = parseHost(${JSON.stringify(server.header)})
       const held = await holdResource(host, await openCluster(host), 'store:a/b')
       console.log('held')
       setInterval(() => held, 1000)`,
    )
    await saidBy(child, 'held')
    await expect(holdResource(host, server.cluster, 'store:a/b')).rejects.toMatchObject({ code: 'lock-held' })
    await using _other = await holdResource(host, server.cluster, 'store:a_b')
    await using _cluster = await holdResource(host, server.cluster, 'cluster')
    child.kill('SIGKILL')
    await ended(child)
    await using _now = await holdResource(host, server.cluster, 'store:a/b')
  })

  test('the locks of a private cluster: are in its state folder, named after the cluster, whatever the resource is called', async () => {
    await using _lock = await holdResource(host, server.cluster, 'database:../../x y')
    const identifier = await systemIdentifier(server.cluster)
    expect(await readdir(join(host.host.state_dir, 'lock'))).toContain(
      `${identifier}.database%3A..%2F..%2Fx%20y.lock`,
    )
  })

  test('a cluster that is being made: has a lock before it has an identifier, and the same one afterwards', async () => {
    await using making = await holdResource(host, undefined, 'cluster')
    await expect(holdResource(host, server.cluster, 'cluster')).rejects.toMatchObject({ code: 'lock-held' })
    await expect(holdResource(host, undefined, 'cluster')).rejects.toMatchObject({ code: 'lock-held' })
    await making[Symbol.asyncDispose]()
    await using _made = await holdResource(host, server.cluster, 'cluster')
    await expect(holdResource(host, undefined, 'cluster')).rejects.toMatchObject({ code: 'lock-held' })
  })

  test('the archive service of a cluster whose data directory is lost: is still known by its name', async () => {
    await using _service = await holdResource(host, server.cluster, 'archive')
    await expect(holdResource(host, undefined, 'archive')).rejects.toMatchObject({ code: 'lock-held' })
  })

  test('two clusters that are being made: do not wait for each other', async () => {
    const other = parseHost(server.header.replace('/data"', '/data2"'))
    await using _one = await holdResource(host, undefined, 'cluster')
    await using two = await holdResource(other, undefined, 'cluster')
    expect(two).toBeDefined()
  })

  test('a lock that is refused half-way: gives back what it had already', async () => {
    const identifier = await systemIdentifier(server.cluster)
    const path = join(host.host.state_dir, 'lock', `${identifier}.cluster.lock`)
    await rm(path, { force: true })
    await writeFile(path, '')
    const child = startCode(
      `import { takeLock } from 'scripts/core/lock.ts'
       const held = await takeLock(${JSON.stringify(path)}, { folder: { mode: 0o755 } })
       console.log('held')
       setInterval(() => held, 1000)`,
    )
    await saidBy(child, 'held')
    await expect(holdResource(host, server.cluster, 'cluster')).rejects.toMatchObject({ code: 'lock-held' })
    await using byName = await holdResource(host, undefined, 'cluster')
    expect(byName).toBeDefined()
    child.kill('SIGKILL')
    await ended(child)
  })

  test.runIf(process.getuid?.() === 0).each([
    ['of the cluster', true],
    ['of a cluster that is yet to be made', false],
  ])('folders that root makes: belong to the user %s', async (_title, isThere) => {
    const folder = join(host.host.state_dir, 'lock')
    await rm(folder, { recursive: true, force: true })
    await using _lock = await holdResource(host, isThere ? server.cluster : undefined, 'cluster')
    const { uid, mode } = await stat(folder)
    expect({ uid, mode: mode & 0o777 }).toEqual({ uid: stateAccess('postgres').uid, mode: 0o750 })
  })
})
