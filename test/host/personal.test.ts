import { describe, expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import { isPersonalOverride, readPersonal } from '../../scripts/host/personal.ts'

const AROUND = { folder: '/home/ada/.local/share/howdah/xtelem', major: 16, bindir: '/opt/conda/envs/db/bin' }

// As such a file is written for a copy of one's own: which files to read, and who one is.
const FILE = `data_dirs = [
    "/mnt/archive/aoc/logs",
    "/mnt/archive/aoc/telem",
]
[database]
user = "ada"
`

describe('a file of xtelemdb', () => {
  test('as it stands: is a cluster of its own, without roles', () => {
    const file = readPersonal(FILE)!
    expect(file).toMatchObject({ user: 'ada', database: 'xtelem', isHere: true })
    const host = parseHost(file.toHost(AROUND))
    expect(host.postgres).toMatchObject({
      kind: 'private',
      major: 16,
      bindir: AROUND.bindir,
      data_dir: `${AROUND.folder}/data`,
      socket_dir: `${AROUND.folder}/socket`,
      superuser: 'ada',
    })
    expect(host.roles).toEqual({})
    expect(host.databases['xtelem']).toMatchObject({ migrations: { dir: 'sql/xtelem/migrations' } })
    expect(host.host.state_dir).toBe(`${AROUND.folder}/state`)
  })

  test.each([
    ['another host', 'host = "aoc"\n', 'postgres://ada@aoc:5432/xtelem'],
    [
      'its port, and a name that a URL does not take',
      'host = "aoc"\nport = 5433\ndatabase = "x/y"\n',
      'postgres://ada@aoc:5433/x%2Fy',
    ],
  ])('%s: is that database', (_title, lines, url) => {
    const file = readPersonal(`${FILE}${lines}password_file = "/run/secret"\n`)!
    expect(file.isHere).toBe(false)
    const { postgres } = parseHost(file.toHost(AROUND))
    expect(postgres).toMatchObject({ kind: 'remote', url, password: { file: '/run/secret' } })
  })

  test.each(['host = "localhost"', 'host = "127.0.0.1"\nport = 5444'])('%j: is here', (lines) => {
    const file = readPersonal(`${FILE}${lines}\n`)!
    expect(file.isHere).toBe(true)
    expect(parseHost(file.toHost(AROUND)).postgres.port).toBe(lines.includes('5444') ? 5444 : 5432)
  })

  test('which files are read, and by which program: as it says, or as xtelemdb takes them', () => {
    const read = (text: string) => parseHost(readPersonal(text)!.toHost(AROUND)).reingest['telem']
    expect(read(FILE)).toMatchObject({
      database: 'xtelem',
      data_dirs: ['/mnt/archive/aoc/logs', '/mnt/archive/aoc/telem'],
      decoders: { '.bintel': ['/opt/MagAOX/bin/logdump', '--ext=.bintel', '-J', '-F'] },
    })
    const more = `hostname = "exao1"
logdump_exe = "podman run magaox logdump"
parallel_jobs = 4
data_dirs = ["telem", "/x"]
common_path_prefix = "/srv"
ignore_patterns = { files = [".+~"], directories = [] }
`
    expect(read(more)).toMatchObject({
      hostname: 'exao1',
      jobs: 4,
      data_dirs: ['/srv/telem', '/x'],
      decoders: { '.bintel': ['podman', 'run', 'magaox', 'logdump', '--ext=.bintel', '-J', '-F'] },
      ignore_files: ['.+~'],
      ignore_folders: [],
    })
  })

  test('names with quotes and backslashes: are themselves', () => {
    const file = readPersonal(`[database]\nuser = 'a"\\b'\ndatabase = "d'\\"x"\n`)!
    const host = parseHost(file.toHost(AROUND))
    expect([host.postgres.superuser, Object.keys(host.databases)]).toEqual(['a"\\b', [`d'"x`]])
  })

  test.each([
    ['a host file', 'format = 1\n[host]\nname = "x"\n[postgres]\nmajor = 15\n'],
    ['a host file without its format', '[host]\nname = "x"\n[postgres]\nmajor = 15\n'],
    ['nothing', ''],
    ['no TOML', 'data_dirs = ['],
    ['another program', '[database]\nuser = "x"\nengine = "mysql"\n'],
    ['a key of a wrong type', 'data_dirs = "x"\n'],
  ])('%s: is none', (_title, text) => {
    expect(readPersonal(text)).toBeUndefined()
  })

  test('arguments put a value over its own keys, and others are left to the host file', () => {
    const over = [
      'data_dirs=["/b"]',
      'limit=5',
      'parallel_jobs=3',
      'database.host=aoc',
      'reingest.telem.jobs=7',
    ]
    expect(over.map(isPersonalOverride)).toEqual([true, true, true, true, false])
    const file = readPersonal(FILE, over)!
    expect(file.isHere).toBe(false)
    expect(parseHost(file.toHost(AROUND)).reingest['telem']).toMatchObject({
      data_dirs: ['/b'],
      limit: 5,
      jobs: 3,
    })
    expect(readPersonal('limit = 3\n[database]\n', ['user=x', '__proto__.a=1'])?.user).toBe('xtelem')
    expect(() => readPersonal(FILE, ['database.=x'])).toThrow('cannot understand the override')
  })
})
