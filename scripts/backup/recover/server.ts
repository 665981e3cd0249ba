import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { connect } from '../../cluster/connect.ts'
import { run } from '../../core/exec.ts'
import { Fail } from '../../core/fail.ts'
import { interrupted } from '../../core/interrupt.ts'
import { formatLsn, parseLsn } from '../wal/segment.ts'
import type { Goal } from './goal.ts'
import { writeFor } from './fetch.ts'
import { livePid } from '../../cluster/ready.ts'
import type { RecoverPlan } from './plan.ts'
import { controlValue, isolatedConf } from './settings.ts'
import { shellWord } from '../../core/shell.ts'
import { killServer, type Work } from './work.ts'

/** How far a recovery is. */
export interface RecoveryState {
  readonly isRecovering: boolean
  /** The end of the last record that was replayed; undefined before the first one. */
  readonly replayed: bigint | undefined
  readonly isPaused: boolean
  /** When the last transaction that was replayed had ended. */
  readonly lastCommit: string | null
}

/** What an isolated recovery needs. */
export interface RecoveryRun {
  readonly plan: RecoverPlan
  readonly work: Work
  /** Of restore_command. */
  readonly script: string
  /** Rejects when no more WAL can be served. */
  readonly failure: Promise<never>
  readonly superuser: string
  readonly onState?: ((state: RecoveryState) => void) | undefined
}

/** Where a recovery ended. */
export interface Recovered {
  readonly lsn: string
  readonly lastCommit: string | null
  readonly timeline: number
}

const PORT = 5432
const LOOK_MILLISECONDS = 50
/** Until a server that was started has written its process id, at the latest. */
const START_MILLISECONDS = 2000

/**
 * Recovers a fetched backup in a server that nobody else can reach, to its goal and not one record less,
 * makes it a cluster of its own timeline, and stops it.
 * @throws {Fail} `target-unreached` when it ended before, `wal-missing`, `command-failed`, `server-failed`
 */
export async function recover(running: RecoveryRun): Promise<Recovered> {
  const over = new AbortController()
  const recovering = recoverToGoal(running, over.signal)
  try {
    return await Promise.race([recovering, running.failure])
  } catch (error) {
    // A start that is under way would leave a server whose files are about to be removed.
    over.abort(error)
    await recovering.catch(() => {}) // it ends for the reason that is thrown
    await killServer(running.work.data)
    throw error
  }
}

async function recoverToGoal(running: RecoveryRun, over: AbortSignal): Promise<Recovered> {
  let more: Record<string, string> = {}
  for (let attempt = 1; ; attempt++) {
    over.throwIfAborted()
    await start(running, more)
    try {
      const state = await awaitGoal(running, over)
      return await promote(running, state, over)
    } catch (error) {
      // WAL may tell of settings that were raised after the backup.
      const asked = settingsAskedFor(await logOf(running.work), running.plan)
      if (attempt === 5 || Object.keys(asked).every((name) => more[name] === asked[name])) throw error
      more = { ...more, ...asked }
      await killServer(running.work.data)
    }
  }
}

async function start(
  { plan, work, script, superuser }: RecoveryRun,
  more: Record<string, string>,
): Promise<void> {
  const { bindir, osUser, owner } = plan.place
  const conf = join(work.root, 'conf')
  await mkdir(conf, { recursive: true, mode: 0o755 })
  const { stdout: control } = await run([join(bindir, 'pg_controldata'), work.data], {
    as: osUser,
    env: { LC_ALL: 'C' },
  })
  const settings = {
    found: plan.chain.at(-1)!,
    way: plan.way,
    goal: plan.route.goal,
    control,
    script,
    socket: work.socket,
    conf,
    more,
  }
  assertSystem(control, plan)
  const write = (name: string, text: string) => writeFor(join(conf, name), text, owner)
  await write('postgresql.conf', isolatedConf(settings))
  await write('pg_hba.conf', 'local all all peer map=howdah\n')
  await write('pg_ident.conf', `howdah ${quoted(osUser)} ${quoted(superuser)}\n`)
  await write('server.log', '')
  // -W: what pg_ctl thinks of the start proves nothing, and it gives up after a minute.
  const argv = [
    '-s',
    '-W',
    '-D',
    work.data,
    '-l',
    join(conf, 'server.log'),
    '-o',
    `-c config_file=${shellWord(join(conf, 'postgresql.conf'))}`,
  ]
  await run([join(bindir, 'pg_ctl'), 'start', ...argv], { as: osUser, env: { LC_ALL: 'C.UTF-8' } })
}

