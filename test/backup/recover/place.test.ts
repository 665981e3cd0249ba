import { lstat, readdir, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { assertStartable } from '../../../scripts/backup/recover/place.ts'
import { openCopy, ownFolder, type RecoverSource, recoverSource } from '../../support/recover.ts'
import { runScript } from '../../support/script.ts'

let source: RecoverSource
/** Where the source has its tablespace; a name that needs care. */
let space: string

const query = <Row extends object = Record<string, unknown>>(text: string) =>
  source.server.query<Row>('postgres', text)

beforeAll(async () => {
  source = await recoverSource('[roles.app]\npassword = { file = "/nowhere/app" }\n')
  space = await ownFolder(source.server, 'space \\one "$HOME"')
  await query(`create tablespace fast location '${space.replaceAll("'", "''")}'`)
  await query('create table t (n int) tablespace fast')
  await query('create table u (n int)')
  await query('insert into t select generate_series(1, 5000)')
  await source.take()
  await query('insert into t select generate_series(5001, 9000)')
  await query('insert into u select generate_series(1, 100)')
  await source.ship()
})

afterAll(() => source[Symbol.asyncDispose]())

/** Every file below a folder, with what shows that it was written to. */
async function stateOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
  return Promise.all(
    files.toSorted().map(async (path) => {
      const { size, mtimeMs, ino } = await stat(path)
      return `${path} ${size} ${mtimeMs} ${ino}`
    }),
  )
}

describe('a data directory in which no server could be started: refused before anything is copied', () => {
  test.each([
    ['a double quote', '/srv/a"b/data', `"\\""`],
    ['a dollar, which sh replaces', '/srv/$HOME/data', '"$"'],
    ['a backquote, which sh runs', '/srv/`id`/data', '"`"'],
    ['a backslash', '/srv/data\\', String.raw`"\\"`],
    ['a line break', '/srv/a\nb', String.raw`"\n"`],
    ['of a copy: a comma', '/srv/a,b', 'a comma'],
    [
      'of a copy: a name too long for a socket',
      `/srv/${'é'.repeat(45)}`,
      'would have 117 bytes, 107 are possible',
    ],
  ])('%s', (_, dataDir, why) => {
    expect(() => assertStartable(dataDir, dataDir)).toThrowError(
      expect.objectContaining({ code: 'plan-impossible', message: expect.stringContaining(why) }),
    )
  })

  test.each(["/srv/it's here (1) & there; #%~*?[é]/data", `/srv/${'x'.repeat(80)}`])(
    '%s: is none',
    (dataDir) => {
      expect(() => assertStartable(dataDir, dataDir)).not.toThrow()
    },
  )

  test('of the cluster itself, whose socket is elsewhere: a comma and a long name are none', () => {
    expect(() => assertStartable(`/srv/a,b/${'x'.repeat(200)}`, undefined)).not.toThrow()
  })

  test('beside the living source: refused with --plan, too', async () => {
    const { code, stderr } = await source.restore('cluster', '--plan', '--to', join(source.server.dir, 'a$b'))
    expect({ code, stderr }).toEqual({
      code: 42,
      stderr: expect.stringContaining('pg_ctl cannot cope with "$"'),
    })
  })
})

describe('restore of a cluster with tablespaces', () => {
  test('beside the living source without a place of its own for one: refused', async () => {
    const { code, stderr } = await source.restore('cluster', '--to', join(source.server.dir, 'none'))
    expect({ code, stderr }).toEqual({
      code: 56,
      stderr: expect.stringContaining('A copy needs a place of its own'),
    })
  })

  test('into a folder of a tablespace in which something is: its plan says so, and exits with 1', async () => {
    const there = await ownFolder(source.server, 'taken')
    await writeFile(join(there, 'precious'), 'x')
    const to = ['--to', join(source.server.dir, 'none'), '--tablespace', `${space}=${there}`, '--plan']
    const { code, stdout } = await source.restore('cluster', ...to, '--json')
    expect({ code, result: JSON.parse(stdout) }).toMatchObject({
      code: 1,
      result: {
        result: {
          takenSeconds: expect.closeTo(50, -2),
          findings: [
            {
              level: 'impossible',
              code: 'target-not-empty',
              text: `"${there}", for tablespace fast, is not empty`,
            },
          ],
        },
      },
    })
  })

  test('beside the living source with another place: the source’s tablespace is not written to', async () => {
    await query('checkpoint')
    const before = await stateOf(space)
    const there = join(source.server.dir, 'elsewhere')
    await using copy = await source.copy('--tablespace', `${space}=${there}`)
    expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: 9000 }])
    await copy.query('postgres', 'insert into t select generate_series(1, 50000); checkpoint')
    const [oid] = await readdir(join(copy.dir, 'pg_tblspc'))
    expect(await readlink(join(copy.dir, 'pg_tblspc', oid!))).toBe(there)
    expect(await readdir(there)).toEqual([expect.stringMatching(/^PG_15_/)])
    expect(await stateOf(space)).toEqual(before)
    await rm(there, { recursive: true })
  })

  test('a copy belongs to the OS user of the server, whatever its files were like', async () => {
    const there = join(source.server.dir, 'mode')
    await using copy = await source.copy('--tablespace', `${space}=${there}`, '--no-start')
    const [own, other] = await Promise.all([lstat(copy.dir), lstat(source.server.cluster.dataDir)])
    expect({ mode: own.mode & 0o777, uid: own.uid }).toEqual({ mode: 0o700, uid: other.uid })
    await rm(there, { recursive: true })
  })

  test('on a bare host: the store and the name of the cluster are enough, the host file comes out of the backup', async () => {
    const dir = await ownFolder(source.server, 'bare')
    const there = join(dir, 'space')
    await source.server.cluster.stop() // its host is gone
    const { code, stderr, stdout } = await runScript([
      'restore',
      'cluster',
      '--from',
      `file://${source.store}`,
      '--cluster',
      'test/main',
      '--tablespace',
      `${space}=${there}`,
      '--json',
      `postgres.data_dir=${dir}/data`,
      `host.state_dir=${dir}/state`,
    ])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(JSON.parse(stdout)).toMatchObject({
      ok: true,
      result: {
        newTimeline: 2,
        milliseconds: {
          fetch: expect.any(Number),
          recovery: expect.any(Number),
          handover: expect.any(Number),
        },
        findings: [
          {
            level: 'warning',
            hint: expect.any(String),
            text: 'roles.app.password of the host file cannot be had here: secret file "/nowhere/app" does not exist',
          },
        ],
      },
    })
    {
      await using copy = await openCopy(source.server, join(dir, 'data'))
      expect(await copy.query('postgres', 'select count(*)::int as n from t')).toEqual([{ n: 9000 }])
    }
    await source.server.cluster.start()
  })

  test('a store that has no such cluster: it says which it has', async () => {
    const { code, stderr } = await runScript([
      'restore',
      'cluster',
      '--from',
      `file://${source.store}`,
      '--cluster',
      'test/other',
    ])
    expect({ code, stderr }).toEqual({ code: 53, stderr: expect.stringContaining('It has: test/main') })
  })
})

