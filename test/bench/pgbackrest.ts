import { chmod, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { makeFolder, writeFileAtomic } from '../../scripts/core/file.ts'
import type { TestServer } from '../support/server.ts'
import { folderBytes, POSTGRES } from './dataset.ts'
import { installPackages } from './process.ts'

/**
 * `tuned`: zstd at level 3 and two processes. `defaults`: gzip at level 6 and one process. Both begin
 * with a fast checkpoint, or a backup would wait minutes for the server's next one.
 */
export type Tuning = 'tuned' | 'defaults'

/** pgBackRest with a repository of its own in a folder. */
export interface PgBackRest {
  /** Its folder of everything that is stored. */
  readonly repo: string
  /** Where a process in the background leaves what it has pushed. */
  readonly spool: string
  /** A command line; it is for the user postgres. */
  argv(tuning: Tuning, command: string, ...options: readonly string[]): string[]
  /** Runs a command, unmeasured. */
  run(command: string, ...options: readonly string[]): Promise<void>
  /** Bytes of the newest backup, without WAL. */
  newestBytes(): Promise<number>
}

const STANZA = 'bench'

const TUNED = ['compress-type=zst', 'compress-level=3', 'process-max=2']

/** Installs it where it is missing. @returns its version, for the report */
export async function pgBackRestVersion(): Promise<Record<string, string>> {
  return installPackages(['pgbackrest'])
}

/**
 * Configures it, in a new folder.
 * @param pg its options of the cluster, such as pg1-path
 */
export async function makePgBackRest(dir: string, pg: Readonly<Record<string, string>>): Promise<PgBackRest> {
  const folder = (name: string) => join(dir, name)
  for (const path of [dir, ...['repo', 'spool', 'lock', 'log'].map(folder)])
    await makeFolder(path, { mode: 0o750, ...POSTGRES })
  const common = [
    `repo1-path=${folder('repo')}`,
    'repo1-retention-full=99', // what is expired, and when, is not measured
    `spool-path=${folder('spool')}`,
    `lock-path=${folder('lock')}`,
    `log-path=${folder('log')}`,
    'log-level-console=warn',
    'start-fast=y',
  ]
  const stanza = [`[${STANZA}]`, ...Object.entries(pg).map(([name, value]) => `${name}=${value}`)]
  for (const [name, options] of Object.entries({ tuned: TUNED, defaults: [] } satisfies Record<
    Tuning,
    string[]
  >)) {
    const text = ['[global]', ...common, ...options, ...stanza, ''].join('\n')
    await writeFileAtomic(folder(`${name}.conf`), text, { mode: 0o640, ...POSTGRES })
  }
  const argv: PgBackRest['argv'] = (tuning, command, ...options) => [
    'pgbackrest',
    `--config=${folder(`${tuning}.conf`)}`,
    `--stanza=${STANZA}`,
    ...options,
    command,
  ]
  return {
    repo: folder('repo'),
    spool: folder('spool'),
    argv,
    async run(command, ...options) {
      await run(argv('tuned', command, ...options), { as: 'postgres' })
    },
    async newestBytes() {
      const labels = await readdir(join(folder('repo'), 'backup', STANZA))
      const newest = labels
        .filter((label) => /^\d{8}-\d{6}F$/.test(label))
        .sort()
        .at(-1)
      if (newest === undefined) throw new Fail('verify-failed', 'pgBackRest has stored no backup')
      return folderBytes(join(folder('repo'), 'backup', STANZA, newest))
    },
  }
}

/** An archive_command that pushes to pgBackRest while it is measured, and does nothing else. */
export interface PushSwitch {
  readonly archiveCommand: string
  /** Pushes from now on, beginning with a segment that is finished here. */
  on(server: TestServer): Promise<void>
  off(): Promise<void>
}

/**
 * Its backup needs a working archive_command, and waits until the WAL of the backup is in its
 * repository. The other sides have the WAL in the backup, so the server need not push for them.
 */
export async function makePushSwitch(dir: string): Promise<PushSwitch> {
  const script = join(dir, 'pgbackrest-push.sh')
  const flag = join(dir, 'pgbackrest-is-measured')
  const config = join(dir, 'pgbackrest/tuned.conf')
  const push = `exec pgbackrest --config='${config}' --stanza=${STANZA} archive-push "$1"`
  await writeFile(script, `#!/bin/sh\n[ -e '${flag}' ] || exit 0\n${push}\n`)
  await chmod(script, 0o755)
  return {
    archiveCommand: `${script} "%p"`,
    async on(server) {
      await writeFile(flag, '')
      await server.query('postgres', "select pg_create_restore_point('bench')") // an empty segment is not finished
      const [row] = await server.query<{ segment: string }>(
        'postgres',
        'select pg_walfile_name(pg_switch_wal()) as segment',
      )
      await archived(server, row!.segment)
    },
    off: () => rm(flag, { force: true }),
  }
}

async function archived(server: TestServer, segment: string): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt++) {
    const [row] = await server.query<{ done: boolean }>(
      'postgres',
      'select last_archived_wal >= $1 as done from pg_stat_archiver',
      [segment],
    )
    if (row?.done) return
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  throw new Fail('verify-failed', `pgBackRest did not archive ${segment} within a minute`)
}