/** Of another architecture, or of another cluster: nothing of that would be seen before it is too late. */
function assertSystem(control: string, { chain }: RecoverPlan): void {
  const { systemIdentifier, label } = chain.at(-1)!.manifest
  const found = controlValue(control, 'Database system identifier')
  if (found === systemIdentifier) return
  throw new Fail(
    'backup-damaged',
    `backup ${label} has the system ${found}, its manifest says ${systemIdentifier}`,
  )
}

async function awaitGoal(running: RecoveryRun, over: AbortSignal): Promise<RecoveryState> {
  const { work, plan } = running
  let client: Client | undefined
  const assertAlive = watch(running, over)
  try {
    for (;;) {
      interrupted.throwIfAborted()
      await sleep(LOOK_MILLISECONDS)
      await assertAlive()
      client ??= await connected(running)
      const state = client && (await stateOf(client).catch(() => undefined))
      if (state === undefined) {
        await client?.end().catch(() => {})
        client = undefined
        continue
      }
      running.onState?.(state)
      // While nobody may read, which an old transaction with many subtransactions can make last, a server
      // does not stand still at its target: it ends there (xlogrecovery.c, recoveryPausesHere).
      if (state.isRecovering && !state.isPaused) continue
      // Read again: the line that says why it stands still may be newer than what was read before.
      assertReached(plan, state, await logOf(work))
      return state
    }
  } finally {
    await client?.end().catch(() => {})
  }
}

/** Looks whether the server still runs. @returns what throws when it does not, or when nobody waits for it any more */
function watch({ work, plan }: RecoveryRun, over: AbortSignal): () => Promise<void> {
  let seen = Date.now()
  return async () => {
    const isAlive = (await livePid(work.data)) !== undefined
    if (isAlive) seen = Date.now()
    const quiet = Date.now() - seen
    // Not before it has said who it is: then it can be ended.
    if (isAlive || quiet > START_MILLISECONDS) over.throwIfAborted()
    if (isAlive) return
    const text = await logOf(work)
    if (quiet > 5000 || /^(FATAL|LOG: {2}database system is shut down)/m.test(text)) throw ended(text, plan)
  }
}

/** That it stands still is no proof: it also does so when it lacks a setting. */
function assertReached(plan: RecoverPlan, state: RecoveryState, text: string): void {
  const { goal } = plan.route
  const isPast = goal.kind !== 'lsn' || (state.replayed !== undefined && state.replayed > goal.lsn)
  // One that stands still says so of its own accord; one that has ended may have run out of WAL instead.
  const isSaid = goal.kind === 'lsn' && state.isRecovering ? true : REACHED[goal.kind].test(text)
  if (isPast && isSaid) return
  const how = state.isRecovering ? 'the server stands still' : 'the server was promoted before'
  throw unreached(plan, state, lastErrors(text) || how)
}

// src/backend/access/transam/xlogrecovery.c: recoveryStopsBefore, recoveryStopsAfter.
const REACHED: Readonly<Record<Goal['kind'], RegExp>> = {
  lsn: /recovery stopping (before|after) WAL location \(LSN\)/,
  immediate: /recovery stopping after reaching consistency/,
  time: /recovery stopping (before|after) (commit|abort) of (prepared )?transaction/,
  xid: /recovery stopping (before|after) (commit|abort) of (prepared )?transaction/,
  name: /recovery stopping at restore point/,
}

async function promote(running: RecoveryRun, state: RecoveryState, over: AbortSignal): Promise<Recovered> {
  const { plan, work } = running
  const { bindir, osUser } = plan.place
  const client = (await connected(running)) ?? fail('the server that had reached its target is gone')
  try {
    // At its target a recovery that goes on ends, with a checkpoint. pg_promote would do so too, but one
    // that is paused looks for its signal once a second (src/backend/access/transam/xlogrecovery.c,
    // recoveryPausesHere).
    if (state.isRecovering) await client.query('select pg_wal_replay_resume()')
    const assertAlive = watch(running, over)
    while ((await stateOf(client)).isRecovering) {
      await assertAlive()
      await sleep(20)
    }
    await client.query('checkpoint')
    const { rows: ends } = await client.query<{ timeline: number; recovering: boolean }>(
      'select timeline_id as timeline, pg_is_in_recovery() as recovering from pg_control_checkpoint()',
    )
    const { timeline, recovering } = ends[0]!
    if (recovering) throw fail('the restored server is still in recovery')
    await client.end()
    await run([join(bindir, 'pg_ctl'), 'stop', '-s', '-w', '-t', '3600', '-m', 'fast', '-D', work.data], {
      as: osUser,
      timeoutSeconds: 3700,
    })
    return { lsn: formatLsn(state.replayed ?? 0n), lastCommit: state.lastCommit, timeline }
  } finally {
    await client.end().catch(() => {})
  }
}

