import { randomBytes } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Fail } from '../core/fail.ts'
import { takeLock } from '../core/lock.ts'
import type { Host } from '../host/schema.ts'
import { openStore } from '../store/open.ts'
import type { Store } from '../store/store.ts'
import { assertNotLost } from './known.ts'
import { type Layout, layoutOf } from './layout.ts'
import { type Manifest, totalsOf } from './manifest.ts'
import { type Owner, readOwner } from './owner.ts'
import { walNeeders } from './prune-plan.ts'
import { readShelf, type Shelf } from './shelf.ts'
import { type DeepSite, lookInto } from './verify-deep.ts'
import { type FileToVerify, verifyFiles } from './verify-files.ts'
import { lookIntoSegments } from './verify-segments.ts'
import { walPath, type WalFacts, type WalPath } from './verify-wal.ts'
import { type HistoryLine, parseHistory } from './wal/segment.ts'
import { openWalStore, type WalStore } from './wal/wal-store.ts'

/** What is verified. */
export interface VerifyScope {
  readonly host: Host
  /** A label, or `latest`; undefined is every backup. */
  readonly label: string | undefined
  /** Of this job only. */
  readonly job: string | undefined
  /** Looks into the files, too. */
  readonly deep: boolean
  /** Path of an age identity file. */
  readonly identity: string | undefined
  readonly onBytes?: (count: number) => void
  readonly onStep?: (text: string) => void
}

/** What was found of one backup. */
export interface VerifiedBackup {
  readonly label: string
  /** Empty when its manifest cannot be read. */
  readonly job: string
  readonly store: string
  /** Bytes that were compared with their hashes. */
  readonly size: number
  readonly files: number
  /** Whether its files were looked into. */
  readonly deep: boolean
  readonly problems: readonly string[]
}

/** What was found of the WAL that goes on from the backups. */
export interface VerifiedWal {
  readonly systemIdentifier: string
  readonly store: string
  /** Whole segments. */
  readonly segments: number
  readonly first: string | null
  readonly last: string | null
  readonly deep: boolean
  readonly problems: readonly string[]
}

/** What a verification has found. */
export interface Verified {
  readonly backups: readonly VerifiedBackup[]
  readonly wal: readonly VerifiedWal[]
  /** Of the store as a whole. */
  readonly problems: readonly string[]
  /** For people: what was not looked at. */
  readonly notes: readonly string[]
  /** Labels of those without a problem, in themselves and in what they are on top of. */
  readonly restorable: readonly string[]
}

/**
 * Compares what stores have with what manifests say; nothing is changed.
 * @throws {Fail} `backup-missing`, `wrong-key`, `no-space` (for `deep`), and what a store throws
 */
export async function verify(scope: VerifyScope): Promise<Verified> {
  const layout = layoutOf(scope.host)
  const names = Object.keys(scope.host.store)
  const shelves = await Promise.all(names.map((name) => shelfOf(scope.host, name, layout)))
  const chosen = choose(shelves, scope)
  const encrypted = chosen.some((each) => each.manifest?.encrypted)
  assertIdentityFor(scope, encrypted)
  const files = chosen.flatMap(({ store, manifest }): FileToVerify[] =>
    manifest ? manifest.files.map((file) => ({ store, manifest, file })) : [],
  )
  const wrong = await verifyFiles(files, (count) => scope.onBytes?.(count))
  await using deep = scope.deep ? await beginDeep(scope) : undefined
  const backups: VerifiedBackup[] = []
  for (const each of chosen) {
    const found = await verified(each, wrong.get(each.label) ?? [], deep)
    // What was pruned while it was looked at is no finding.
    if (found.problems.length === 0 || (await has(each.store, layout.manifest(each.label))))
      backups.push(found)
  }
  const owners = await Promise.all(
    shelves.map(async (shelf) => ownerProblems(shelf, await readOwner(shelf.store, layout))),
  )
  const notes =
    encrypted && scope.identity === undefined
      ? ['contents of encrypted backups were not looked at: that needs --deep and --identity']
      : []
  return {
    backups,
    wal: await verifyWal(scope, shelves, chosen, deep),
    problems: owners.flat(),
    notes,
    restorable: backups
      .filter((backup) => isRestorable(backup.label, chosen, backups))
      .map(({ label }) => label),
  }
}

async function shelfOf(host: Host, name: string, layout: Layout): Promise<Shelf> {
  const shelf = await readShelf(name, openStore(host, name), layout)
  if (shelf.catalog.length === 0)
    await assertNotLost({ stateDir: host.host.state_dir, store: shelf.store, layout })
  return shelf
}

async function has(store: Store, key: string): Promise<boolean> {
  for await (const entry of store.list(key)) if (entry.key === key) return true
  return false
}

