import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { log } from '../../core/log.ts'
import { formatSize, parseSize } from '../../core/quantity.ts'
import { formatLsn, segmentPlace } from '../wal/segment.ts'
import type { ArchivePlaces } from './context.ts'
import { Pause } from '../../core/pause.ts'
import { type Receiver, startReceiver } from './receiver.ts'
import type { Samples } from './samples.ts'
import {
  dropSlot,
  makeSlot,
  oldestSegment,
  openSession,
  readFacts,
  readHistory,
  readState,
  type ServerFacts,
  type ServerState,
  type SlotState,
} from './server.ts'
import type { Shipper } from './ship.ts'
import { type SpoolContent, staleReason } from './spool.ts'

/** What a {@link Control} works with. */
export interface ControlOptions {
  readonly places: ArchivePlaces
  readonly facts: ServerFacts
  readonly samples: Samples
  readonly shipper: Shipper
  /** The cluster as it is now: a restart may have moved its port. */
  readonly open: () => Promise<Cluster>
  /** Runs what nobody may ship meanwhile. */
  readonly exclusive: <T>(body: () => Promise<T>) => Promise<T>
}

/** Watches the server and its slot, and keeps a receiver running. */
export class Control {
  readonly #options: ControlOptions
  readonly #serverPause = new Pause()
  readonly #receiverPause = new Pause()
  #client: Client | undefined
  #cluster: Cluster | undefined
  #receiver: Receiver | undefined
  #state: ServerState | undefined
  #isFull = false
  #isWarned = false
  #isSlotKnown = false

  constructor(options: ControlOptions) {
    this.#options = options
  }

  /** What was seen of the server last. */
  get state(): ServerState | undefined {
    return this.#state
  }

