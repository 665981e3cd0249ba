import { chmod, chown, lstat, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'smol-toml'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { userId } from '../../../scripts/cluster/connect.ts'
import { run } from '../../../scripts/core/exec.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import type { Facts } from '../../../scripts/plan/kind.ts'
import { KINDS as ALL } from '../../../scripts/plan/kinds.ts'
import { type Tablespace, tablespace } from '../../../scripts/plan/kind/tablespace.ts'
import { changeMounts, dropMounts, requirement } from '../../../scripts/plan/kind/tablespace-mounts.ts'
import {
  isInside,
  mountPointOf,
  parseMounts,
  type Place,
} from '../../../scripts/plan/kind/tablespace-place.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const KINDS = ALL.filter(({ name }) => name === 'role' || name === 'tablespace')
let server: TestServer
let spaces: string

beforeAll(async () => {
  server = await startServer()
  spaces = join(server.dir, 'spaces')
  await mkdir(spaces)
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
})
afterEach(async () => {
  const rows = await server.query<{ name: string }>(
    'postgres',
    `select quote_ident(spcname) as name from pg_tablespace where spcname not in ('pg_default', 'pg_global')`,
  )
  for (const { name } of rows) await server.query('postgres', `drop tablespace ${name}`)
  await rm(spaces, { recursive: true, force: true })
  await mkdir(spaces)
})

const apply = (toml: string) => server.apply([tablespace], toml)
const plan = (toml: string) => server.plan([tablespace], toml)
const pending = async (toml: string) => linesOf((await plan(toml)).changes)
const findings = async (toml: string) =>
  (await plan(toml)).findings.map(({ level, text }) => `${level}: ${text}`)
const one = (given: object = {}) =>
  stringify({ tablespaces: { fast: { location: join(spaces, 'fast'), ...given } } })

async function catalog(): Promise<object[]> {
  return server.query(
    'postgres',
    `select spcname as name, pg_tablespace_location(oid) as location, spcowner::regrole::text as owner,
            spcoptions as options
       from pg_tablespace where spcname not in ('pg_default', 'pg_global') order by 1`,
  )
}

describe('tablespace', () => {
  test('no [tablespaces]: nothing is touched', async () => {
    expect(await plan('')).toMatchObject({ changes: [], findings: [] })
  })

  test("a new one: its folder is the server's alone, then nothing is left to do", async () => {
    expect(await pending(one())).toEqual([`+ tablespace fast: ${spaces}/fast`])
    await apply(one())
    const { mode, uid } = await stat(join(spaces, 'fast'))
    expect({ mode: mode & 0o777, uid }).toEqual({ mode: 0o700, uid: userId(server.cluster.osUser).uid })
    expect(await readdir(join(spaces, 'fast'))).toEqual([expect.stringMatching(`^PG_${server.major}_`)])
    expect(await plan(one())).toMatchObject({ changes: [], findings: [] })
  })

  test('a folder that is there already, empty and of somebody else: is taken over', async () => {
    await mkdir(join(spaces, 'fast'), { mode: 0o755 })
    await apply(one())
    expect((await stat(join(spaces, 'fast'))).mode & 0o777).toBe(0o700)
  })

  test('hostile names and places: arrive as they are', async () => {
    const names = ['a"b', 'Ünï cødé', 'with space', 'x'.repeat(63), 'select', `'; drop table x; --`]
    const tablespaces = Object.fromEntries(
      names.map((name, index) => [
        name,
        { location: join(spaces, `${index} ${name.replaceAll("'", '')} %n \\`) },
      ]),
    )
    const toml = stringify({ tablespaces })
    await apply(toml)
    expect(await catalog()).toHaveLength(names.length)
    expect(await plan(toml)).toMatchObject({ changes: [], findings: [] })
  })

  test('a run that died between the folder and the tablespace: the next one makes it', async () => {
    const onStep = ({ run }: { run: string }) => {
      if (run === 'sql') throw new Error('killed')
    }
    await expect(server.apply([tablespace], one(), { onStep })).rejects.toThrow('killed')
    await apply(one())
    expect(await catalog()).toHaveLength(1)
    expect(await pending(one())).toEqual([])
  })

  test('owner and options: only what differs is changed', async () => {
    await server.query('postgres', 'create role "Keeper"')
    await apply(one({ options: { random_page_cost: '1.10' } }))
    const toml = one({ owner: 'Keeper', options: { random_page_cost: 1.1, seq_page_cost: 0.5 } })
    const { changes } = await plan(toml)
    expect(linesOf(changes)).toEqual([
      '~ tablespace fast: owner postgres -> Keeper, seq_page_cost default -> 0.5',
    ])
    expect(changes[0]!.steps).toHaveLength(2)
    await apply(toml)
    expect(await pending(toml)).toEqual([])
    expect(await pending(one())).toEqual([
      '~ tablespace fast: owner Keeper -> postgres, random_page_cost 1.1 -> default, seq_page_cost 0.5 -> default',
    ])
    await apply(one())
    expect(await catalog()).toMatchObject([{ owner: 'postgres', options: null }])
    await server.query('postgres', 'drop role "Keeper"')
  })

  test('made with an owner and options: nothing is left to do', async () => {
    await server.query('postgres', 'create role "a""b"')
    const toml = one({
      owner: 'a"b',
      options: { effective_io_concurrency: 200, maintenance_io_concurrency: '20' },
    })
    await apply(toml)
    expect(await pending(toml)).toEqual([])
    expect(await catalog()).toMatchObject([{ owner: '"a""b"' }])
    await apply(one())
    await server.query('postgres', 'drop role "a""b"')
  })

  test('an owner that the same host file makes: is there before', async () => {
    const toml = `${one({ owner: 'keeper' })}\n[roles.keeper]`
    await server.apply(KINDS, toml)
    expect(await catalog()).toMatchObject([{ owner: 'keeper' }])
    expect(await server.plan(KINDS, toml)).toMatchObject({ changes: [] })
    await apply(one())
    await server.query('postgres', 'drop role keeper')
  })

  test('one that the host file does not name: stays', async () => {
    await apply(one())
    expect(await plan('')).toMatchObject({ changes: [] })
  })

  test('export: the plan against it is empty', async () => {
    await server.query('postgres', 'create role keeper')
    await apply(
      stringify({
        tablespaces: {
          'a"b': { location: join(spaces, 'a b'), owner: 'keeper' },
          plain: { location: join(spaces, 'plain'), options: { random_page_cost: 1.1 } },
        },
      }),
    )
    const exported = await server.observe('', async (observe) => {
      const context = { host: observe.host, facts: observe.facts }
      return stringify(tablespace.exported!(await tablespace.actual(observe), context))
    })
    expect(exported).toContain('owner = "keeper"')
    expect(await plan(exported)).toMatchObject({ changes: [], findings: [] })
    await server.query('postgres', `alter tablespace "a""b" owner to postgres`)
    await server.query('postgres', 'drop role keeper')
  })
})

describe('tablespace: places that are refused', () => {
  const refused = async (location: string, given: object = {}) => {
    const planned = await plan(one({ location, ...given }))
    expect(planned.changes).toEqual([])
    expect(planned.findings.map(({ level }) => level)).toEqual(['impossible'])
    return planned.findings[0]!
  }

  test('inside of the data directory, where the server would only warn', async () => {
    const { text } = await refused(join(server.dir, 'data/spaces'))
    expect(text).toContain('is inside of the data directory')
  })

  test('inside of it by way of a link', async () => {
    await symlink(join(server.dir, 'data'), join(spaces, 'link'))
    expect((await refused(join(spaces, 'link/x'))).text).toContain('is inside of the data directory')
  })

  test('around the data directory', async () => {
    expect((await refused(server.dir)).text).toContain('holds the data directory')
    expect((await refused('/')).text).toContain('holds the data directory')
  })

  test('a symbolic link, or a folder behind one', async () => {
    await mkdir(join(spaces, 'real'))
    await symlink(join(spaces, 'real'), join(spaces, 'link'))
    expect((await refused(join(spaces, 'link'))).hint).toBe(
      `Name the place itself: location = "${spaces}/real"`,
    )
    expect((await refused(join(spaces, 'link/sub'))).hint).toContain(`"${spaces}/real/sub"`)
  })

  test('a link that leads nowhere yet', async () => {
    await symlink('nowhere', join(spaces, 'link'))
    expect((await refused(join(spaces, 'link'))).hint).toContain(`"${spaces}/nowhere"`)
  })

  test('a file', async () => {
    await writeFile(join(spaces, 'file'), '')
    expect((await refused(join(spaces, 'file'))).text).toContain('is no folder')
    expect((await refused(join(spaces, 'file/below'))).text).toContain('lies below a file')
  })

  test('what an earlier tablespace of the same major left there', async () => {
    await mkdir(join(spaces, 'fast', `PG_${server.major}_202209061`), { recursive: true })
    expect((await refused(join(spaces, 'fast'))).text).toContain(
      `holds "PG_${server.major}_202209061" already`,
    )
  })

  test("a folder with somebody else's files", async () => {
    await mkdir(join(spaces, 'fast'))
    await writeFile(join(spaces, 'fast/precious'), '')
    expect((await refused(join(spaces, 'fast'))).text).toMatch(/belongs to ".+" and is not empty/)
  })

  test('a folder of the server that another major uses: is no obstacle', async () => {
    await mkdir(join(spaces, 'fast/PG_9_1'), { recursive: true })
    const { uid, gid } = userId(server.cluster.osUser)
    await chown(join(spaces, 'fast'), uid, gid)
    await chmod(join(spaces, 'fast'), 0o700)
    await apply(one())
    expect(await catalog()).toHaveLength(1)
  })

  test('the root of a mounted file system, which holds lost+found and is there without the mount, too', async () => {
    const { text, hint } = await refused('/dev/shm')
    expect(text).toContain('is the root of a mounted file system')
    expect(hint).toContain('"/dev/shm/postgres"')
  })

  test('mount = true where nothing is mounted', async () => {
    expect((await refused(join(spaces, 'fast'), { mount: true })).text).toContain('nothing is mounted for')
  })

  test('mount = true where something is: is made, and refused from the day that it is not', async () => {
    const dir = await mkdtemp('/dev/shm/howdah-')
    await chmod(dir, 0o755)
    try {
      const toml = one({ location: join(dir, 'fast'), mount: true })
      await apply(toml)
      expect(await plan(toml)).toMatchObject({ changes: [], findings: [] })
      await server.query('postgres', 'drop tablespace fast')
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  test('the place of another tablespace, or one in it', async () => {
    const toml = (location: string) =>
      stringify({
        tablespaces: { a: { location: join(spaces, 'a') }, b: { location } },
      })
    expect(await findings(toml(join(spaces, 'a')))).toHaveLength(2)
    expect(await findings(toml(join(spaces, 'a/b')))).toHaveLength(2)
    expect(await findings(toml(join(spaces, 'ab')))).toEqual([])
  })

  test('a single quote, which the server does not take', async () => {
    expect((await refused(join(spaces, `it's`))).text).toBe('a location must not hold a single quote')
  })

  test("another place than the one it has: a move is nobody's guess", async () => {
    await apply(one())
    const { text, hint } = await refused(join(spaces, 'slow'), { owner: 'postgres' })
    expect(text).toBe(`it is at "${spaces}/fast", the host file says "${spaces}/slow"`)
    expect(hint).toContain('A move is up to you')
    await expect(lstat(join(spaces, 'slow'))).rejects.toThrow('ENOENT')
    expect(await plan(one({ location: `${spaces}//fast/` }))).toMatchObject({ changes: [], findings: [] })
  })

  test.each([
    [{ random_page_price: 1 }, 'there is no option "random_page_price" (did you mean "random_page_cost"?)'],
    [{ random_page_cost: 'cheap' }, 'option random_page_cost is a number, not "cheap"'],
    [{ random_page_cost: '' }, 'option random_page_cost is a number, not ""'],
  ])('an option such as %j', async (options, text) => {
    expect((await refused(join(spaces, 'fast'), { options })).text).toBe(text)
  })

  test('one that is there and passes a link: works, so it is a warning', async () => {
    await mkdir(join(spaces, 'real'))
    const { uid, gid } = userId(server.cluster.osUser)
    await chown(join(spaces, 'real'), uid, gid)
    await symlink(join(spaces, 'real'), join(spaces, 'fast'))
    await server.query('postgres', `create tablespace fast location '${spaces}/fast'`)
    expect(await findings(one())).toEqual([
      `warning: "${spaces}/fast" passes a symbolic link: its files are in "${spaces}/real"`,
    ])
  })
})

const facts: Facts = {
  major: 15,
  memoryBytes: 2 * 1024 ** 3,
  cpus: 2,
  osUser: 'postgres',
  configDir: '/etc/postgresql/15/main',
  dataDir: '/var/lib/postgresql/15/main',
  socketDir: '/var/run/postgresql',
}
const parse = (toml: string) => parseHost(`format = 1\n[host]\nname = "h"\n[postgres]\n${toml}`)

describe('tablespace: a file system that went away', () => {
  const place: Place = {
    state: 'folder',
    realPath: '/data/postgres',
    mountPoint: '/data',
    dataMountPoint: '/',
    owner: 'postgres',
    entries: [],
  }
  const host = parse('major = 15\n[tablespaces.x]\nlocation = "/data/postgres"\nmount = true')
  const wanted = tablespace.wanted(host, facts).get('x') as Tablespace
  const found = (mountPoint: string, isCreated: boolean) =>
    tablespace.findings!(
      'x',
      wanted,
      { ...wanted, isCreated, place: { ...place, mountPoint } },
      { host, facts },
    )

  test.each([
    ['mounted, new', '/data', false, []],
    ['mounted, made', '/data', true, []],
    ['not mounted, new', '/', false, ['nothing is mounted for "/data/postgres": it is on "/"']],
    ['not mounted, made', '/', true, ['nothing is mounted for "/data/postgres": it is on "/"']],
  ])('%s', (_title, mountPoint, isCreated, texts) => {
    expect(found(mountPoint, isCreated).map(({ text }) => text)).toEqual(texts)
  })

  test('on the same one as the data directory: is none of its own', () => {
    const same = { ...wanted, isCreated: false, place: { ...place, dataMountPoint: '/data' } }
    expect(tablespace.findings!('x', wanted, same, { host, facts })).toHaveLength(1)
  })
})

describe('tablespace: the drop-in of systemd', () => {
  const PATH = '/etc/systemd/system/postgresql@15-main.service.d/50-howdah-mounts.conf'
  const wantedOf = (toml: string) => tablespace.wanted(parse(toml), facts)

  test.each([
    ['no tablespace', 'major = 15', false],
    ['one without mount', 'major = 15\n[tablespaces.x]\nlocation = "/x"', false],
    ['one with mount', 'major = 15\n[tablespaces.x]\nlocation = "/x"\nmount = true', true],
    [
      'one with mount of a private cluster',
      'kind = "private"\nmajor = 15\ndata_dir = "/d"\n[tablespaces.x]\nlocation = "/x"\nmount = true',
      false,
    ],
  ])('%s: wanted: %s', (_title, toml, isWanted) => {
    expect(wantedOf(toml).has(PATH)).toBe(isWanted)
  })

  test.each([
    ['/data/postgres', '"/data/postgres"'],
    ['/data/with space', '"/data/with space"'],
    ['/data/100%', '"/data/100%%"'],
    ['/data/a"b', '"/data/a\\"b"'],
    ['/data/a\\b', '"/data/a\\\\b"'],
    ['/data/Ünï', '"/data/Ünï"'],
  ])('%s: is escaped', (location, escaped) => {
    expect(requirement(location)).toBe(`RequiresMountsFor=${escaped}\n`)
  })

  test('systemd reads it as it was meant', async () => {
    const dir = await mkdtemp(join(server.dir, 'unit-'))
    const unit = join(dir, 'howdah-probe.service')
    const locations = ['/data/with space', '/data/100%n', '/data/a"b\\c']
    await writeFile(unit, `[Unit]\n${locations.map(requirement).join('')}[Service]\nExecStart=/bin/true\n`)
    const { stderr } = await run(['systemd-analyze', 'verify', '--man=no', unit], { okCodes: [0, 1] })
    expect(stderr).not.toContain('howdah-probe')
    await writeFile(unit, `[Unit]\nRequiresMountsFor=relative\n[Service]\nExecStart=/bin/true\n`)
    const bad = await run(['systemd-analyze', 'verify', '--man=no', unit], { okCodes: [0, 1] })
    expect(bad.stderr).toContain('howdah-probe')
  })

  const content = '[Unit]\nRequiresMountsFor="/x"\n'
  const mounts = { type: 'mounts', content } as const
  const runs = (change: ReturnType<typeof changeMounts>) => change?.steps.map(({ run }) => run)

  test.each([
    ['not there', { content: '', systemd: 'loaded' }, ['folder', 'write', 'exec']],
    ['another', { content: 'x', systemd: 'loaded' }, ['folder', 'write', 'exec']],
    ['there, and not read after a run that died', { content, systemd: 'stale' }, ['exec']],
    ['there', { content, systemd: 'loaded' }, undefined],
    ['a host without systemd', { content: '', systemd: 'absent' }, undefined],
  ] as const)('%s: %j', (_title, actual, steps) => {
    expect(runs(changeMounts(PATH, mounts, { type: 'mounts', ...actual }))).toEqual(steps)
  })

  test('no tablespace needs it any more: goes', () => {
    expect(runs(dropMounts(PATH, { ...mounts, systemd: 'loaded' }))).toEqual(['exec', 'exec'])
    expect(dropMounts(PATH, { type: 'mounts', content: '', systemd: 'loaded' })).toBeUndefined()
  })

  test('export: what the drop-in names has mount = true', () => {
    const host = parse('major = 15')
    const made: Tablespace = {
      type: 'tablespace',
      isCreated: true,
      location: '/x',
      owner: 'postgres',
      options: [],
      mount: false,
    }
    const actual = new Map<string, Tablespace | typeof mounts>([
      ['x', made],
      ['y', { ...made, location: '/y' }],
      [PATH, mounts],
    ])
    expect(tablespace.exported!(actual, { host, facts })).toEqual({
      tablespaces: { x: { location: '/x', mount: true }, y: { location: '/y' } },
    })
  })
})

describe('tablespace: mounts of the system', () => {
  const MOUNTINFO = [
    '21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw',
    '22 21 8:2 / /data rw shared:2 - ext4 /dev/sda2 rw',
    '23 21 8:3 /sub /with\\040space\\134x rw - xfs /dev/sda3 rw',
    '24 21 0:40 / /auto rw shared:3 - autofs systemd-1 rw',
    '25 21 0:41 / /auto2 rw shared:3 - autofs systemd-1 rw',
    '26 25 8:4 / /auto2 rw shared:4 - ext4 /dev/sda4 rw',
    '',
  ].join('\n')

  test('an automount that nobody asked for yet is none; escapes are read', () => {
    expect(parseMounts(MOUNTINFO)).toEqual(['/', '/data', '/with space\\x', '/auto2'])
  })

  test.each([
    ['/data/postgres', '/data'],
    ['/data', '/data'],
    ['/database', '/'],
    ['/auto/x', '/'],
    ['/', '/'],
  ])('%s: is on %s', (path, mount) => {
    expect(mountPointOf(path, parseMounts(MOUNTINFO))).toBe(mount)
  })

  test.each([
    ['/a/b', '/a', true],
    ['/a', '/a', true],
    ['/ab', '/a', false],
    ['/a', '/a/b', false],
    ['/a/../b', '/a', false],
    ['/a', '/', true],
  ])('isInside: %s in %s: %s', (path, folder, expected) => {
    expect(isInside(path, folder)).toBe(expected)
  })
})
