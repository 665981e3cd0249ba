import { setTimeout as sleep } from 'node:timers/promises'
import type { Client, Notification } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { ident } from '../cluster/sql.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'

/** What is listened to, and until when. */
export interface Listening {
  readonly cluster: Cluster
  readonly database: string
  readonly channel: string
  /** Ends it, which is no failure. */
  readonly signal: AbortSignal
  readonly onNotification: (heard: Heard) => void
}

/** One notification. */
export interface Heard {
  /** When it arrived. */
  readonly at: Date
  readonly channel: string
  readonly payload: string
  /** Process id of the server that sent it. */
  readonly pid: number
}

/** Seconds before each further attempt to connect; the last one again and again. */
const PAUSES = [0.2, 0.5, 1, 2, 5, 10] as const
/** A connection that is dead and does not say so is found out by asking, in seconds. */
const PROBE = 30

/**
 * Hears the notifications of a channel until it is ended. A connection that is lost is made again, and what was
 * notified meanwhile is lost with it: PostgreSQL keeps a notification for nobody who does not listen (NOTIFY).
 * A pool of transactions (pgBouncer) gives the session to somebody else after the LISTEN: nothing is heard by it.
 * @throws {Fail} `usage` for a name that no channel has, and what a connection throws that later attempts do not mend
 */
export async function listen(listening: Listening): Promise<void> {
  const { signal, channel, cluster } = listening
  assertChannel(channel)
  for (let attempt = 0, isFirst = true; !signal.aborted;) {
    try {
      const client = await begin(listening)
      log(
        'notice',
        `inspect: listens to ${channel}${isFirst ? '' : ' again; what was notified meanwhile is lost'}`,
      )
      isFirst = false
      attempt = 0
      const why = await untilLost(client, signal)
      if (why === undefined) return
      log('warning', `inspect: lost the connection to ${cluster.label}: ${why}`)
    } catch (error) {
      if (isFirst || !passes(error)) throw error
    }
    const pause = PAUSES[Math.min(attempt, PAUSES.length - 1)]!
    attempt += 1
    await sleep(pause * 1000, undefined, { signal }).catch(() => {})
  }
}

/** PostgreSQL cuts a longer name off (NAMEDATALEN, src/include/pg_config_manual.h), and another channel would be heard. */
const NAME_BYTES = 63

function assertChannel(channel: string): void {
  const bytes = Buffer.byteLength(channel)
  if (bytes > 0 && bytes <= NAME_BYTES) return
  throw new Fail('usage', `the name of a channel has 1 to ${NAME_BYTES} bytes, this one has ${bytes}`)
}

/** By SQLSTATE: it is shutting down, or every connection is in use, as when all come back after a restart. */
const PASSING: ReadonlySet<string> = new Set(['57P01', '57P02', '57P03', '53300'])

function passes(error: unknown): boolean {
  if (!(error instanceof Fail)) return false
  const { code } = (error.cause ?? {}) as { code?: string }
  return error.code === 'server-unreachable' || PASSING.has(code ?? '')
}

async function begin({ cluster, database, channel, onNotification }: Listening): Promise<Client> {
  const client = await cluster.connect(database, { applicationName: `howdah listen ${channel}` })
  client.on('notification', ({ channel, payload, processId }: Notification) =>
    onNotification({ at: new Date(), channel, payload: payload ?? '', pid: processId }),
  )
  try {
    await client.query(`listen ${ident(channel)}`)
    return client
  } catch (error) {
    await client.end().catch(() => {})
    const isRefused = (error as { severity?: string }).severity !== undefined
    throw new Fail(
      isRefused ? 'server-failed' : 'server-unreachable',
      `cannot listen to ${channel}: ${messageOf(error)}`,
      { cause: error },
    )
  }
}

/** @returns why it is lost; undefined when it was ended on purpose */
async function untilLost(client: Client, signal: AbortSignal): Promise<string | undefined> {
  const lost = Promise.withResolvers<string | undefined>()
  client.once('error', (error) => lost.resolve(messageOf(error)))
  client.once('end', () => lost.resolve('the server has closed it'))
  const end = () => lost.resolve(undefined)
  signal.addEventListener('abort', end, { once: true })
  if (signal.aborted) end()
  const probe = setInterval(() => {
    client.query('select').catch((error: unknown) => lost.resolve(messageOf(error)))
  }, PROBE * 1000)
  try {
    return await lost.promise
  } finally {
    clearInterval(probe)
    signal.removeEventListener('abort', end)
    await client.end().catch(() => {})
  }
}
