import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Fail } from '../../core/fail.ts'
import type { Host } from '../../host/schema.ts'
import type { CatalogEntry } from '../catalog.ts'
import { openWalStore, type WalListing, type WalPosition, type WalStore } from '../wal/wal-store.ts'
import { assertPossible } from '../restore-plan.ts'
import { chainOf, chooseBase, olderThan, type PhysicalFound, type Way } from './choose.ts'
import { hostFindings, placeFindings, type RecoverFinding, spaceFindings } from './findings.ts'
import { assertOneMoment } from './fork.ts'
import { type Route, routeTo } from './goal.ts'
import { wayOf } from './history.ts'
import { type Place, placeOf, type Space, spaces, tablespaceMoves, type TablespaceMove } from './place.ts'
import { scanWal } from './scan.ts'
import type { Sources } from './sources.ts'
import type { Target } from './target.ts'
import { assertReadable } from './readable.ts'
import { fetchWalFile } from './wal-file.ts'
import { walAfter } from './wal-range.ts'

/** What is to be restored, and where to. */
export interface RecoverRequest {
  /** A label, or `latest`. */
  readonly label: string
  readonly job?: string | undefined
  readonly target: Target
  /** Undefined: the one that is shipped now. */
  readonly timeline?: number | undefined
  /** Folder of a copy; undefined: in the place of the host file's cluster. */
  readonly to?: string | undefined
  /** Of a copy. */
  readonly port?: number | undefined
  /** Old places of tablespaces to new ones. */
  readonly tablespaces: ReadonlyMap<string, string>
  /** Where every other tablespace goes, by its oid; undefined: where it was. */
  readonly tablespaceFolder?: string | undefined
  readonly starts: boolean
}

/** Everything about a restore of a cluster, before anything is changed. */
export interface RecoverPlan {
  readonly request: RecoverRequest
  /** The full backup first, the chosen one last. */
  readonly chain: readonly PhysicalFound[]
  /** Labels of backups that were made before it: where a transaction is shows in the recovery only. */
  readonly older: readonly string[]
  /** How far the store is on the way; undefined when nobody said so. */
  readonly archived: WalPosition | undefined
  /** Undefined: no WAL is stored. */
  readonly way: Way | undefined
  readonly route: Route
  readonly wal: WalStore | undefined
  readonly place: Place
  readonly tablespaces: readonly TablespaceMove[]
  /** Bytes of the backup in the store. */
  readonly bytes: number
  /** Bytes of WAL when unpacked. */
  readonly walBytes: number
  readonly spaces: readonly Space[]
  readonly findings: readonly RecoverFinding[]
}

/**
 * Plans a restore of a cluster; changes nothing.
 * @param identity file of the private key
 * @throws {Fail} `backup-missing`, `wal-missing`, `wrong-key`, `plan-impossible`, `usage`, and what a store throws
 */
export async function planRecovery(
  host: Host,
  sources: Sources,
  request: RecoverRequest,
  identity: string | undefined,
): Promise<RecoverPlan> {
  const catalog = await sources.readCatalog()
  const seen = new Map<string, Seen>()
  for (const system of systemsOf(catalog)) {
    const { store, prefix } = sources.walOf(catalog, system)
    seen.set(system, await lookAt(openWalStore({ store, prefix, level: 3, identity }), request))
  }
  const chosen = chooseBase(catalog, request, (system) => seen.get(system)?.way)
  const chain = chainOf(catalog, chosen)
  const { manifest } = chosen
  await assertReadable(chain, identity)
  const place = await placeOf(host, chosen, request.to)
  const findings = await hostFindings(chosen, place.bindir)
  const { wal, way, listing, position } = seen.get(manifest.systemIdentifier)!
  if (wal === undefined && host.archive !== undefined && request.target.kind === 'latest')
    throw noWal(host.archive.store, sources.walOf(catalog, manifest.systemIdentifier).store.url)
  const isBlocked = findings.some(({ level }) => level === 'impossible')
  const range = way && wal ? walAfter(chosen, way, listing, position) : { segments: [], missing: undefined }
  await using scanner = await openScanner(wal, chosen, place.bindir)
  if (way && !isBlocked && request.timeline === undefined) {
    const { walSegmentSize: segmentSize } = manifest.physical
    const fork = { way, listing, segmentSize, since: manifest.timeline, scan: scanner.scan }
    await assertOneMoment(request.target, fork)
  }
  const route: Route = isBlocked
    ? { goal: { kind: 'immediate' }, segments: range.segments, warnings: [] }
    : await routeTo(request.target, { found: chosen, range, position, ...scanner, now: new Date() })
  const moves = tablespaceMoves(chosen, request, place.kind)
  const found = await spaces(spaceNeeds(chain, place, moves, route))
  return {
    request,
    chain,
    older: olderThan(catalog, chosen, request.target, way),
    archived: position,
    way,
    route,
    wal,
    place,
    tablespaces: moves,
    bytes: chain.reduce((sum, each) => sum + each.manifest.files.reduce((all, { size }) => all + size, 0), 0),
    walBytes: route.segments.length * manifest.physical.walSegmentSize,
    spaces: found,
    findings: [
      ...findings,
      ...(await placeFindings(place, moves)),
      ...spaceFindings(found),
      ...route.warnings.map((text) => ({ level: 'warning', text }) as const),
    ],
  }
}