function fail(message: string): never {
  throw new Fail('server-failed', message)
}

async function connected({ plan, work, superuser }: RecoveryRun): Promise<Client | undefined> {
  try {
    return await connect({
      host: work.socket,
      port: PORT,
      user: superuser,
      database: 'template1',
      peer: plan.place.osUser,
      applicationName: 'howdah',
      label: 'the restored server',
    })
  } catch (error) {
    // Not yet consistent, or gone: the process and its log say which.
    if (error instanceof Fail && ['server-unreachable', 'server-failed'].includes(error.code))
      return undefined
    throw error
  }
}

async function stateOf(client: Client): Promise<RecoveryState> {
  const { rows } = await client.query<{
    recovering: boolean
    replayed: string | null
    pause: string | null
    at: string | null
  }>(
    `select pg_is_in_recovery() as recovering, pg_last_wal_replay_lsn()::text as replayed,
       case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() end as pause,
       to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at`,
  )
  const { recovering, replayed, pause, at } = rows[0]!
  return {
    isRecovering: recovering,
    replayed: replayed === null ? undefined : parseLsn(replayed),
    isPaused: pause === 'paused',
    lastCommit: at,
  }
}

function ended(text: string, plan: RecoverPlan): Fail {
  const why = lastErrors(text)
  if (/recovery ended before configured recovery target was reached/.test(text)) {
    return new Fail('target-unreached', `the recovery ended before ${goalText(plan)}`, {
      hint: `Nothing was handed over. The server says: ${why}`,
    })
  }
  return new Fail('command-failed', 'the restored server ended before it had reached its target', {
    hint: why === '' ? undefined : why,
  })
}

function unreached(plan: RecoverPlan, { replayed, lastCommit }: RecoveryState, why: string): Fail {
  const at = replayed === undefined ? 'nothing was replayed' : `it is at ${formatLsn(replayed)}`
  const time = lastCommit === null ? '' : `, of ${lastCommit}`
  return new Fail('target-unreached', `the recovery did not reach ${goalText(plan)}: ${at}${time}`, {
    hint: `Nothing was handed over. ${why}`,
  })
}

function goalText({ route: { goal } }: RecoverPlan): string {
  switch (goal.kind) {
    case 'immediate':
      return 'the end of the backup'
    case 'lsn':
      return `LSN ${formatLsn(goal.lsn)}`
    case 'time':
      return `time ${goal.time}`
    case 'xid':
      return `transaction ${goal.value}`
    case 'name':
      return `restore point "${goal.value}"`
  }
}

function lastErrors(text: string): string {
  const lines = text
    .split('\n')
    .filter((line) => /^(FATAL|ERROR|PANIC|WARNING|DETAIL|HINT):/.test(line))
    .filter((line) => !/the database system is (starting up|not yet accepting)/.test(line)) // to us, as we ask
  return lines.slice(-4).join('\n')
}

/** What the server's log says that it needs. */
function settingsAskedFor(text: string, plan: RecoverPlan): Record<string, string> {
  const asked: Record<string, string> = {}
  const lower = /(\w+) = -?\d+ is a lower setting than on the primary server, where its value was (\d+)/g
  for (const [, name, value] of text.matchAll(lower)) asked[name!] = value!
  if (/resource manager with ID \d+ not registered/.test(text))
    asked['shared_preload_libraries'] =
      plan.chain.at(-1)!.manifest.physical.settings['shared_preload_libraries'] ?? ''
  return asked
}

async function logOf({ root }: Work): Promise<string> {
  return readFile(join(root, 'conf/server.log'), 'utf8').catch(() => '')
}

/** As pg_ident.conf takes a name. */
function quoted(name: string): string {
  return `"${name}"`
}
