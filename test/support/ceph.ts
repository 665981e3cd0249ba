import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../../scripts/core/exec.ts'
import { exists } from '../../scripts/core/file.ts'
import { freePort } from './port.ts'

// A real S3 server on loopback: Ceph's gateway over one disk of 20 GB (a file with holes), one monitor
// and no copies. One is started by the first test file that wants it, and all files of a run share it.

/** Programs that the server is made of, and the Debian package that each is in. */
export const S3_TOOLS = {
  '/usr/bin/ceph-mon': 'ceph-mon',
  '/usr/bin/ceph-mgr': 'ceph-mgr',
  '/usr/bin/ceph-osd': 'ceph-osd',
  '/usr/bin/radosgw': 'radosgw',
  '/usr/bin/ceph': 'ceph-common',
} as const

/** Somebody whom the server knows. */
export interface S3User {
  readonly id: string
  readonly accessKey: string
  readonly secretKey: string
}

/** Where a server is, and whom it knows. */
export interface S3Address {
  readonly endpoint: string
  /** Owns every bucket. */
  readonly owner: S3User
  /** May do nothing before a policy of a bucket says so. */
  readonly other: S3User
}

/** Packages of programs that are missing. With any of them no server can be started. */
async function missingS3Tools(): Promise<string[]> {
  const missing: string[] = []
  for (const [program, name] of Object.entries(S3_TOOLS)) if (!(await exists(program))) missing.push(name)
  return missing
}

/** A running server and how to end it. */
export interface RunningS3 extends AsyncDisposable {
  readonly address: S3Address
}

/** Starts a server that ends with this process, however that ends. Once in a run of tests. */
export async function runS3(): Promise<RunningS3> {
  const missing = await missingS3Tools()
  if (missing.length > 0) {
    throw new Error(
      `no S3 server can be started: run apt-get install --no-install-recommends ${missing.join(' ')}`,
    )
  }
  await removeLeftovers()
  const node = new CephNode(await mkdtemp(join(tmpdir(), `${FOLDER}${process.pid}-`)))
  try {
    return { address: await node.start(), [Symbol.asyncDispose]: () => node.stop() }
  } catch (error) {
    await node.stop()
    throw error
  }
}

/** Begins the name of a server's folder; the id of the process that started it follows. */
const FOLDER = 'howdah-s3-'

/** A run that was killed leaves the disk of its server, which may hold gigabytes. */
async function removeLeftovers(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const pid = /^howdah-s3-(\d+)-/.exec(name)?.[1]
    if (pid === undefined || (await exists(`/proc/${pid}`))) continue
    await rm(join(tmpdir(), name), { recursive: true, force: true })
  }
}

class CephNode {
  private readonly dir: string
  private readonly daemons: ChildProcess[] = []

  constructor(dir: string) {
    this.dir = dir
  }

  async start(): Promise<S3Address> {
    const port = await freePort()
    const fsid = randomUUID()
    await this.configure(fsid, port)
    const map = join(this.dir, 'monmap')
    const monitor = `[v2:127.0.0.1:${await freePort()},v1:127.0.0.1:${await freePort()}]`
    await this.tool(['monmaptool', '--create', '--fsid', fsid, '--addv', 'a', monitor, map])
    await this.amend(`mon host = ${monitor}`)
    await this.tool([
      'ceph-mon',
      '--mkfs',
      '-i',
      'a',
      '--monmap',
      map,
      '--keyring',
      join(this.dir, 'keyring'),
    ])
    await this.daemon('mon', ['ceph-mon', '-f', '-i', 'a'])
    await this.ceph(['auth', 'import', '-i', join(this.dir, 'keyring')])
    await this.daemon('mgr', ['ceph-mgr', '-f', '-i', 'x'])
    await this.ceph(['osd', 'create'])
    await this.tool(['ceph-osd', '-i', '0', '--mkfs'])
    await this.daemon('osd', ['ceph-osd', '-f', '-i', '0'])
    const gateway = await this.daemon('rgw', ['radosgw', '-f', '-n', 'client.rgw'])
    const endpoint = `http://127.0.0.1:${port}`
    await this.untilItAnswers(endpoint, gateway)
    return { endpoint, owner: await this.makeUser('owner'), other: await this.makeUser('other') }
  }

  async stop(): Promise<void> {
    for (const daemon of this.daemons.toReversed()) {
      if (daemon.exitCode !== null || daemon.signalCode !== null) continue
      const ended = once(daemon, 'close')
      daemon.kill('SIGKILL') // all of it is thrown away
      await ended
    }
    await rm(this.dir, { recursive: true, force: true })
  }

