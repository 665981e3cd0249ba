import { readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { debianConfigDir, debianDataDir, debianUnit } from '../../cluster/debian.ts'
import { privateBindir, privateSocketDir } from '../../cluster/private.ts'
import { literal } from '../../cluster/sql.ts'
import { Fail } from '../../core/fail.ts'
import { exists, isMissing, readTextIfAny, reasonOf } from '../../core/file.ts'
import { parseSize } from '../../core/quantity.ts'
import type { Host, Postgres } from '../../host/schema.ts'
import type { Change, Finding, Step } from '../change.ts'
import type { Facts, Kind, Observe } from '../kind.ts'

/** A cluster as far as it must be there and run. */
export interface ClusterState {
  /** `half-made`: an earlier run died while it made it. `occupied`: its place holds something else. */
  readonly state: 'running' | 'stopped' | 'half-made' | 'occupied' | 'absent'
  readonly port: number
  /** What initdb decided, where the server could be asked. */
  readonly checksums?: boolean
  readonly encoding?: string
  readonly hasBindir: boolean
}

/** The cluster itself: made with initdb's options where there is none, and started. Never removed. */
export const clusterKind: Kind<ClusterState> = {
  name: 'cluster',

  wanted({ postgres }) {
    if (postgres.kind === 'remote') return new Map()
    const { port, initdb } = postgres
    const wanted: ClusterState = {
      state: 'running',
      port,
      checksums: initdb.data_checksums,
      encoding: initdb.encoding,
      hasBindir: true,
    }
    return new Map([[nameOf(postgres), wanted]])
  },

  async actual(observe) {
    const { postgres } = observe.host
    if (postgres.kind === 'remote') return new Map()
    return new Map([[nameOf(postgres), await stateOf(observe)]])
  },

  change(name, _wanted, actual, { host, facts }) {
    const state = actual?.state ?? 'absent'
    if (state === 'running' || state === 'occupied') return undefined
    if (state === 'stopped') return change(name, 'alter', 'start it', [{ run: 'start' }])
    const { postgres } = host
    const steps =
      postgres.kind === 'private' ? makePrivate(host, facts) : makeDebian(host, state === 'half-made')
    const { initdb } = postgres
    const checksums = initdb.data_checksums ? 'data checksums' : 'no data checksums'
    return change(
      name,
      'create',
      `make it with locale ${initdb.locale}, ${initdb.encoding}, ${checksums}, and start it`,
      [...steps, { run: 'start' }],
    )
  },

  findings(name, wanted, actual, { host, facts }) {
    if (!actual) return []
    const isThere = actual.state === 'running' || actual.state === 'stopped'
    const found = isThere ? differences(wanted, actual, host) : obstacles(actual, host, facts)
    return found.map(({ level, text, hint }) => ({ kind: 'cluster', name, level, text, hint }))
  },

  exported(actual) {
    const isWithout = [...actual.values()].some(({ checksums }) => checksums === false)
    return isWithout ? { postgres: { initdb: { data_checksums: false } } } : {}
  },
}

type Found = Required<Pick<Finding, 'level' | 'text' | 'hint'>>

/** Why a cluster cannot be made. */
function obstacles(actual: ClusterState, { postgres }: Host, { osUser }: Facts): Found[] {
  const folder = dataDirOf(postgres)
  if (actual.state === 'occupied') {
    return [
      {
        level: 'impossible',
        text: `"${folder}" is not empty and holds no cluster of this host file`,
        hint: `Look at it: ls -la ${folder}. Name another data_dir, or move it away.`,
      },
    ]
  }
  const found: Found[] = []
  if (!actual.hasBindir) {
    found.push({
      level: 'impossible',
      text: `there is no initdb in "${privateBindir(postgres)}"`,
      hint: `Install it: apt-get install postgresql-${postgres.major}, or name postgres.bindir.`,
    })
  }
  if (postgres.superuser !== osUser) {
    found.push({
      level: 'impossible',
      text: `its OS user is "${osUser}", so nobody could log in as "${postgres.superuser}" by peer`,
      hint: `Set postgres.superuser = "${osUser}".`,
    })
  }
  return found
}

/** What is not as the host file says, and cannot be changed while the cluster runs. */
function differences(wanted: ClusterState, actual: ClusterState, { postgres }: Host): Found[] {
  const found: Found[] = []
  if (actual.port !== wanted.port) {
    found.push({
      level: 'warning',
      text: `it uses port ${actual.port}, the host file says ${wanted.port}`,
      hint: `Set postgres.port = ${actual.port}, or change the cluster's port and restart it.`,
    })
  }
  if (actual.checksums === false && wanted.checksums) {
    found.push({
      level: 'warning',
      text: 'data checksums are off',
      hint: `They can be turned on while it is stopped: pg_checksums --enable -D ${dataDirOf(postgres)}`,
    })
  }
  return found
}

function dataDirOf(postgres: Postgres): string {
  return postgres.data_dir ?? debianDataDir(postgres)
}

function nameOf(postgres: Postgres): string {
  return postgres.kind === 'private' ? postgres.data_dir! : `${postgres.major}/${postgres.cluster}`
}

function change(name: string, action: Change['action'], line: string, steps: readonly Step[]): Change {
  return { kind: 'cluster', name, action, line, hazards: [], steps }
}

async function stateOf(observe: Observe): Promise<ClusterState> {
  const { host, cluster, isRunning } = observe
  const { postgres } = host
  if (!cluster)
    return { state: await placeOf(host), port: postgres.port, hasBindir: await hasInitdb(postgres) }
  const isWhole = !(await isHalfMade(host, cluster.dataDir))
  const state = isRunning ? 'running' : isWhole ? 'stopped' : 'half-made'
  const [row] = await observe.query<{ checksums: string; encoding: string }>(
    'postgres',
    `select current_setting('data_checksums') as checksums, current_setting('server_encoding') as encoding`,
  )
  return {
    state,
    port: cluster.port,
    hasBindir: true,
    ...(row && { checksums: row.checksums === 'on', encoding: row.encoding }),
  }
}

async function hasInitdb(postgres: Postgres): Promise<boolean> {
  return postgres.kind !== 'private' || exists(join(privateBindir(postgres), 'initdb'))
}

/** Whether a cluster may be made where the host file wants it: never in a folder that holds anything. */
async function placeOf(host: Host): Promise<'absent' | 'half-made' | 'occupied'> {
  const { postgres } = host
  const folder = dataDirOf(postgres)
  const entries = await readdir(folder).catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code === 'ENOTDIR') return ['a file']
    if (isMissing(cause)) return []
    throw new Fail('not-permitted', `cannot look into the data directory "${folder}": ${reasonOf(cause)}`, {
      hint: 'Run this as root.',
      cause,
    })
  })
  if (entries.length === 0) return 'absent'
  return (await isHalfMade(host, folder)) ? 'half-made' : 'occupied'
}