/** The backup alone would be fewer rows than were stored, if they are stored elsewhere or were lost. */
function noWal(name: string, url: string): Fail {
  return new Fail(
    'wal-missing',
    `the host file says that its WAL is archived to the store "${name}", and ${url} has none of it`,
    { hint: 'Restore with a host file that names that store, or the backup as it is: --immediate' },
  )
}

/**
 * Refuses what cannot be done.
 * @throws {Fail} `plan-impossible`, `no-space`, `target-not-empty`
 */
export function assertRecoverable(plan: RecoverPlan): void {
  assertPossible(plan)
}

/** Whether it would be refused. Pure. */
export function isRecoverable({ findings }: RecoverPlan): boolean {
  return !findings.some(({ level }) => level === 'impossible')
}

/**
 * What a failed recovery is to be told with: a target that is found by reading only may be older than the
 * backup that was assumed. Pure.
 */
export function explained(error: unknown, { request, older, chain }: RecoverPlan): unknown {
  const { target } = request
  const isSought = target.kind === 'xid' || target.kind === 'name'
  if (!(error instanceof Fail) || error.code !== 'target-unreached' || !isSought) return error
  const { label } = chain.at(-1)!.manifest
  const others = older.slice(0, 5).map((each) => `--backup ${each}`)
  const next =
    others.length === 0
      ? `There is no backup before ${label}.`
      : `If it was before the end of ${label}, take an older backup: ${others.join(', or ')}.`
  return new Fail(error.code, error.message, { hint: `${next} ${error.hint ?? ''}`.trim(), cause: error })
}

interface Seen {
  readonly wal: WalStore | undefined
  readonly way: Way | undefined
  readonly listing: WalListing
  /** Of the timeline of the way. */
  readonly position: WalPosition | undefined
}

function systemsOf(catalog: readonly CatalogEntry[]): Set<string> {
  return new Set(
    catalog.flatMap((entry) =>
      'manifest' in entry && entry.manifest.physical ? [entry.manifest.systemIdentifier] : [],
    ),
  )
}

async function lookAt(wal: WalStore, { timeline }: RecoverRequest): Promise<Seen> {
  const shipped = await wal.readPosition() // before the list: it must never be ahead of it
  const listing = await wal.list()
  if (listing.segments.length + listing.partials.length === 0 && shipped === undefined)
    return { wal: undefined, way: undefined, listing, position: undefined }
  const way = await wayOf(wal, listing, shipped, timeline)
  // Of another timeline it says nothing about this one.
  return { wal, way, listing, position: shipped?.timeline === way?.timeline ? shipped : undefined }
}

interface Scanner extends AsyncDisposable {
  readonly scan: (names: readonly string[], from?: bigint) => ReturnType<typeof scanWal>
  readonly begunSize: (name: string) => number | undefined
}

async function openScanner(
  wal: WalStore | undefined,
  found: PhysicalFound,
  bindir: string,
): Promise<Scanner> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-wal-'))
  const { walSegmentSize: segmentSize } = found.manifest.physical
  const fetched = new Map<string, number | undefined>()
  const fetch = async (name: string) => {
    let size = 0
    const found = await fetchWalFile(wal!, name, { folder, segmentSize, onSize: (bytes) => (size = bytes) })
    fetched.set(name, found === 'partial' ? size : undefined)
  }
  return {
    scan: async (names, from) => {
      for (const name of names) if (!fetched.has(name)) await fetch(name)
      return scanWal(bindir, folder, { first: names[0]!, last: names.at(-1)!, from, segmentSize })
    },
    begunSize: (name) => fetched.get(name),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}

/** WAL lies ready in pieces; the server keeps some more of it until its next checkpoint. */
const WAL_AHEAD = 512 * 1024 * 1024

function spaceNeeds(
  chain: readonly PhysicalFound[],
  place: Place,
  moves: readonly TablespaceMove[],
  route: Route,
): { path: string; bytes: number }[] {
  const { dataSize, walSegmentSize } = chain.at(-1)!.manifest.physical
  const inTablespaces = moves.reduce((sum, { size }) => sum + size, 0)
  const wal = Math.min(WAL_AHEAD, (route.segments.length + 4) * walSegmentSize)
  // Of a chain, all of it lies beside what it becomes.
  const combined =
    chain.length > 1 ? chain.reduce((sum, each) => sum + each.manifest.physical.dataSize, 0) : 0
  return [
    { path: place.dataDir, bytes: dataSize - inTablespaces + combined + wal },
    ...moves.map(({ to, size }) => ({ path: to, bytes: size })),
  ]
}
