import type { Connection, Submittable } from 'pg'
import { type CopySink, divertCopyData } from './divert.ts'

/** Something that the server sends. */
export type Expectation =
  /** A row of one of the result sets, which are counted from 0. */
  | { readonly type: 'row'; readonly set: number; readonly fields: readonly (string | null)[] }
  /** A piece of the data within a COPY; the server's own pieces are smaller. */
  | { readonly type: 'data'; readonly chunk: Buffer }
  /** Another message within a COPY: the byte that says which one, and the rest of it. */
  | { readonly type: 'message'; readonly code: number; readonly body: Buffer }
  /** The server waits for a COPY from here. */
  | { readonly type: 'copy-in' }

interface CopyConnection extends Connection {
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
}

/** Bytes that are kept before the server is held back, and below which it goes on. */
const HIGH_WATER = 4 * 1024 * 1024
const LOW_WATER = 1024 * 1024

/** The pieces of data that are handed on. */
const PIECE_BYTES = 256 * 1024

/** SQLSTATE data_corrupted: the last word after a backup whose pages have wrong checksums (basebackup.c, perform_base_backup). */
export const DATA_CORRUPTED = 'XX001'

/** Within a COPY of typed messages: data (the manual's "Streaming Replication Protocol", BASE_BACKUP). */
const DATA = 0x64 // d

/**
 * One command of the replication protocol, which pg's own query does not know: several result sets
 * with a COPY in their midst. What the server sends is queued, and the socket is paused when that is
 * too much, so memory does not grow with the size.
 */
export class ReplicationCommand implements Submittable, CopySink {
  private readonly text: string
  private readonly queue: Expectation[] = []
  private queued = 0
  private sets = -1
  private isOver = false
  private isPaused = false
  private failure: Error | undefined
  private wake = () => {}
  private connection: CopyConnection | undefined
  private undivert = () => {}
  private piece: Buffer | undefined // that is being filled
  private readonly free: Buffer[] = []
  private filled = 0
  private code: number | undefined // of the message of which a part was seen
  private body: Buffer[] = []

  constructor(text: string) {
    this.text = text
  }

  /** What comes next; undefined at the end of the command. @throws what the server refuses */
  async next(): Promise<Expectation | undefined> {
    while (this.queue.length === 0 && !this.isOver)
      await new Promise<void>((resolve) => (this.wake = resolve))
    const event = this.queue.shift()
    if (event === undefined) {
      if (this.failure) throw this.failure
      return undefined
    }
    if (event.type === 'data') this.taken(event.chunk.length)
    return event
  }

  /**
   * Takes back a piece of data that is used up: what is thrown away is not free before somebody collects
   * it. A short one, the last of its file, may still be on its way into a program.
   */
  giveBack(chunk: Buffer): void {
    if (chunk.length === PIECE_BYTES) this.free.push(chunk)
  }

  /** Takes what comes until something holds. @throws when the command ends before */
  async until(isIt: (event: Expectation) => boolean): Promise<void> {
    for (;;) {
      const event = await this.next()
      if (event === undefined) throw new Error('the server ended a replication command too early')
      if (isIt(event)) return
    }
  }

  /** Sends a COPY to the server. */
  async send(source: AsyncIterable<Buffer>): Promise<void> {
    const connection = this.connection!
    for await (const chunk of source) {
      connection.sendCopyFromChunk(chunk)
      if (!connection.stream.writableNeedDrain) continue
      await new Promise<void>((resolve) => connection.stream.once('drain', resolve))
    }
    connection.endCopyFrom()
  }

  // What follows is called by pg's client.

  submit(connection: Connection): void {
    this.connection = connection as CopyConnection
    this.undivert = divertCopyData(this.connection.stream, this)
    this.connection.query(this.text)
  }

  part(bytes: Buffer, isLast: boolean): void {
    const isFirst = this.code === undefined
    const code = (this.code ??= bytes[0]!)
    const rest = isFirst ? bytes.subarray(1) : bytes
    if (code === DATA) this.fill(rest)
    else this.body.push(Buffer.from(rest)) // the bytes that came are not ours to keep
    if (!isLast) return
    this.code = undefined
    if (code === DATA) return
    this.put({ type: 'message', code, body: Buffer.concat(this.body) })
    this.body = []
  }

  handleRowDescription(): void {
    this.sets += 1
  }

  handleDataRow({ fields }: { fields: (string | null)[] }): void {
    this.put({ type: 'row', set: this.sets, fields })
  }

  handleCopyInResponse(): void {
    this.put({ type: 'copy-in' })
  }

  handleCommandComplete(): void {}

  handleEmptyQuery(): void {}

  handlePortalSuspended(): void {}

  handleReadyForQuery(): void {
    this.end(undefined)
  }

  handleError(error: Error): void {
    this.end(error)
  }

  private fill(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      this.piece ??= this.free.pop() ?? Buffer.allocUnsafeSlow(PIECE_BYTES)
      const count = bytes.copy(this.piece, this.filled, at)
      at += count
      this.filled += count
      if (this.filled === PIECE_BYTES) this.flush()
    }
  }

  private flush(): void {
    if (this.piece === undefined || this.filled === 0) return
    const chunk = this.piece.subarray(0, this.filled)
    this.piece = undefined
    this.filled = 0
    this.queued += chunk.length
    this.queue.push({ type: 'data', chunk })
    this.wake()
    if (this.queued < HIGH_WATER || this.isPaused) return
    this.isPaused = true
    this.connection!.stream.pause()
  }

  private put(event: Expectation): void {
    this.flush()
    this.queue.push(event)
    this.wake()
  }

  private end(failure: Error | undefined): void {
    if (this.isOver) return
    this.flush()
    this.undivert()
    this.failure = failure
    // What the server could not go on with is of no use; wrong checksums it tells when all is sent.
    if (failure && (failure as { code?: string }).code !== DATA_CORRUPTED) this.queue.length = 0
    this.isOver = true
    this.wake()
  }

  private taken(bytes: number): void {
    this.queued -= bytes
    if (!this.isPaused || this.queued > LOW_WATER) return
    this.isPaused = false
    this.connection!.stream.resume()
  }
}
