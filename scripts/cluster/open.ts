import { readText } from '../core/file.ts'
import { keepParsed, parsedBefore } from './parsed.ts'
import type { Host } from '../host/schema.ts'
import type { Cluster } from './cluster.ts'
import { openDebian } from './debian.ts'
import { openPrivate } from './private.ts'
import { openRemote } from './remote.ts'
import { Fail } from '../core/fail.ts'

/** A host file, and its text as it was read. */
export interface LoadedHost {
  readonly host: Host
  readonly text: string
  readonly path: string
}

/**
 * Reads and checks a host file, or what stands for one: a file of `xtelemdb`.
 * @param overrides `a.b=value` arguments
 * @throws {Fail} `file-unreadable`, `host-file` with every problem at once; what `hostOfPersonal` throws
 */
export async function loadHost(path: string, overrides: readonly string[] = []): Promise<LoadedHost> {
  const text = await readText(path).catch((error: unknown) => {
    if (!(error instanceof Fail)) throw error
    throw new Fail(error.code, error.message, {
      hint: error.hint ?? 'Name the host file with -c FILE; conf/demo.toml is an example.',
      cause: error,
    })
  })
  const known = await parsedBefore(text, overrides)
  return known ? { host: known, text, path } : check(text, path, overrides)
}

/** Loads what checks a text only now: mostly that is not needed. */
async function check(text: string, path: string, overrides: readonly string[]): Promise<LoadedHost> {
  const [{ parseHost }, { isPersonalOverride, readPersonal }] = await Promise.all([
    import('../host/host.ts'),
    import('../host/personal.ts'),
  ])
  const personal = readPersonal(text, overrides)
  if (personal !== undefined) {
    const { hostOfPersonal } = await import('./personal.ts')
    const own = await hostOfPersonal(personal, path)
    const others = overrides.filter((override) => !isPersonalOverride(override))
    return { host: parseHost(own, { path, overrides: others }), text: own, path }
  }
  const host = parseHost(text, { path, overrides })
  await keepParsed(text, overrides, host)
  return { host, text, path }
}

/**
 * The cluster that a host file names, or undefined while there is none.
 * @throws {Fail} `cluster-mismatch`, `not-permitted`; for a remote one also what a connection throws
 */
export async function openCluster(host: Host): Promise<Cluster | undefined> {
  switch (host.postgres.kind) {
    case 'debian':
      return openDebian(host.postgres)
    case 'private':
      return openPrivate(host.postgres)
    case 'remote':
      return openRemote(host.postgres)
  }
}

/**
 * The cluster that a host file names, which must be there.
 * @throws {Fail} `cluster-mismatch` when it is not, besides what {@link openCluster} throws
 */
export async function requireCluster(host: Host): Promise<Cluster> {
  const cluster = await openCluster(host)
  if (cluster) return cluster
  const { kind, major, data_dir: dataDir } = host.postgres
  const what = kind === 'private' ? `in "${dataDir}"` : `${major}/${host.postgres.cluster}`
  throw new Fail('cluster-mismatch', `there is no ${kind} cluster ${what}`, {
    hint: 'Make it with: howdah provision apply',
  })
}
