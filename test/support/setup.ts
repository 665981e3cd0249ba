import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { type RunningS3, runS3 } from './ceph.ts'

/**
 * What all test files of a run share. It listens on a socket and starts the S3 server when the first
 * file asks for it: runs of tests that need none do not wait for one.
 * @returns what clears up at the end of the run
 */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-run-'))
  const path = join(folder, 's3.sock')
  let s3: Promise<RunningS3> | undefined
  const server = createServer((socket) => {
    s3 ??= runS3()
    s3.then(
      ({ address }) => socket.end(JSON.stringify(address)),
      (error: unknown) => socket.end(JSON.stringify({ error: String(error) })),
    )
    socket.on('error', () => {}) // a file that was ended while it waited
  }).listen(path)
  await once(server, 'listening')
  project.provide('s3Socket', path)
  return async () => {
    server.close()
    await (await s3?.catch(() => undefined))?.[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  }
}