// What a data directory has as soon as it may hold something: its server was started once, or it is a
// backup that was laid there and waits for its first start.
const SIGNS_OF_LIFE = ['postmaster.opts', 'backup_label', 'recovery.signal', 'standby.signal']

/**
 * Half-made is only what our own marker says was being made and that no server ever ran on. The control
 * file proves nothing: initdb writes it first.
 */
async function isHalfMade(host: Host, dataDir: string): Promise<boolean> {
  if (host.postgres.kind !== 'debian') return false
  if ((await readTextIfAny(markerPath(host)).catch(() => undefined)) === undefined) return false
  const signs = await Promise.all(SIGNS_OF_LIFE.map((name) => exists(join(dataDir, name)).catch(() => true)))
  return !signs.includes(true)
}

function markerPath({ host, postgres }: Host): string {
  return join(host.state_dir, 'journal', `making-${postgres.major}-${postgres.cluster}`)
}

function initdbOptions({ initdb, major }: Postgres): string[] {
  const segment = initdb.wal_segsize === undefined ? undefined : parseSize(initdb.wal_segsize)! / 1024 ** 2
  // From 18 on initdb turns checksums on by itself, and only then it knows how not to.
  const checksums = initdb.data_checksums ? ['--data-checksums'] : major! >= 18 ? ['--no-data-checksums'] : []
  return [
    `--encoding=${initdb.encoding}`,
    `--locale=${initdb.locale}`,
    ...(initdb.locale_provider ? [`--locale-provider=${initdb.locale_provider}`] : []),
    ...(initdb.icu_locale ? [`--icu-locale=${initdb.icu_locale}`] : []),
    ...(segment ? [`--wal-segsize=${segment}`] : []),
    ...checksums,
  ]
}

