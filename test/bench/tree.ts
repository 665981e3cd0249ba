import { readdirSync, readFileSync } from 'node:fs'

/** Often enough for runs of seconds, and no work that a run would feel. */
const EVERY_MILLISECONDS = 200

/** What watches the memory of a program and of everything that it started. */
export interface TreeWatch extends Disposable {
  /** The most that was seen. */
  readonly peakBytes: number
}

interface Process {
  readonly pid: number
  readonly name: string
  readonly parent: number
  readonly session: number
  /** Seconds of this one, and of its children that have ended. */
  readonly cpuSeconds: number
}

/**
 * Adds up the memory of a session's processes and of their children, several times a second. It is
 * the proportional set size: what several share is counted once. Servers are no part of it, also
 * those that a program of the session starts: they would be the same on all sides.
 * @param leader its id; the measuring program itself, which is not counted
 */
export function watchTree(leader: number): TreeWatch {
  let peakBytes = 0
  const look = () => {
    let bytes = 0
    for (const { pid } of members(leader)) bytes += proportionalBytes(pid)
    peakBytes = Math.max(peakBytes, bytes)
  }
  const timer = setInterval(look, EVERY_MILLISECONDS)
  return {
    get peakBytes() {
      return peakBytes
    },
    [Symbol.dispose]: () => clearInterval(timer),
  }
}

/** Seconds of CPU that a server and its processes, those that ended included, have used so far. */
export function serverCpuSeconds(postmaster: number): number {
  let seconds = 0
  for (const process of processes()) {
    if (process.pid === postmaster || process.parent === postmaster) seconds += process.cpuSeconds
  }
  return seconds
}

function members(leader: number): Process[] {
  const all = processes()
  const byPid = new Map(all.map((process) => [process.pid, process]))
  const isMember = (process: Process | undefined): boolean => {
    if (process === undefined || process.name === 'postgres') return false
    return process.session === leader || isMember(byPid.get(process.parent))
  }
  return all.filter((process) => process.pid !== leader && isMember(process))
}

function processes(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const line = readIfAny(`/proc/${name}/stat`)
      return line === undefined ? [] : [parseStat(line)]
    })
}

/** Fields by their numbers in proc_pid_stat(5). A name may hold blanks and brackets. */
function parseStat(line: string): Process {
  const [pid, name] = [
    line.slice(0, line.indexOf(' ')),
    line.slice(line.indexOf('(') + 1, line.lastIndexOf(')')),
  ]
  const rest = line.slice(line.lastIndexOf(')') + 2).split(' ')
  const field = (number: number) => Number(rest[number - 3])
  const ticks = field(14) + field(15) + field(16) + field(17)
  return { pid: Number(pid), name, parent: field(4), session: field(6), cpuSeconds: ticks / TICKS_PER_SECOND }
}

/** USER_HZ: the same on every architecture that Linux has in use. */
const TICKS_PER_SECOND = 100

function proportionalBytes(pid: number): number {
  const text = readIfAny(`/proc/${pid}/smaps_rollup`) ?? ''
  return Number(/^Pss:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) * 1024
}

/** Of a process that has ended there is nothing, or ESRCH. */
function readIfAny(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return undefined
  }
}
