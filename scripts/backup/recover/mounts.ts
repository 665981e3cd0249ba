import { readTextIfAny } from '../../core/file.ts'
import { Fail } from '../../core/fail.ts'

/**
 * Refuses a path below a mount point of /etc/fstab on which nothing is mounted: what is written there
 * fills the file system below it, and is hidden as soon as the right one is mounted.
 * @param paths absolute, without symbolic links in them
 * @throws {Fail} `plan-impossible`
 */
export async function assertMounted(paths: readonly string[]): Promise<void> {
  const [fstab, mounts] = await Promise.all(['/etc/fstab', '/proc/self/mounts'].map(readTextIfAny))
  for (const path of paths) {
    const point = unmountedAbove(path, fstab ?? '', mounts ?? '')
    if (point === undefined) continue
    throw new Fail('plan-impossible', `"${path}" is to be on "${point}", on which nothing is mounted`, {
      hint: `It is in /etc/fstab. Mount it first: mount ${point}`,
    })
  }
}

/**
 * The mount point of /etc/fstab that a path is on, when nothing is mounted there. Pure.
 * @param mounts of /proc/self/mounts; where that cannot be read, nothing is known
 */
export function unmountedAbove(path: string, fstab: string, mounts: string): string | undefined {
  const mounted = new Set(pointsOf(mounts))
  if (mounted.size === 0) return undefined
  return pointsOf(fstab)
    .filter((point) => path === point || path.startsWith(`${point}/`))
    .find((point) => !mounted.has(point))
}

/** The second field of each line, as fstab(5) writes it: with octal escapes. The root is left out. */
function pointsOf(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => !line.trimStart().startsWith('#'))
    .flatMap((line) => {
      const [, field = ''] = line.trim().split(/[ \t]+/)
      const point = field.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
        String.fromCodePoint(Number.parseInt(octal, 8)),
      )
      const trimmed = point.replace(/\/+$/, '')
      return trimmed.startsWith('/') ? [trimmed] : []
    })
}
