import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { ident, literal } from '../cluster/sql.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'
import { log } from '../core/log.ts'
import { lineAt, type Migration, type Section } from './file.ts'
import type { Statement } from './statement.ts'
import { forgetText, guardText, mirrorText, noteText, stateText } from './ledger.ts'
import {
  beginText,
  cleanSession,
  endTransaction,
  isInTransaction,
  type RunOptions,
  sendText,
} from './session.ts'

/** One migration, in one direction. */
export interface Change {
  readonly migration: Migration
  readonly direction: 'up' | 'down'
}

/**
 * Runs one migration, and notes it in the ledger in the same transaction. One that must not run in a transaction
 * is noted as begun before, so that its death is seen.
 * @param attempt how often it was tried, with this time
 * @throws {Fail} `migration-failed`, with file, line and column; the database is as it was, or the ledger says
 *   that it is half-done
 */
export async function applyChange(
  client: Client,
  change: Change,
  options: RunOptions,
  attempt = 1,
): Promise<void> {
  const section = sectionOf(change)
  await (section.transaction
    ? inTransaction(client, change, options, attempt)
    : oneByOne(client, change, options))
  await cleanSession(client)
}

/** The SQL of a change, for people. Pure. */
export function sectionOf({ migration, direction }: Change): Section {
  return direction === 'up' ? migration.up : migration.down!
}

/**
 * A transaction of one change and of its row in the ledger, which the server runs in one round trip, and where the
 * migration's own text begins in it. Pure.
 */
export function changeText(
  change: Change,
  options: RunOptions,
): { readonly text: string; readonly begins: number } {
  const { migration, direction } = change
  const begin = beginText(options, direction === 'up' ? '' : guardText(migration.version))
  const note = direction === 'up' ? noteText(migration, 'applied') : forgetText(migration.version)
  const mirror = mirrorText(options.mirrorTable, migration.version, direction)
  const text = `${begin}${sectionOf(change).text}\n; reset role; ${mirror}; ${note}; commit;`
  return { text, begins: begin.length }
}

async function inTransaction(
  client: Client,
  change: Change,
  options: RunOptions,
  first: number,
): Promise<void> {
  const { text, begins } = changeText(change, options)
  for (let attempt = first; ; attempt++) {
    try {
      await sendText(client, text)
      return
    } catch (error) {
      await endTransaction(client)
      if (!isLockTimeout(error) || attempt >= options.tries) {
        const offset = offsetOf(text, error)
        throw failure(change, error, offset === undefined ? undefined : offset - begins)
      }
      await waitForLock(change, attempt + 1, options)
    }
  }
}

/** Waits before a change is tried again that did not get a lock. */
export async function waitForLock(
  { migration }: Change,
  attempt: number,
  { lockTimeout, tries }: RunOptions,
): Promise<void> {
  log('notice', `migrate: ${migration.file}: no lock within ${lockTimeout}, try ${attempt} of ${tries}`)
  await sleep(Math.min(attempt - 1, 10) * 500, undefined, { signal: interrupted })
}

async function oneByOne(client: Client, change: Change, options: RunOptions): Promise<void> {
  const { migration, direction } = change
  const section = sectionOf(change)
  const { version } = migration
  const before = await invalidIndexes(client)
  const note = direction === 'up' ? noteText(migration, 'started') : stateText(version, 'reverting')
  await client.query(`begin; ${direction === 'up' ? '' : guardText(version)}${note}; commit`)
  for (const [index, statement] of section.statements.entries()) {
    try {
      await runStatement(client, statement, { change, options })
    } catch (error) {
      const at = offsetOf(statement.text, error)
      const fail = failure(change, error, at === undefined ? undefined : at + statement.offset)
      const done =
        index === 0
          ? 'none of its statements is done'
          : `${index} of its ${section.statements.length} statements are done`
      throw new Fail(fail.code, `${fail.message}; ${done}`, {
        hint: `It ran outside of a transaction. Mend it, then: howdah migrate repair ${version} --as pending, or --as applied`,
        cause: error,
      })
    }
  }
  await client.query('reset role')
  const broken = (await invalidIndexes(client)).filter((name) => !before.includes(name))
  if (broken.length > 0) {
    throw new Fail('migration-failed', `${migration.file} left an invalid index: ${broken.join(', ')}`, {
      hint: `Drop it and try again: howdah migrate repair ${version} --as pending`,
    })
  }
  const mirror = mirrorText(options.mirrorTable, version, direction)
  const last = direction === 'up' ? stateText(version, 'applied') : forgetText(version)
  await client.query(`begin; ${mirror}; ${last}; commit`)
}

/**
 * Runs one statement outside of a transaction, and again when it does not get a lock. One that works concurrently
 * waits for every older transaction, keeps nobody waiting behind it, and leaves an invalid index when it is ended: it
 * has the time of all tries at once.
 */
