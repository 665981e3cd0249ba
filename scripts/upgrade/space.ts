import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists } from '../core/file.ts'
import { formatSize } from '../core/quantity.ts'
import type { Postgres } from '../host/schema.ts'
import { dataDirOf } from './make.ts'
import type { Method } from './state.ts'

/**
 * The method that is asked for, or the best one that is possible: clone where the file system shares blocks
 * by itself, else copy where there is space for everything twice. Linking is never chosen: it has no way back.
 * @throws {Fail} `no-space`, `usage` for swap before 18
 */
export async function chooseMethod(
  old: Cluster,
  target: Postgres,
  { asked, bytes }: { readonly asked: Method | 'auto'; readonly bytes: number },
): Promise<Method> {
  const parent = await existing(dirname(dataDirOf(target)))
  if (asked === 'swap' && target.major! < 18) {
    throw new Fail('usage', `the method swap came with 18, and this goes to ${target.major}`, {
      hint: 'Name another one: --method link',
    })
  }
  const clones = asked === 'auto' || asked === 'clone' ? await canClone(old, parent) : false
  if (asked === 'clone' && !clones) {
    throw new Fail(
      'plan-impossible',
      `the file system of "${parent}" cannot clone files of "${old.dataDir}"`,
      {
        hint: 'XFS and Btrfs can. Name another method: --method copy',
      },
    )
  }
  if (asked === 'link' || asked === 'swap' || asked === 'clone') return asked
  if (asked === 'auto' && clones) return 'clone'
  const method = asked === 'auto' ? 'copy' : asked
  // Files, and what is written on the way: indexes of a dump come on top of its texts.
  const needed = Math.round(bytes * (method === 'dump' ? 2 : 1.05)) + 200 * 1024 ** 2
  const { bavail, bsize } = await statfs(parent)
  const free = bavail * bsize
  if (free >= needed) return method
  throw new Fail(
    'no-space',
    `the method ${method} needs ${formatSize(needed)} in "${parent}", and there are ${formatSize(free)}`,
    {
      hint: 'Make space, or let both share their files, without a way back once the new one runs: --method link',
    },
  )
}

async function existing(folder: string): Promise<string> {
  return (await exists(folder)) || folder === '/' ? folder : existing(dirname(folder))
}

/** Tried with a file as small as can be. */
async function canClone(old: Cluster, parent: string): Promise<boolean> {
  const from = join(old.dataDir, 'PG_VERSION')
  // A folder of a new name: its owner is not always the one who runs this, and could have put a link there.
  const folder = await mkdtemp(join(parent, '.howdah-clone-')).catch(() => undefined)
  if (folder === undefined) return false
  try {
    const { code } = await run(['cp', '--reflink=always', from, join(folder, 'file')], { okCodes: [0, 1] })
    return code === 0
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
