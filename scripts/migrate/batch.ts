import type { Client } from 'pg'
import { Fail } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import {
  applyChange,
  type Change,
  changeText,
  failure,
  isLockTimeout,
  offsetOf,
  sectionOf,
  waitForLock,
} from './apply.ts'
import { LEDGER } from './ledger.ts'
import {
  cancelling,
  cleanSession,
  CLEAN_TEXT,
  endTransaction,
  type MigrateSession,
  type RunOptions,
  sendText,
} from './session.ts'

// Enough that what the server does outweighs the way there and back.
const MESSAGE_CHANGES = 32
const MESSAGE_CHARACTERS = 64 * 1024

/**
 * Runs changes one after another, each in a transaction of its own together with its row in the ledger. Small ones
 * share a message to the server, and so the `now()` of its arrival.
 * @param onChange told of each before the message that it is in is sent
 * @throws {Fail} `migration-failed`; those before it are done
 */
export async function applyAll(
  session: MigrateSession,
  changes: readonly Change[],
  options: RunOptions,
  onChange: (change: Change) => void = () => {},
): Promise<void> {
  for (let rest = changes; rest.length > 0;) {
    interrupted.throwIfAborted()
    const together = rest.slice(0, sharedCount(rest))
    together.forEach(onChange)
    await (together.length > 1
      ? applyTogether(session, together, options)
      : applyAlone(session, together[0]!, options))
    rest = rest.slice(together.length)
  }
}

/** How many of the first changes fit into one message. Pure. */
export function sharedCount(changes: readonly Change[]): number {
  let characters = 0
  const end = changes.slice(0, MESSAGE_CHANGES).findIndex((change) => {
    const { transaction, text } = sectionOf(change)
    characters += text.length
    return !transaction || characters > MESSAGE_CHARACTERS
  })
  return end === -1 ? Math.min(changes.length, MESSAGE_CHANGES) : Math.max(end, 1)
}

async function applyAlone(session: MigrateSession, change: Change, options: RunOptions): Promise<void> {
  try {
    await cancelling(session, () => applyChange(session.client, change, options))
  } catch (error) {
    // What is half-done is told besides that this was asked to end.
    if (interrupted.aborted && !sectionOf(change).transaction && error instanceof Fail)
      log('error', `migrate: ${error.message}\nmigrate: hint: ${error.hint}`)
    interrupted.throwIfAborted()
    throw error
  }
}

async function applyTogether(
  session: MigrateSession,
  changes: readonly Change[],
  options: RunOptions,
): Promise<void> {
  const texts = changes.map((change) => changeText(change, options).text + CLEAN_TEXT)
  try {
    await cancelling(session, () => sendText(session.client, texts.join('')))
  } catch (error) {
    await endTransaction(session.client)
    await goOn(session, { changes, texts, error }, options)
  }
}

interface Broken {
  readonly changes: readonly Change[]
  readonly texts: readonly string[]
  readonly error: unknown
}

/** After a message that was not done to its end: the first of its transactions are. */
async function goOn(
  session: MigrateSession,
  { changes, texts, error }: Broken,
  options: RunOptions,
): Promise<void> {
  const { client } = session
  const done = await countDone(client, changes).catch(() => {
    throw lost(changes, error)
  })
  if (interrupted.aborted) return interrupted.throwIfAborted()
  if (done === changes.length) throw error
  await cleanSession(client)
  if (isLockTimeout(error) && options.tries > 1) {
    await waitForLock(changes[done]!, 2, options)
    await applyChange(client, changes[done]!, options, 2)
    return applyAll(session, changes.slice(done + 1), options)
  }
  const place = placeOf(texts, error)
  // The server parses all of a message before it runs any of it: what stands before an error of syntax was not run.
  if (place && place.index > done) await applyAll(session, changes.slice(done, place.index), options)
  const index = place?.index ?? done
  throw failure(changes[index]!, error, place && place.offset - changeText(changes[index]!, options).begins)
}

/** In which of the texts that were sent an error is, and where there. */
function placeOf(
  texts: readonly string[],
  error: unknown,
): { readonly index: number; readonly offset: number } | undefined {
  let offset = offsetOf(texts.join(''), error)
  if (offset === undefined) return undefined
  for (const [index, { length }] of texts.entries()) {
    if (offset < length) return { index, offset }
    offset -= length
  }
  return undefined
}

/** How many of the first changes have been committed, by the ledger. */
async function countDone(client: Client, changes: readonly Change[]): Promise<number> {
  const { rows } = await client.query<{ version: string }>(`select version::text from ${LEDGER}`)
  const noted = new Set(rows.map(({ version }) => BigInt(version)))
  const isDone = ({ migration, direction }: Change) =>
    noted.has(BigInt(migration.version)) === (direction === 'up')
  const end = changes.findIndex((change) => !isDone(change))
  return end === -1 ? changes.length : end
}

function lost(changes: readonly Change[], cause: unknown): Fail {
  const [first, last] = [changes[0]!, changes.at(-1)!].map(({ migration }) => migration.file)
  return new Fail('migration-failed', `the connection was lost between ${first} and ${last}`, {
    hint: 'Each of them is done, or not at all: howdah migrate status',
    cause,
  })
}
