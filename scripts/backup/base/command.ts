import { type Connection, type Submittable } from 'pg'

/** Something that the server sends. */
export type Expectation =
  /** A row of one of the result sets, which are counted from 0. */
  | { readonly type: 'row'; readonly set: number; readonly fields: readonly (string | null)[] }
  /** A piece of a COPY. */
  | { readonly type: 'data'; readonly chunk: Buffer }
  /** The server waits for a COPY from here. */
  | { readonly type: 'copy-in' }

interface CopyConnection extends Connection {
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
}

/** Bytes that are kept before the server is held back, and below which it goes on. */
const HIGH_WATER = 8 * 1024 * 1024
const LOW_WATER = 2 * 1024 * 1024

/**
 * One command of the replication protocol, which pg's own query does not know: several result sets
 * with a COPY in their midst. What the server sends is queued, and the socket is paused when that is
 * too much, so memory does not grow with the size.
 */
export class ReplicationCommand implements Submittable {
  private readonly text: string
  private readonly queue: Expectation[] = []
  private queued = 0
  private sets = -1
  private isOver = false
  private isPaused = false
  private failure: Error | undefined
  private wake = () => {}
  private connection: CopyConnection | undefined

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
    this.connection.query(this.text)
  }

  handleRowDescription(): void {
    this.sets += 1
  }

  handleDataRow({ fields }: { fields: (string | null)[] }): void {
    this.put({ type: 'row', set: this.sets, fields })
  }

  handleCopyData({ chunk }: { chunk: Buffer }): void {
    // The parser uses its buffer again.
    this.put({ type: 'data', chunk: Buffer.from(chunk) })
    this.queued += chunk.length
    if (this.queued < HIGH_WATER || this.isPaused) return
    this.isPaused = true
    this.connection!.stream.pause()
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

  private put(event: Expectation): void {
    this.queue.push(event)
    this.wake()
  }

  private end(failure: Error | undefined): void {
    this.failure ??= failure
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