/** Whether nothing was found to be wrong. Pure. */
export function isSound({ backups, wal, problems }: Verified): boolean {
  return problems.length === 0 && [...backups, ...wal].every(({ problems }) => problems.length === 0)
}

interface Chosen {
  readonly label: string
  readonly store: Store
  readonly manifest: Manifest | undefined
  /** Why there is no manifest. */
  readonly problem: string | undefined
  /** Those that it is on top of, oldest first; itself at the end. */
  readonly chain: readonly Manifest[]
  readonly chainProblem: string | undefined
}

function choose(shelves: readonly Shelf[], { label, job }: VerifyScope): Chosen[] {
  const all = shelves.flatMap((shelf) =>
    shelf.catalog.map((entry): Chosen => {
      const base = { label: entry.label, store: shelf.store }
      if ('problem' in entry)
        return { ...base, manifest: undefined, problem: entry.problem, chain: [], chainProblem: undefined }
      const { chain, problem } = chainOf(shelf, entry.manifest)
      return { ...base, manifest: entry.manifest, problem: undefined, chain, chainProblem: problem }
    }),
  )
  const ordered = all.toSorted((a, b) => (a.label < b.label ? -1 : 1))
  const fits = ordered.filter(
    ({ manifest }) => job === undefined || manifest === undefined || manifest.job === job,
  )
  const wanted =
    label === undefined
      ? fits
      : label === 'latest'
        ? fits.slice(-1)
        : fits.filter((entry) => entry.label === label)
  if (wanted.length === 0 && (label !== undefined || job !== undefined)) {
    throw new Fail(
      'backup-missing',
      `there is no backup${label === undefined || label === 'latest' ? '' : ` "${label}"`}${job === undefined ? '' : ` of job "${job}"`}`,
      {
        hint: 'See what there is: howdah backup list',
      },
    )
  }
  // What they are on top of is a part of them.
  const needed = new Set(
    wanted.flatMap(({ chain, store }) => chain.map(({ label }) => `${store.url} ${label}`)),
  )
  return ordered.filter((entry) => wanted.includes(entry) || needed.has(`${entry.store.url} ${entry.label}`))
}

/** A backup and those that it is on top of, oldest first, and what is wrong with that. */
function chainOf(shelf: Shelf, manifest: Manifest): { chain: Manifest[]; problem: string | undefined } {
  const chain = [manifest]
  for (;;) {
    const [child] = chain as [Manifest]
    const label = child.physical?.parent ?? null
    if (label === null) {
      const isBottom = child.kind !== 'incr'
      return { chain, problem: isBottom ? undefined : `${child.label} says no parent` }
    }
    const entry = shelf.catalog.find((entry) => entry.label === label)
    if (entry === undefined) return { chain, problem: `its parent ${label} is missing` }
    if (!('manifest' in entry)) return { chain, problem: `its parent ${label} cannot be read` }
    const parent = entry.manifest
    if (chain.includes(parent)) return { chain, problem: 'it is its own parent' }
    if (parent.physical === undefined || parent.systemIdentifier !== child.systemIdentifier)
      return { chain, problem: `its parent ${label} is no backup of the same system` }
    if (parent.begun >= child.begun) return { chain, problem: `its parent ${label} is younger` }
    chain.unshift(parent)
  }
}

async function verified(
  each: Chosen,
  wrong: readonly string[],
  deep: DeepSite | undefined,
): Promise<VerifiedBackup> {
  const { label, store, manifest, chain } = each
  const problems = [...wrong]
  if (each.problem !== undefined) problems.push(each.problem)
  if (each.chainProblem !== undefined) problems.push(each.chainProblem)
  // What is damaged already says nothing more when it is unpacked.
  const isDeep = deep !== undefined && manifest !== undefined && problems.length === 0
  if (isDeep) problems.push(...(await lookInto(deep, { store, chain })))
  return {
    label,
    job: manifest?.job ?? '',
    store: store.url,
    size: manifest ? totalsOf(manifest.files).size : 0,
    files: manifest?.files.length ?? 0,
    deep: isDeep,
    problems,
  }
}

function isRestorable(label: string, chosen: readonly Chosen[], backups: readonly VerifiedBackup[]): boolean {
  const { chain, manifest } = chosen.find((each) => each.label === label)!
  return (
    manifest !== undefined &&
    chain.every((part) =>
      backups.some((backup) => backup.label === part.label && backup.problems.length === 0),
    )
  )
}

