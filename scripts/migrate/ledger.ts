import type { Client } from 'pg'
import { ident, literal } from '../cluster/sql.ts'
import { VERSION } from '../core/version.ts'
import type { Migration } from './file.ts'
import type { Applied } from './state.ts'

/** Where applied migrations are noted: in each database, so that a dump or an upgrade of it keeps them. */
export const LEDGER = 'howdah.migration'

/**
 * Makes the ledger where it is not there. It belongs to the superuser and nobody else may read it. It is on the disk
 * with the first commit after it that is.
 */
export async function makeLedger(client: Client): Promise<void> {
  await client.query(`
    begin; set local synchronous_commit = off;
    create schema if not exists howdah;
    create table if not exists ${LEDGER} (
      version numeric primary key,
      name text not null,
      state text not null check (state in ('started', 'applied', 'reverting')),
      serial bigint generated always as identity,
      up_checksum text not null,
      down_checksum text,
      applied_at timestamptz not null default clock_timestamp(),
      applied_by text not null default session_user,
      applied_with text not null
    );
    comment on table ${LEDGER} is 'migrations that were applied by howdah migrate';
    commit`)
}

/** All rows of the ledger, in the order in which they were applied; none where there is no ledger. */
export async function readLedger(client: Client): Promise<Applied[]> {
  const { rows: found } = await client.query<{ there: boolean }>(
    `select to_regclass('${LEDGER}') is not null as there`,
  )
  if (!found[0]!.there) return []
  const { rows } = await client.query<Applied>(`
    select version::text, name, state, up_checksum as "upChecksum", down_checksum as "downChecksum",
           serial::int, to_char(applied_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as "appliedAt",
           applied_by as "appliedBy"
      from ${LEDGER} order by serial`)
  return rows
}

/** Notes a migration. Pure. */
export function noteText(migration: Migration, state: Applied['state']): string {
  const { version, name, up, down } = migration
  const values = [version, name, state, up.checksum, down?.checksum, `howdah ${VERSION}`]
  const texts = values.map((value) => (value === undefined ? 'null' : literal(value)))
  return `insert into ${LEDGER} (version, name, state, up_checksum, down_checksum, applied_with) values (${texts.join(', ')})`
}

/** Says how a migration that is noted stands. Pure. */
export function stateText(version: string, state: Applied['state']): string {
  return `update ${LEDGER} set state = ${literal(state)}, applied_at = clock_timestamp() where version = ${literal(version)}`
}

/**
 * Fails when a migration is not noted any more. A run that was killed may go on in the server and take it back first;
 * this waits for its end, as long as `lock_timeout`. Pure.
 */
export function guardText(version: string): string {
  const message = `version ${version} was taken back meanwhile by another run`
  const body = `begin perform from ${LEDGER} where version = ${literal(version)} for update; if not found then raise exception using message = ${literal(message)}; end if; end`
  return `do ${literal(body)}; `
}

/** Forgets a migration. Pure. */
export function forgetText(version: string): string {
  return `delete from ${LEDGER} where version = ${literal(version)}`
}

/** The same where an application looks for its versions: a table with a column `version`. Pure. */
export function mirrorText(table: string | undefined, version: string, direction: 'up' | 'down'): string {
  if (table === undefined) return ''
  const name = table.split('.').map(ident).join('.')
  const number = BigInt(version)
  return direction === 'up'
    ? `insert into ${name} (version) values (${number}) on conflict do nothing`
    : `delete from ${name} where version = ${number}`
}

/** Makes the table of {@link mirrorText} where it is not there; it belongs to the application, which reads it. Pure. */
export function mirrorTableText(table: string, role: string | undefined): string {
  const name = table.split('.').map(ident).join('.')
  const owner = role === undefined ? '' : `alter table ${name} owner to ${ident(role)};`
  const make = `create table ${name} (version bigint primary key); ${owner}`
  return `do ${literal(`begin if to_regclass(${literal(name)}) is null then ${make} end if; end`)}`
}
