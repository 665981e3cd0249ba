import { link, mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../core/exec.ts'
import { Fail } from '../../core/fail.ts'
import { exists } from '../../core/file.ts'

/** Looks into each segment before a server gets it. */
export interface SegmentGuard {
  /** @throws {Fail} `plan-impossible` when it must not be replayed here */
  check(path: string, name: string): Promise<void>
  /** Nobody waits any more for segments that do not come. */
  giveUp(reason: unknown): void
}

/**
 * Keeps a copy away from tablespaces that were made after its backup. No mapping knows of them: the WAL
 * says where they are, and replaying that takes a folder that is in use without a word
 * (src/backend/commands/tablespace.c, create_tablespace_directories), so that the copy would write into
 * the files of the living cluster.
 * @param planned segments in the order in which they are replayed
 */
export async function tablespaceGuard(
  bindir: string,
  folder: string,
  planned: readonly string[],
): Promise<SegmentGuard> {
  await mkdir(folder, { mode: 0o700 })
  const kept = new Map(planned.map((name) => [name, Promise.withResolvers<void>()]))
  for (const { promise } of kept.values()) promise.catch(() => {}) // not everybody is waited for
  return {
    async check(path, name) {
      const own = join(folder, name)
      await rm(own, { force: true })
      await link(path, own)
      kept.get(name)?.resolve()
      const before = planned[planned.indexOf(name) - 1]
      // A record may begin in the segment before. But none crosses from one timeline to another, and
      // pg_waldump stays on the one that it begins on.
      const first = before?.slice(0, 8) === name.slice(0, 8) ? before : undefined
      if (first !== undefined) await kept.get(first)!.promise
      for (const location of await madeIn(bindir, folder, first ?? name, name)) {
        if (!(await exists(location))) continue // the server says that it is missing, and ends
        throw new Fail(
          'plan-impossible',
          `after the backup a tablespace was made in "${location}", which is there on this host`,
          {
            hint: 'A copy would write into it. Restore to a moment before, on another host, or from a newer base backup.',
          },
        )
      }
      if (first !== undefined) await rm(join(folder, first), { force: true })
    },
    giveUp(reason) {
      for (const { reject } of kept.values()) reject(reason)
    },
  }
}

// `rmgr: Tablespace len ..., desc: CREATE 16400 "/srv/fast"`
const CREATE = /^rmgr: Tablespace .*\bdesc: CREATE \d+ "(.*)"$/

async function madeIn(bindir: string, folder: string, first: string, last: string): Promise<string[]> {
  const argv = [join(bindir, 'pg_waldump'), '--rmgr=Tablespace', '--path', folder, first, last]
  // Where no record is any more, pg_waldump ends with 1: what it found before is what counts.
  const { stdout } = await run(argv, { env: { LC_ALL: 'C' }, okCodes: [0, 1] })
  return stdout.split('\n').flatMap((line) => CREATE.exec(line)?.[1] ?? [])
}
