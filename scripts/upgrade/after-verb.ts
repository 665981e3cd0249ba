import { rm } from 'node:fs/promises'
import type { Cluster } from '../cluster/cluster.ts'
import { holdResource } from '../cluster/lock.ts'
import { loadHost } from '../cluster/open.ts'
import { withSession } from '../cluster/session.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { formatDuration, formatSize, parseDuration } from '../core/quantity.ts'
import { currentUser } from '../core/user.ts'
import type { Host } from '../host/schema.ts'
import { assertWayBack, goBack } from './back.ts'
import { dataDirOf, removeCluster } from './make.ts'
import { hostWith, openSpec } from './place.ts'
import { FAILS, type MakeSurroundings } from './run-verb.ts'
import { nameOf, nextOf, outageOf, PHASE_TEXT } from './show.ts'
import { hasWayBack, isDone, type UpgradeLog, upgradeLog, type UpgradeState } from './state.ts'

/** `upgrade status` */
export const statusVerb: Verb = {
  name: 'status',
  summary: 'say how far an upgrade is, and what comes next',
  common: ['file'],
  fails: FAILS,
  run: status,
}

/** `upgrade rollback` */
export function rollbackVerb(surroundingsOf: MakeSurroundings): Verb {
  return {
    name: 'rollback',
    summary: 'go back to the old cluster, and drop the new one',
    common: ['file', 'plan', 'allow'],
    fails: [...FAILS, 'hazard-refused', 'plan-impossible'],
    run: (call) => rollback(call, surroundingsOf),
  }
}

/** `upgrade finalize` */
export const finalizeVerb: Verb = {
  name: 'finalize',
  summary: 'drop the old cluster once [upgrade] keep_old is over',
  common: ['file', 'plan', 'allow'],
  fails: [...FAILS, 'hazard-refused'],
  run: finalize,
}

async function status(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const state = await logOf(host).read()
  if (state === undefined) return { text: 'no upgrade is under way', result: null }
  const outage = outageOf(state)
  const about = {
    phase: state.phase,
    from: nameOf(state.old),
    to: nameOf(state.new),
    method: state.method,
    begun: state.begun,
    closed: state.closed ?? null,
    opened: state.opened ?? null,
    outageSeconds: outage ?? null,
    notes: state.notes,
    hasWayBack: hasWayBack(state),
    next: nextOf(state),
  }
  const lines = [
    `${about.from} to ${about.to}, method ${state.method}, begun ${state.begun}`,
    `${state.phase}: ${PHASE_TEXT[state.phase]}`,
    ...(outage === undefined ? [] : [`nobody could connect for ${formatDuration(outage)}`]),
    about.next,
  ]
  return { text: lines.join('\n'), result: about }
}

async function rollback(call: Call, surroundingsOf: MakeSurroundings): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const { host } = loaded
  const state = await required(logOf(host))
  assertWayBack(state)
  const old = await openSpec(host, state.old)
  await using _lock = await holdResource(hostWith(host, state.old), old, 'cluster')
  const lost = await lostBy(host, state)
  const what = `${nameOf(state.old)} serves again, ${nameOf(state.new)} is dropped${lost === undefined ? '' : `, with ${lost}`}`
  if (call.planOnly)
    return {
      text: `- ${what}`,
      result: { from: nameOf(state.new), to: nameOf(state.old), lost: lost ?? null },
    }
  if (lost !== undefined && !call.allow.has('loses-writes')) {
    throw new Fail('hazard-refused', `nothing was changed: going back loses ${lost}`, {
      hint: 'To lose it: howdah upgrade rollback --allow loses-writes',
    })
  }
  const around = surroundingsOf(loaded, call)
  const paused = state.phase === 'kept' ? await around.pausableJobs() : (state.paused ?? [])
  const written = logOf(host, old)
  await written.write({ ...state, paused })
  if (state.phase === 'kept') await around.pauseJobs(paused)
  await goBack(host, { ...state, paused }, written, around)
  return { text: what, result: { from: nameOf(state.new), to: nameOf(state.old), lost: lost ?? null } }
}

/** What was written since the new cluster opened; undefined when it never did. */
async function lostBy(
  host: Host,
  { opened, openedAt, new: spec }: UpgradeState,
): Promise<string | undefined> {
  if (opened === undefined || openedAt === undefined) return undefined
  const since = `what was written since ${opened}`
  const cluster = await openSpec(host, spec)
  if (!(await cluster.isRunning())) return since
  const bytes = await withSession(
    { cluster, database: 'postgres', setup: 'set search_path to pg_catalog' },
    async (client) => {
      const { rows } = await client.query<{ bytes: string }>(
        'select pg_wal_lsn_diff(pg_current_wal_lsn(), $1) as bytes',
        [openedAt],
      )
      return Number(rows[0]!.bytes)
    },
  )
  return `${since} (${formatSize(bytes)} of WAL)`
}

async function finalize(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const state = await required(logOf(host))
  if (!isDone(state)) {
    throw new Fail('plan-impossible', `the upgrade is at "${state.phase}": ${PHASE_TEXT[state.phase]}`, {
      hint: 'Finish it first: howdah upgrade run',
    })
  }
  const cluster = await openSpec(host, state.new)
  await using _lock = await holdResource(hostWith(host, state.new), cluster, 'cluster')
  const age = (Date.now() - Date.parse(state.opened!)) / 1000
  const rest = parseDuration(host.upgrade.keep_old)! - age
  const what = `the old cluster ${nameOf(state.old)} in ${dataDirOf(state.old)}`
  if (call.planOnly)
    return {
      text: `- ${what} is dropped`,
      result: { dropped: nameOf(state.old), waitSeconds: Math.max(0, rest) },
    }
  if (rest > 0 && state.phase === 'kept' && !call.allow.has('drops-early')) {
    throw new Fail(
      'hazard-refused',
      `nothing was changed: ${what} is kept for ${formatDuration(rest)} more`,
      {
        hint: 'To drop it now: howdah upgrade finalize --allow drops-early',
      },
    )
  }
  await assertServing(cluster)
  const written = logOf(host, cluster)
  await written.write({ ...state, phase: 'drop' })
  await removeCluster(hostWith(host, state.old), cluster.osUser)
  await written.remove()
  await rm(written.folder, { recursive: true, force: true })
  return { text: `${what} is dropped`, result: { dropped: nameOf(state.old) } }
}

/** Nothing is dropped while what took its place does not answer. */
async function assertServing(cluster: Cluster): Promise<void> {
  await withSession({ cluster, database: 'postgres', setup: 'set search_path to pg_catalog' }, (client) =>
    client.query('select 1'),
  )
}

function logOf(host: Host, cluster?: Cluster): UpgradeLog {
  return upgradeLog(host, cluster?.osUser ?? currentUser())
}

async function required(written: UpgradeLog): Promise<UpgradeState> {
  const state = await written.read()
  if (state) return state
  throw new Fail('plan-impossible', 'no upgrade is under way, and none is kept', {
    hint: 'Begin one: howdah upgrade run --to N --plan',
  })
}
