import type { Client } from 'pg'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { type HistoryLine, historyName, parseHistory, parseLsn } from '../wal/segment.ts'

/** What never changes while a server is the same one. */
export interface ServerFacts {
  readonly systemIdentifier: string
  readonly major: number
  /** `15.18 (Debian 15.18-0+deb12u1)` */
  readonly version: string
  /** Bytes. */
  readonly segmentSize: number
  readonly walLevel: string
}

/** A server's WAL and slot at one moment. */
export interface ServerState {
  readonly timeline: number
  /** The end of the flushed WAL. */
  readonly lsn: bigint
  /** By the server's clock, ISO. */
  readonly time: string
  readonly slot: SlotState | undefined
  /** How far the receiver on the slot has flushed what it got; undefined while there is none. */
  readonly received: bigint | undefined
}

/** A replication slot. */
export interface SlotState {
  readonly kind: 'physical' | 'logical'
  /** `reserved`, `extended`, `unreserved`, `lost`; null for one that reserves nothing. */
  readonly walStatus: string | null
  readonly restartLsn: bigint | null
  /** The server process that sends to its receiver. */
  readonly activePid: number | null
  /** Bytes that can be written before it is in danger; null without max_slot_wal_keep_size. */
  readonly safeBytes: number | null
}

/** One session with the server, for as long as the service runs. */
export async function openSession(cluster: Cluster): Promise<Client> {
  const client = await cluster.connect('postgres', { applicationName: 'howdah archive' })
  try {
    await client.query(`set statement_timeout = '30s'; set search_path = pg_catalog`)
    return client
  } catch (error) {
    await client.end().catch(() => {})
    throw serverFail(error)
  }
}

/** @throws {Fail} `server-failed`, `server-unreachable` */
export async function readFacts(client: Client): Promise<ServerFacts> {
  const { rows } = await answered(
    client.query<{ facts: ServerFacts }>(`select json_build_object(
       'systemIdentifier', (select system_identifier::text from pg_control_system()),
       'major', current_setting('server_version_num')::int / 10000,
       'version', current_setting('server_version'),
       'segmentSize', (select setting::bigint from pg_settings where name = 'wal_segment_size'),
       'walLevel', current_setting('wal_level')) as facts`),
  )
  return rows[0]!.facts
}

/** @throws {Fail} `server-failed`, `server-unreachable` */
export async function readState(client: Client, slot: string): Promise<ServerState> {
  // The receiver's position is read before the server's end: it can never seem to be ahead. On a
  // primary the control file's timeline is that of its last checkpoint, so a WAL file's name is asked.
  const { rows } = await answered(
    client.query<{
      row: {
        time: string
        timeline: number
        lsn: string
        received: string | null
        slot: {
          kind: 'physical' | 'logical'
          walStatus: string | null
          restartLsn: string | null
          activePid: number | null
          safeBytes: number | null
        } | null
      }
    }>(
      `with slot as materialized (
       select s.*, r.flush_lsn from pg_replication_slots s
       left join pg_stat_replication r on r.pid = s.active_pid where s.slot_name = $1)
     select json_build_object(
       'received', (select flush_lsn::text from slot),
       'slot', (select json_build_object('kind', slot_type, 'walStatus', wal_status, 'restartLsn', restart_lsn::text,
                  'activePid', active_pid, 'safeBytes', safe_wal_size) from slot),
       'time', to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       'lsn', case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_flush_lsn() end::text,
       'timeline', case when pg_is_in_recovery() then (select timeline_id from pg_control_checkpoint())
         else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end) as row`,
      [slot],
    ),
  )
  const { row } = rows[0]!
  return {
    timeline: row.timeline,
    lsn: parseLsn(row.lsn ?? '0/0')!,
    time: row.time,
    received: row.received === null ? undefined : parseLsn(row.received),
    slot: row.slot
      ? { ...row.slot, restartLsn: row.slot.restartLsn === null ? null : parseLsn(row.slot.restartLsn)! }
      : undefined,
  }
}

/** The history of the server's timeline; nothing for the first one. */
export async function readHistory(client: Client, timeline: number): Promise<HistoryLine[]> {
  if (timeline === 1) return []
  const { rows } = await answered(
    client.query<{ text: string | null }>('select pg_read_file($1, 0, 1000000, true) as text', [
      `pg_wal/${historyName(timeline)}`,
    ]),
  )
  return parseHistory(rows[0]?.text ?? '')
}

/** The oldest segment that the server still has, as its number is found by its name. */
export async function oldestSegment(client: Client): Promise<string | undefined> {
  // The number, not the timeline, says how old it is.
  const { rows } = await answered(
    client.query<{ name: string }>(
      `select name from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$' order by substr(name, 9), name limit 1`,
    ),
  )
  return rows[0]?.name
}

/**
 * Makes the slot, with WAL reserved from its first moment: one that pg_receivewal makes reserves
 * nothing until it has received something.
 * @throws {Fail} `server-failed`
 */
export async function makeSlot(client: Client, slot: string): Promise<void> {
  await answered(client.query('select pg_create_physical_replication_slot($1, true)', [slot]))
}

/** @throws {Fail} `server-failed` */
export async function dropSlot(client: Client, slot: string): Promise<void> {
  await answered(client.query('select pg_drop_replication_slot($1)', [slot]))
}

async function answered<T>(asked: Promise<T>): Promise<T> {
  try {
    return await asked
  } catch (error) {
    throw serverFail(error)
  }
}

function serverFail(error: unknown): unknown {
  if (error instanceof Fail) return error
  const { code, hint } = error as { code?: unknown; hint?: string }
  const isStatement = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !/^(57P|08)/.test(code)
  return new Fail(
    isStatement ? 'server-failed' : 'server-unreachable',
    isStatement
      ? `the server refuses a statement: ${messageOf(error)}`
      : `the server does not answer: ${messageOf(error)}`,
    { hint, cause: error },
  )
}
