import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Cluster } from '../../scripts/cluster/cluster.ts'
import { confValue, debianUnit } from '../../scripts/cluster/debian.ts'
import { openCluster, requireCluster } from '../../scripts/cluster/open.ts'
import { run } from '../../scripts/core/exec.ts'
import { exists } from '../../scripts/core/file.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { freePort } from '../support/port.ts'
import { newestMajor } from '../support/server.ts'

const canMake = process.getuid?.() === 0 && (await exists('/usr/bin/pg_createcluster'))

test.each([
  ['with an equals sign', 'port = 5433', '5433'],
  ['without one', 'port 5433', '5433'],
  ['without blanks', 'port=5433', '5433'],
  ['in quotes', "port = '5433'", '5433'],
  ['with a comment', "port = 5433 # '5434'", '5433'],
  ['the last one counts', 'port = 1\nport = 2\n', '2'],
  ['in capitals', 'PORT = 5433', '5433'],
  ['commented out', '#port = 5433', undefined],
  ['another setting that begins like it', 'port_x = 1\nmy.port = 2', undefined],
  ['a quote inside of quotes', "port = 'it''s'", "it's"],
  ['an escaped quote', String.raw`port = 'it\'s'`, "it's"],
  ['a hash inside of quotes', "port = '/a#b'", '/a#b'],
  ['lines of another system', 'port = 5433\r\n', '5433'],
  ['nothing', '', undefined],
])('confValue: %s', (_, text, value) => {
  expect(confValue(text, 'port')).toBe(value)
})

const spec = (major: number, name: string, more = '') =>
  parseHost(`format = 1\n[host]\nname = "x"\n[postgres]\nmajor = ${major}\ncluster = "${name}"\n${more}`)

test('debianUnit: the unit of the one cluster, not the umbrella that succeeds even when it fails', () => {
  expect(debianUnit(spec(15, 'main').postgres)).toBe('postgresql@15-main.service')
})

test('a cluster that is not there: none; where one is needed it is said', async () => {
  const host = spec(15, 'howdah_no_such')
  expect(await openCluster(host)).toBeUndefined()
  await expect(requireCluster(host)).rejects.toMatchObject({
    code: 'cluster-mismatch',
    message: 'there is no debian cluster 15/howdah_no_such',
    hint: 'Make it with: howdah provision apply',
  })
})

describe.runIf(canMake)('a cluster of postgresql-common', () => {
  const name = `howdahtest${process.pid}`
  let major: number
  let port: number
  let cluster: Cluster
  const conf = (file: string) => join(`/etc/postgresql/${major}/${name}`, file)

  beforeAll(async () => {
    major = await newestMajor()
    port = await freePort()
    const { code } = await run([
      'pg_createcluster',
      String(major),
      name,
      '--port',
      String(port),
      '--',
      '--no-sync',
    ])
    expect(code).toBe(0)
    cluster = (await openCluster(spec(major, name)))!
  })
  afterAll(async () => {
    await run(['pg_dropcluster', '--stop', String(major), name])
    await rm(conf(''), { recursive: true, force: true }) // it leaves a conf.d with files in it
  })

  test('its facts: from its files', () => {
    expect(cluster).toMatchObject({
      kind: 'debian',
      label: `debian cluster ${major}/${name}`,
      major,
      bindir: `/usr/lib/postgresql/${major}/bin`,
      port,
      socketDir: '/var/run/postgresql',
      dataDir: `/var/lib/postgresql/${major}/${name}`,
      configDir: `/etc/postgresql/${major}/${name}`,
      osUser: 'postgres',
      superuser: 'postgres',
    })
  })

  test('it is started, restarted and stopped: by root, and it answers when that is through', async () => {
    expect(await cluster.isRunning()).toBe(false)
    await cluster.start()
    const client = await cluster.connect('postgres')
    expect((await client.query('select current_user::text as who')).rows).toEqual([{ who: 'postgres' }])
    await client.end()
    await cluster.restart()
    expect(await cluster.isRunning()).toBe(true)
    await cluster.stop()
    expect(await cluster.isRunning()).toBe(false)
  })

  test('a host file that names another data directory: is refused', async () => {
    await expect(openCluster(spec(major, name, 'data_dir = "/srv/pg"'))).rejects.toMatchObject({
      code: 'cluster-mismatch',
      message: `cluster ${major}/${name} has its data in "/var/lib/postgresql/${major}/${name}", the host file says "/srv/pg"`,
      hint: `Set postgres.data_dir = "/var/lib/postgresql/${major}/${name}", or name another cluster.`,
    })
  })

  test('its port in another file: the last one counts, and that of ALTER SYSTEM', async () => {
    const portOf = async () => (await openCluster(spec(major, name)))!.port
    await writeFile(conf('conf.d/50-port.conf'), 'port = 6001')
    await writeFile(conf('conf.d/60-port.conf'), 'port = 6002')
    await writeFile(conf('conf.d/.70-port.conf'), 'port = 6003')
    await writeFile(conf('conf.d/80-port.conf.bak'), 'port = 6004')
    expect(await portOf()).toBe(6002)
    const auto = join(cluster.dataDir, 'postgresql.auto.conf')
    await writeFile(auto, "port = '6005'\n")
    expect(await portOf()).toBe(6005)
    await writeFile(auto, '')
    await rm(conf('conf.d/50-port.conf'))
    await rm(conf('conf.d/60-port.conf'))
    expect(await portOf()).toBe(port)
  })

  test('its port is changed in a file while it runs: it is found where it listens', async () => {
    await cluster.start()
    await writeFile(conf('conf.d/50-port.conf'), 'port = 6001')
    expect((await openCluster(spec(major, name)))!.port).toBe(port)
    await rm(conf('conf.d/50-port.conf'))
    await cluster.stop()
  })

  test('it does not start: its last words are the hint', async () => {
    await writeFile(conf('conf.d/50-bad.conf'), "shared_preload_libraries = 'howdah_no_such_library'\n")
    await expect(cluster.start()).rejects.toMatchObject({
      code: 'command-failed',
      message: `debian cluster ${major}/${name} did not start`,
      hint: expect.stringContaining('howdah_no_such_library'),
    })
    await rm(conf('conf.d/50-bad.conf'))
  })
})
