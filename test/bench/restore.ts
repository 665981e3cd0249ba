import { glob, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { type BackupRig, makeBackupRig, pgBackRestSide } from './backup.ts'
import { DATABASE, type Dataset, folderBytes } from './dataset.ts'
import type { Bench, BenchOptions, BenchResult, Measured } from './measure.ts'
import { HOWDAH, type OurHost, ourVersions, takeSide, writeOurHost } from './ours.ts'
import { pgBackRestVersion } from './pgbackrest.ts'
import { assertRoot, installPackages } from './process.ts'
import { measureSide, measureSides, type Side, SIDES_NOTES } from './sides.ts'

/** A whole cluster out of a full backup, beside pgBackRest. */
export const restore: Bench = {
  name: 'restore',
  summary: 'a whole cluster out of a full backup into empty folders, beside pgBackRest',
  cases: { restore: { isDefault: true }, 'restore-open': { isDefault: true } },
  measure,
}

const NOTES = [
  'Each restores its own full backup (zstd level 3) of the same data into empty folders, the second tablespace into a',
  'folder of its own, up to the end of the backup. restore: until the data directory is complete, fsynced, and can be',
  'started. restore-open: until a server has recovered in it and takes writes. pgbackrest-tuned: --type=immediate',
  '--archive-mode=off, process-max 2, by the user postgres; restore-open: then pg_ctl start, and psql until it is no longer',
  'in recovery. howdah: scripts/howdah as root; it always recovers before it puts a cluster in its place, so for restore',
  'the clock stops when the control file gets its name, after the fsync; CPU and memory are those up to its end.',
  'After each run the rows of what was restored were counted. size: what was written. CPU: without restored servers.',
]

/** Where a restore goes. */
interface Target {
  readonly data: string
  readonly cold: string
  readonly socket: string
}

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const versions = { ...(await pgBackRestVersion()), ...(await installPackages(['zstd'])) }
  await using rig = await makeBackupRig(options)
  const { dataset, pgBackRest } = rig
  const host = await writeOurHost(dataset.server, 'plain')
  for (const side of [takeSide(host, 'base'), pgBackRestSide(rig, 'tuned')]) await measureSide(dataset, side)
  const measured: Measured[] = []
  for (const name of options.cases) {
    const isOpened = name === 'restore-open'
    const ours = ourSide(dataset, host, isOpened)
    const peers = { 'pgbackrest-tuned': pgBackRestRestore(rig, isOpened) }
    const reads = [host.store, pgBackRest.repo]
    measured.push(...(await measureSides(name, { ...options, rig: dataset, ours, peers, reads })))
  }
  const notes = [...dataset.notes, ...NOTES, ...SIDES_NOTES]
  return { versions: { ...(await ourVersions(dataset.server)), ...versions }, notes, measured }
}

function pgBackRestRestore({ dataset, pgBackRest }: BackupRig, isOpened: boolean): Side {
  const target = targetOf(dataset, 'pgbackrest')
  const argv = pgBackRest.argv(
    'tuned',
    'restore',
    `--pg1-path=${target.data}`,
    `--tablespace-map=cold=${target.cold}`,
    '--type=immediate',
    '--target-action=promote',
    '--archive-mode=off',
  )
  const open = openArgv(dataset, target)
  return {
    argv: isOpened
      ? ['bash', '-c', '"${@:2:$1}" && exec "${@:$1+2}"', 'bash', String(argv.length), ...argv, ...open]
      : argv,
    before: () => emptyFolders(target),
    after: () => assertRestored(dataset, target, isOpened),
  }
}

function ourSide(dataset: Dataset, host: OurHost, isOpened: boolean): Side {
  const target = targetOf(dataset, 'howdah')
  const { dir, cluster } = dataset.server
  const folders = ['--to', target.data, '--tablespace', `${join(dir, 'cold')}=${target.cold}`]
  // A port of its own, since the server that was backed up still runs.
  const port = ['--port', String(cluster.port + 1)]
  return {
    argv: [HOWDAH, 'restore', 'cluster', '--immediate', ...folders, ...port, '--yes', '-c', host.file],
    isRoot: true,
    ...(!isOpened && { until: () => isComplete(target), goesOn: true }),
    before: () => emptyFolders(target),
    after: () => assertRestored(dataset, target, true),
  }
}

/** Whether all is there that a server needs: its control file gets its name when the rest is on the disk. */
async function isComplete({ data }: Target): Promise<boolean> {
  for await (const path of glob(`${data}.restoring-*/data/global/pg_control`)) return path !== ''
  return false
}

function targetOf({ server }: Dataset, side: string): Target {
  const folder = (name: string) => join(server.dir, `restored-${side}`, name)
  return { data: folder('data'), cold: folder('cold'), socket: folder('socket') }
}

async function emptyFolders({ data, cold, socket }: Target): Promise<void> {
  for (const folder of [data, cold, socket]) {
    await rm(folder, { recursive: true, force: true })
    await run(['install', '-d', '-m', '700', '-o', 'postgres', '-g', 'postgres', folder])
  }
}

/** Starts a server on what was restored and waits until it takes writes. */
function openArgv({ server }: Dataset, { data, socket }: Target): string[] {
  const script = `
    options="-c unix_socket_directories='$3' -c port=$4 -c archive_mode=off"
    "$1/pg_ctl" -s -w -D "$2" -l "$3/server.log" -o "$options" start
    until "$1/psql" -XAtc 'select pg_is_in_recovery()' -h "$3" -p "$4" -U postgres postgres | grep -q f; do
      sleep 0.05
    done`
  return ['sh', '-euc', script, 'sh', server.cluster.bindir, data, socket, String(server.cluster.port)]
}

/** Counts the rows of what was restored, and ends its server. @returns what was written */
async function assertRestored(dataset: Dataset, target: Target, isRunning: boolean): Promise<number> {
  const pgCtl = join(dataset.server.cluster.bindir, 'pg_ctl')
  try {
    if (!isRunning) await run(openArgv(dataset, target), { as: 'postgres' })
    await assertRows(dataset, target)
  } finally {
    const stop = [pgCtl, '-s', '-D', target.data, '-m', 'immediate', 'stop']
    await run(stop, { as: 'postgres', okCodes: [0, 1], evenInterrupted: true })
  }
  return (await folderBytes(join(target.data, 'base'))) + (await folderBytes(target.cold))
}

async function assertRows({ server, rows }: Dataset, { data }: Target): Promise<void> {
  const [, , , port, socket] = (await readFile(join(data, 'postmaster.pid'), 'utf8')).split('\n')
  const counts = Object.keys(rows).map((name) => `select '${name}', count(*) from ${name}`)
  const psql = [join(server.cluster.bindir, 'psql'), '-XAt', '-F', ' ', '-h', socket!, '-p', port!]
  const argv = [...psql, '-U', 'postgres', '-c', counts.join(' union all '), DATABASE]
  const { stdout } = await run(argv, { as: 'postgres' })
  const found = new Map(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' ') as [string, string]),
  )
  for (const [name, count] of Object.entries(rows)) {
    if (Number(found.get(name)) === count) continue
    throw new Fail('verify-failed', `${data}: ${name} has ${found.get(name)} rows, ${count} were backed up`)
  }
}
