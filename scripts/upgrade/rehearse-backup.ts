import { join } from 'node:path'
import process from 'node:process'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { closedFolder } from '../cluster/closed-folder.ts'
import { onlyRules, startClosed, stopServer } from '../cluster/restricted.ts'
import { withSession } from '../cluster/session.ts'
import { Fail } from '../core/fail.ts'
import { writeFileAtomic } from '../core/file.ts'
import { formatSize } from '../core/quantity.ts'
import { type ConfLine, renderConf } from '../host/conf.ts'
import type { Host, Postgres } from '../host/schema.ts'
import { compareManifests, type Difference } from './compare.ts'
import { transferDump } from './dump.ts'
import { bindirOf, makeCluster } from './make.ts'
import { takeManifest } from './manifest.ts'
import { type Origin, originOf } from './origin.ts'
import { hostWith, openSpec } from './place.ts'
import type { UpgradeRequest } from './run.ts'
import { transferFiles } from './transfer.ts'

/** A backup that a rehearsal takes its data from. */
export interface Source {
  readonly label: string
  readonly kind: 'dump' | 'base' | 'incr'
  /** When it was taken: ISO text. */
  readonly ended: string
  readonly major: number
  readonly databases: readonly string[]
  /** Folder of everything that is made; nothing else is in it. */
  readonly folder: string
  /** Bytes of what it is restored to, those that its restore needs in the folder, and those that are free. */
  readonly bytes: number
  readonly needs: number
  readonly free: number
}

/** What a rehearsal needs of backups. */
export interface Backups {
  /** The one that is wanted; nothing is changed. */
  find(old: Host): Promise<Source>
  /** Holds its folder, which is empty, and goes in the end with every server in it. */
  hold(): Promise<AsyncDisposable>
  /** Of the whole cluster, recovered in the folder. @returns it, not running */
  recover(old: Host, source: Source): Promise<Cluster>
  /** Databases and what they rest on, into an empty cluster that runs. @param keeper the role that initdb made there */
  fill(scratch: Host, source: Source, keeper: string): Promise<void>
}

/** How the data of a backup gets into the new major. */
export type Way = 'pg_upgrade' | 'dump' | 'restore'

/** What a rehearsal from a backup would do. */
export interface BackupRehearsalPlan {
  readonly source: Source
  readonly way: Way
  /** Bytes that are needed in its folder, with those of the restore. */
  readonly needs: number
}

/** What became of it. */
export interface BackupRehearsed extends BackupRehearsalPlan {
  /** Things that were compared; of a dump its restore counts objects by itself. */
  readonly compared: number | undefined
  readonly differences: readonly Difference[]
  readonly seconds: number
}

/** A server, its catalogs, and the WAL that it begins with. */
const EMPTY_BYTES = 200 * 1024 ** 2
/** What initdb puts into each database. */
const DATABASE_BYTES = 10 * 1024 ** 2

/**
 * What {@link rehearseBackup} would do; nothing is changed.
 * @throws {Fail} `backup-missing`, `no-space`, `plan-impossible`, and what a store throws
 */
export async function planBackupRehearsal(
  { host, pair, method }: UpgradeRequest,
  backups: Backups,
): Promise<BackupRehearsalPlan> {
  const source = await backups.find(hostWith(host, pair.old))
  const { label, major, kind, bytes, databases, free, folder } = source
  if (major > pair.old.major! || (kind !== 'dump' && major !== pair.old.major)) {
    throw new Fail('plan-impossible', `backup ${label} is of PostgreSQL ${major}, not of ${pair.old.major}`, {
      hint: 'Name another one: --from-backup LABEL. What there is: howdah backup list',
    })
  }
  const way = kind === 'dump' ? 'restore' : method === 'dump' ? 'dump' : 'pg_upgrade'
  // Files are linked. A dump lies beside what it becomes; of what is restored, WAL comes on top.
  const more = { pg_upgrade: 0, dump: 2 * bytes, restore: Math.min(bytes, 1024 ** 3) }[way]
  const needs = source.needs + more + EMPTY_BYTES + databases.length * DATABASE_BYTES
  if (free < needs) {
    throw new Fail(
      'no-space',
      `a rehearsal with backup ${label} needs ${formatSize(needs)} in "${folder}", and there are ${formatSize(free)}`,
      { hint: 'Free some space there, or name another host.state_dir.' },
    )
  }
  return { source, way, needs }
}

/**
 * Restores a backup into a cluster of its own, brings all of it into one of the new major, and compares the two; both
 * are thrown away. A dump goes straight into the new major. Nothing of the old cluster is touched.
 * @param onStep told what goes on
 * @throws {Fail} `plan-impossible` with the first thing that the new major does not take
 */
export async function rehearseBackup(
  request: UpgradeRequest,
  backups: Backups,
  onStep: (text: string) => void,
): Promise<BackupRehearsed> {
  const begun = performance.now()
  const plan = await planBackupRehearsal(request, backups)
  await using _held = await backups.hold()
  const stage = { request, backups, plan, onStep }
  const done = await (plan.way === 'restore' ? restoreDump(stage) : upgradeCopy(stage)).catch(
    (error: unknown) => {
      if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
      const message = `the rehearsal with backup ${plan.source.label} ended: ${error.message}`
      throw new Fail('plan-impossible', message, { hint: error.hint, cause: error })
    },
  )
  return { ...plan, ...done, seconds: (performance.now() - begun) / 1000 }
}

