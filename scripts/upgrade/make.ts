import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { debianConfigDir, debianDataDir } from '../cluster/debian.ts'
import { openCluster } from '../cluster/open.ts'
import { privateBindir } from '../cluster/private.ts'
import { stopServer } from '../cluster/restricted.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, isMissing, readTextIfAny, reasonOf, writeFileAtomic } from '../core/file.ts'
import type { Host, Postgres } from '../host/schema.ts'
import { initdbOptions, type Origin } from './origin.ts'

/** Where the data of a cluster is, or is going to be. */
export function dataDirOf(spec: Postgres): string {
  return spec.data_dir ?? debianDataDir(spec)
}

/** The programs of a cluster's major. */
export function bindirOf(spec: Postgres): string {
  return spec.kind === 'private' ? privateBindir(spec) : `/usr/lib/postgresql/${spec.major}/bin`
}

/**
 * Makes an empty cluster that is like another one in everything that initdb decides.
 * @param host of the new cluster, with the port that it is to have for now
 * @param osUser of the old one
 * @throws {Fail} `target-not-empty` when there is something in its place, `command-failed`
 */
export async function makeCluster(host: Host, origin: Origin, osUser: string): Promise<Cluster> {
  const spec = host.postgres
  await assertFree(spec)
  const options = initdbOptions(origin, spec.major!)
  if (spec.kind === 'debian') {
    const place = [String(spec.major), spec.cluster, ...(spec.data_dir ? [`--datadir=${spec.data_dir}`] : [])]
    await run(
      ['pg_createcluster', ...place, `--port=${spec.port}`, '--start-conf=manual', '--', ...options],
      {
        timeoutSeconds: 600,
      },
    )
  } else {
    const dataDir = dataDirOf(spec)
    const auth = ['--auth-local=peer', '--auth-host=scram-sha-256', `--username=${origin.installUser}`]
    await run(['install', '-d', '-m', '0700', ...ownerArguments(osUser), '--', dataDir])
    await run([join(bindirOf(spec), 'initdb'), '--pgdata', dataDir, ...auth, ...options], {
      as: osUser,
      timeoutSeconds: 600,
    })
    await includeFolder(dataDir, osUser)
  }
  return (await openCluster(host))!
}

function ownerArguments(osUser: string): string[] {
  return process.getuid?.() === 0 ? ['-o', osUser] : []
}

async function includeFolder(dataDir: string, osUser: string): Promise<void> {
  const path = join(dataDir, 'postgresql.conf')
  const text = (await readTextIfAny(path)) ?? ''
  const access = { mode: 0o600, ...(process.getuid?.() === 0 && userId(osUser)) }
  await writeFileAtomic(path, `${text}\ninclude_dir = 'conf.d'\n`, access)
  await run(['mkdir', '-m', '0700', join(dataDir, 'conf.d')], { as: osUser })
}

/**
 * Nothing that somebody may miss is ever in the way of a new cluster.
 * @throws {Fail} `target-not-empty`
 */
export async function assertFree(spec: Postgres): Promise<void> {
  const dataDir = dataDirOf(spec)
  const entries = await readdir(dataDir).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw new Fail('not-permitted', `cannot look into "${dataDir}": ${reasonOf(error)}`, {
      hint: 'Run this as root, or as the owner of the cluster.',
      cause: error,
    })
  })
  const isConfigured = spec.kind === 'debian' && (await exists(debianConfigDir(spec)))
  if (entries.length === 0 && !isConfigured) return
  const isDebian = spec.kind === 'debian'
  const what = isDebian ? `a cluster ${spec.major}/${spec.cluster}` : `something in "${dataDir}"`
  throw new Fail('target-not-empty', `there is ${what} already, where the upgrade would make its cluster`, {
    hint: isDebian
      ? `Look what it holds: pg_lsclusters. One that nobody needs goes with: pg_dropcluster --stop ${spec.major} ${spec.cluster}`
      : `Look at it: ls -la ${dataDir}. Move it away, or name another folder with --data-dir.`,
  })
}

/** Removes a cluster that an upgrade has made, with its server and its part of the tablespaces. */
export async function removeCluster(host: Host, osUser: string): Promise<void> {
  const spec = host.postgres
  const dataDir = dataDirOf(spec)
  await stopServer({ bindir: bindirOf(spec), dataDir, osUser })
  for (const place of await tablespacesOf(dataDir, spec.major!)) await run(['rm', '-rf', '--', place])
  // A mount point stays, empty.
  await run(['find', dataDir, '-mindepth', '1', '-delete'], { okCodes: [0, 1] })
  await run(['rmdir', '--', dataDir], { okCodes: [0, 1] })
  if (spec.kind === 'debian') {
    await run(['rm', '-rf', '--', debianConfigDir(spec)])
    if (await exists('/run/systemd/system')) await run(['systemctl', 'daemon-reload'])
  }
}

/** What a cluster has in its tablespaces: in each a folder by major and catalog version (src/include/common/relpath.h). */
async function tablespacesOf(dataDir: string, major: number): Promise<string[]> {
  const links = join(dataDir, 'pg_tblspc')
  const names = await readdir(links).catch(() => [])
  const places: string[] = []
  for (const name of names) {
    const inside = await readdir(join(links, name)).catch(() => [])
    for (const folder of inside.filter((each) => each.startsWith(`PG_${major}_`)))
      places.push(join(links, name, folder))
  }
  return places
}
