import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { open, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { exists, readTextIfAny } from '../../scripts/core/file.ts'
import { takeLock } from '../../scripts/core/lock.ts'
import { ROOT } from './script.ts'

// A host is a systemd-nspawn container: an overlay on a base system that is made once by
// debootstrap, with a systemd of its own as PID 1. It shares the network of this machine, so what
// listens in it needs a port of its own; everything else (files, processes, IPC, users) is its own.

/** Bases and hosts stand here; removing it makes them anew. */
const HOME = '/var/lib/howdah-test-hosts'

const FOLDER = { mode: 0o755 } as const

/** Nothing but what a machine without any purpose has. */
const BASE_PACKAGES = 'systemd,systemd-sysv,dbus,procps,iproute2'

/** What a host is made of. */
export interface HostOptions {
  /** Debian's release; default `bookworm`. */
  readonly suite?: 'bookworm' | 'trixie'
  /** Folders of this machine that are there at the same path. */
  readonly binds?: readonly string[]
}

/** How a command is run in a host. */
export interface HostRunOptions {
  /** Default `root`. */
  readonly user?: string
  /** Default `/`. */
  readonly cwd?: string
  /** On top of a login's bare environment. */
  readonly env?: Readonly<Record<string, string>>
  /** Text for its standard input; without it the input is empty. */
  readonly input?: string
  /** Exit codes that are no failure. Default `[0]`. */
  readonly okCodes?: readonly number[]
  /** Default 300. */
  readonly timeoutSeconds?: number
}

/** What a command left behind. */
export interface HostResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** A throw-away Debian host with a real systemd; its disposal removes all of it. */
export interface TestHost extends AsyncDisposable {
  readonly name: string
  /** Its file system, as seen from here. */
  readonly root: string
  /**
   * Runs a program, or a text as a bash script.
   * @throws {Error} with all of its output when its exit code is none of `okCodes`
   */
  run(command: string | readonly string[], options?: HostRunOptions): Promise<HostResult>
  /** Copies this checkout as a fresh clone would be: without what git ignores. */
  copyCheckout(to: string): Promise<void>
  /** Shuts it down in order and boots it again from the same disk. */
  reboot(): Promise<void>
  /** Shuts it down, keeps its disk as it is then, and boots it again. */
  keepDisk(): Promise<void>
  /** Shuts it down and boots it from the disk that was kept. */
  resetDisk(): Promise<void>
}

let counter = 0

/**
 * Makes and boots a host: 40 s for the first one of a suite, 3 s after that.
 * @throws {Fail} `not-permitted` without root or without the programs that it needs
 */
export async function bootHost(options: HostOptions = {}): Promise<TestHost> {
  await requireTools()
  const base = await makeBase(options.suite ?? 'bookworm')
  counter += 1
  const name = `howdah-${process.pid}-${counter}`
  const dir = join(HOME, 'hosts', name)
  await claim(dir)
  const host = new Host(dir, name, options.binds ?? [])
  try {
    await host.make(base)
    await host.boot()
  } catch (error) {
    await host[Symbol.asyncDispose]()
    throw error
  }
  return host
}

class Host implements TestHost {
  readonly name: string
  readonly root: string
  private readonly dir: string
  private base = ''
  private readonly binds: readonly string[]
  private container: ChildProcess | undefined

  constructor(dir: string, name: string, binds: readonly string[]) {
    this.dir = dir
    this.name = name
    this.root = join(dir, 'root')
    this.binds = binds
  }

  async make(base: string): Promise<void> {
    for (const folder of ['root', 'work', 'upper/etc', 'upper/usr/local/share/ca-certificates']) {
      await mkdir(join(this.dir, folder), { recursive: true })
    }
    await writeFile(join(this.dir, 'upper/etc/hostname'), `${this.name}\n`)
    // What this machine trusts besides Debian's own certificates; taken up by whoever installs ca-certificates.
    const certificates = '/usr/local/share/ca-certificates'
    if (await exists(certificates))
      await run(['cp', '-r', `${certificates}/.`, join(this.dir, `upper${certificates}`)])
    this.base = base
    await this.mount()
  }

  private async mount(): Promise<void> {
    // volatile: nothing is ever flushed to the disk, which dpkg and a server otherwise wait for.
    const layers = `volatile,lowerdir=${this.base},upperdir=${this.dir}/upper,workdir=${this.dir}/work`
    await run(['mount', '-t', 'overlay', 'overlay', '-o', layers, this.root])
  }

  async boot(): Promise<void> {
    await using console = await open(join(this.dir, 'console.log'), 'a')
    const binds = this.binds.map((path) => `--bind=${path}`)
    const nspawn = ['systemd-nspawn', '--quiet', '--register=no', '--keep-unit', '--resolv-conf=copy-host']
    // --pdeathsig: it does not outlive this process, however that ends. detached: Ctrl-C is ours to handle.
    this.container = spawn(
      'setpriv',
      [
        '--pdeathsig',
        'KILL',
        ...nspawn,
        `--machine=${this.name}`,
        `--directory=${this.root}`,
        ...binds,
        '--boot',
      ],
      // /tmp stands on the disk, as the release has it, and not in a tenth of the memory, as nspawn would.
      {
        stdio: ['ignore', console.fd, console.fd],
        detached: true,
        env: { ...process.env, SYSTEMD_NSPAWN_TMPFS_TMP: '0' },
      },
    )
    const deadline = Date.now() + 60_000
    let state = ''
    while (!['running', 'degraded'].includes(state)) {
      if (Date.now() > deadline || this.container.exitCode !== null) {
        const log = await readFile(join(this.dir, 'console.log'), 'utf8')
        throw new Error(
          `test host ${this.name} does not boot (${state || 'no answer'}):\n${log.slice(-4000)}`,
        )
      }
      await sleep(100)
      await this.noteLeader()
      state = await this.state()
    }
  }

  async run(command: string | readonly string[], options: HostRunOptions = {}): Promise<HostResult> {
    const argv = typeof command === 'string' ? ['bash', '--norc', '-euo', 'pipefail', '-c', command] : command
    const done = await this.enter(argv, options)
    if ((options.okCodes ?? [0]).includes(done.code)) return done
    throw new Error(`${argv.at(-1)}: exit code ${done.code}\n${done.stdout}\n${done.stderr}`)
  }

  async copyCheckout(to: string): Promise<void> {
    const ignored = (await readFile(join(ROOT, '.gitignore'), 'utf8')).split('\n').filter(Boolean)
    const excludes = ['./.git', ...ignored.map((line) => line.replace(/\/$/, ''))].map(
      (path) => `--exclude=${path}`,
    )
    const archive = join(this.dir, 'checkout.tar')
    await run(['tar', '-cf', archive, ...excludes, '--owner=0', '--group=0', '-C', ROOT, '.'])
    await mkdir(join(this.root, to), { recursive: true })
    await run(['tar', '-xf', archive, '-C', join(this.root, to)])
  }

  async reboot(): Promise<void> {
    await this.shutDown()
    await this.boot()
  }

  async keepDisk(): Promise<void> {
    await this.shutDown()
    await run(['cp', '-a', join(this.dir, 'upper'), join(this.dir, 'kept')])
    await this.boot()
  }

  async resetDisk(): Promise<void> {
    await this.shutDown()
    await run(['umount', this.root])
    await run(['rm', '-rf', join(this.dir, 'upper'), join(this.dir, 'work')])
    await run(['cp', '-a', join(this.dir, 'kept'), join(this.dir, 'upper')])
    await mkdir(join(this.dir, 'work'))
    await this.mount()
    await this.boot()
  }

  private async shutDown(): Promise<void> {
    const ended = once(this.container!, 'close')
    await this.enter(['systemctl', 'poweroff', '--no-block'])
    const late = sleep(60_000, 'late', { ref: false })
    if ((await Promise.race([ended, late])) === 'late')
      throw new Error(`test host ${this.name} does not shut down`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.container?.exitCode === null && this.container.signalCode === null) {
      const ended = once(this.container, 'close')
      await endContainer(this.dir) // nspawn ends with it
      this.container.kill('SIGKILL')
      await ended
    }
    await removeHost(this.dir)
  }

  /** Writes down who is PID 1 there, so that another run can end it when this one is killed. */
  private async noteLeader(): Promise<void> {
    const leader = await this.leader()
    if (leader === undefined) return
    await writeFile(join(this.dir, 'leader'), `${leader} ${await startTimeOf(Number(leader))}`)
  }

  /** What systemd says of itself; empty while it cannot be asked. */
  private async state(): Promise<string> {
    if ((await this.leader()) === undefined) return ''
    return (await this.enter(['systemctl', 'is-system-running'], { timeoutSeconds: 5 })).stdout.trim()
  }

  /** The process, here, that is PID 1 there. */
  private async leader(): Promise<string | undefined> {
    const pid = this.container?.pid
    return (await readTextIfAny(`/proc/${pid}/task/${pid}/children`))?.split(' ').find(Boolean)
  }

  private async enter(argv: readonly string[], options: HostRunOptions = {}): Promise<HostResult> {
    const leader = await this.leader()
    if (leader === undefined) throw new Error(`test host ${this.name} does not run`)
    const user = options.user ?? 'root'
    const env = {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      HOME: user === 'root' ? '/root' : `/home/${user}`,
      USER: user,
      LANG: 'C.UTF-8',
      ...options.env,
    }
    const become = user === 'root' ? [] : ['runuser', '-u', user, '--']
    // Ended from inside: nsenter's own end would leave what it started, and the pipes, to go on.
    const limit = ['timeout', '--signal=KILL', String(options.timeoutSeconds ?? 300)]
    const place = [
      'env',
      '-i',
      `--chdir=${options.cwd ?? '/'}`,
      ...Object.entries(env).map(([key, value]) => `${key}=${value}`),
    ]
    const child = spawn('nsenter', ['--target', leader, '--all', ...place, ...become, ...limit, ...argv])
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    child.stdin.on('error', () => {}).end(options.input ?? '') // a program may end without reading
    const [code] = (await once(child, 'close')) as [number | null]
    return { code: code ?? -1, stdout, stderr }
  }
}

async function requireTools(): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Fail('not-permitted', 'cannot make a test host: this is not root', {
      hint: 'Run: howdah test --no-journeys',
    })
  }
  for (const program of ['/usr/sbin/debootstrap', '/usr/bin/systemd-nspawn']) {
    if (await exists(program)) continue
    throw new Fail('not-permitted', `cannot make a test host: ${program} is missing`, {
      hint: 'Run: apt-get install debootstrap systemd-container',
    })
  }
}

