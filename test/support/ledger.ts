import type { Client } from 'pg'
import type { TestServer } from './server.ts'

/** A moment between two commits of a ledger. */
export interface Mark {
  /** The server's time, ISO with microseconds and offset. */
  readonly time: string
  /** Where the server's WAL ended. */
  readonly lsn: string
  /** How many rows were committed before it: 1 to this number, each of them once. */
  readonly rows: number
}

/** Rows that a server has said it has committed, counted outside of it. */
export interface Ledger {
  /** Commits rows, each in a transaction of its own. */
  commit(count: number): Promise<void>
  /** A moment: all rows so far were committed before it, and all later ones will be after it. */
  mark(): Promise<Mark>
}

/** Makes the table `ledger` in a database. Its content is what is proven after a recovery. */
export async function beginLedger(server: TestServer, database: string): Promise<Ledger> {
  await server.query(database, 'create table ledger (n bigint primary key, filling text not null)')
  let rows = 0
  const inSession = <T>(body: (client: Client) => Promise<T>) => server.withClient(database, body)
  return {
    commit: (count) =>
      inSession(async (client) => {
        for (let done = 0; done < count; done++) {
          await client.query(
            `insert into ledger select $1::bigint, string_agg(md5($1::bigint::text || i), '') from generate_series(1, 20) i`,
            [rows + 1],
          )
          rows += 1
        }
      }),
    mark: () =>
      inSession(async (client) => {
        // The clock moves on before and after: a target is compared with the time of commits.
        await client.query('select pg_sleep(0.002)')
        const { rows: found } = await client.query<{ time: string; lsn: string }>(
          `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as time,
                  pg_current_wal_insert_lsn()::text as lsn`,
        )
        await client.query('select pg_sleep(0.002)')
        return { ...found[0]!, rows }
      }),
  }
}

/** What is wrong with a ledger in a database that should have these rows and no other ones: nothing, or a line. */
export const LEDGER_FAULT = (rows: number): string => `
  select case
    when count(*) = ${rows} and coalesce(min(n), 1) = 1 and coalesce(max(n), 0) = ${rows}
      and bool_and(filling = (select string_agg(md5(n::text || i), '') from generate_series(1, 20) i)) is not false
    then '' else count(*) || ' rows, ' || coalesce(max(n), 0) || ' is the last, ${rows} were committed' end as fault
  from ledger`