  /** One look at everything. What the server refuses is tried again, later and later. */
  async tick(): Promise<void> {
    if (this.#serverPause.isOn) return
    try {
      const client = await this.#session()
      const state = await readState(client, this.#options.places.spec.slot)
      this.#see(state)
      if (await this.#keepSlot(client, state.slot)) await this.#keepReceiver(client, state)
      this.#serverPause.end()
    } catch (error) {
      if (!(error instanceof Fail) || error.code === 'cluster-mismatch' || error.code === 'usage') throw error
      await this.#loseServer(error)
    }
  }

  /** Whether the server was there, and is gone, and the receiver has got the last of it. */
  get isLost(): boolean {
    return this.#state !== undefined && this.#client === undefined && !this.#isReceiving
  }

  get #isReceiving(): boolean {
    return this.#receiver !== undefined && this.#receiver.ended === undefined
  }

  /** Waits a little until the receiver has all that the server has flushed, then ends both sessions. */
  async stop(): Promise<void> {
    let isSeen = await this.#look()
    const wanted = this.#state?.lsn ?? 0n
    for (const deadline = Date.now() + 2000; isSeen && this.#isReceiving && Date.now() < deadline;) {
      if ((this.#state?.received ?? 0n) >= wanted) break
      await sleep(20)
      isSeen = await this.#look()
    }
    await this.#receiver?.stop()
    await this.#client?.end().catch(() => {})
  }

  async #look(): Promise<boolean> {
    try {
      if (this.#client) this.#see(await readState(this.#client, this.#options.places.spec.slot))
      return this.#client !== undefined
    } catch {
      return false // it is gone: nothing more will come
    }
  }

  #see(state: ServerState): void {
    // Between two receivers nobody says how far the last one was: what it said then is still true.
    const received = state.received ?? this.#state?.received
    this.#state = received === undefined ? state : { ...state, received }
    this.#options.samples.add(state.lsn, state.time)
  }

  async #session(): Promise<Client> {
    if (this.#client) return this.#client
    const cluster = await this.#options.open()
    const client = await openSession(cluster)
    const { systemIdentifier } = await readFacts(client)
    if (systemIdentifier !== this.#options.facts.systemIdentifier) {
      await client.end()
      throw new Fail(
        'cluster-mismatch',
        `the server has another system identifier now: ${systemIdentifier}`,
        {
          hint: 'Its data directory was replaced: start the service again.',
        },
      )
    }
    this.#client = client
    this.#cluster = cluster
    return client
  }

  async #loseServer(problem: Fail): Promise<void> {
    if (this.#serverPause.begin()) log('error', `archive: ${lineOf(problem)}`)
    await this.#client?.end().catch(() => {})
    this.#client = undefined
  }

  /** @returns whether the slot can be received from */
  async #keepSlot(client: Client, slot: SlotState | undefined): Promise<boolean> {
    const { spec, spool } = this.#options.places
    const name = `slot "${spec.slot}"`
    if (slot?.kind === 'logical') {
      throw new Fail('usage', `${name} is a logical one, of somebody else`, {
        hint: 'Name another one in archive.slot.',
      })
    }
    if (slot !== undefined && slot.walStatus !== 'lost') {
      this.#isSlotKnown = true
      if (slot.walStatus === 'unreserved' && !this.#isWarned)
        log('error', `archive: ${name} is about to lose WAL: its receiver is too far behind`)
      this.#isWarned = slot.walStatus === 'unreserved'
      return true
    }
    await this.#receiver?.stop()
    if (slot !== undefined) {
      log(
        'error',
        `archive: [wal-missing] the server has given up ${name}: it was too far behind max_slot_wal_keep_size. It is made again`,
      )
      await dropSlot(client, spec.slot)
    } else {
      const { segments, partials } = await spool.read()
      const wasThere = this.#isSlotKnown || segments.length + partials.length > 0
      if (wasThere)
        log('error', `archive: [wal-missing] ${name} was dropped, WAL may be lost. It is made again`)
      else log('notice', `archive: ${name} is made`)
    }
    await makeSlot(client, spec.slot)
    return false
  }

  async #keepReceiver(client: Client, state: ServerState): Promise<void> {
    const content = await this.#options.places.spool.read()
    this.#watchLimit(content)
    const receiver = this.#receiver
    if (receiver && !receiver.ended) {
      if (state.slot?.activePid != null) this.#receiverPause.end()
      if (this.#isFull) await receiver.stop()
      return
    }
    if (receiver?.ended) {
      this.#receiver = undefined
      const isNews = !this.#isFull && this.#receiverPause.begin()
      if (isNews) log('warning', `archive: pg_receivewal: ${receiver.ended.reason}`)
    }
    if (this.#isFull || this.#receiverPause.isOn || !(await this.#isSlotFree(state.slot))) return
    await this.#clearTheWay(client, state, content)
    const { places } = this.#options
    const { slot } = places.spec
    log(
      'info',
      `archive: receives on slot "${slot}", the server is at ${formatLsn(state.lsn)} on timeline ${state.timeline}`,
    )
    this.#receiver = startReceiver({
      cluster: this.#cluster!,
      slot,
      folder: places.spool.folder,
      pidFile: places.pidFile,
      access: places.access,
    })
  }

  /** Above the limit the slot holds the WAL, until the store has taken a quarter of what is here. */
  #watchLimit({ size }: SpoolContent): void {
    const { spec } = this.#options.places
    // What pg_receivewal needs to go on, and one more.
    const limit = Math.max(parseSize(spec.spool_limit)!, 4 * this.#options.facts.segmentSize)
    const isFull = size > (this.#isFull ? limit * 0.75 : limit)
    if (isFull && !this.#isFull)
      log(
        'error',
        `archive: the spool has ${formatSize(size)}, above its limit: receiving stops, the slot holds the WAL`,
      )
    if (!isFull && this.#isFull) log('notice', 'archive: the spool is below its limit: receiving goes on')
    this.#isFull = isFull
  }

  async #isSlotFree(slot: SlotState | undefined): Promise<boolean> {
    if (slot?.activePid == null) return true
    // The server takes a moment to see that a receiver is gone; anybody else's is not ours to end.
    if (this.#receiverPause.begin())
      log('warning', `archive: the slot is in use, by server process ${slot.activePid}: waiting`)
    return false
  }

  /** Sets a spool aside that cannot go on with what the server has. */
  async #clearTheWay(client: Client, state: ServerState, content: SpoolContent): Promise<void> {
    const { segmentSize } = this.#options.facts
    const history = await readHistory(client, state.timeline)
    const stale = staleReason(content, { ...state, history, segmentSize })
    if (stale !== undefined) {
      log('warning', `archive: the spool is of before the server was set back: ${stale}`)
      await this.#options.exclusive(() => this.#setAside())
      return
    }
    const last = [...content.segments, ...content.partials].sort().at(-1)
    const oldest = await oldestSegment(client)
    if (last === undefined || oldest === undefined) return
    const isWhole = content.segments.includes(last)
    const next = segmentPlace(last, segmentSize).number + (isWhole ? 1n : 0n)
    if (next >= segmentPlace(oldest, segmentSize).number) return
    // All of it first: what comes next does not follow it.
    await this.#options.exclusive(async () => {
      await this.#options.shipper.round({ received: this.#state?.received, isLast: true })
      await this.#setAside()
    })
    log('error', `archive: [wal-missing] the server no longer has the WAL after "${last}"`)
  }

  async #setAside(): Promise<void> {
    const aside = await this.#options.places.spool.setAside(new Date())
    this.#options.shipper.forget()
    log('warning', `archive: it is kept as "${aside}"; delete it when nobody needs it`)
  }
}

/** The text of a failure for the journal: one line. */
export function lineOf(error: unknown): string {
  const hint = error instanceof Fail && error.hint ? `: ${error.hint.split('\n').join(' ')}` : ''
  const code = error instanceof Fail ? `[${error.code}] ` : ''
  return code + messageOf(error) + hint
}