async function runStatement(
  client: Client,
  { text, head }: Statement,
  { change, options }: Alone,
): Promise<void> {
  const isConcurrent = /\bconcurrently\b/.test(head)
  const milliseconds = Number.parseInt(options.lockTimeout, 10) * (isConcurrent ? options.tries : 1)
  const role = options.role === undefined ? 'reset role' : `set role ${ident(options.role)}`
  for (let attempt = isConcurrent ? options.tries : 1; ; attempt++) {
    try {
      await client.query(`set lock_timeout = ${milliseconds}; ${role}`)
      await sendText(client, text)
      return
    } catch (error) {
      if (!isLockTimeout(error) || attempt >= options.tries) throw error
      if (await isInTransaction(client)) throw error // that the file itself has begun
      await waitForLock(change, attempt + 1, options)
    }
  }
}

interface Alone {
  readonly change: Change
  readonly options: RunOptions
}

/** Indexes that a failed CREATE INDEX CONCURRENTLY left: no query uses them, and IF NOT EXISTS takes them for good. */
export async function invalidIndexes(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `select indexrelid::regclass::text as name from pg_index where not indisvalid order by 1`,
  )
  return rows.map(({ name }) => name)
}

/** Invalid indexes that statements of a migration make. */
export async function brokenIndexesOf(client: Client, { up }: Migration): Promise<string[]> {
  const named = up.statements.flatMap(({ text }) => {
    const found = INDEX_NAME.exec(text)?.[1]
    return found === undefined ? [] : [found]
  })
  const { rows } = await client.query<{ name: string }>(
    `select indexrelid::regclass::text as name from pg_index join pg_class on pg_class.oid = indexrelid
      where not indisvalid and relname = any(select (parse_ident(n))[cardinality(parse_ident(n))] from unnest($1::text[]) n)
      order by 1`,
    [named],
  )
  return rows.map(({ name }) => name)
}

const INDEX_NAME =
  /^create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?((?:"(?:[^"]|"")+"|[^\s"(]+))\s+on\b/i

/** Drops what a failed CREATE INDEX CONCURRENTLY of a migration left. @returns the names */
export async function dropInvalidIndexes(
  client: Client,
  migration: Migration,
  lockTimeout: string,
): Promise<string[]> {
  const left = await brokenIndexesOf(client, migration)
  await client.query(`set lock_timeout = '${lockTimeout}'`)
  for (const name of left) await client.query(`drop index concurrently ${name}`)
  return left
}

/** Whether a statement gave way to who held a lock. */
export function isLockTimeout(error: unknown): boolean {
  return (error as { code?: string }).code === '55P03'
}

interface ServerError {
  readonly position?: string
  readonly code?: string
  readonly detail?: string
  readonly hint?: string
}

/** Where in a text that was sent an error is, in UTF-16 units; the server counts characters, from 1. Pure. */
export function offsetOf(text: string, error: unknown): number | undefined {
  const { position } = error as ServerError
  if (position === undefined) return undefined
  let offset = 0
  for (let left = Number(position) - 1; left > 0 && offset < text.length; left--) {
    offset += text.codePointAt(offset)! > 0xff_ff ? 2 : 1
  }
  return offset
}

/**
 * What is told of a change that failed. Pure.
 * @param offset where in its section; behind the end of it: the end is what is wrong
 */
export function failure({ migration, direction }: Change, error: unknown, offset: number | undefined): Fail {
  const section = sectionOf({ migration, direction })
  const { code, detail, hint } = error as ServerError
  const at = offset === undefined ? undefined : Math.min(offset, section.text.trimEnd().length)
  const statement = at === undefined ? undefined : section.statements.findLast(({ offset }) => offset <= at)
  const place = at === undefined ? undefined : lineAt(section.text, at)
  const where =
    place === undefined
      ? migration.file
      : `${migration.file}:${section.line - 1 + place.line}:${place.column}`
  const message = `${where}: ${messageOf(error)}${code === undefined ? '' : ` (${code})`}`
  const lines = [detail, hint, statement && `in: ${excerpt(statement.text)}`].filter(Boolean)
  return new Fail('migration-failed', message, { hint: lines.join('\n') || undefined, cause: error })
}

function excerpt(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ')
  return line.length > 200 ? `${line.slice(0, 200)} ...` : line
}

/** A role that is there, to own what migrations make. @throws {Fail} `plan-impossible` */
export async function assertRole(client: Client, role: string | undefined): Promise<void> {
  if (role === undefined) return
  const { rowCount } = await client.query(`select from pg_roles where rolname = ${literal(role)}`)
  if (rowCount !== 0) return
  throw new Fail('plan-impossible', `there is no role "${role}" to run migrations as`, {
    hint: 'Run: howdah provision apply',
  })
}