/** The base system of a suite, made when it is not there. */
async function makeBase(suite: string): Promise<string> {
  const base = join(HOME, 'base', suite)
  await using _lock = await takeLock(join(HOME, 'base.lock'), { waitSeconds: 300, folder: FOLDER })
  if (await exists(base)) return base
  const unfinished = `${base}.unfinished`
  await rm(unfinished, { recursive: true, force: true })
  await mkdir(unfinished, { recursive: true })
  await run([
    'debootstrap',
    '--variant=minbase',
    `--include=${BASE_PACKAGES}`,
    suite,
    unfinished,
    await mirror(),
  ])
  await writeFile(join(unfinished, 'etc/hosts'), '127.0.0.1 localhost\n::1 localhost\n')
  await rename(unfinished, base) // commit point
  return base
}

/** The Debian mirror that this machine uses. */
async function mirror(): Promise<string> {
  for (const path of ['/etc/apt/sources.list.d/debian.sources', '/etc/apt/sources.list']) {
    const found = /^URIs:\s*(\S+)|^deb (?:\[.*?\] )?(\S+)/m.exec((await readTextIfAny(path)) ?? '')
    if (found) return (found[1] ?? found[2])!
  }
  throw new Error('cannot make a test host: apt has no source of packages')
}

/** Makes a host's folder with its owner in it, and removes those whose test run ended without doing so. */
async function claim(dir: string): Promise<void> {
  await using _lock = await takeLock(join(HOME, 'hosts.lock'), { waitSeconds: 60, folder: FOLDER })
  const hosts = dirname(dir)
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'owner'), `${process.pid} ${await startTimeOf(process.pid)}`)
  for (const name of await readdir(hosts)) {
    const [pid, startTime] = ((await readTextIfAny(join(hosts, name, 'owner'))) ?? '').split(' ')
    if (pid && startTime && (await startTimeOf(Number(pid))) === startTime) continue
    await removeHost(join(hosts, name))
  }
}

/** Ends all processes of a host: the kernel does so when its PID 1 goes, but not when nspawn does. */
async function endContainer(dir: string): Promise<void> {
  const [pid, startTime] = ((await readTextIfAny(join(dir, 'leader'))) ?? '').split(' ')
  const runs = async () => startTime !== undefined && (await startTimeOf(Number(pid))) === startTime
  if (await runs()) process.kill(Number(pid), 'SIGKILL')
  while (await runs()) await sleep(50)
}

async function removeHost(dir: string): Promise<void> {
  await endContainer(dir)
  await run(['umount', '--lazy', join(dir, 'root')], { okCodes: [0, 1, 32] })
  await rm(dir, { recursive: true, force: true })
}

/** When a process began: with its id this names it once and for all. Field 22 of proc(5) stat; none for a dead one. */
async function startTimeOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined) // it may just have ended
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields?.[0] === 'Z' ? undefined : fields?.[19]
}
