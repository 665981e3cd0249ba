import process from 'node:process'
import type { Cluster } from '../cluster/cluster.ts'
import { holdResource, stateAccess, systemIdentifier } from '../cluster/lock.ts'
import { type LoadedHost, openCluster } from '../cluster/open.ts'
import { Fail } from '../core/fail.ts'
import { makeFolder } from '../core/file.ts'
import type { Host } from '../host/schema.ts'
import { currentUser } from '../core/user.ts'
import { VERSION } from '../core/version.ts'
import { type Change, type Finding, HAZARDS, type Step } from './change.ts'
import { execute, type Target } from './executor.ts'
import { recoverWrites } from './guarded-write.ts'
import { FOUNDATION, isMigration, MIGRATION, selectKinds } from './kinds.ts'
import { observeHost } from './observe.ts'
import { type AnyKind, type Planned, planKinds } from './planner.ts'
import { assertFresh, hashHost, hazardsOf, type PlanOrigin, readPlan } from './saved.ts'
import { showFinding } from './show.ts'

/** A plan, and what it was made for. */
export interface HostPlan {
  readonly planned: Planned
  readonly origin: PlanOrigin
  /** Text for people on what the plan does not show yet. */
  readonly note: string | undefined
}

/** Schema migrations, as whoever runs them hands them in: no kind, since their state is a folder and a ledger. */
export interface Migrations {
  /** Changes of kind `migration`, in the order in which they run, and what stands in their way. */
  plan(): Promise<Pick<Planned, 'changes' | 'findings'>>
  /** Runs what is pending. */
  run(onDone: (change: Change) => void): Promise<void>
}

/** What to plan. */
export interface Scope {
  readonly loaded: LoadedHost
  readonly overrides: readonly string[]
  readonly only: readonly string[] | undefined
  readonly migrations?: Migrations
  /** The cluster, where it is reached and restarted in another way than the host file's. */
  readonly open?: () => Promise<Cluster | undefined>
}

/** How to apply. */
export interface ApplyOptions {
  readonly allow: ReadonlySet<string>
  /** A saved plan to run instead of a new one. */
  readonly file?: string | undefined
  /** Asked with the plan before anything is changed; false stops it. */
  readonly confirm?: (plan: HostPlan) => Promise<boolean>
  readonly onDone?: (change: Change) => void
  readonly onStep?: Target['onStep']
}

/** What an apply did. */
export interface Applied {
  readonly changes: readonly Change[]
  readonly findings: readonly Finding[]
}

/**
 * Plans a host; writes nothing, on the host and in the server.
 * @throws {Fail} what a connection throws; `usage` for an unknown kind
 */
export async function planHost(scope: Scope): Promise<HostPlan> {
  const { host } = scope.loaded
  const cluster = await opened(scope)
  await using observe = await observeHost(host, cluster)
  const isDown = cluster !== undefined && !observe.isRunning
  const kinds = selectKinds(scope.only).filter(({ name }) => !isDown || FOUNDATION.has(name))
  return {
    planned: withMigrations(
      await planKinds(kinds, observe),
      isDown ? undefined : await migrationsOf(scope)?.plan(),
    ),
    origin: await originOf(scope, cluster),
    note:
      withoutCluster(scope, cluster, !isDown) ??
      (isDown ? `${cluster.label} does not answer: the rest is planned when it runs` : undefined),
  }
}

function opened({ open, loaded }: Scope): Promise<Cluster | undefined> {
  return open ? open() : openCluster(loaded.host)
}

/** Those that `--only` does not leave out. */
function migrationsOf({ only, migrations }: Scope): Migrations | undefined {
  return only === undefined || only.some((word) => isMigration(word)) ? migrations : undefined
}

