import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { currentUser } from '../core/user.ts'
import type { PersonalFile, Surroundings } from '../host/personal.ts'

/**
 * The host file that a personal one stands for, of whoever runs this: a cluster in a folder of his own, without roles
 * besides himself, by the PostgreSQL that his PATH has, such as that of a conda environment, or the newest that is
 * installed.
 * @throws {Fail} `not-permitted` when it is somebody else's, or no PostgreSQL is installed
 */
export async function hostOfPersonal(file: PersonalFile, path: string): Promise<string> {
  const user = currentUser()
  if (file.isHere && file.user !== user) {
    throw new Fail('not-permitted', `"${path}" is of a database of ${file.user}, and this is ${user}`, {
      hint: `Run this as ${file.user}, or name yourself: [database] user = "${user}"`,
    })
  }
  return file.toHost(await surroundings(file))
}

async function surroundings({ database, isHere }: PersonalFile): Promise<Surroundings> {
  const { HOME: home = '/', XDG_DATA_HOME: wanted } = process.env
  const data = wanted || join(home, '.local/share') // empty is as good as not set (XDG Base Directory Specification)
  const folder = join(data, 'howdah', database)
  if (!isHere) return { folder, major: 0, bindir: '' }
  const bindir = await bindirFor(join(folder, 'data'))
  const { stdout } = await run([join(bindir, 'postgres'), '--version'])
  return { folder, bindir, major: Number(/(\d+)/.exec(stdout)?.[1]) }
}

/** A cluster that is there already keeps its major. */
async function bindirFor(dataDir: string): Promise<string> {
  const installed = await installedMajors()
  const version = await readFile(join(dataDir, 'PG_VERSION'), 'utf8').catch(() => undefined)
  const major = version === undefined ? undefined : Number(version)
  if (major !== undefined && installed.includes(major)) return debianBindir(major)
  for (const folder of (process.env['PATH'] ?? '').split(':')) {
    if (folder !== '' && (await isBindir(folder))) return folder
  }
  const [newest] = installed
  if (newest !== undefined) return debianBindir(newest)
  throw new Fail('not-permitted', 'no PostgreSQL is installed on this host, and none is in PATH', {
    hint: 'Without root: conda create -n db postgresql && conda activate db',
  })
}

/** One that cannot be looked into is as good as none. */
async function isBindir(folder: string): Promise<boolean> {
  const found = await Promise.all(
    ['initdb', 'postgres', 'pg_ctl'].map((name) => exists(join(folder, name)).catch(() => false)),
  )
  return !found.includes(false)
}

function debianBindir(major: number): string {
  return `/usr/lib/postgresql/${major}/bin`
}

/** Of Debian's packages, the newest first. */
async function installedMajors(): Promise<number[]> {
  const names = await readdir('/usr/lib/postgresql').catch(() => [])
  const majors = names.map(Number).filter(Number.isInteger)
  return majors.toSorted((a, b) => b - a)
}
