import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'

/** What happens to one HTTP request. */
export type Fault =
  /** The proxy answers itself; the server never hears of it. */
  | { readonly answer: number; readonly code: string; readonly message?: string }
  /** The connection is cut after so many bytes of the answer; 0: the server did it, and nobody is told. */
  | { readonly cutAnswer: number }
  /** The connection is cut after so many bytes of the request. */
  | { readonly cutRequest: number }
  /** Nothing of the request gets through, and the connection stays open. */
  | 'stall'
  /** So many bytes of the answer get through, then nothing more, and the connection stays open. */
  | { readonly stallAnswer: number }

/** A bad network, between a client and an HTTP server. */
export interface Proxy extends AsyncDisposable {
  readonly endpoint: string
  /** Head of every request that came, in order. */
  readonly requests: string[]
  /** Decides what happens to a request, by its head: its line and its headers. */
  fault: (head: string) => Fault | undefined
  /** From now on nobody can connect, and what stood is cut. */
  refuse(): Promise<void>
}

/** Faults for the next requests that match, one for each. */
export function nextFaults(pattern: RegExp, ...faults: readonly Fault[]): Proxy['fault'] {
  const left = [...faults]
  return (head) => (pattern.test(head) ? left.shift() : undefined)
}

/** Starts a proxy before an HTTP server, without faults. */
export async function startProxy(target: string): Promise<Proxy> {
  const sockets = new Set<Socket>()
  const add = (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    return socket
  }
  const server = createServer((client) => {
    const { hostname, port } = new URL(target)
    new Relay(add(client), add(createConnection(Number(port), hostname)), proxy).start()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const refuse = async () => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  }
  const proxy: Proxy = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: [],
    fault: () => undefined,
    refuse,
    [Symbol.asyncDispose]: refuse,
  }
  return proxy
}

/** One connection, with one request at a time on it. */
class Relay {
  private readonly client: Socket
  private readonly server: Socket
  private readonly proxy: Proxy
  private fault: Fault | undefined
  private up = 0
  private down = 0

  constructor(client: Socket, server: Socket, proxy: Proxy) {
    this.client = client
    this.server = server
    this.proxy = proxy
  }

  start(): void {
    const { client, server } = this
    client.on('data', (chunk: Buffer) => this.request(chunk)).on('close', () => server.destroy())
    server.on('data', (chunk: Buffer) => this.answer(chunk)).on('close', () => client.end())
    server.on('drain', () => client.resume())
    client.on('drain', () => server.resume())
  }

  private request(chunk: Buffer): void {
    if (/^(GET|HEAD|PUT|POST|DELETE) \//.test(chunk.toString('latin1', 0, 10))) this.begin(chunk)
    const { fault } = this
    if (fault === 'stall' || (fault && 'answer' in fault)) return
    this.up += chunk.length
    if (fault && 'cutRequest' in fault && this.up > fault.cutRequest) {
      const fits = chunk.length - (this.up - fault.cutRequest)
      this.server.write(chunk.subarray(0, Math.max(0, fits)), () => this.cut())
    } else if (!this.server.write(chunk)) {
      this.client.pause()
    }
  }

  /** A request begins with this chunk, and all of its head is in it. */
  private begin(chunk: Buffer): void {
    const [head = ''] = chunk.toString('latin1').split('\r\n\r\n', 1)
    this.proxy.requests.push(head)
    this.fault = this.proxy.fault(head)
    this.up = 0
    this.down = 0
    if (typeof this.fault !== 'object' || !('answer' in this.fault)) return
    const { answer, code, message = 'by the proxy' } = this.fault
    const body = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`
    const headers = `content-type: application/xml\r\ncontent-length: ${body.length}\r\nconnection: close`
    this.client.end(`HTTP/1.1 ${answer} ${code}\r\n${headers}\r\n\r\n${body}`)
  }

  private answer(chunk: Buffer): void {
    const { fault } = this
    const isContinue = chunk.toString('latin1', 0, 12) === 'HTTP/1.1 100'
    if (!isContinue) this.down += chunk.length
    const limit = limitOf(fault)
    if (isContinue || this.down <= limit) {
      if (!this.client.write(chunk)) this.server.pause()
      return
    }
    const fits = chunk.subarray(0, Math.max(0, chunk.length - (this.down - limit)))
    if (typeof fault === 'object' && 'cutAnswer' in fault) this.client.write(fits, () => this.cut())
    else this.client.write(fits)
  }

  private cut(): void {
    this.client.resetAndDestroy()
    this.server.destroy()
  }
}

function limitOf(fault: Fault | undefined): number {
  if (typeof fault !== 'object') return Infinity
  if ('cutAnswer' in fault) return fault.cutAnswer
  return 'stallAnswer' in fault ? fault.stallAnswer : Infinity
}