  private async configure(fsid: string, port: number): Promise<void> {
    const { dir } = this
    for (const name of ['mon', 'mgr', 'osd', 'rgw', 'run']) await mkdir(join(dir, name))
    const lines = [
      '[client.rgw]',
      `rgw frontends = beast endpoint=127.0.0.1:${port}`,
      `rgw data = ${dir}/rgw`,
      'rgw enable usage log = false',
      '[global]',
      `fsid = ${fsid}`,
      'public addr = 127.0.0.1',
      'cluster addr = 127.0.0.1',
      ...['mon', 'mgr', 'osd'].map((name) => `${name} data = ${dir}/${name}`),
      `keyring = ${dir}/keyring`,
      `run dir = ${dir}/run`,
      `admin socket = ${dir}/run/$name.asok`,
      `log file = ${dir}/$name.log`,
      // One disk, no copies, and a machine's disk that is nearly full is none of its business.
      'osd pool default size = 1',
      'osd pool default min size = 1',
      'osd pool default pg num = 8',
      'osd crush chooseleaf type = 0',
      'mon allow pool size one = true',
      'mon data avail warn = 1',
      'mon data avail crit = 1',
      'osd objectstore = bluestore',
      'bluestore block size = 21474836480',
      'osd memory target = 939524096',
    ]
    await writeFile(join(dir, 'ceph.conf'), `${lines.join('\n')}\n`)
    await writeFile(join(dir, 'keyring'), '', { mode: 0o600 })
    await this.makeKey('mon.', { mon: 'allow *' })
    await this.makeKey('client.admin', { mon: 'allow *', osd: 'allow *', mgr: 'allow *' })
    await this.makeKey('mgr.x', { mon: 'allow profile mgr', osd: 'allow *' })
    await this.makeKey('osd.0', { mon: 'allow profile osd', osd: 'allow *', mgr: 'allow profile osd' })
    await this.makeKey('client.rgw', { mon: 'allow *', osd: 'allow *', mgr: 'allow *' })
  }

  private async makeKey(name: string, caps: Readonly<Record<string, string>>): Promise<void> {
    const words = Object.entries(caps).flatMap(([daemon, cap]) => ['--cap', daemon, cap])
    await this.tool(['ceph-authtool', join(this.dir, 'keyring'), '--gen-key', '-n', name, ...words])
  }

  /** Adds a line to [global], which is last. */
  private async amend(line: string): Promise<void> {
    await writeFile(join(this.dir, 'ceph.conf'), `${line}\n`, { flag: 'a' })
  }

  private async tool(argv: readonly string[]): Promise<string> {
    const env = { CEPH_CONF: join(this.dir, 'ceph.conf') }
    return (await run(argv, { env, timeoutSeconds: 60 })).stdout
  }

  private async ceph(argv: readonly string[]): Promise<void> {
    await this.tool(['ceph', '--connect-timeout', '30', ...argv])
  }

  private async daemon(name: string, argv: readonly string[]): Promise<ChildProcess> {
    await using output = await open(join(this.dir, `${name}.out`), 'a')
    const daemon = spawn('setpriv', ['--pdeathsig', 'KILL', ...argv], {
      stdio: ['ignore', output.fd, output.fd],
      detached: true, // Ctrl-C is ours to handle
      env: { ...process.env, CEPH_CONF: join(this.dir, 'ceph.conf') },
    })
    this.daemons.push(daemon)
    await once(daemon, 'spawn')
    return daemon
  }

  private async untilItAnswers(endpoint: string, gateway: ChildProcess): Promise<void> {
    const deadline = Date.now() + 90_000
    const answers = async () => (await fetch(endpoint).catch(() => undefined))?.ok === true
    while (!(await answers())) {
      if (Date.now() > deadline || gateway.exitCode !== null) {
        const logs = await Promise.all(
          ['mon', 'osd', 'rgw'].map((name) => readFile(join(this.dir, `${name}.out`), 'utf8')),
        )
        throw new Error(`the S3 server does not answer:\n${logs.map((log) => log.slice(-1000)).join('\n')}`)
      }
      await sleep(100)
    }
  }

  private async makeUser(id: string): Promise<S3User> {
    const user = { id, accessKey: `${id}key`, secretKey: randomBytes(15).toString('hex') }
    const keys = [`--access-key=${user.accessKey}`, `--secret-key=${user.secretKey}`]
    await this.tool(['radosgw-admin', 'user', 'create', `--uid=${id}`, `--display-name=${id}`, ...keys])
    return user
  }
}
