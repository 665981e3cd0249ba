import { lstat, realpath, stat } from 'node:fs/promises'
import { dirname, isAbsolute } from 'node:path'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, reasonOf } from '../core/file.ts'

/** Where it is looked for without `-c`. */
const DEFAULT_PATH = '/etc/howdah/host.toml'

/**
 * Asserts that units may name a host file: the users of the jobs can read it, and nobody but root can
 * change what they run, which it says. To be called as root.
 * @param path absolute
 * @throws {Fail} `not-permitted`, `file-unreadable`
 */
export async function assertHostFile(path: string, users: readonly string[]): Promise<void> {
  const real = await realpath(path).catch((cause: unknown) => {
    throw new Fail('file-unreadable', `cannot read "${path}": ${reasonOf(cause)}`, { cause })
  })
  for (const place of new Set([...placesOf(path), ...placesOf(real)])) {
    const { uid, gid, mode } = await lstat(place)
    const whose = writableBy({ uid, gid, mode })
    if (whose === undefined) continue
    const what = place === path ? 'the host file' : `"${place}", where the host file is,`
    throw new Fail('not-permitted', `units cannot name "${path}": ${what} can be changed by ${whose}`, {
      hint:
        place === path || place === real
          ? hintFor(path, users)
          : `Run: chown root ${place} && chmod go-w ${place}`,
    })
  }
  for (const user of users) {
    const { code } = await run(['test', '-r', path], { as: user, okCodes: [0, 1] })
    if (code === 0) continue
    throw new Fail('not-permitted', `the user ${user}, who runs the jobs, cannot read "${path}"`, {
      hint: hintFor(path, users),
    })
  }
}

/**
 * Asserts that nobody but root can change a program that root is to run, nor what its arguments name: that may be a
 * script.
 * @throws {Fail} `not-permitted`, `file-unreadable`
 */
export async function assertCommand([program, ...args]: readonly string[]): Promise<void> {
  if (!isAbsolute(program!)) {
    throw new Fail(
      'not-permitted',
      `root cannot run "${program}" to tell people: it is no path from the root`,
      {
        hint: 'Name it as: command = ["/usr/sbin/sendmail", "-t"]',
      },
    )
  }
  await assertOnlyRoot(program!, program!)
  for (const path of args.filter((arg) => isAbsolute(arg))) {
    const there = await thereOf(path)
    if (!(await stat(there)).isCharacterDevice()) await assertOnlyRoot(program!, there) // such as /dev/null
  }
}

async function assertOnlyRoot(program: string, path: string): Promise<void> {
  const real = await realpath(path).catch((cause: unknown) => {
    throw new Fail('file-unreadable', `root cannot run "${path}" to tell people: ${reasonOf(cause)}`, {
      cause,
    })
  })
  for (const place of new Set([...placesOf(path), ...placesOf(real)])) {
    const whose = writableBy(await lstat(place))
    if (whose === undefined) continue
    throw new Fail(
      'not-permitted',
      `root cannot run "${program}" to tell people: "${place}" can be changed by ${whose}`,
      { hint: 'Put it where only root writes, such as /usr/local/sbin, or let it run as another user.' },
    )
  }
}

/** What is there of a path: who may write to that can make the rest. */
async function thereOf(path: string): Promise<string> {
  return (await exists(path)) ? path : thereOf(dirname(path))
}

/** Who besides root can change something, for people; undefined when nobody can. A link is as good as what it names. Pure. */
export function writableBy(found: { uid: number; gid: number; mode: number }): string | undefined {
  if (found.uid !== 0) return `its owner, the user ${found.uid}`
  if ((found.mode & 0o170_000) === 0o120_000) return undefined
  if (found.mode & 0o002) return 'everybody'
  return found.mode & 0o020 && found.gid !== 0 ? `its group ${found.gid}` : undefined
}

/** A file and all folders above it. */
function placesOf(path: string): string[] {
  const above = dirname(path)
  return above === path ? [path] : [path, ...placesOf(above)]
}

function hintFor(path: string, users: readonly string[]): string {
  const group = users[0] ?? 'postgres'
  return path === DEFAULT_PATH
    ? `Run: chown root:${group} ${path} && chmod 0640 ${path}`
    : `Put it where only root writes: install -D -m 0640 -o root -g ${group} ${path} ${DEFAULT_PATH}`
}
