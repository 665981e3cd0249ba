import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { configurationFiles } from '../../scripts/backup/etc.ts'
import type { Cluster } from '../../scripts/cluster/cluster.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'howdah-etc-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

async function write(...names: readonly string[]): Promise<void> {
  for (const name of names) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), name)
  }
}

const namesOf = async (cluster: Partial<Cluster>) =>
  (await configurationFiles(cluster as Cluster)).map(({ name, content }) => [name, content.toString()])

test('Debian cluster: everything in its folder, which is outside the data directory, and what ALTER SYSTEM wrote', async () => {
  await write(
    'etc/postgresql.conf',
    'etc/pg_hba.conf',
    'etc/conf.d/90-howdah.conf',
    'etc/conf.d/.hidden',
    'etc/start.conf',
  )
  await write('data/postgresql.auto.conf', 'data/PG_VERSION')
  await symlink('/etc/passwd', join(folder, 'etc/link'))
  expect(
    await namesOf({ kind: 'debian', configDir: join(folder, 'etc'), dataDir: join(folder, 'data') }),
  ).toEqual([
    ['conf.d/%2ehidden', 'etc/conf.d/.hidden'],
    ['conf.d/90-howdah.conf', 'etc/conf.d/90-howdah.conf'],
    ['pg_hba.conf', 'etc/pg_hba.conf'],
    ['postgresql.auto.conf', 'data/postgresql.auto.conf'],
    ['postgresql.conf', 'etc/postgresql.conf'],
    ['start.conf', 'etc/start.conf'],
  ])
})

test('private cluster: its configuration, and nothing else of the data directory', async () => {
  await write('data/postgresql.conf', 'data/postgresql.auto.conf', 'data/pg_hba.conf', 'data/pg_ident.conf')
  await write(
    'data/conf.d/90-howdah.conf',
    'data/PG_VERSION',
    'data/base/1/pg_hba.conf',
    'data/postmaster.opts',
  )
  const cluster = { kind: 'private', configDir: join(folder, 'data'), dataDir: join(folder, 'data') } as const
  expect((await namesOf(cluster)).map(([name]) => name)).toEqual([
    'conf.d/90-howdah.conf',
    'pg_hba.conf',
    'pg_ident.conf',
    'postgresql.auto.conf',
    'postgresql.conf',
  ])
})

test('remote cluster: none, its host cannot be looked at', async () => {
  expect(await namesOf({ kind: 'remote', configDir: '', dataDir: '' })).toEqual([])
})

test('configuration that cannot be read: file-unreadable with its path', async () => {
  await write('data/postgresql.conf')
  await mkdir(join(folder, 'data/postgresql.auto.conf'))
  const cluster = { kind: 'private', configDir: join(folder, 'data'), dataDir: join(folder, 'data') } as const
  await expect(namesOf(cluster)).rejects.toMatchObject({
    code: 'file-unreadable',
    message: expect.stringContaining('postgresql.auto.conf'),
  })
})
