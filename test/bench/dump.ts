import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { DATABASE, type Dataset, folderBytes, makeDataset } from './dataset.ts'
import type { Bench, BenchOptions, BenchResult } from './measure.ts'
import { ourVersions, takeSide, writeOurHost } from './ours.ts'
import { assertRoot, installPackages } from './process.ts'
import { measureSides, type Side, SIDES_NOTES } from './sides.ts'

/** A dump of one database, beside pg_dump piped into zstd. */
export const dump: Bench = {
  name: 'dump',
  summary: 'a dump of one database, beside pg_dump piped into zstd',
  cases: { dump: { isDefault: true } },
  measure,
}

const NOTES = [
  'howdah: a job of kind "dump" with one database at its defaults, scripts/howdah as root: it dumps roles before and',
  'after, counts objects, hashes what it stores, and writes the papers of a backup. pg_dump-zstd: pg_dump -Fc -Z0 | zstd',
  '-3 -T2 > FILE by the user postgres, then fsync of the file and of its folder.',
]

async function measure(options: BenchOptions): Promise<BenchResult> {
  assertRoot()
  const versions = await installPackages(['zstd'])
  await using dataset = await makeDataset({
    ...options,
    settings: async () => ({ archive_command: '/bin/true' }),
  })
  const ours = takeSide(await writeOurHost(dataset.server, 'plain'), 'dump')
  const peers = { 'pg_dump-zstd': await pipelineSide(dataset) }
  const measured = await measureSides('dump', { ...options, rig: dataset, ours, peers })
  const notes = [...dataset.notes, ...NOTES, ...SIDES_NOTES]
  return { versions: { ...(await ourVersions(dataset.server)), ...versions }, notes, measured }
}

async function pipelineSide({ server, folder }: Dataset): Promise<Side> {
  const { bindir, socketDir, port } = server.cluster
  const target = await folder('pg_dump')
  const file = join(target, 'dump.zst')
  const script = `set -euo pipefail
    "$1" -h "$2" -p "$3" -U postgres -w -Fc -Z0 ${DATABASE} | zstd -3 -T2 -q >"$4"
    sync "$4" "$5"`
  return {
    argv: ['bash', '-c', script, 'bash', join(bindir, 'pg_dump'), socketDir, String(port), file, target],
    before: () => rm(file, { force: true }),
    after: () => folderBytes(file),
  }
}
