import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from '../../cluster/cluster.ts'
import { holdResource } from '../../cluster/lock.ts'
import { type LoadedHost, requireCluster } from '../../cluster/open.ts'
import { Fail } from '../../core/fail.ts'
import { interrupted } from '../../core/interrupt.ts'
import { log } from '../../core/log.ts'
import { formatSize, parseDuration } from '../../core/quantity.ts'
import { hostId, claimOwnership } from '../owner.ts'
import { formatLsn, parseLsn, segmentPlace } from '../wal/segment.ts'
import type { WalGap, WalPosition } from '../wal/wal-store.ts'
import { archiveOf, type ArchivePlaces, assertMajor, placesOf } from './context.ts'
import { Control, lineOf } from './control.ts'
import { type Notifier, openNotifier } from '../../core/notifier.ts'
import { Pause } from '../../core/pause.ts'
import { endOrphan } from './receiver.ts'
import { Samples } from './samples.ts'
import {
  openSession,
  readFacts,
  readHistory,
  readState,
  type ServerFacts,
  type ServerState,
} from './server.ts'
import { type Beginning, isWrongWal, Shipper } from './ship.ts'

/** What to run. */
export interface ArchiveScope {
  readonly loaded: LoadedHost
  /** The machine whose archive is gone on with. */
  readonly takeOver?: string | undefined
}

const TICK_MILLISECONDS = 500
const SHIP_MILLISECONDS = 200
const REPORT_MILLISECONDS = 60_000
/** How long the last shipments may take when the service is asked to end. */
const LAST_MILLISECONDS = 20_000

/**
 * Receives WAL and stores it until this process is asked to end.
 * @returns how far the store is; undefined when nothing was stored
 * @throws {Fail} `usage`, `lock-held`, `cluster-mismatch`, `server-denied`, `wal-differs`
 */
export async function runArchive(scope: ArchiveScope): Promise<WalPosition | undefined> {
  const { host } = scope.loaded
  archiveOf(host)
  const notifier = openNotifier()
  const found = await untilServerAnswers(scope, notifier)
  if (found === undefined) return undefined
  const { cluster, facts, state } = found
  await using _lock = await holdResource(host, cluster, 'archive', 5)
  const places = placesOf(host, cluster, facts.systemIdentifier)
  await places.spool.make()
  const orphan = await endOrphan(places.pidFile)
  if (orphan !== undefined)
    log('notice', `archive: ended the pg_receivewal of an earlier run, process ${orphan}`)
  await notifier.ready()
  return await new Service(scope, { places, facts, notifier, timeline: state.timeline }).run()
}

interface Contact {
  readonly cluster: Cluster
  readonly facts: ServerFacts
  readonly state: ServerState
}

async function untilServerAnswers(
  { loaded }: ArchiveScope,
  notifier: Notifier,
): Promise<Contact | undefined> {
  const pause = new Pause()
  while (!interrupted.aborted) {
    try {
      return await contact(loaded)
    } catch (error) {
      if (!(error instanceof Fail) || error.code !== 'server-unreachable') throw error
      if (pause.begin()) log('warning', `archive: waits for the server: ${lineOf(error)}`)
    }
    await notifier.status('waits for the server')
    while (pause.isOn && !interrupted.aborted) await sleep(100)
  }
  return undefined
}

async function contact({ host }: LoadedHost): Promise<Contact> {
  const cluster = await requireCluster(host)
  const client = await openSession(cluster)
  try {
    const facts = await readFacts(client)
    assertMajor(facts.major)
    if (facts.walLevel === 'minimal') {
      throw new Fail('usage', 'the server writes too little into its WAL: wal_level is minimal', {
        hint: 'Set wal_level = "replica" in the host file: howdah provision apply',
      })
    }
    return { cluster, facts, state: await readState(client, archiveOf(host).slot) }
  } finally {
    await client.end()
  }
}

interface ServiceOptions {
  readonly places: ArchivePlaces
  readonly facts: ServerFacts
  readonly notifier: Notifier
  readonly timeline: number
}

/** The two things that go on at the same time: receiving, and shipping. */
class Service {
  readonly #scope: ArchiveScope
  readonly #options: ServiceOptions
  readonly #shipper: Shipper
  readonly #control: Control
  readonly #over = new AbortController()
  readonly #end = AbortSignal.any([interrupted, this.#over.signal])
  #failure: unknown
  #turn: Promise<unknown> = Promise.resolve()
  #reportedAt = performance.now()