/** Before the grants, which are on what they make. */
function withMigrations(planned: Planned, more: Pick<Planned, 'changes' | 'findings'> | undefined): Planned {
  if (more === undefined) return planned
  const [grants, others] = partition(planned.changes, ({ kind }) => kind === 'grant')
  return {
    ...planned,
    changes: [...others, ...more.changes, ...grants],
    findings: [...planned.findings, ...more.findings],
  }
}

/** Why what `--only` names cannot be brought in line: it needs a cluster, and nothing in it makes or starts one. */
function withoutCluster(scope: Scope, cluster: Cluster | undefined, isUp: boolean): string | undefined {
  const kinds = selectKinds(scope.only).map(({ name }) => name)
  if ((cluster && isUp) || kinds.includes('cluster') || kinds.every((name) => FOUNDATION.has(name))) return
  return cluster
    ? `${cluster.label} does not answer, and --only leaves out "cluster", which starts it`
    : 'there is no cluster yet, and --only leaves out "cluster", which makes it'
}

/**
 * Brings a host in line with its file. What needs consent is refused before anything is touched.
 * A cluster that had to be made or started first is planned anew then, since only now it shows its
 * files and catalogs; so are privileges after migrations, and grants after everything else, since objects may
 * have been made.
 * @throws {Fail} `hazard-refused`, `plan-impossible`, `plan-stale`, `not-permitted`, `lock-held`, and what the executor throws
 */
export async function applyHost(asked: Scope, options: ApplyOptions): Promise<Applied> {
  const { host } = asked.loaded
  const saved = options.file === undefined ? undefined : await readPlan(options.file, VERSION)
  const scope = { ...asked, only: asked.only ?? saved?.only ?? undefined }
  const cluster = await opened(scope)
  await assertReachable(scope, cluster)
  // A plan on the file system's and the server's state needs both to be at rest, so the lock comes first.
  await using _lock = await lockFor(host, cluster)
  await recoverWrites(host.host.state_dir, cluster)
  const first = await planHost(scope)
  if (saved) assertFresh(saved, first.origin, first.planned)
  assertAllowed(first.planned, options.allow)
  await assertConfirmed(first, options)
  const done: Change[] = []
  let plan = first
  let { allow } = options
  if (cluster === undefined || first.note !== undefined) {
    const foundation = first.planned.changes.filter(({ kind }) => FOUNDATION.has(kind))
    await executeAll(foundation, scope, options, done)
    // Nobody uses a cluster that was made just now.
    if (cluster === undefined) allow = new Set([...allow, 'restarts-server', 'rewrites-hba'])
    // What was agreed to is the start of a cluster that was down: it did not show the rest.
    if (cluster && saved) return { changes: done, findings: first.planned.findings }
    plan = await planHost(scope)
    assertAllowed(plan.planned, allow)
    if (cluster) await assertConfirmed(plan, options)
  }
  const [migrations, own] = partition(plan.planned.changes, ({ kind }) => kind === MIGRATION)
  const [grants, others] = partition(own, ({ kind }) => kind === 'grant')
  await executeAll(others, scope, options, done)
  if (migrations.length > 0) {
    await migrationsOf(scope)!.run((change) => {
      done.push(change)
      options.onDone?.(change)
    })
    await executeAll(await replan(scope, 'default-privilege', allow), scope, options, done)
  }
  const late = others.length + migrations.length === 0 ? grants : await replan(scope, 'grant', allow)
  await executeAll(late, scope, options, done)
  return { changes: done, findings: plan.planned.findings }
}

async function assertReachable(scope: Scope, cluster: Cluster | undefined): Promise<void> {
  const reason = withoutCluster(scope, cluster, cluster !== undefined && (await cluster.isRunning()))
  if (reason === undefined) return
  throw new Fail(cluster ? 'server-unreachable' : 'cluster-mismatch', `nothing was changed: ${reason}`, {
    hint: 'Run it without --only first: howdah provision apply',
  })
}

