import { join } from 'node:path'
import { expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { type CheckTarget, checkUpgrade } from '../../scripts/upgrade/check.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { allPrograms } from '../support/upgrade.ts'

/** Errors when a server is to go to a major whose programs are where Debian has them, or somewhere else. */
async function errorsOf(
  server: TestServer,
  { major, bindir, method }: { major: number; bindir?: string; method: CheckTarget['method'] },
): Promise<{ code: string; message: string; hint: string }[]> {
  const host = server.host('')
  const spec = { ...host.postgres, major, bindir, data_dir: `${server.dir}/data-${major}` }
  const target = { host, spec, method, packageOf: () => 'postgresql-contrib' }
  return (await checkUpgrade(server.cluster, target)).filter(({ severity }) => severity === 'error')
}

test.runIf(process.getuid?.() === 0)(
  'check: a tablespace on a small disk has no room for a copy: its place is named, and linking needs none',
  async () => {
    await using server = await startServer()
    const small = join(server.dir, 'small')
    await run(['mkdir', small])
    await run(['mount', '-t', 'tmpfs', '-o', 'size=20m,mode=0777', 'tmpfs', small])
    try {
      await run(['mkdir', join(small, 'space')], { as: server.cluster.osUser })
      await server.query('postgres', `create tablespace far location '${join(small, 'space')}'`)
      await server.query(
        'postgres',
        'create table big tablespace far as select repeat(md5(g::text), 31) as t from generate_series(1, 12000) g',
      )
      const bindir = await allPrograms(17)
      const copied = await errorsOf(server, { major: 17, bindir, method: 'copy' })
      expect(copied.map(({ code }) => code)).toEqual(['no-space'])
      expect(copied[0]!.message).toContain(join(small, 'space'))
      expect(await errorsOf(server, { major: 17, bindir, method: 'link' })).toEqual([])
    } finally {
      await server.cluster.stop()
      await run(['umount', small])
    }
  },
)

test('check: a major that this OS has no package of: the OS goes first', async () => {
  await using server = await startServer()
  const [error, ...others] = await errorsOf(server, { major: 99, method: 'copy' })
  expect(others).toEqual([])
  expect(error!.code).toBe('programs')
  expect(error!.hint).toMatch(/^This OS has no package postgresql-99\..*prepare-os/)
})

test('check --method swap to 17, which does not have it: that is said, and what to do', async () => {
  await using server = await startServer()
  const bindir = await allPrograms(17)
  const errors = await errorsOf(server, { major: 17, bindir, method: 'swap' })
  expect(errors.map(({ code }) => code)).toEqual(['method'])
  expect(errors[0]!.hint).toContain('--method link')
})