interface Stage {
  readonly request: UpgradeRequest
  readonly backups: Backups
  readonly plan: BackupRehearsalPlan
  readonly onStep: (text: string) => void
}

type Compared = Pick<BackupRehearsed, 'compared' | 'differences'>

/** A dump has no cluster of its own to be like: the scratch is made like the one that runs. */
async function restoreDump({ request, backups, plan, onStep }: Stage): Promise<Compared> {
  const { host, pair } = request
  const old = await openSpec(host, pair.old)
  const origin = await originOf(old)
  onStep('makes a cluster of the new major')
  const scratch = await makeNew(stageHost(request, plan), { origin, like: old, osUser: old.osUser })
  await using folder = await closedFolder(old.osUser)
  try {
    await startClosed(scratch.cluster, { folder: folder.path, settings: QUICK })
    onStep(`restores ${plan.source.label}`)
    await backups.fill(scratch.host, plan.source, origin.installUser)
  } finally {
    await stopServer(scratch.cluster)
  }
  return { compared: undefined, differences: [] }
}

async function upgradeCopy({ request, backups, plan, onStep }: Stage): Promise<Compared> {
  const { host, pair, verify, jobs = 1 } = request
  onStep(`recovers ${plan.source.label}`)
  const copy = await backups.recover(hostWith(host, pair.old), plan.source)
  await using folders = new AsyncDisposableStack()
  const [oldFolder, newFolder] = [
    folders.use(await closedFolder(copy.osUser)),
    folders.use(await closedFolder(copy.osUser)),
  ]
  folders.defer(() => stopServer(copy))
  const old = await startClosed(copy, { folder: oldFolder.path, settings: QUICK })
  onStep('takes down what it holds')
  const [origin, before] = [await originOf(old), await takeManifest(old, { verify, jobs })]
  const { cluster } = await makeNew(stageHost(request, plan), { origin, like: old, osUser: copy.osUser })
  folders.defer(() => stopServer(cluster))
  const pairOfClusters = { old: copy, new: cluster, installUser: origin.installUser, jobs }
  onStep(`brings it into ${pair.new.major} by ${plan.way}`)
  if (plan.way === 'pg_upgrade') {
    await stopServer(copy)
    await letIn(copy, origin.installUser)
    const logs = join(host.host.state_dir, 'rehearsal')
    await transferFiles({ ...pairOfClusters, method: 'link', logs })
  }
  const now = await startClosed(cluster, { folder: newFolder.path, settings: QUICK })
  if (plan.way === 'dump') await transferDump({ ...pairOfClusters, old, new: now })
  onStep('compares')
  const after = await takeManifest(now, { verify, jobs })
  return { compared: before.entries.length, differences: compareManifests(before, after) }
}

// What breaks now is made anew.
const QUICK: Readonly<Record<string, string>> = { fsync: 'off', full_page_writes: 'off' }

/** The host with the scratch cluster of the new major in place of its own. */
function stageHost({ host, pair }: UpgradeRequest, { source }: BackupRehearsalPlan): Host {
  const spec: Postgres = {
    ...pair.new,
    kind: 'private',
    data_dir: join(source.folder, 'new'),
    socket_dir: join(source.folder, 'socket'),
    bindir: bindirOf(pair.new),
  }
  return { ...host, host: { ...host.host, state_dir: join(source.folder, 'state') }, postgres: spec }
}

interface Model {
  readonly origin: Origin
  /** A cluster that runs, whose databases are to fit. */
  readonly like: Cluster
  readonly osUser: string
}

/** An empty cluster that databases of another one fit into: with the libraries and as many locks. */
async function makeNew(host: Host, model: Model): Promise<{ cluster: Cluster; host: Host }> {
  const { origin, like, osUser } = model
  const own = hostWith(host, { ...host.postgres, superuser: origin.installUser })
  const cluster = await makeCluster(own, origin, osUser)
  await letIn(cluster, origin.installUser)
  const settings = await settingsOf(like)
  await write(cluster, 'conf.d/50-rehearsal.conf', renderConf('for a rehearsal', settings))
  return { cluster, host: own }
}

async function settingsOf(cluster: Cluster): Promise<ConfLine[]> {
  const setup = 'set search_path to pg_catalog'
  return withSession({ cluster, database: 'postgres', setup }, async (client) => {
    const { rows } = await client.query<ConfLine>(
      `select name, current_setting(name) as value from unnest($1::text[]) name`,
      [
        [
          'shared_preload_libraries',
          'max_locks_per_transaction',
          'max_connections',
          'max_prepared_transactions',
        ],
      ],
    )
    return rows
  })
}

/** pg_upgrade starts servers by their own files, and comes as the role that initdb made. */
async function letIn(cluster: Cluster, role: string): Promise<void> {
  const { hba, ident } = onlyRules(cluster.osUser, role)
  await write(cluster, 'pg_hba.conf', hba)
  await write(cluster, 'pg_ident.conf', ident)
}

async function write({ dataDir, osUser }: Cluster, name: string, text: string): Promise<void> {
  const owner = process.getuid?.() === 0 ? userId(osUser) : {}
  await writeFileAtomic(join(dataDir, name), text, { mode: 0o600, ...owner })
}
