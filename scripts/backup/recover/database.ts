import { join } from 'node:path'
import { stateAccess } from '../../cluster/lock.ts'
import { requireCluster } from '../../cluster/open.ts'
import { assertIdentity } from '../../cluster/ready.ts'
import { Fail } from '../../core/fail.ts'
import { makeFolder } from '../../core/file.ts'
import type { Host } from '../../host/schema.ts'
import { hostIdentity } from '../../store/identity.ts'
import { readCatalogs } from '../catalog.ts'
import type { Manifest } from '../manifest.ts'
import { restoreDatabase, type RestoreOptions, type RestoreScope } from '../restore.ts'
import { assertPossible, type RestoreFinding, type RestorePlan } from '../restore-plan.ts'
import { take } from '../take.ts'
import { nameFindings } from '../target.ts'
import { copySpec } from './finish.ts'
import { planRecovery, type RecoverPlan, type RecoverRequest } from './plan.ts'
import { type RecoverPhase, restoreCluster } from './run.ts'
import { clearScratch, holdScratch, scratchCluster, scratchFolder } from './scratch-folder.ts'
import { hostSources } from './sources.ts'
import type { Target } from './target.ts'

/**
 * Whether the backup that is wanted of a database is one of the whole cluster: by its label, by its job,
 * or because no dump has that database.
 */
export async function isInBase({ host, choice, request }: RestoreScope): Promise<boolean> {
  const entries = await readCatalogs(host)
  const has = ({ manifest }: { readonly manifest: Manifest }) =>
    manifest.physical?.databases.some(({ name }) => name === request.database) === true
  const known = entries.filter((entry) => 'manifest' in entry)
  if (choice.label !== 'latest') {
    const entry = known.find(({ label }) => label === choice.label)
    return entry !== undefined && has(entry)
  }
  const ofJob = known.filter(({ manifest }) => choice.job === undefined || manifest.job === choice.job)
  const inDump = ofJob.some(({ manifest }) =>
    manifest.databases.some(({ name }) => name === request.database),
  )
  return !inDump && ofJob.some(has)
}

/** The recovery that comes before the restore of a database out of a backup of the whole cluster. */
export async function planFromBase(scope: RestoreScope, target: Target): Promise<RecoverPlan> {
  await using key = await hostIdentity(scope.host, scope.identity)
  const plan = await planRecovery(scope.host, hostSources(scope.host), requestOf(scope, target), key?.path)
  assertHas(plan, scope.request.database)
  // What a dead run left in the scratch folder is removed first.
  const findings = plan.findings.filter(({ code }) => code !== 'target-not-empty')
  return { ...plan, findings: [...(await findingsOfName(scope)), ...findings] }
}

async function findingsOfName({ host, request }: RestoreScope): Promise<RestoreFinding[]> {
  const cluster = await requireCluster(host)
  await assertIdentity(cluster)
  return nameFindings(cluster, request)
}

/**
 * Restores a database out of a backup of the whole cluster: that is recovered in a scratch cluster, the
 * database is dumped there, and the dump is restored, checked and swapped in as any other one.
 * @throws {Fail} what the restore of a cluster, a take and the restore of a database throw
 */
export async function restoreFromBase(
  scope: RestoreScope,
  target: Target,
  options: RestoreOptions & { readonly onRecoverPhase?: (phase: RecoverPhase) => void } = {},
): Promise<RestorePlan> {
  const { host } = scope
  assertPossible({ findings: await findingsOfName(scope) }) // a recovery may take hours
  await using _lock = await holdScratch(host)
  await clearScratch(host) // what a dead run left: nobody else holds the lock
  await makeFolder(scratchFolder(host), stateAccess('postgres'))
  try {
    await using key = await hostIdentity(host, scope.identity)
    const recovered = await restoreCluster(host, hostSources(host), requestOf(scope, target), {
      identity: key?.path,
      confirm: async (plan) => {
        assertHas(plan, scope.request.database)
        return true
      },
      ...(options.onBytes && { onBytes: options.onBytes }),
      ...(options.onRecoverPhase && { onPhase: options.onRecoverPhase }),
    })
    const dumped = dumpHost(host, scope.request.database, recovered.plan)
    await take({ loaded: { host: dumped, text: '', path: '' }, overrides: [], job: JOB })
    const { store, backup } = dumped
    return await restoreDatabase(
      {
        ...scope,
        host: { ...host, store, backup },
        choice: { label: 'latest', job: JOB, database: scope.request.database },
      },
      options,
    )
  } finally {
    await clearScratch(host)
  }
}

const JOB = 'scratch'

/** The scratch cluster as a host of its own, with a store beside it. */
function dumpHost(host: Host, database: string, plan: RecoverPlan): Host {
  const folder = scratchFolder(host)
  return {
    ...host,
    host: { ...host.host, state_dir: join(folder, 'state') },
    postgres: copySpec(host, plan),
    encryption: undefined,
    archive: undefined,
    store: { [JOB]: { type: 'dir', path: join(folder, 'store') } },
    backup: {
      [JOB]: {
        kind: 'dump',
        databases: [database],
        store: JOB,
        jobs: 1,
        compression_level: 1,
        checkpoint: 'fast',
        full_every: '7d',
        prune: false,
      },
    },
  }
}

/** Everything of a scratch cluster is below one folder. */
function requestOf({ host, choice }: RestoreScope, target: Target): RecoverRequest {
  const folder = scratchFolder(host)
  return {
    label: choice.label,
    job: choice.job,
    target,
    to: scratchCluster(host),
    port: host.postgres.port,
    tablespaces: new Map(),
    tablespaceFolder: join(folder, 'tablespaces'),
    starts: true,
  }
}

function assertHas({ chain }: RecoverPlan, database: string): void {
  const { label, physical } = chain.at(-1)!.manifest
  const names = physical.databases.map(({ name }) => name)
  if (names.includes(database)) return
  throw new Fail('backup-missing', `backup ${label} has no database "${database}"`, {
    hint: `It has: ${names.join(', ')}`,
  })
}
