import type { Client, Connection, Submittable } from 'pg'

interface CopyConnection extends Connection {
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
  sendCopyFail(message: string): void
}

/**
 * Sends rows to a `COPY ... FROM STDIN`, at the pace of the server.
 * @param source in the format that the statement names; its error takes the COPY back, and is thrown as it is
 * @returns how many rows the server took
 * @throws what the server refuses
 */
export async function copyIn(
  client: Client,
  statement: string,
  source: AsyncIterable<Buffer>,
): Promise<number> {
  const command = new CopyCommand(statement)
  client.query(command)
  return command.send(source)
}

/** One COPY, which pg's own query does not know (the manual's "COPY Operations" of the protocol). */
class CopyCommand implements Submittable {
  private readonly statement: string
  private readonly ready = Promise.withResolvers<CopyConnection>()
  private readonly over = Promise.withResolvers<void>()
  private connection: CopyConnection | undefined
  private isOver = false
  private rows = 0

  constructor(statement: string) {
    this.statement = statement
    for (const { promise } of [this.ready, this.over]) promise.catch(() => {}) // thrown by whoever awaits it
  }

  async send(source: AsyncIterable<Buffer>): Promise<number> {
    const connection = await this.ready.promise
    try {
      for await (const chunk of source) {
        if (this.isOver) break // refused, or the connection is lost
        connection.sendCopyFromChunk(chunk)
        if (connection.stream.writableNeedDrain) await Promise.race([drained(connection), this.over.promise])
      }
      if (!this.isOver) connection.endCopyFrom()
    } catch (error) {
      if (!this.isOver) connection.sendCopyFail('the source of the rows failed')
      await this.over.promise.catch(() => {})
      throw error
    }
    await this.over.promise
    return this.rows
  }

  // What follows is called by pg's client.

  submit(connection: Connection): void {
    this.connection = connection as CopyConnection
    this.connection.query(this.statement)
  }

  handleCopyInResponse(): void {
    this.ready.resolve(this.connection!)
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.rows = Number(/\d+$/.exec(text)?.[0] ?? 0)
  }

  handleRowDescription(): void {}

  handleDataRow(): void {}

  handleEmptyQuery(): void {}

  handlePortalSuspended(): void {}

  handleReadyForQuery(): void {
    this.isOver = true
    this.over.resolve()
  }

  handleError(error: Error): void {
    this.isOver = true
    this.ready.reject(error)
    this.over.reject(error)
  }
}

async function drained({ stream }: CopyConnection): Promise<void> {
  await new Promise<void>((resolve) => stream.once('drain', resolve))
}
