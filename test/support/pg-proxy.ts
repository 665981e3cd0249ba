import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'

/** What a server would say instead of doing what a query asks for. */
export interface Refusal {
  /** SQLSTATE */
  readonly code: string
  readonly message: string
}

/** Stands between a client and a PostgreSQL server on TCP. */
export interface PgProxy extends AsyncDisposable {
  readonly port: number
  /** Text of every simple query that came, in order. */
  readonly queries: readonly string[]
}

/**
 * Starts a proxy that passes everything on, but for simple queries that `refuse` has an answer for: the
 * server never hears of those.
 * @param port of the server, on 127.0.0.1
 */
export async function startPgProxy(
  port: number,
  refuse: (query: string) => Refusal | undefined,
): Promise<PgProxy> {
  const queries: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = createConnection(port, '127.0.0.1')
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => {}).on('close', () => to.destroy())
    }
    upstream.pipe(client)
    client.on('data', (chunk: Buffer) => {
      const query = queryOf(chunk)
      if (query !== undefined) queries.push(query)
      const refusal = query === undefined ? undefined : refuse(query)
      if (refusal === undefined) upstream.write(chunk)
      else client.write(errorOf(refusal))
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    queries,
    async [Symbol.asyncDispose]() {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** The text of a Query message that a client has sent alone. */
function queryOf(chunk: Buffer): string | undefined {
  if (chunk.length < 6 || chunk[0] !== 0x51 || chunk.readInt32BE(1) !== chunk.length - 1) return undefined
  return chunk.toString('utf8', 5, chunk.length - 1)
}

/** ErrorResponse, and ReadyForQuery outside of a transaction (the manual's "Message Formats"). */
function errorOf({ code, message }: Refusal): Buffer {
  const fields = Buffer.from(`SERROR\0VERROR\0C${code}\0M${message}\0\0`)
  const head = Buffer.alloc(5)
  head[0] = 0x45
  head.writeInt32BE(fields.length + 4, 1)
  return Buffer.concat([head, fields, Buffer.from([0x5a, 0, 0, 0, 5, 0x49])])
}
