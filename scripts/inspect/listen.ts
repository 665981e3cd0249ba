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
 * @throws {Fail} what a first connection throws
 */
export async function listen(listening: Listening): Promise<void> {
  const { signal, channel, cluster } = listening
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
      if (isFirst || !(error instanceof Fail) || error.code !== 'server-unreachable') throw error
    }
    const pause = PAUSES[Math.min(attempt, PAUSES.length - 1)]!
    attempt += 1
    await sleep(pause * 1000, undefined, { signal }).catch(() => {})
  }
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
    throw new Fail('server-unreachable', `cannot listen to ${channel}: ${messageOf(error)}`, { cause: error })
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