/** A backup of another system among those of the owner means that two clusters write to one place. */
function ownerProblems({ catalog, store }: Shelf, owner: Owner | undefined): string[] {
  const manifests = catalog.flatMap((entry) => ('manifest' in entry ? [entry.manifest] : []))
  if (manifests.length === 0) return []
  if (owner === undefined) return [`${store.url} does not say whose backups these are: owner.json is missing`]
  const first = manifests.findIndex(({ systemIdentifier }) => systemIdentifier === owner.systemIdentifier)
  if (first === -1) return []
  return manifests
    .slice(first)
    .filter(({ systemIdentifier }) => systemIdentifier !== owner.systemIdentifier)
    .map(
      ({ label, systemIdentifier }) =>
        `backup ${label} is of the system ${systemIdentifier}, but since ${manifests[first]!.label} the store belongs to ${owner.systemIdentifier}`,
    )
}

async function verifyWal(
  scope: VerifyScope,
  shelves: readonly Shelf[],
  chosen: readonly Chosen[],
  deep: DeepSite | undefined,
): Promise<VerifiedWal[]> {
  const { host, identity } = scope
  if (host.archive === undefined) return []
  const { store } = shelves.find(({ name }) => name === host.archive!.store)!
  const needers = new Set(walNeeders(shelves, host.backup, new Date()))
  const manifests = chosen.flatMap(({ manifest }) =>
    manifest?.physical && needers.has(manifest.label) ? [manifest] : [],
  )
  const found: VerifiedWal[] = []
  for (const [systemIdentifier, own] of Map.groupBy(manifests, (each) => each.systemIdentifier)) {
    const wal = openWalStore({ store, prefix: layoutOf(host).wal(systemIdentifier), level: 1, identity })
    const paths = await pathsOf(wal, own)
    const segments = [...new Set(paths.flatMap(({ segments }) => segments))].sort()
    const problems = paths.flatMap(({ manifest, problems }) =>
      problems.map((problem) => `from ${manifest.label} on: ${problem}`),
    )
    if (deep) problems.push(...(await lookIntoSegments(deep, wal, own[0]!, segments)))
    found.push({
      systemIdentifier,
      store: store.url,
      segments: segments.length,
      first: segments[0] ?? null,
      last: segments.at(-1) ?? null,
      deep: deep !== undefined,
      problems,
    })
  }
  return found
}

type ManifestPath = WalPath & { readonly manifest: Manifest }

/** A second look proves the first one: while WAL is being stored, a list may show neither the old nor the new. */
async function pathsOf(wal: WalStore, manifests: readonly Manifest[]): Promise<readonly ManifestPath[]> {
  const look = async () => {
    const facts = await walFacts(wal)
    return manifests.map((manifest) => ({ manifest, ...walPath(manifest, facts) }))
  }
  const paths = await look()
  return paths.some(({ problems }) => problems.length > 0) ? look() : paths
}

async function walFacts(wal: WalStore): Promise<WalFacts> {
  const position = await wal.readPosition() // before the list: it must never be ahead of it
  const listing = await wal.list()
  const histories = new Map<number, HistoryLine[]>()
  const unread = new Set<number>()
  for (const name of listing.histories) {
    const timeline = Number.parseInt(name.slice(0, 8), 16)
    try {
      histories.set(timeline, parseHistory(await text(wal.get(name))))
    } catch (error) {
      if (!(error instanceof Fail) || (error.code !== 'wrong-key' && error.code !== 'backup-damaged'))
        throw error
      unread.add(timeline)
    }
  }
  return { listing, histories, unread, position }
}

function assertIdentityFor({ deep, identity }: VerifyScope, encrypted: boolean): void {
  if (!deep || !encrypted || identity !== undefined) return
  throw new Fail('wrong-key', 'backups are encrypted, and --deep needs to look into them', {
    hint: 'Name the file of a private key with --identity FILE, or leave --deep out.',
  })
}

/** A folder for what is unpacked; what a verification that died left there goes first. */
async function beginDeep(scope: VerifyScope): Promise<DeepSite & AsyncDisposable> {
  const stateDir = scope.host.host.state_dir
  await using held = new AsyncDisposableStack()
  held.use(await takeLock(join(stateDir, 'lock/verify.lock'), { folder: { mode: 0o750 } }))
  const folder = join(stateDir, 'verify')
  await rm(folder, { recursive: true, force: true })
  const scratch = join(folder, randomBytes(6).toString('hex'))
  await mkdir(scratch, { recursive: true, mode: 0o700 })
  held.defer(() => rm(folder, { recursive: true, force: true }))
  const release = held.move()
  return {
    host: scope.host,
    identity: scope.identity,
    scratch,
    onBytes: (count) => scope.onBytes?.(count),
    onStep: (step) => scope.onStep?.(step),
    [Symbol.asyncDispose]: () => release.disposeAsync(),
  }
}
