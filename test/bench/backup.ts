import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Dataset, folderBytes, makeDataset } from './dataset.ts'
import type { Bench, BenchOptions, BenchResult, Measured } from './measure.ts'
import { ourVersions, takeSide, writeOurAgeHost, writeOurHost } from './ours.ts'
import {
  makePgBackRest,
  makePushSwitch,
  type PgBackRest,
  pgBackRestVersion,
  type PushSwitch,
  type Tuning,
} from './pgbackrest.ts'
import { assertRoot, installPackages } from './process.ts'
import { measureSides, type Side, SIDES_NOTES } from './sides.ts'

/** A full backup of a whole cluster, beside pgBackRest and pg_basebackup. */
export const backup: Bench = {
  name: 'backup',
  summary: 'a full backup of the whole cluster, beside pgBackRest and pg_basebackup',
  cases: { full: { isDefault: true }, 'full-age': { isDefault: true } },
  measure,
}

const NOTES = [
  'All write to a folder. howdah: a job of kind "base" at its defaults, scripts/howdah as root. pgbackrest-tuned: zst',
  'level 3, process-max 2; pgbackrest-defaults: gz level 6, one process; both with start-fast, a posix repository, and',
  'archive_command = archive-push (tuned), which is on only while they are measured: they wait for the WAL of the backup',
  'to be in the repository, the others have it in the backup. pg_basebackup: tar, server-zstd level 3, two workers, WAL',
  'fetched, fast checkpoint. full-age: with one age recipient, beside the same without.',
  'size: the backup itself; that of pgBackRest is without the WAL that it needs.',
]

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const versions = { ...(await pgBackRestVersion()), ...(await installPackages(['zstd', 'age'])) }
  await using rig = await makeBackupRig(options)
  const { dataset } = rig
  const { server } = dataset
  const plain = takeSide(await writeOurHost(server, 'plain'), 'base')
  const measured: Measured[] = []
  if (options.cases.has('full')) {
    const peers = {
      'pgbackrest-tuned': pgBackRestSide(rig, 'tuned'),
      'pgbackrest-defaults': pgBackRestSide(rig, 'defaults'),
      pg_basebackup: baseBackupSide(dataset),
    }
    measured.push(...(await measureSides('full', { ...options, rig: dataset, ours: plain, peers })))
  }
  if (options.cases.has('full-age')) {
    const ours = takeSide(await writeOurAgeHost(server, 'age'), 'base')
    measured.push(
      ...(await measureSides('full-age', { ...options, rig: dataset, ours, peers: { self: plain } })),
    )
  }
  const notes = [...dataset.notes, ...NOTES, ...SIDES_NOTES]
  return { versions: { ...(await ourVersions(server)), ...versions }, notes, measured }
}

/** A server with data, and pgBackRest configured for it. */
export interface BackupRig extends AsyncDisposable {
  readonly dataset: Dataset
  readonly pgBackRest: PgBackRest
  readonly push: PushSwitch
}

/** Makes what the benches of physical backups need. */
export async function makeBackupRig(options: Pick<BenchOptions, 'scale' | 'keep'>): Promise<BackupRig> {
  let push: PushSwitch | undefined
  const dataset = await makeDataset({
    ...options,
    settings: async (dir) => {
      push = await makePushSwitch(dir)
      return { archive_command: push.archiveCommand }
    },
  })
  await using undo = new AsyncDisposableStack()
  undo.use(dataset)
  const { server } = dataset
  const pgBackRest = await makePgBackRest(join(server.dir, 'pgbackrest'), {
    'pg1-path': server.cluster.dataDir,
    'pg1-port': String(server.cluster.port),
    'pg1-socket-path': server.cluster.socketDir,
  })
  await pgBackRest.run('stanza-create')
  undo.move()
  return { dataset, pgBackRest, push: push!, [Symbol.asyncDispose]: () => dataset[Symbol.asyncDispose]() }
}

/** A full backup by pgBackRest; older ones are removed afterwards. */
export function pgBackRestSide({ dataset, pgBackRest, push }: BackupRig, tuning: Tuning): Side {
  return {
    argv: pgBackRest.argv(tuning, 'backup', '--type=full'),
    before: () => push.on(dataset.server),
    async after() {
      await push.off()
      await pgBackRest.run('expire', '--repo1-retention-full=1')
      return pgBackRest.newestBytes()
    },
  }
}

function baseBackupSide({ server }: Dataset): Side {
  const { bindir, socketDir, port } = server.cluster
  const target = join(server.dir, 'pg_basebackup')
  const connection = ['-h', socketDir, '-p', String(port), '-U', 'postgres', '-w']
  const options = ['-F', 't', '-X', 'fetch', '-c', 'fast', '-Z', 'server-zstd:level=3,workers=2']
  return {
    argv: [join(bindir, 'pg_basebackup'), ...connection, '-D', target, ...options],
    before: () => rm(target, { recursive: true, force: true }),
    after: () => folderBytes(target),
  }
}
