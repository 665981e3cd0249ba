import { join } from 'node:path'
import { userId } from '../../scripts/cluster/connect.ts'
import { run } from '../../scripts/core/exec.ts'
import type { TestServer } from './server.ts'
import { chown, mkdir } from 'node:fs/promises'

/** Makes a folder in a test server's own that belongs to the server's user. */
export async function serverFolder(server: TestServer, name: string): Promise<string> {
  const path = join(server.dir, name)
  await mkdir(path)
  if (process.getuid?.() === 0) {
    const { uid, gid } = userId(server.cluster.osUser)
    await chown(path, uid, gid)
  }
  return path
}

/**
 * Unpacks a base backup with the script in its folder, as the server's user and without Node on the PATH.
 * @param from the folder of the backup; a copy of it is made, with those beside it that are named
 */
export async function restoreByScript(
  server: TestServer,
  from: string,
  options: readonly string[],
  beside: readonly string[] = [],
): Promise<{ code: number; stderr: string }> {
  const copy = join(server.dir, `copy of ${from.slice(from.lastIndexOf('/') + 1)}`)
  await run(['rm', '-rf', copy])
  await mkdir(copy)
  for (const folder of [from, ...beside]) await run(['cp', '-r', folder, copy])
  const as = server.cluster.osUser
  await run(['chown', '-R', as, copy])
  const script = join(copy, from.slice(from.lastIndexOf('/') + 1), 'restore.sh')
  return run(['env', '-i', 'PATH=/usr/bin:/bin', 'sh', script, ...options], { as, okCodes: [0, 1] })
}

/** Starts a data directory that was restored, for one query. @returns its first columns */
export async function queryRestored(server: TestServer, target: string, sql: string): Promise<string[]> {
  const { bindir, osUser: as, superuser } = server.cluster
  const options = `-c listen_addresses='' -c unix_socket_directories='${target}' -c port=5999 -c archive_mode=off`
  const pgCtl = [join(bindir, 'pg_ctl'), '-s', '-w', '-D', target]
  await run([...pgCtl, '-l', join(target, 'log'), '-o', options, 'start'], { as })
  try {
    const psql = [
      'psql',
      '-X',
      '-At',
      '-h',
      target,
      '-p',
      '5999',
      '-U',
      superuser,
      '-d',
      'postgres',
      '-c',
      sql,
    ]
    return (await run(psql, { as })).stdout.trim().split('\n')
  } finally {
    await run([...pgCtl, '-m', 'immediate', 'stop'], { as })
  }
}
