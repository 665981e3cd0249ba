import { mkdir, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { stateAccess } from '../cluster/lock.ts'
import { requireCluster } from '../cluster/open.ts'
import { clientProgram } from '../cluster/program.ts'
import { ident, literal } from '../cluster/sql.ts'
import { run } from '../core/exec.ts'
import { Fail } from '../core/fail.ts'
import { exists, makeFolder } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { hostIdentity } from '../store/identity.ts'
import { unpack } from '../store/pipeline.ts'
import { type CatalogEntry, chooseBackup, type Found, readCatalogs } from './catalog.ts'
import type { Manifest } from './manifest.ts'
import { restoredCluster } from './recover/finish.ts'
import { assertRecoverable, planRecovery, type RecoverRequest } from './recover/plan.ts'
import { restoreCluster } from './recover/run.ts'
import { clearScratch, holdScratch, scratchCluster, scratchFolder } from './recover/scratch-folder.ts'
import { hostSources } from './recover/sources.ts'
import { restoreDatabase } from './restore.ts'

/** A backup whose data is to be looked at in a scratch cluster. */
export interface RehearsalBackup {
  readonly label: string
  readonly kind: Manifest['kind']
  /** ISO text. */
  readonly ended: string
  readonly major: number
  readonly databases: readonly string[]
  /** Folder in which all of it is made. */
  readonly folder: string
  /** Bytes of what it is restored to, those that its restore needs there, and those that are free. */
  readonly bytes: number
  readonly needs: number
  readonly free: number
}

/** Which backup: a label, or the newest one of all of the cluster; and the private key's file, for one that is encrypted. */
export interface RehearsalChoice {
  readonly label: string | undefined
  readonly identity: string | undefined
}

/**
 * Looks for the backup, and whether it can be restored here, but for the space; changes nothing.
 * @throws {Fail} `backup-missing`, `backup-damaged`, `wrong-key`, `plan-impossible`, and what a store throws
 */
export async function findForRehearsal(host: Host, choice: RehearsalChoice): Promise<RehearsalBackup> {
  const found = chosen(host, await readCatalogs(host), choice.label)
  const { label, kind, ended, postgres, databases, physical } = found.manifest
  const folder = scratchFolder(host)
  const about = { label, kind, ended, major: postgres.major, folder }
  if (physical === undefined) {
    const bytes = databases.reduce((sum, { size }) => sum + size, 0)
    const free = await freeIn(folder)
    return { ...about, databases: databases.map(({ name }) => name), bytes, needs: bytes, free }
  }
  await using key = await hostIdentity(host, choice.identity)
  const plan = await planRecovery(host, hostSources(host), requestOf(host, label), key?.path)
  // What a dead run left in the scratch folder is removed first, and who asks says whether the space is enough.
  const findings = plan.findings.filter(({ code }) => code !== 'target-not-empty' && code !== 'no-space')
  assertRecoverable({ ...plan, findings })
  const [{ needs, free } = { needs: 0, free: 0 }] = plan.spaces // all of it is in one folder
  const names = physical.databases.map(({ name }) => name)
  return { ...about, databases: names, bytes: physical.dataSize, needs, free }
}

/** The newest that has all of the cluster, by what the host file says of its job; else the newest of any. */
function chosen(host: Host, catalog: readonly CatalogEntry[], label: string | undefined): Found {
  if (label !== undefined) return chooseBackup(catalog, { label })
  const isWhole = ({ physical, job }: Manifest) => {
    const spec = host.backup[job]
    return physical !== undefined || (spec?.kind === 'dump' && spec.databases === undefined)
  }
  // One that cannot be read may have been whole: an older one never stands in for it.
  const entry = catalog.findLast((each) => 'problem' in each || isWhole(each.manifest))
  if (entry === undefined) return chooseBackup(catalog, { label: 'latest' })
  if ('problem' in entry) throw entry.problem
  return entry
}

async function freeIn(folder: string): Promise<number> {
  const there = async (path: string): Promise<string> =>
    (await exists(path)) ? path : there(join(path, '..'))
  const { bavail, bsize } = await statfs(await there(folder))
  return bavail * bsize
}

/** Everything of it is below the scratch folder, tablespaces too. */
function requestOf(host: Host, label: string): RecoverRequest {
  return {
    label,
    target: { kind: 'latest' },
    to: scratchCluster(host),
    port: host.postgres.port,
    tablespaces: new Map(),
    tablespaceFolder: join(scratchFolder(host), 'tablespaces'),
    starts: false,
  }
}

/**
 * Holds the scratch folder, empty; it is removed in the end, with every server in it.
 * @throws {Fail} `lock-held`
 */
export async function holdForRehearsal(host: Host): Promise<AsyncDisposable> {
  await using held = new AsyncDisposableStack()
  held.use(await holdScratch(host))
  await clearScratch(host) // what a dead run left: nobody else holds the lock
  held.defer(() => clearScratch(host))
  await makeFolder(scratchFolder(host), stateAccess('postgres'))
  return held.move()
}

/**
 * Recovers a physical backup to the newest WAL, in the scratch folder, which is held.
 * @returns its cluster, which does not run
 * @throws {Fail} what {@link restoreCluster} throws
 */
export async function recoverForRehearsal(
  host: Host,
  { label }: RehearsalBackup,
  { identity, onBytes }: { readonly identity: string | undefined; readonly onBytes: (count: number) => void },
): Promise<Cluster> {
  await using key = await hostIdentity(host, identity)
  const request = requestOf(host, label)
  const { plan } = await restoreCluster(host, hostSources(host), request, { identity: key?.path, onBytes })
  return restoredCluster(host, plan)
}

/**
 * Restores all that a dump has into an empty cluster that runs: roles and tablespaces, then each database.
 * @param scratch the host with that cluster in place of its own, and a state_dir of its own
 * @param keeper the role that initdb made there
 * @throws {Fail} `command-failed`, `plan-impossible` with what is not taken
 */
export async function fillForRehearsal(
  scratch: Host,
  backup: RehearsalBackup,
  { identity, keeper, onBytes }: FillOptions,
): Promise<void> {
  const cluster = await requireCluster(scratch)
  const found = chooseBackup(await readCatalogs(scratch), { label: backup.label })
  await restoreGlobals(cluster, found, { identity, keeper, folder: backup.folder, host: scratch })
  for (const database of backup.databases) {
    const request = { database, as: undefined, swap: true, dropOld: true }
    const choice = { label: backup.label, database }
    await restoreDatabase({ host: scratch, identity, request, choice }, { onBytes })
  }
}

/** How a scratch cluster is filled. */
export interface FillOptions {
  /** File of the private key. */
  readonly identity: string | undefined
  readonly keeper: string
  readonly onBytes: (count: number) => void
}

async function restoreGlobals(
  cluster: Cluster,
  { manifest, store }: Found,
  place: { identity: string | undefined; keeper: string; folder: string; host: Host },
): Promise<void> {
  const file = manifest.files.find(({ name }) => name.startsWith('globals.sql.'))
  if (file === undefined)
    throw new Fail('backup-damaged', `the manifest of ${manifest.label} names no file "globals.sql"`)
  await using key = manifest.encrypted ? await hostIdentity(place.host, place.identity) : undefined
  const from = { ...file, key: `${manifest.cluster}/backup/${manifest.label}/${file.name}` }
  const text = Buffer.concat(await Array.fromAsync(unpack(store, from, { identity: key?.path }))).toString()
  const moved = moveTablespaces(text, place.keeper, join(place.folder, 'tablespaces'))
  for (const path of moved.folders) {
    await mkdir(path, { recursive: true, mode: 0o700 })
    await run(['chown', '-R', `--reference=${cluster.dataDir}`, '--', join(place.folder, 'tablespaces')])
  }
  // Terse: a statement of a role has the verifier of its password.
  const args = ['-X', '-q', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=terse', '-f', '-']
  const psql = clientProgram(cluster, 'psql', 'postgres', args)
  await run(psql.argv, { ...psql.options, input: moved.text }).catch((error: unknown) => {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    throw new Fail('command-failed', `cannot restore roles and tablespaces: ${error.message}`, {
      hint: error.hint,
      cause: error,
    })
  })
}

/**
 * What pg_dumpall writes of roles and tablespaces, for a scratch cluster: each tablespace gets a folder of its own,
 * since the one that it names is the live cluster's, and the role that initdb made is there already. Pure.
 */
export function moveTablespaces(
  globals: string,
  keeper: string,
  folder: string,
): { readonly text: string; readonly folders: readonly string[] } {
  const folders: string[] = []
  const own = new Set([`CREATE ROLE ${keeper};`, `CREATE ROLE ${ident(keeper)};`])
  const lines = globals.split('\n').filter((line) => !own.has(line))
  const moved = lines.map((line) =>
    line.replace(LOCATION, (_, before: string) => {
      const path = join(folder, String(folders.length + 1))
      folders.push(path)
      return `${before}${literal(path)};`
    }),
  )
  return { text: moved.join('\n'), folders }
}

// src/bin/pg_dump/pg_dumpall.c, dumpTablespaces.
const LOCATION = /^(CREATE TABLESPACE .* LOCATION ) ?E?'(?:[^'\\]|''|\\.)*';$/
