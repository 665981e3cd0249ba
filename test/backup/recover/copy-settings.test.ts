import { appendFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { withoutOtherPlace } from '../../../scripts/backup/recover/copy-settings.ts'
import { type Copy, openCopy, ownFolder, type RecoverSource, recoverSource } from '../../support/recover.ts'

let source: RecoverSource
let copy: Copy
let said: string
/** Where the source writes its log. */
let logs: string

// What production sets is only written into its files: its own server has started without.
beforeAll(async () => {
  source = await recoverSource()
  logs = await ownFolder(source.server, 'logs of production')
  const { dataDir } = source.server.cluster
  const conf = join(dataDir, 'conf.d/99-production.conf')
  await writeFile(conf, PRODUCTION(source.server.dir, logs))
  await appendFile(join(dataDir, 'postgresql.conf'), `data_directory = '${dataDir}'\n`)
  await source.server.query('postgres', 'create table t as select 1 as n')
  await source.take()
  await source.ship()
  const dir = join(source.server.dir, 'copy')
  const { code, stderr } = await source.restore('cluster', '--to', dir, '--port', '20001')
  expect({ code, stderr }).toMatchObject({ code: 0 })
  said = stderr
  copy = await openCopy(source.server, dir)
})

afterAll(async () => {
  await copy?.[Symbol.asyncDispose]()
  await source?.[Symbol.asyncDispose]()
})

const PRODUCTION = (dir: string, folder: string) => `
synchronous_standby_names = 'nobody'
logging_collector = on
log_directory = '${folder}'
log_destination = 'stderr,csvlog'
ssl = on
ssl_cert_file = '${dir}/gone/server.crt'
hba_file = '${dir}/gone/pg_hba.conf'
unix_socket_group = 'howdah-no-such-group'
shared_preload_libraries = 'pg_stat_statements, "howdah_none", $libdir/auto_explain'
session_preload_libraries = 'howdah_none_either'
shared_buffers = '2TB'
huge_pages = 'on'
archive_mode = on
archive_command = 'touch "${dir}/archived-by-a-copy"'
restore_command = 'touch "${dir}/fetched-by-a-copy"'
external_pid_file = '${dir}/pid of production'
`

const show = async (name: string) =>
  (await copy.query<{ value: string }>('postgres', `select current_setting('${name}') as value`))[0]!.value

describe('a copy of a cluster', () => {
  test('whose standbys are not there: commits do not wait for them', async () => {
    await copy.query('postgres', `set statement_timeout = '5s'; insert into t values (2)`)
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: 2 }])
  })

  test('whose settings name the data directory of the source: is in its own', async () => {
    expect(await show('data_directory')).toBe(copy.dir)
  })

  test('whose log was in an absolute folder: writes into its own', async () => {
    expect(await readdir(logs)).toEqual([])
    expect((await readdir(join(copy.dir, 'log'))).length).toBeGreaterThan(0)
  })

  test('whose libraries are not all installed here: does without those, and says so', async () => {
    expect(await show('shared_preload_libraries')).toBe('pg_stat_statements, $libdir/auto_explain')
    expect(await show('session_preload_libraries')).toBe('')
    expect(said).toContain('library howdah_none of shared_preload_libraries is not installed here')
    expect(said).toContain('library howdah_none_either of session_preload_libraries is not installed here')
  })

  test('has its share of the memory only', async () => {
    const [row] = await copy.query<{ mb: number }>(
      'postgres',
      `select (setting::bigint * 8 / 1024)::int as mb from pg_settings where name = 'shared_buffers'`,
    )
    expect(row!.mb).toBeLessThanOrEqual(1024)
  })

  test.each([
    ['ssl', 'off'],
    ['huge_pages', 'off'],
    ['archive_mode', 'off'],
    ['archive_command', '(disabled)'],
    ['restore_command', ''],
    ['external_pid_file', ''],
    ['listen_addresses', ''],
    ['unix_socket_group', ''],
  ])('%s: %j', async (name, value) => {
    expect(await show(name)).toBe(value)
  })

  test('has touched nothing beside it', async () => {
    await copy.query('postgres', 'select pg_switch_wal(); checkpoint')
    const names = await readdir(source.server.dir)
    expect(names.filter((name) => /by-a-copy|pid of/.test(name))).toEqual([])
  })

  test('whose data directory is named in a file that is included: refused, it would be the source that starts', async () => {
    const conf = join(source.server.cluster.dataDir, 'conf.d/99-place.conf')
    await writeFile(conf, `data_directory = '${source.server.cluster.dataDir}'\n`)
    await source.take()
    await rm(conf)
    await source.ship()
    const before = await readdir(source.server.dir)
    const { code, stderr } = await source.restore('cluster', '--to', join(source.server.dir, 'included'))
    expect({ code, stderr }).toEqual({
      code: 42,
      stderr: expect.stringContaining('in a file that postgresql.conf includes'),
    })
    expect(await readdir(source.server.dir)).toEqual(before)
  })
})

test.each([
  [
    `data_directory = '/srv/other' # here\nport = 1`,
    `# not here: data_directory = '/srv/other' # here\nport = 1`,
  ],
  [` Data_Directory '/srv/it''s'`, ` Data_Directory '/srv/it''s'`],
  [`#data_directory = '/srv/other'`, `#data_directory = '/srv/other'`],
  [`include 'data_directory'`, `include 'data_directory'`],
])('postgresql.conf %j: nobody else’s data directory is left in it', (text, expected) => {
  expect(withoutOtherPlace(text, "/srv/it's")).toBe(expected)
})
