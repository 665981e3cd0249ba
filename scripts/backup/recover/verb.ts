import { resolve } from 'node:path'
import { loadHost } from '../../cluster/open.ts'
import { askYes, canAsk } from '../../core/ask.ts'
import type { Call, Outcome, Verb } from '../../core/cli.ts'
import { type Code, Fail } from '../../core/fail.ts'
import { beginProgress } from '../../core/progress.ts'
import { formatSize } from '../../core/quantity.ts'
import type { Host } from '../../host/schema.ts'
import { hostIdentity, type Identity, openIdentity } from '../../store/identity.ts'
import { openStoreUrl } from '../../store/open.ts'
import { formatLsn } from '../wal/segment.ts'
import { collationFindings } from './collations.ts'
import type { RecoverFinding } from './findings.ts'
import { isRecoverable, planRecovery, type RecoverPlan, type RecoverRequest } from './plan.ts'
import { restoreCluster } from './run.ts'
import { secretFindings } from './secrets.ts'
import { recoverResult, showRecovered, showRecoverPlan } from './show.ts'
import { hostSources, type Sources, storedHost, storeSources } from './sources.ts'
import { parseTarget } from './target.ts'
import { clusterClock } from './times.ts'

/** How a restore of a cluster fails; one of a database may begin with it. */
export const CLUSTER_FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'secret',
  'not-permitted',
  'lock-held',
  'command-failed',
  'server-unreachable',
  'server-denied',
  'server-failed',
  'cluster-mismatch',
  'hazard-refused',
  'plan-impossible',
  'store-denied',
  'store-unreachable',
  'backup-missing',
  'backup-damaged',
  'target-not-empty',
  'no-space',
  'wal-missing',
  'target-unreached',
  'wrong-key',
]

/** `howdah restore cluster`. */
export const clusterVerb: Verb = {
  name: 'cluster',
  summary: 'restore a whole cluster, to the newest WAL or to a point in time',
  options: [
    { flags: '--backup <label>', help: 'the backup to take it from', default: 'latest' },
    { flags: '--job <name>', help: 'the latest of this job' },
    { flags: '--at <time>', help: 'to this moment, with its offset: "2026-11-22 10:00:00+01"' },
    { flags: '--lsn <lsn>', help: 'to the record at this position' },
    { flags: '--xid <number>', help: 'to the end of this transaction' },
    { flags: '--name <name>', help: 'to this restore point, of pg_create_restore_point' },
    { flags: '--immediate', help: 'to the end of the backup' },
    { flags: '--timeline <number>', help: 'on this timeline; default: the one that is archived now' },
    { flags: '--to <folder>', help: 'into this folder, beside the cluster' },
    { flags: '--port <number>', help: 'with --to: where it listens' },
    { flags: '--tablespace <old=new...>', help: 'a tablespace that goes elsewhere' },
    { flags: '--identity <file>', help: "age's private key; default: [encryption] identity" },
    { flags: '--from <url>', help: 'without a host file: the store, such as file:///srv/store' },
    { flags: '--cluster <host/cluster>', help: 'with --from: which cluster of it' },
    { flags: '--no-start', help: 'do not start it' },
  ],
  common: ['file', 'plan', 'yes'],
  fails: CLUSTER_FAILS,
  run: restore,
}

async function restore(call: Call): Promise<Outcome> {
  const request = requestOf(call)
  await using places = await placesOf(call)
  const { host, sources, identity } = places
  if (call.planOnly) {
    const plan = withNotes(await planRecovery(host, sources, request, identity), places.notes)
    return { text: showRecoverPlan(plan), result: recoverResult(plan), ok: isRecoverable(plan) }
  }
  return restoreNow(call, request, places)
}

/** Adds what is known of the host file alone. */
function withNotes(plan: RecoverPlan, notes: readonly RecoverFinding[]): RecoverPlan {
  return { ...plan, findings: [...plan.findings, ...notes] }
}

