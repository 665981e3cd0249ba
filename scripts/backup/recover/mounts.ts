import { Fail } from '../../core/fail.ts'
import { unmountedPoint } from '../../core/mounts.ts'

/**
 * Refuses a path below a declared mount point on which nothing is mounted.
 * @param paths absolute
 * @throws {Fail} `plan-impossible`
 */
export async function assertMounted(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const point = await unmountedPoint(path)
    if (point === undefined) continue
    throw new Fail('plan-impossible', `"${path}" is to be on "${point}", on which nothing is mounted`, {
      hint: `It is in /etc/fstab, or a unit of systemd. Mount it first: mount ${point}`,
    })
  }
}