/** In a folder beside the final one, which gets its name when everything in it is right (commit point: mv). */
function makePrivate(host: Host, facts: Facts): Step[] {
  const { postgres } = host
  const { osUser } = facts
  const dataDir = postgres.data_dir!
  const making = `${dataDir}.howdah-new`
  const socketDir = privateSocketDir(postgres)
  const conf = [
    '# Written by Howdah when it made this cluster.',
    `port = ${postgres.port}`,
    `unix_socket_directories = ${literal(socketDir)}`,
    `listen_addresses = ''`,
    '',
  ].join('\n')
  return [
    { run: 'exec', argv: alone(host, ['rm', '-rf', '--', making]) },
    { run: 'exec', argv: ['mkdir', '-p', '--', dirname(dataDir)] },
    { run: 'folder', path: making, mode: 0o700, owner: osUser },
    // One that is there may serve others, such as /tmp: it stays as it is.
    { run: 'exec', argv: ['sh', '-c', MAKE_FOLDER, 'sh', socketDir, osUser] },
    {
      run: 'exec',
      as: osUser,
      argv: alone(host, [
        join(privateBindir(postgres), 'initdb'),
        '--pgdata',
        making,
        `--username=${postgres.superuser}`,
        '--auth-local=peer',
        '--auth-host=scram-sha-256',
        ...initdbOptions(postgres),
      ]),
    },
    {
      run: 'exec',
      as: osUser,
      argv: [
        'sh',
        '-c',
        `printf "\\ninclude_dir = 'conf.d'\\n" >>"$1"`,
        'sh',
        join(making, 'postgresql.conf'),
      ],
    },
    {
      run: 'write',
      path: join(making, 'conf.d/10-howdah-cluster.conf'),
      content: conf,
      mode: 0o640,
      owner: osUser,
    },
    { run: 'exec', argv: ['sh', '-c', '[ ! -d "$1" ] || rmdir -- "$1"', 'sh', dataDir] },
    { run: 'exec', argv: ['mv', '-T', '--', making, dataDir] },
  ]
}

const MAKE_FOLDER = '[ -d "$1" ] || install -d -m 755 -o "$2" -- "$1"'

/**
 * A program that what an earlier run left behind must not meet: killed by SIGKILL, that run leaves its
 * initdb alone, which goes on writing, and clears up by path when it fails.
 */
function alone({ host }: Host, argv: readonly string[]): string[] {
  return ['flock', '--timeout', '60', host.state_dir, ...argv]
}

/** pg_createcluster cannot be undone by itself after SIGKILL, so a marker says that it was under way. */
function makeDebian(host: Host, isHalfMade: boolean): Step[] {
  const { postgres } = host
  const [major, name] = [String(postgres.major), postgres.cluster]
  const marker = markerPath(host)
  return [
    { run: 'write', path: marker, content: `${major}/${name}\n`, mode: 0o644, owner: 'postgres' },
    ...(isHalfMade ? leftovers(host) : []),
    {
      run: 'exec',
      argv: alone(host, [
        'pg_createcluster',
        major,
        name,
        `--port=${postgres.port}`,
        ...(postgres.data_dir === undefined ? [] : [`--datadir=${postgres.data_dir}`]),
        '--start-conf=auto',
        '--',
        ...initdbOptions(postgres),
      ]),
    },
    { run: 'exec', argv: ['rm', '-f', '--', marker] },
    ...enable(postgres),
  ]
}

// The folders of a cluster that no server ever ran on hold nothing that anybody could miss.
function leftovers(host: Host): Step[] {
  const folders = [debianDataDir(host.postgres), debianConfigDir(host.postgres)]
  return [{ run: 'exec', argv: alone(host, ['rm', '-rf', '--', ...folders]) }]
}

// systemd starts a cluster at boot by a generator that reads start.conf; it must hear of the new one.
function enable(postgres: Postgres): Step[] {
  const script = '[ ! -d /run/systemd/system ] || systemctl daemon-reload'
  return [{ run: 'exec', argv: ['sh', '-c', script, debianUnit(postgres)] }]
}
