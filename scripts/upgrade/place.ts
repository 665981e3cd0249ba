import { readdir, stat } from 'node:fs/promises'
import type { Cluster } from '../cluster/cluster.ts'
import { debianConfigDir } from '../cluster/debian.ts'
import { openCluster } from '../cluster/open.ts'
import { privateSocketDir } from '../cluster/private.ts'
import { Fail } from '../core/fail.ts'
import { exists, readText, writeFileAtomic } from '../core/file.ts'
import { editHostFile } from '../host/edit.ts'
import type { Host, Postgres } from '../host/schema.ts'

/** What somebody asks for. */
export interface Asked {
  /** The major to go to; default: the one that the host file names, where the cluster is of another one. */
  readonly to?: number | undefined
  /** The major of the cluster that is there, where the host file names the new one already. */
  readonly from?: number | undefined
  /** Of a private cluster: programs and data directory of the new one. */
  readonly bindir?: string | undefined
  readonly dataDir?: string | undefined
}

/** The cluster that is there, and the one that is to take its place. */
export interface Pair {
  readonly old: Postgres
  readonly new: Postgres
}

/**
 * Which two clusters an upgrade is about. The host file may name either of them.
 * @throws {Fail} `usage` where the choice is not clear, `cluster-mismatch` where there is nothing to upgrade
 */
export async function pairOf({ postgres }: Host, asked: Asked): Promise<Pair> {
  if (postgres.kind === 'remote') {
    throw new Fail('cluster-mismatch', 'a remote cluster is upgraded by whoever runs its host', {
      hint: 'Move it with a dump: howdah backup take, then howdah restore database.',
    })
  }
  const to = asked.to ?? postgres.major!
  const from = asked.from ?? (postgres.major! < to ? postgres.major! : await otherMajor(postgres, to))
  if (from >= to) {
    throw new Fail('usage', `an upgrade goes to a newer major: ${from} to ${to} is none`, {
      hint: 'Name the major to go to: --to N',
    })
  }
  const old = { ...postgres, major: from }
  if (postgres.kind === 'debian')
    return { old, new: { ...postgres, major: to, data_dir: newDataDir(postgres, asked) } }
  return {
    old,
    new: {
      ...postgres,
      major: to,
      data_dir:
        newDataDir(postgres, asked) ?? `${postgres.data_dir!.replace(/\/+$/, '').replace(/-\d+$/, '')}-${to}`,
      bindir:
        asked.bindir ?? (postgres.bindir === undefined ? undefined : bindirFor(postgres.bindir, from, to)),
      // Both have one socket folder, that of the host file, one after the other.
      socket_dir: privateSocketDir(postgres),
    },
  }
}

/** Of Debian's clusters each has its own by default; where the host file names one, its major is in the path, or it is asked for. */
function newDataDir(
  { kind, data_dir: dataDir, major }: Postgres,
  { dataDir: asked, to }: Asked,
): string | undefined {
  if (asked !== undefined || kind !== 'debian' || dataDir === undefined) return asked
  const renamed = dataDir.replaceAll(`/${major}/`, `/${to}/`)
  if (renamed !== dataDir) return renamed
  throw new Fail(
    'usage',
    `where the new cluster's data is to be is not clear: postgres.data_dir = "${dataDir}"`,
    {
      hint: 'Name a folder: --data-dir DIR',
    },
  )
}

function bindirFor(bindir: string, from: number, to: number): string {
  const renamed = bindir.replaceAll(`/${from}/`, `/${to}/`)
  if (renamed !== bindir) return renamed
  throw new Fail(
    'usage',
    `where the programs of major ${to} are is not clear: postgres.bindir = "${bindir}"`,
    {
      hint: 'Name their folder: --bindir DIR',
    },
  )
}

async function otherMajor(postgres: Postgres, to: number): Promise<number> {
  const folders = postgres.kind === 'debian' ? await readdir('/etc/postgresql').catch(() => []) : []
  const found: number[] = []
  for (const folder of folders) {
    const major = Number(folder)
    if (major >= to || !Number.isInteger(major)) continue
    if (await exists(debianConfigDir({ ...postgres, major }))) found.push(major)
  }
  if (found.length === 1) return found[0]!
  const clusters = found.map((major) => `${major}/${postgres.cluster}`).join(', ')
  throw new Fail(
    found.length === 0 ? 'cluster-mismatch' : 'usage',
    found.length === 0
      ? `there is no cluster "${postgres.cluster}" of an older major than ${to}`
      : `there are several clusters that could go to ${to}: ${clusters}`,
    {
      hint:
        found.length === 0
          ? 'Name the major to go to: --to N. What there is: pg_lsclusters'
          : 'Name one: --from MAJOR',
    },
  )
}

/** A spec whose packages are those of its own major, where the name says one: `postgresql-15-postgis-3`. Pure. */
export function packagesFor(spec: Postgres, from: number): Postgres {
  return { ...spec, packages: spec.packages.map((name) => name.replace(`-${from}-`, `-${spec.major}-`)) }
}

/** The host as it is with one of the two clusters. */
export function hostWith(host: Host, postgres: Postgres): Host {
  return { ...host, postgres }
}

/**
 * The cluster of a spec, which must be there.
 * @throws {Fail} `cluster-mismatch`
 */
export async function openSpec(host: Host, spec: Postgres): Promise<Cluster> {
  const cluster = await openCluster(hostWith(host, spec))
  if (cluster) return cluster
  const name = spec.kind === 'debian' ? `${spec.major}/${spec.cluster}` : `in "${spec.data_dir}"`
  throw new Fail('cluster-mismatch', `there is no ${spec.kind} cluster ${name}`, {
    hint: 'What there is: pg_lsclusters',
  })
}

/** The text of a host file that names another cluster. @throws {Fail} `host-file` */
export async function editedFor(path: string, spec: Postgres, before: Postgres): Promise<string> {
  const changed = (key: 'data_dir' | 'bindir' | 'socket_dir') => spec[key] !== before[key]
  return editHostFile(await readText(path), 'postgres', {
    major: spec.major,
    ...(changed('data_dir') && { data_dir: spec.data_dir }),
    ...(changed('bindir') && { bindir: spec.bindir }),
    ...(changed('socket_dir') && { socket_dir: spec.socket_dir }),
  })
}

/** Writes a host file anew, as readable as it was. */
export async function writeHostFile(path: string, text: string): Promise<void> {
  const { mode, uid, gid } = await stat(path)
  await writeFileAtomic(path, text, { mode: mode & 0o777, uid, gid })
}
