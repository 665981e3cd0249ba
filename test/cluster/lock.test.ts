import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Cluster } from '../../scripts/cluster/cluster.ts'
import { systemIdentifier } from '../../scripts/cluster/lock.ts'
import { startServer, type TestServer } from '../support/server.ts'

describe('system identifier', () => {
  let server: TestServer
  let identifier: string

  beforeAll(async () => {
    server = await startServer()
    const [row] = await server.query(
      'postgres',
      'select system_identifier::text as id from pg_control_system()',
    )
    identifier = String(row!['id'])
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test('control file: gives the number that the server gives, without a session', async () => {
    const connect: Cluster['connect'] = () => Promise.reject(new Error('no session is needed'))
    expect(await systemIdentifier({ ...server.cluster, connect })).toBe(identifier)
  })

  test('control file that cannot be read: the server is asked', async () => {
    expect(await systemIdentifier({ ...server.cluster, dataDir: '/nonexistent' })).toBe(identifier)
  })

  test('control file that cannot be read, no server: says who may', async () => {
    const cluster = { ...server.cluster, dataDir: '/nonexistent', isRunning: async () => false }
    await expect(systemIdentifier(cluster)).rejects.toMatchObject({
      code: 'not-permitted',
      hint: `Run this as root, or as ${server.cluster.osUser}.`,
    })
  })
})
