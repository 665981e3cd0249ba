import { join } from 'node:path'
import { log } from '../../scripts/core/log.ts'
import { formatSize } from '../../scripts/core/quantity.ts'
import { POSTGRES, type Rig } from './dataset.ts'
import { interleave, type Measured } from './measure.ts'
import { environment, measureProcess } from './process.ts'

/** One of the programs that are measured beside one another. */
export interface Side {
  readonly argv: readonly string[]
  /** Runs as root; others as the user postgres. */
  readonly isRoot?: boolean
  /** Whether what is measured is done, where that is before the program ends. */
  until?(): Promise<boolean>
  /** With {@link until}: it goes on to its own end. A service is told to end. */
  readonly goesOn?: boolean
  /** Brings about what it begins with; not measured. */
  before?(): Promise<void>
  /**
   * Checks what it did; not measured.
   * @returns bytes that it wrote to its target
   */
  after(stdout: string): Promise<number>
}

/** What a run of a side took. */
export interface Sample {
  readonly seconds: number
  /** Of the program's processes and of the server's. */
  readonly cpuSeconds: number
  /** Of the program's processes together, at the worst moment. */
  readonly memoryBytes: number
  readonly storedBytes: number
}

/** Sentences on how {@link measureSides} measures. */
export const SIDES_NOTES: readonly string[] = [
  'Whole programs are measured from outside, in turn in the same run; who begins changes with each round. Before each',
  'run there is a CHECKPOINT and a sync, and all that will be read is read once: a disk at rest and a warm page cache.',
  'Sources and targets of all sides are folders of one file system, and what a side says is done has been fsynced.',
  'cpu: user and system of the program and of the server meanwhile. memory: proportional set sizes of all processes of',
  'the program added up, five times a second, at their most; processes of the server are left out on all sides.',
]

/** Runs sides in turn and compares the first one with each of the others. */
export async function measureSides(
  name: string,
  options: {
    readonly rig: Rig
    readonly rounds: number
    readonly ours: Side
    readonly peers: Readonly<Record<string, Side>>
    /** Folders that are read too. */
    readonly reads?: readonly string[]
    /** What all sides work through: then millions of bytes a second are measured, not seconds. */
    readonly bytes?: number
  },
): Promise<Measured[]> {
  const { rig, rounds, peers } = options
  const runner = (label: string, side: Side) => async (round: number) => {
    const sample = await measureSide(rig, side, options.reads)
    const { seconds, cpuSeconds, memoryBytes, storedBytes } = sample
    const took = `${seconds.toFixed(2)} s, ${cpuSeconds.toFixed(1)} s of CPU, ${formatSize(memoryBytes)} of memory`
    log(
      'info',
      `bench: ${name}: round ${round + 1} of ${rounds}: ${label}: ${took}, ${formatSize(storedBytes)}`,
    )
    return sample
  }
  const sides = Object.entries(peers).map(([peer, side]) => [peer, runner(peer, side)] as const)
  const samples = await interleave(rounds, {
    howdah: runner('howdah', options.ours),
    ...Object.fromEntries(sides),
  })
  const { howdah } = samples
  return sides.flatMap(([peer]) => {
    const theirs = (samples as Record<string, Sample[]>)[peer]!
    return measuredOf({ name, peer, bytes: options.bytes }, howdah, theirs)
  })
}

/** Runs a side once. */
export async function measureSide(rig: Rig, side: Side, reads: readonly string[] = []): Promise<Sample> {
  await side.before?.()
  await rig.rest(reads)
  const { result, serverCpuSeconds } = await rig.serverCpu(() =>
    measureProcess(side.argv, {
      env: environment(),
      scratch: join(rig.server.dir, 'peak'),
      tree: true,
      ...(side.until && { until: () => side.until!(), goesOn: side.goesOn === true }),
      ...(!side.isRoot && { user: POSTGRES }),
    }),
  )
  return {
    seconds: result.seconds,
    cpuSeconds: result.cpuSeconds + serverCpuSeconds,
    memoryBytes: result.treePeakBytes,
    storedBytes: await side.after(result.stdout),
  }
}

function measuredOf(
  { name, peer, bytes }: { name: string; peer: string; bytes: number | undefined },
  ours: readonly Sample[],
  theirs: readonly Sample[],
): Measured[] {
  const row = (suffix: string, unit: Measured['unit'], valueOf: (sample: Sample) => number): Measured => ({
    case: `${name}${suffix}`,
    peer,
    unit,
    better: unit === 'MB/s' ? 'more' : 'less',
    ours: ours.map(valueOf),
    theirs: theirs.map(valueOf),
  })
  return [
    bytes === undefined
      ? row('', 's', ({ seconds }) => seconds)
      : row('', 'MB/s', ({ seconds }) => bytes / seconds / 1e6),
    row('-cpu', 's', ({ cpuSeconds }) => cpuSeconds),
    row('-memory', 'B', ({ memoryBytes }) => memoryBytes),
    row('-size', 'B', ({ storedBytes }) => storedBytes),
  ]
}