async function assertConfirmed(plan: HostPlan, { confirm }: ApplyOptions): Promise<void> {
  if (plan.planned.changes.length === 0 || (await confirm?.(plan)) !== false) return
  throw new Fail('interrupted', 'the plan was not run', { hint: 'Answer y, or give --yes.' })
}

/**
 * Refuses what must not happen, with everything that speaks against it at once.
 * @throws {Fail} `plan-impossible`, `hazard-refused`
 */
function assertAllowed(planned: Planned, allow: ReadonlySet<string>): void {
  for (const hazard of allow) {
    if (Object.hasOwn(HAZARDS, hazard)) continue
    throw new Fail('usage', `there is no hazard "${hazard}"`, {
      hint: `The hazards are: ${Object.keys(HAZARDS).join(', ')}.`,
    })
  }
  const impossible = planned.findings.filter(({ level }) => level === 'impossible')
  if (impossible.length > 0) {
    throw new Fail('plan-impossible', `nothing was changed:\n${impossible.map(showFinding).join('\n')}`, {
      hint: 'Correct the host file or the host, then run the same command again.',
    })
  }
  const refused = hazardsOf(planned.changes).filter((hazard) => !allow.has(hazard))
  if (refused.length === 0) return
  const why = refused.map((hazard) => `${hazard} (${HAZARDS[hazard]})`).join(', ')
  throw new Fail('hazard-refused', `nothing was changed: the plan needs consent for ${why}`, {
    hint: `Look at it with: howdah provision plan. Then give: --allow ${refused.join(',')}`,
  })
}

async function executeAll(
  changes: readonly Change[],
  scope: Scope,
  options: ApplyOptions,
  done: Change[],
): Promise<void> {
  assertPermitted(changes)
  await execute(changes, {
    open: () => opened(scope),
    stateDir: scope.loaded.host.host.state_dir,
    onDone: (change) => {
      done.push(change)
      options.onDone?.(change)
    },
    ...(options.onStep && { onStep: options.onStep }),
  })
}

async function replan(scope: Scope, kind: string, allow: ReadonlySet<string>): Promise<readonly Change[]> {
  const isSelected = selectKinds(scope.only).some(({ name }: AnyKind) => name === kind)
  if (!isSelected) return []
  const host = scope.loaded.host
  await using observe = await observeHost(host, await opened(scope))
  const planned = await planKinds(
    selectKinds([kind]).filter(({ name }) => name === kind),
    observe,
  )
  assertAllowed(planned, allow)
  return planned.changes
}

/** Says who is needed before anything is touched, not half-way. */
function assertPermitted(changes: readonly Change[]): void {
  if (process.getuid?.() === 0) return
  const me = currentUser()
  const needs = (step: Step) => {
    if (step.run === 'write' || step.run === 'folder') return step.owner
    return step.run === 'exec' ? (step.as ?? me) : me
  }
  const other = changes.flatMap(({ steps }) => steps.map(needs)).find((user) => user !== me)
  if (other === undefined) return
  throw new Fail('not-permitted', `nothing was changed: this needs root, and you are "${me}"`, {
    hint: 'Run it with sudo.',
  })
}

async function lockFor(host: Host, cluster: Cluster | undefined): Promise<AsyncDisposable> {
  await makeFolder(
    host.host.state_dir,
    stateAccess(host.postgres.kind === 'remote' ? undefined : (cluster?.osUser ?? 'postgres')),
  )
  return holdResource(host, cluster, 'cluster')
}

async function originOf(scope: Scope, cluster: Cluster | undefined): Promise<PlanOrigin> {
  const { text, host } = scope.loaded
  return {
    howdah: VERSION,
    hostHash: hashHost(text, scope.overrides),
    systemIdentifier: cluster ? await systemIdentifier(cluster) : '',
    major: cluster?.major ?? host.postgres.major ?? 0,
    only: scope.only ?? null,
  }
}

function partition<T>(items: readonly T[], test: (item: T) => boolean): [T[], T[]] {
  return [items.filter(test), items.filter((item) => !test(item))]
}