  constructor(scope: ArchiveScope, options: ServiceOptions) {
    this.#scope = scope
    this.#options = options
    const { places, facts } = options
    const samples = new Samples()
    this.#shipper = new Shipper({
      spool: places.spool,
      wal: places.wal,
      expected: facts,
      samples,
      partialEvery: parseDuration(places.spec.partial_every)! * 1000,
      begin: () => this.#begin(),
      onGap: reportGap,
    })
    this.#control = new Control({
      places,
      facts,
      samples,
      shipper: this.#shipper,
      open: () => requireCluster(scope.loaded.host),
      exclusive: (body) => this.#exclusive(body),
    })
  }

  async run(): Promise<WalPosition | undefined> {
    log(
      'info',
      `archive: WAL of system ${this.#options.facts.systemIdentifier} goes to ${this.#options.places.store.url}/${this.#options.places.prefix}`,
    )
    await Promise.all([this.#receive(), this.#ship()])
    await this.#options.notifier.stopping()
    await this.#control.stop()
    if (this.#failure !== undefined) throw this.#failure
    await this.#shipLast()
    return this.#shipper.position
  }

  async #receive(): Promise<void> {
    while (!this.#end.aborted) {
      try {
        await this.#control.tick()
        await this.#options.notifier.status(this.#line())
        this.#report()
      } catch (error) {
        this.#fail(error)
      }
      await sleep(TICK_MILLISECONDS, undefined, { signal: this.#end }).catch(() => {})
    }
  }

  async #ship(): Promise<void> {
    const pause = new Pause()
    while (!this.#end.aborted) {
      try {
        if (!pause.isOn) {
          const received = this.#control.state?.received
          const { isLost } = this.#control
          const isOver = () => this.#end.aborted
          await this.#exclusive(() => this.#shipper.round({ received, isLost, isOver }))
          pause.end()
        }
      } catch (error) {
        if (isWrongWal(error)) this.#fail(error)
        else if (pause.begin()) log('error', `archive: cannot ship: ${lineOf(error)}`)
      }
      await sleep(SHIP_MILLISECONDS, undefined, { signal: this.#end }).catch(() => {})
    }
  }

  /** What the server has flushed until now shall be in the store; what is not stays in the spool. */
  async #shipLast(): Promise<void> {
    const deadline = performance.now() + LAST_MILLISECONDS
    try {
      await this.#shipper.round({
        received: this.#control.state?.received,
        isLost: this.#control.isLost,
        isLast: true,
        isOver: () => performance.now() > deadline,
      })
    } catch (error) {
      if (isWrongWal(error)) throw error
      log('error', `archive: cannot ship before the end, the spool keeps the rest: ${lineOf(error)}`)
    }
    log('info', `archive: stopped, ${this.#line()}`)
  }

  #fail(error: unknown): void {
    this.#failure ??= error
    this.#over.abort()
  }

  async #exclusive<T>(body: () => Promise<T>): Promise<T> {
    const before = this.#turn
    let done = () => {}
    this.#turn = new Promise<void>((resolve) => (done = resolve))
    try {
      await before
      return await body()
    } finally {
      done()
    }
  }

  /** The first look at the store, which may not be there when the service starts. */
  async #begin(): Promise<Beginning> {
    const { places, facts, timeline } = this.#options
    const { host } = this.#scope.loaded
    await claimOwnership(places.store, places.layout, {
      systemIdentifier: facts.systemIdentifier,
      timeline,
      hostId: await hostId(host.host.state_dir, places.access),
      state: { folder: host.host.state_dir, access: places.access },
      takeOver: this.#scope.takeOver,
    })
    return { position: await places.wal.readPosition(), newest: await this.#newestStored() }
  }

  /** Number of the newest segment of the server's timeline, or of one that it came from, before it left that. */
  async #newestStored(): Promise<bigint | undefined> {
    const { places, facts } = this.#options
    const client = await openSession(await requireCluster(this.#scope.loaded.host))
    try {
      const { timeline } = await readState(client, places.spec.slot)
      const history = await readHistory(client, timeline)
      const way = [...history, { timeline, switchLsn: undefined }].toReversed()
      for (const { timeline, switchLsn } of way) {
        const limit = switchLsn === undefined ? undefined : switchLsn / BigInt(facts.segmentSize)
        const { segments, partials } = await places.wal.list(timeline)
        const numberOf = (name: string) => segmentPlace(name, facts.segmentSize).number
        // One that is begun is still to come.
        const numbers = [...segments.map(numberOf), ...partials.map((name) => numberOf(name) - 1n)]
        const newest = numbers
          .filter((number) => limit === undefined || number < limit)
          .reduce((most, number) => (number > most ? number : most), -1n)
        if (newest >= 0n) return newest
      }
      return undefined
    } finally {
      await client.end()
    }
  }

  #line(): string {
    const position = this.#shipper.position
    const state = this.#control.state
    if (position === undefined) return 'nothing is stored yet'
    const behind = state === undefined ? 0n : state.lsn - parseLsn(position.lsn)!
    const lag =
      state === undefined
        ? 'the server is not seen'
        : `${formatSize(Number(behind < 0n ? 0n : behind))} behind`
    return `stored up to ${position.lsn} on timeline ${position.timeline}, ${lag}${state ? ` ${formatLsn(state.lsn)}` : ''}`
  }

  #report(): void {
    if (performance.now() - this.#reportedAt < REPORT_MILLISECONDS) return
    this.#reportedAt = performance.now()
    log('info', `archive: ${this.#line()}`)
  }
}

function reportGap({ from, to }: WalGap): void {
  log(
    'error',
    `archive: [wal-missing] the WAL from ${from} to ${to} was never stored: nothing in between can be restored. Take a backup of kind "base" now, which ends this alarm: howdah backup take JOB`,
  )
}
