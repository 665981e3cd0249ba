import { readdir, readlink, stat, statfs } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import process from 'node:process'
import { userId } from '../../cluster/connect.ts'
import { debianConfigDir, debianDataDir } from '../../cluster/debian.ts'
import { openCluster } from '../../cluster/open.ts'
import { privateBindir, privateOsUser } from '../../cluster/private.ts'
import { livePid } from '../../cluster/ready.ts'
import { Fail } from '../../core/fail.ts'
import { exists, isMissing } from '../../core/file.ts'
import { currentUser } from '../../core/user.ts'
import type { Host } from '../../host/schema.ts'
import type { PhysicalFound } from './choose.ts'
import { assertMounted } from './mounts.ts'
import type { WalFileOwner } from './wal-file.ts'

/** Where a cluster is restored to. */
export interface Place {
  /** `own`: it takes the place of the host file's cluster; `copy`: it stands beside it, in a folder of its own. */
  readonly kind: 'own' | 'copy'
  readonly dataDir: string
  /** Of a Debian cluster: where its configuration is. */
  readonly configDir: string | undefined
  readonly bindir: string
  readonly osUser: string
  /** To give files to; undefined where this process is that user. */
  readonly owner: WalFileOwner | undefined
  /** Where the data directory that is there is kept; null when there is none, or an empty one. */
  readonly before: string | null
}

/** A tablespace on its way. */
export interface TablespaceMove {
  readonly oid: string
  readonly name: string
  /** Where it was. */
  readonly from: string
  /** Where it goes. */
  readonly to: string
  /** Bytes. */
  readonly size: number
  /** Among the files of the backup. */
  readonly file: string
}

/** Bytes that are needed, and those that are there. */
export interface Space {
  readonly path: string
  readonly needs: number
  readonly free: number
}

/**
 * Where a restore goes.
 * @param to folder of a copy
 * @throws {Fail} `usage`, `plan-impossible`, `not-permitted`
 */
export async function placeOf(host: Host, found: PhysicalFound, to: string | undefined): Promise<Place> {
  const { postgres } = host
  const { major } = found.manifest.postgres
  const dataDir = await dataDirOf(host, major, to)
  assertStartable(dataDir, to)
  const isPrivate = postgres.kind === 'private' && postgres.major === major
  const bindir = isPrivate ? privateBindir(postgres) : `/usr/lib/postgresql/${major}/bin`
  const osUser = await userOf(host, dataDir, to)
  const isRoot = process.getuid?.() === 0
  return {
    kind: to === undefined ? 'own' : 'copy',
    dataDir,
    configDir: postgres.kind === 'debian' && to === undefined ? debianConfigDir(postgres) : undefined,
    bindir,
    osUser,
    owner: isRoot ? userId(osUser) : undefined,
    before: (await isEmpty(dataDir)) ? null : beforeName(dataDir),
  }
}

