import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { runScript, type ScriptResult } from './script.ts'
import { startServer, type TestServer } from './server.ts'

/** A server with a database `telemetry` of role `app`, and a folder of migrations. */
export interface Migrating extends AsyncDisposable {
  readonly server: TestServer
  /** Empties the database and the folder. */
  begin(): Promise<void>
  /** Writes a file; its name has no `.sql`. */
  put(name: string, up: string, options?: { down?: string; transaction?: false }): Promise<void>
  migrate(...args: readonly string[]): Promise<ScriptResult>
  /** The same, and something is done with the process once a query waits: for what a word names, or with it in its text. */
  migrateUntil(
    args: readonly string[],
    word: string,
    body: (pid: number) => Promise<void> | void,
  ): Promise<ScriptResult>
  query<Row extends object>(text: string): Promise<Row[]>
  /** Until a session waits for what a word names, or with it in its text, of which the server shows 1 kB. */
  waitFor(word: string): Promise<void>
}

/** Starts it; tries of a lock: two, of 200 ms. */
export async function openMigrating(): Promise<Migrating> {
  const server = await startServer()
  const dir = join(server.dir, 'migrations')
  const file = join(server.dir, 'host.toml')
  await server.query('postgres', 'create role app')
  const tables =
    '[databases.telemetry]\nowner = "app"\n[databases.telemetry.migrations]\ndir = "migrations"\n'
  await writeFile(file, `${server.header}\n${tables}lock_timeout = "200ms"\ntries = 2\n`)
  const waits = `select from pg_stat_activity where wait_event_type in ('Lock', 'Timeout') and $1 in (wait_event, substr(query, strpos(query, $1), length($1)))`
  const waitFor = async (word: string) => {
    while ((await server.query('postgres', waits, [word])).length === 0) await sleep(20)
  }
  return {
    server,
    async begin() {
      await rm(dir, { recursive: true, force: true })
      await mkdir(dir)
      await server.query('postgres', 'drop database if exists telemetry with (force)')
      await server.query('postgres', 'create database telemetry owner app')
    },
    async put(name, up, { down, transaction } = {}) {
      const head = transaction === false ? '-- migrate:up transaction:false' : '-- migrate:up'
      const back = down === undefined ? '' : `-- migrate:down\n${down}\n`
      await writeFile(join(dir, `${name}.sql`), `${head}\n${up}\n${back}`)
    },
    migrate: (...args) => runScript(['migrate', ...args, '-c', file]),
    migrateUntil: (args, word, body) => {
      let told: Promise<void> | undefined
      const done = runScript(['migrate', ...args, '-c', file], {
        onStart: (pid) => {
          told = waitFor(word).then(() => body(pid))
        },
      })
      return done.finally(() => told)
    },
    query: (text) => server.query('telemetry', text),
    waitFor,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}
