import { readdir, realpath } from 'node:fs/promises'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { isMissing, readTextIfAny } from './file.ts'

/** Where an administrator puts units; those of /etc/fstab are made of it. */
const UNITS = '/etc/systemd/system'

/**
 * The mount point that a path is to be on, by /etc/fstab or a `.mount` unit, while nothing is mounted
 * there: what is written below it fills the file system above, and is hidden as soon as the right one is
 * mounted.
 * @param path absolute; it need not be there
 * @throws {Fail} `file-unreadable`
 */
export async function unmountedPoint(path: string): Promise<string | undefined> {
  const declared = await declaredPoints()
  if (declared.length === 0) return undefined
  const mounts = await readTextIfAny('/proc/self/mountinfo')
  return unmountedAbove(await realPath(path), declared, mounts ?? '')
}

/**
 * The first of these mount points that a path is on and where nothing is mounted. Pure.
 * @param mounts of /proc/self/mountinfo; where that cannot be read, nothing is known
 */
export function unmountedAbove(
  path: string,
  declared: readonly string[],
  mounts: string,
): string | undefined {
  const mounted = new Set(mountedPoints(mounts))
  if (mounted.size === 0) return undefined
  return declared
    .filter((point) => path === point || path.startsWith(`${point}/`))
    .find((point) => !mounted.has(point))
}

/**
 * Where something is mounted that is not there anyway. A sandbox of systemd mounts each folder of its
 * ReadWritePaths= upon itself, mounted or not: such a mount says nothing. Pure.
 * @param mountinfo see proc_pid_mountinfo(5): ID, parent, device, root in that device's file system, mount point
 */
function mountedPoints(mountinfo: string): string[] {
  const mounts = mountinfo.split('\n').flatMap((line) => {
    const [id, parent, device, root, point] = line.split(' ')
    return point === undefined
      ? []
      : [{ id, parent, device, root: unescapeOctal(root!), point: unescapeOctal(point) }]
  })
  const byId = new Map(mounts.map((mount) => [mount.id, mount]))
  const isOnItself = ({ parent, device, root, point }: (typeof mounts)[number]) => {
    const above = byId.get(parent)
    if (above === undefined || above.device !== device) return false
    return root === join(above.root, relative(above.point, point))
  }
  return mounts.filter((mount) => !isOnItself(mount)).map(({ point }) => point)
}

/** The second field of each line, as fstab(5) writes it: with octal escapes. The root is left out. Pure. */
export function pointsOf(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => !line.trimStart().startsWith('#'))
    .flatMap((line) => {
      const [source = '', field = ''] = line.trim().split(/[ \t]+/)
      // A folder that is bound upon itself, for the sake of its options, is the same one without that.
      return folderOf(unescapeOctal(field)).filter((point) => folderOf(unescapeOctal(source))[0] !== point)
    })
}

function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCodePoint(Number.parseInt(octal, 8)),
  )
}

/** Where a `.mount` unit mounts (systemd.mount(5)). One with specifiers in it is not understood. Pure. */
export function pointsOfUnit(text: string): string[] {
  const values = (key: string) =>
    [...text.matchAll(new RegExp(`^\\s*${key}\\s*=\\s*(.*?)\\s*$`, 'gm'))].map(([, value]) => value!)
  const sources = new Set(values('What').flatMap(folderOf))
  const points = values('Where').filter((point) => !point.includes('%'))
  return points.flatMap(folderOf).filter((point) => !sources.has(point))
}

function folderOf(point: string): string[] {
  const trimmed = point.replace(/\/+$/, '')
  return trimmed.startsWith('/') ? [trimmed] : []
}

async function declaredPoints(): Promise<string[]> {
  const fstab = (await readTextIfAny('/etc/fstab')) ?? ''
  const names = await readdir(UNITS).catch(() => [])
  const units = names.filter((name) => name.endsWith('.mount')).map((name) => join(UNITS, name))
  const texts = await Promise.all(units.map((unit) => readTextIfAny(unit)))
  return [...pointsOf(fstab), ...texts.flatMap((text) => pointsOfUnit(text ?? ''))]
}

/** A path without symbolic links, as far as it is there. */
async function realPath(path: string): Promise<string> {
  const whole = resolve(path)
  try {
    return await realpath(whole)
  } catch (error) {
    // What cannot be looked at is taken as it is: whoever uses it is told why.
    if (!isMissing(error) || whole === '/') return whole
    return join(await realPath(dirname(whole)), basename(whole))
  }
}