// Between double quotes of sh (POSIX, 2.2.3), besides a line break, which ends a line of postmaster.pid.
const GARBLED = /["$`\\\n]/
/** Bytes of a socket's path, without its final NUL: sun_path of unix(7). */
const SOCKET_PATH = 107

/**
 * Refuses a data directory in which no server could be started once it is restored. Pure.
 * @param to folder of a copy
 * @throws {Fail} `plan-impossible`
 */
export function assertStartable(dataDir: string, to: string | undefined): void {
  const hint = to === undefined ? 'Name another data_dir.' : 'Name another folder: --to DIR'
  const refuse = (why: string) => {
    throw new Fail('plan-impossible', `no server can be started in ${JSON.stringify(dataDir)}: ${why}`, {
      hint,
    })
  }
  // pg_ctl runs `"postgres" -D "DIR" >>"LOG"` in a shell and escapes nothing (src/bin/pg_ctl/pg_ctl.c, start_postmaster).
  const garbled = GARBLED.exec(dataDir)?.[0]
  if (garbled !== undefined) refuse(`pg_ctl cannot cope with ${JSON.stringify(garbled)} in a name`)
  if (to === undefined) return
  // Its socket is beside it: both unix_socket_directories and libpq's host are lists.
  if (dataDir.includes(',')) refuse('a comma would divide the name of the folder of its socket')
  const size = Buffer.byteLength(join(copySocketDir(dataDir), '.s.PGSQL.65535'))
  if (size > SOCKET_PATH)
    refuse(`the path of its socket would have ${size} bytes, ${SOCKET_PATH} are possible`)
}

/**
 * Refuses a place in which something is that must not be touched.
 * @throws {Fail} `target-not-empty`, `plan-impossible`
 */
export async function assertPlaceFree(place: Place, moves: readonly TablespaceMove[]): Promise<void> {
  const { dataDir, kind, before } = place
  await assertNotRunning(dataDir)
  if (kind === 'copy' && before !== null) {
    throw new Fail('target-not-empty', `"${dataDir}" is not empty`, {
      hint: 'Name a folder that is empty or not there.',
    })
  }
  await assertNoMount(dataDir)
  await assertMounted([dataDir, ...moves.map(({ to }) => to)])
  for (const { oid, to, from, name } of moves) {
    // What is there is set aside, but only when it is of the cluster that is replaced: another one may live there.
    if (kind === 'own' && to === from && (await isLinked(dataDir, oid, to))) continue
    if (await isEmpty(to)) continue
    throw new Fail('target-not-empty', `"${to}", for tablespace ${name}, is not empty`, {
      hint: `Put it elsewhere: --tablespace ${from}=DIR`,
    })
  }
}

async function isLinked(dataDir: string, oid: string, location: string): Promise<boolean> {
  const link = join(dataDir, 'pg_tblspc', oid)
  return readlink(link).then(
    (found) => found === location,
    () => false,
  )
}

/**
 * The same, of the data directory, at the last moment: somebody may have used it meanwhile.
 * @throws {Fail} `target-not-empty`
 */
export async function assertStillFree({ dataDir, before }: Place): Promise<void> {
  await assertNotRunning(dataDir)
  if (before !== null || (await isEmpty(dataDir))) return
  throw new Fail('target-not-empty', `"${dataDir}" was empty when the restore began, and is not any more`, {
    hint: 'Look at what is in it. It was not touched.',
  })
}

/** A live server in a data directory is never taken away from under it. */
export async function assertNotRunning(dataDir: string): Promise<void> {
  const pid = await livePid(dataDir)
  if (pid === undefined) return
  throw new Fail('target-not-empty', `a server runs in "${dataDir}", process ${pid}`, {
    hint: 'Stop it first. Nothing was changed.',
  })
}

/** Where the tablespaces of a backup are to go. */
export interface TablespaceMapping {
  /** Old places to new ones. */
  readonly tablespaces: ReadonlyMap<string, string>
  /** Where every other one goes, by its oid; undefined: where it was. */
  readonly tablespaceFolder?: string | undefined
}

/**
 * Where each tablespace goes.
 * @throws {Fail} `usage`, `target-not-empty`
 */
export function tablespaceMoves(
  found: PhysicalFound,
  mapping: TablespaceMapping,
  kind: Place['kind'],
): TablespaceMove[] {
  const { tablespaces } = found.manifest.physical
  const { tablespaceFolder: folder } = mapping
  const unknown = [...mapping.tablespaces.keys()].find(
    (from) => !tablespaces.some(({ location }) => location === from),
  )
  if (unknown !== undefined) {
    const places = tablespaces.map(({ location }) => location).join(', ')
    throw new Fail('usage', `the backup has no tablespace in "${unknown}"`, {
      hint: places === '' ? 'It has none.' : `It has them in: ${places}`,
    })
  }
  const moves = tablespaces.map(({ oid, name, location, size, file }) => ({
    oid,
    name,
    from: location,
    to: resolve(mapping.tablespaces.get(location) ?? (folder === undefined ? location : join(folder, oid))),
    size,
    file,
  }))
  // A copy that shared a tablespace with the cluster it comes from would write into its files.
  const shared = kind === 'copy' ? moves.find(({ from, to }) => from === to) : undefined
  if (shared) {
    throw new Fail(
      'target-not-empty',
      `tablespace ${shared.name} would be put where it was: "${shared.from}"`,
      {
        hint: `A copy needs a place of its own for it: --tablespace ${shared.from}=DIR`,
      },
    )
  }
  const twice = moves.find(({ to }, index) => moves.findIndex((other) => other.to === to) !== index)
  if (twice) throw new Fail('usage', `two tablespaces would be put into "${twice.to}"`)
  return moves
}

/** Folder of a copy's socket and log. Pure. */
export function copySocketDir(dataDir: string): string {
  return `${dataDir}.socket`
}

/** Space on each file system that is written to. @throws {Fail} `no-space` is the caller's to say */
export async function spaces(
  needs: readonly { readonly path: string; readonly bytes: number }[],
): Promise<Space[]> {
  const found = new Map<number, Space>()
  for (const { path, bytes } of needs) {
    const there = await nearestFolder(path)
    const { dev } = await stat(there)
    const { bavail, bsize } = await statfs(there)
    const known = found.get(dev)
    found.set(dev, { path: known?.path ?? path, needs: (known?.needs ?? 0) + bytes, free: bavail * bsize })
  }
  return [...found.values()]
}

/** Whether a folder has nothing in it, or is not there. */
export async function isEmpty(path: string): Promise<boolean> {
  return readdir(path).then(
    (names) => names.every((name) => name === 'lost+found'),
    (error: unknown) => {
      if (isMissing(error)) return true
      throw new Fail('not-permitted', `cannot look into "${path}"`, {
        hint: 'Run this as root.',
        cause: error,
      })
    },
  )
}

async function dataDirOf(host: Host, major: number, to: string | undefined): Promise<string> {
  const { postgres } = host
  if (postgres.kind === 'remote') {
    throw new Fail('not-permitted', 'a remote cluster cannot be restored from here', {
      hint: 'Name a host file of kind "private" or "debian".',
    })
  }
  const own = await ownDataDir(host)
  if (to === undefined) {
    if (postgres.major === major) return own
    throw new Fail(
      'plan-impossible',
      `the backup is of major ${major}, the host file says ${postgres.major}`,
      { hint: `Set postgres.major = ${major}.` },
    )
  }
  if (!(await isSame(resolve(to), own))) return resolve(to)
  throw new Fail('usage', `--to ${to} is the data directory of the cluster itself`, {
    hint: 'Leave --to out to restore it in its place.',
  })
}

/** The data directory of the host file's cluster, whether there is one or not; not of a remote one. */
export async function ownDataDir(host: Host): Promise<string> {
  const { postgres } = host
  if (postgres.kind === 'private') return resolve(postgres.data_dir!)
  return resolve((await openCluster(host))?.dataDir ?? debianDataDir(postgres))
}

async function userOf(host: Host, dataDir: string, to: string | undefined): Promise<string> {
  if (process.getuid?.() !== 0) return currentUser()
  if (host.postgres.kind === 'private' && to === undefined) return privateOsUser(host.postgres)
  return to === undefined ? 'postgres' : privateOsUser({ ...host.postgres, data_dir: dataDir })
}

async function isSame(a: string, b: string): Promise<boolean> {
  if (a === resolve(b)) return true
  const [one, other] = await Promise.all([a, b].map((path) => stat(path).catch(() => undefined)))
  return one !== undefined && other !== undefined && one.ino === other.ino && one.dev === other.dev
}

async function assertNoMount(dataDir: string): Promise<void> {
  if (!(await exists(dataDir))) return
  const [own, above] = await Promise.all([stat(dataDir), stat(dirname(dataDir))])
  if (own.dev === above.dev) return
  throw new Fail('plan-impossible', `"${dataDir}" is a mount point, which cannot be set aside`, {
    hint: 'Use a folder inside of it as the data directory.',
  })
}

async function nearestFolder(path: string): Promise<string> {
  return (await exists(path)) ? path : nearestFolder(dirname(path))
}

/** `main.before-20261122T100000Z` */
function beforeName(dataDir: string): string {
  const time = new Date().toISOString().replace(/[-:]|\.\d+/g, '')
  return join(dirname(dataDir), `${basename(dataDir)}.before-${time}`)
}
