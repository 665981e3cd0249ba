import { createWriteStream } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { run } from '../core/exec.ts'
import { interrupted } from '../core/interrupt.ts'
import type { Manifest } from './manifest.ts'
import { assertSpace, type DeepSite, problemsOf, serverProgram } from './verify-deep.ts'
import { checkSegmentFile } from './wal/header.ts'
import { nextSegment } from './wal/segment.ts'
import type { WalStore } from './wal/wal-store.ts'

/** Segments that are unpacked at a time. */
const WINDOW = 16

/**
 * Looks into segments of WAL: each one's hash and header, and its records by pg_waldump, as a recovery
 * would read them one after the other.
 * @param names in the order of a recovery
 * @param manifest of a backup of the same system
 * @returns what is wrong
 */
export async function lookIntoSegments(
  site: DeepSite,
  wal: WalStore,
  manifest: Manifest,
  names: readonly string[],
): Promise<string[]> {
  const size = manifest.physical!.walSegmentSize
  await assertSpace(site.scratch, size * (WINDOW + 2))
  const program = await serverProgram(site.host, manifest.postgres.major, 'pg_waldump')
  const folder = join(site.scratch, 'wal')
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const problems: string[] = []
  try {
    for (const run of runsOf(names, size)) {
      for (let first = 0; first < run.length; first += WINDOW) {
        // One more than the window: a record may go on in the next segment.
        const window = run.slice(first, first + WINDOW + 1)
        site.onStep(`WAL ${window[0]}`)
        problems.push(...(await lookIntoWindow({ site, wal, manifest, folder, program }, window)))
      }
    }
    return [...new Set(problems)] // the segment between two windows is looked at twice
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

interface Windowed {
  readonly site: DeepSite
  readonly wal: WalStore
  readonly manifest: Manifest
  readonly folder: string
  readonly program: string
}

async function lookIntoWindow(scope: Windowed, names: readonly string[]): Promise<string[]> {
  const { site, wal, manifest, folder, program } = scope
  const problems: string[] = []
  for (const name of names) {
    interrupted.throwIfAborted()
    const path = join(folder, name)
    const found = await problemsOf(async () => {
      await pipeline(counted(wal.get(name), site), createWriteStream(path, { mode: 0o600 }))
      await checkSegmentFile(name, path, {
        systemIdentifier: manifest.systemIdentifier,
        segmentSize: manifest.physical!.walSegmentSize,
        major: manifest.postgres.major,
      })
    })
    problems.push(...found.map((text) => `WAL ${name}: ${text}`))
  }
  if (problems.length === 0) {
    const dumped = await problemsOf(async () => {
      await run([program, '--quiet', `--path=${folder}`, names[0]!, names.at(-1)!], { timeoutSeconds: 3600 })
    })
    problems.push(...dumped.map((text) => `WAL ${names[0]} to ${names.at(-1)}: ${text}`))
  }
  for (const name of names) await rm(join(folder, name), { force: true })
  return problems
}

async function* counted(source: AsyncIterable<Buffer>, site: DeepSite): AsyncGenerator<Buffer, void> {
  for await (const chunk of source) {
    site.onBytes(chunk.length)
    yield chunk
  }
}

/** Parts of one timeline without a gap. */
function runsOf(names: readonly string[], size: number): string[][] {
  const runs: string[][] = []
  for (const name of names) {
    const run = runs.at(-1)
    if (run && nextSegment(run.at(-1)!, size) === name) run.push(name)
    else runs.push([name])
  }
  return runs
}