describe('restore of a cluster in its own place', () => {
  test('without consent: refused, and nothing has moved', async () => {
    await source.server.cluster.stop()
    const before = await readdir(source.server.dir)
    const { code, stderr } = await source.restore('cluster')
    expect({ code, stderr }).toEqual({ code: 40, stderr: expect.stringContaining('With --yes') })
    expect(await readdir(source.server.dir)).toEqual(before)
  })

  test('with consent: what was there is kept, its tablespace too, and the spool of the archive is set aside', async () => {
    const spool = join(source.server.dir, 'state/spool')
    await ownFolder(source.server, `state/spool/${source.systemIdentifier}`)
    await writeFile(join(source.server.cluster.dataDir, 'of the old one'), '')
    const { code, stderr, stdout } = await source.restore('cluster', '--yes')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain('take a new base backup')
    expect(
      await query('select (select count(*) from t)::int as t, (select count(*) from u)::int as u'),
    ).toEqual([{ t: 9000, u: 100 }])
    const kept = (await readdir(source.server.dir)).filter((name) => name.startsWith('data.before-'))
    expect(kept).toHaveLength(1)
    expect(await readdir(join(source.server.dir, kept[0]!))).toContain('of the old one')
    expect((await readdir(space)).toSorted()).toEqual([
      expect.stringMatching(/^PG_15_/),
      expect.stringMatching(/^before-/),
    ])
    expect(await readdir(spool)).toEqual([
      expect.stringMatching(new RegExp(`^${source.systemIdentifier}.before-`)),
    ])
    expect(await query('show archive_mode')).toEqual([{ archive_mode: 'off' }])
    expect((await readdir(source.server.dir)).filter((name) => name.includes('restoring'))).toEqual([])
  })

  test('again after the promotion, from the backup before it: it follows the new timeline', async () => {
    await query('insert into u select generate_series(101, 250)')
    await source.ship()
    const there = join(source.server.dir, 'second')
    await using copy = await source.copy('--tablespace', `${space}=${there}`)
    expect(copy.result).toMatchObject({ timeline: 2, newTimeline: 3 })
    expect(await copy.query('postgres', 'select count(*)::int as n from u')).toEqual([{ n: 250 }])
    await rm(there, { recursive: true })
  })

  test('on the timeline that was left, when it is named: without what came after', async () => {
    const there = join(source.server.dir, 'third')
    await using copy = await source.copy('--tablespace', `${space}=${there}`, '--timeline', '1')
    expect(copy.result).toMatchObject({ timeline: 1, newTimeline: 3 })
    expect(await copy.query('postgres', 'select count(*)::int as n from u')).toEqual([{ n: 100 }])
    await rm(there, { recursive: true })
  })
})

describe('a tablespace that was made after the backup', () => {
  test('beside the living source: a copy that would write into it is refused', async () => {
    const later = await ownFolder(source.server, 'later')
    await query(`create tablespace later location '${later}'`)
    await query('create table v tablespace later as select generate_series(1, 100) as n')
    await query('checkpoint')
    await source.ship()
    const before = await stateOf(later)
    const { code, stderr } = await source.restore(
      'cluster',
      '--to',
      join(source.server.dir, 'guard'),
      '--tablespace',
      `${space}=${join(source.server.dir, 'guarded')}`,
    )
    expect({ code, stderr }).toEqual({
      code: 42,
      stderr: expect.stringContaining(`a tablespace was made in "${later}"`),
    })
    expect(await stateOf(later)).toEqual(before)
    expect(await query('select count(*)::int as n from v')).toEqual([{ n: 100 }])
  })
})
