import { chmod, mkdir, readdir, realpath, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../scripts/core/exec.ts'
import { exists, readTextIfAny, writeFileAtomic } from '../../scripts/core/file.ts'
import { takeLock } from '../../scripts/core/lock.ts'
import type { Bindir } from './majors.ts'
import { ROOT } from './script.ts'

// All programs of a major, pg_upgrade among them, as Debian builds them: its packages are unpacked into
// a folder together with the C library and everything else that they were linked with, and know where
// that is. So a cluster of one Debian is read by another one's libraries on this very machine, and
// nothing of it is installed.

const SERVERS = join(ROOT, '.node/servers')

const SUITES: Readonly<Record<number, string>> = { 13: 'bullseye', 17: 'trixie', 18: 'testing' }

/** Majors of which Debian has all programs for this machine, besides its own. */
export const DEBIAN_MAJORS = Object.keys(SUITES).map(Number)

/** Changes when what is put there does. */
const STAMP = '2'

/** All programs of a major that {@link installDebianServer} put in place; undefined when it did not. */
export async function debianServer(major: number): Promise<Bindir | undefined> {
  if ((await readTextIfAny(join(folderOf(major), 'howdah-stamp'))) !== STAMP) return undefined
  return { major, bindir: bindirOf(major) }
}

/**
 * Puts Debian's server of a major into `.node/servers`, unless it is there.
 * @throws {Fail} `command-failed` when the packages cannot be had
 */
export async function installDebianServer(major: number): Promise<void> {
  const dir = folderOf(major)
  await using _lock = await takeLock(`${dir}.lock`, { waitSeconds: 600, folder: { mode: 0o755 } })
  if (await debianServer(major)) return
  await rm(dir, { recursive: true, force: true })
  await mkdir(join(dir, 'deb'), { recursive: true })
  await unpack(dir, SUITES[major]!, major)
  await relink(dir, major)
  await run(['chmod', '-R', 'a+rX', dir])
  await chmod(SERVERS, 0o755)
  await writeFileAtomic(join(dir, 'howdah-stamp'), STAMP, { mode: 0o644 }) // commit point
}

function folderOf(major: number): string {
  return join(SERVERS, `debian-${major}`)
}

function bindirOf(major: number): string {
  return join(folderOf(major), `usr/lib/postgresql/${major}/bin`)
}

async function unpack(dir: string, suite: string, major: number): Promise<void> {
  const options = await aptOptions(dir, suite)
  await run(['apt-get', ...options, '-qq', 'update'], { timeoutSeconds: 300 })
  const wanted = [`postgresql-${major}`, `postgresql-client-${major}`]
  const only = ['recommends', 'suggests', 'conflicts', 'breaks', 'replaces', 'enhances'].map(
    (kind) => `--no-${kind}`,
  )
  const { stdout } = await run(['apt-cache', ...options, 'depends', '--recurse', ...only, ...wanted])
  const libraries = stdout.split('\n').filter((line) => /^(lib|zlib)/.test(line) && !NOT_NEEDED.test(line))
  const packages = join(dir, 'deb')
  await run(
    [
      'sh',
      '-c',
      'cd "$1" && shift && exec apt-get "$@"',
      'sh',
      packages,
      ...options,
      '-qq',
      'download',
      ...new Set([...wanted, ...libraries]),
    ],
    { timeoutSeconds: 600 },
  )
  for (const name of await readdir(packages)) await run(['dpkg-deb', '-x', join(packages, name), dir])
  await rm(packages, { recursive: true })
  await rm(join(dir, 'apt'), { recursive: true })
}

// Of the packages that the server's own depend on: what its programs do not load.
const NOT_NEEDED = /llvm|libz3|perl|apparmor|cryptsetup|devmapper|dbus|debconf|newt|slang|-l10n|libc-bin/

async function aptOptions(dir: string, suite: string): Promise<string[]> {
  const apt = join(dir, 'apt')
  await mkdir(join(apt, 'lists/partial'), { recursive: true })
  await mkdir(join(apt, 'cache/archives/partial'), { recursive: true })
  const source = `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${suite} main\n`
  await writeFileAtomic(join(apt, 'sources.list'), source, { mode: 0o644 })
  await writeFileAtomic(join(apt, 'status'), '', { mode: 0o644 })
  const options = {
    'Dir::Etc::SourceList': join(apt, 'sources.list'),
    'Dir::Etc::SourceParts': join(apt, 'none'),
    'Dir::State::Lists': join(apt, 'lists'),
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': join(apt, 'cache'),
    // A mirror may lag behind; what it has is still signed.
    'Acquire::Check-Valid-Until': 'false',
    'APT::Sandbox::User': 'root',
  }
  return Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
}

/** Tells every program which loader is its own; where that looks for libraries holds for what it loads, too. */
async function relink(dir: string, major: number): Promise<void> {
  const folders = ['usr/lib', 'lib'].map((folder) =>
    join(dir, folder, `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`),
  )
  const loaders = folders.map((folder) =>
    join(folder, process.arch === 'arm64' ? 'ld-linux-aarch64.so.1' : 'ld-linux-x86-64.so.2'),
  )
  const isThere = await Promise.all(loaders.map((path) => exists(path)))
  const loader = loaders[isThere.indexOf(true)]!
  const bin = bindirOf(major)
  for (const name of await readdir(bin)) {
    const path = await realpath(join(bin, name))
    await run([
      'patchelf',
      '--set-interpreter',
      loader,
      '--force-rpath',
      '--set-rpath',
      folders.join(':'),
      path,
    ])
  }
}