async function restoreNow(call: Call, request: RecoverRequest, places: Places): Promise<Outcome> {
  const { host, sources, identity } = places
  const begun = performance.now()
  const clock = clusterClock()
  using progress = beginProgress('restore', call.json)
  let bytes = 0
  let total = 0
  const result = await restoreCluster(host, sources, request, {
    identity,
    async confirm(plan) {
      total = plan.bytes
      if (plan.place.before === null || call.yes) return true
      if (!call.json && canAsk()) return askYes(`${showRecoverPlan(plan)}\nDo it?`)
      throw new Fail('hazard-refused', `nothing was changed: "${plan.place.dataDir}" is not empty`, {
        hint: `With --yes what is there is set aside, as ${plan.place.before}`,
      })
    },
    onPhase: clock.onPhase,
    onBytes: (count) => progress.show(`${formatSize((bytes += count))} of ${formatSize(total)}`),
    onState: ({ replayed }) =>
      progress.show(replayed === undefined ? 'recovers' : `recovers, at LSN ${formatLsn(replayed)}`),
  })
  const seconds = (performance.now() - begun) / 1000
  const { lsn, timeline, lastCommit } = result.recovered
  const sorted = result.cluster ? await collationFindings(result.cluster) : []
  const plan = withNotes(result.plan, [...places.notes, ...sorted])
  return {
    text: showRecovered({ ...result, plan }, { seconds, times: String(clock) }),
    result: {
      ...recoverResult(plan),
      lsn,
      newTimeline: timeline,
      lastCommit,
      seconds,
      milliseconds: clock.times(),
    },
  }
}

interface Places extends AsyncDisposable {
  readonly host: Host
  readonly sources: Sources
  /** File of the private key. */
  readonly identity: string | undefined
  /** What the host file names and is not here, when it came out of a backup. */
  readonly notes: readonly RecoverFinding[]
}

/** The host file and its stores; or a store alone, whose newest backup has the host file. */
async function placesOf(call: Call): Promise<Places> {
  const [from, cluster, file] = [text(call, 'from'), text(call, 'cluster'), text(call, 'identity')]
  if (from === undefined && cluster === undefined) {
    const { host } = await loadHost(call.file, call.overrides)
    return placesWith(await hostIdentity(host, file), { host, sources: hostSources(host), notes: [] })
  }
  if (from === undefined || cluster === undefined) {
    throw new Fail('usage', '--from and --cluster come together', {
      hint: 'Such as: --from file:///srv/store --cluster db1/main',
    })
  }
  const sources = storeSources(openStoreUrl(from), cluster)
  const key = file === undefined ? undefined : await openIdentity({ path: resolve(file) })
  const host = await storedHost(sources, key?.path, call.overrides)
  return placesWith(key, { host, sources, notes: await secretFindings(host) })
}

function placesWith(key: Identity | undefined, rest: Pick<Places, 'host' | 'sources' | 'notes'>): Places {
  return { ...rest, identity: key?.path, [Symbol.asyncDispose]: async () => key?.[Symbol.asyncDispose]() }
}

function requestOf(call: Call): RecoverRequest {
  const target = parseTarget({
    at: text(call, 'at'),
    lsn: text(call, 'lsn'),
    xid: text(call, 'xid'),
    name: text(call, 'name'),
    immediate: call.options['immediate'] === true,
  })
  const to = text(call, 'to')
  const port = number(call, 'port', 65_535)
  if (port !== undefined && to === undefined) {
    throw new Fail('usage', '--port is for --to', { hint: "The cluster's own port is in the host file." })
  }
  return {
    label: text(call, 'backup') ?? 'latest',
    job: text(call, 'job'),
    target,
    timeline: number(call, 'timeline', 0xffffffff),
    to: to === undefined ? undefined : resolve(to),
    port,
    tablespaces: mappingOf(call.options['tablespace'] as unknown as readonly string[] | undefined),
    starts: call.options['start'] !== false,
  }
}

function mappingOf(words: readonly string[] | undefined): Map<string, string> {
  const mapping = new Map<string, string>()
  for (const word of words ?? []) {
    const [, from, to] = /^(\/[^=]*)=(\/.*)$/.exec(word) ?? []
    if (from === undefined || to === undefined) {
      throw new Fail('usage', `--tablespace ${JSON.stringify(word)} is no mapping`, {
        hint: 'Both are absolute paths: --tablespace /srv/old=/srv/new',
      })
    }
    mapping.set(from, to)
  }
  return mapping
}

function text(call: Call, name: string): string | undefined {
  const value = call.options[name]
  return typeof value === 'string' ? value : undefined
}

function number(call: Call, name: string, max: number): number | undefined {
  const value = text(call, name)
  if (value === undefined) return undefined
  if (/^\d+$/.test(value) && Number(value) >= 1 && Number(value) <= max) return Number(value)
  throw new Fail('usage', `--${name} ${JSON.stringify(value)} is no number from 1 to ${max}`)
}
