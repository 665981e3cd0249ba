import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { makeVerifier } from '../cluster/scram.ts'
import { ident, literal } from '../cluster/sql.ts'
import { run } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { makeFolder, writeFileAtomic } from '../core/file.ts'
import { interrupted } from '../core/interrupt.ts'
import { readSecret } from '../core/secret.ts'
import { chmod, chown } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Change, Step } from './change.ts'
import { acceptWrites, signalReload, undoWrites, writeGuarded } from './guarded-write.ts'

/** What the executor works on. */
export interface Target {
  /** Looks for the cluster anew: a step may have made it. */
  open(): Promise<Cluster | undefined>
  readonly stateDir: string
  /** Called when a change is done for good. */
  readonly onDone?: (change: Change) => void
  /** Called before each step. */
  readonly onStep?: (step: Step) => Promise<void> | void
}

/**
 * Runs changes, one step after the other. Neighbouring SQL steps of one database that may share a
 * transaction do, so that many roles cost one commit and none is half-made.
 * @throws {Fail} `server-failed`, `command-failed`, `change-undone`, `file-unreadable`, `secret`
 */
export async function execute(changes: readonly Change[], target: Target): Promise<void> {
  await using run = new Execution(target)
  for (const change of changes) {
    for (const step of change.steps) {
      interrupted.throwIfAborted()
      await run.step(change, step)
    }
    run.ended(change)
  }
  await run.commit()
}

type Sql = Extract<Step, { run: 'sql' }>

const AGAIN = 'Look at what is left to do: howdah provision plan'

class Execution implements AsyncDisposable {
  readonly #target: Target
  readonly #sessions = new Map<string, Client>()
  #cluster: Cluster | undefined
  /** The database whose transaction is open, and the changes that end with it. */
  #open: { readonly database: string; readonly client: Client; isQuiet: boolean } | undefined
  #waiting: Change[] = []

  constructor(target: Target) {
    this.#target = target
  }

  async step(change: Change, step: Step): Promise<void> {
    const joins = step.run === 'sql' && step.transaction && this.#open?.database === step.database
    if (!joins) await this.commit()
    await this.#target.onStep?.(step)
    switch (step.run) {
      case 'sql':
        return this.#sql(change, step)
      case 'write':
        return this.#write(step)
      case 'folder': {
        const { uid, gid } = userId(step.owner)
        await makeFolder(step.path, { mode: step.mode, uid, gid })
        await chown(step.path, uid, gid)
        return chmod(step.path, step.mode)
      }
      case 'exec':
        await run(step.argv, { as: step.as, timeoutSeconds: 3600 })
        return
      case 'start':
        await (await this.#require()).start()
        this.#cluster = undefined // it may listen somewhere else now
        return
      case 'reload':
        return this.#reload()
      case 'restart':
        return this.#restart()
    }
  }

  /** Notes that a change is through, which becomes true with the transaction that it is part of. */
  ended(change: Change): void {
    this.#waiting.push(change)
    if (!this.#open) this.#report()
  }

  async commit(): Promise<void> {
    const open = this.#open
    this.#open = undefined
    // Commit point of every change in it.
    await open?.client.query('commit').catch((cause: unknown) => {
      throw new Fail('server-failed', `cannot commit the changes: ${messageOf(cause)}`, {
        hint: AGAIN,
        cause,
      })
    })
    this.#report()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#sessions.values()].map((client) => client.end()))
  }

  #report(): void {
    for (const change of this.#waiting.splice(0)) this.#target.onDone?.(change)
  }

  async #sql(change: Change, step: Sql): Promise<void> {
    // CREATE DATABASE from a template, a rename and a move refuse to run while anybody is connected.
    if (!step.transaction) await this.#endSessions(step.database)
    const client = await this.#session(step.database)
    try {
      if (step.transaction && !this.#open) {
        await client.query('begin')
        this.#open = { database: step.database, client, isQuiet: false }
      }
      await client.query(step.secret ? await this.#withVerifier(step.text, step.secret) : step.text)
    } catch (cause) {
      if (this.#open) await client.query('rollback').catch(() => {})
      this.#open = undefined
      if (cause instanceof Fail) throw cause
      const { hint, detail } = cause as { hint?: string; detail?: string }
      throw new Fail(
        'server-failed',
        `cannot ${change.action} ${change.kind} ${change.name}: ${messageOf(cause)}`,
        // The cause is left out where its text could quote the statement.
        { hint: hint ?? detail ?? AGAIN, ...(step.secret ? {} : { cause }) },
      )
    }
  }

  /** The clear text never leaves this process: the server gets a SCRAM verifier, and logs not even that. */
  async #withVerifier(text: string, secret: NonNullable<Sql['secret']>): Promise<string> {
    // Outside of a transaction nothing would keep the statement out of the server's log.
    if (!this.#open) throw new Fail('bug', `the password of ${secret.role} needs a transaction`)
    if (!this.#open.isQuiet) {
      await silence(this.#open.client)
      this.#open.isQuiet = true
    }
    const password = await readSecret(secret.ref)
    const verifier = await makeVerifier(password.reveal())
    return text.replace(/:verifier$/, () => literal(verifier)) // at the end, where no name can pass for it
  }

  async #write(step: Extract<Step, { run: 'write' }>): Promise<void> {
    const { uid, gid } = userId(step.owner)
    await makeFolder(dirname(step.path), { mode: 0o755, uid, gid })
    if (step.check) return writeGuarded(step, this.#target.stateDir, await this.#target.open())
    return writeFileAtomic(step.path, step.content, { mode: step.mode, uid, gid })
  }

  // pg_reload_conf() answers true even when the new files are refused, so what counts is that the
  // load time moves, and that a new connection is still let in.
  async #reload(): Promise<void> {
    const cluster = await this.#require()
    const client = await cluster.connect('postgres')
    try {
      const loadTime = async () =>
        (await client.query<{ at: string }>('select pg_conf_load_time()::text as at')).rows[0]!.at
      const before = await loadTime()
      await client.query('select pg_reload_conf()')
      for (const deadline = Date.now() + 10_000; (await loadTime()) === before; await sleep(10)) {
        if (Date.now() > deadline) {
          throw new Fail('server-failed', `${cluster.label} did not read its files again within 10 s`, {
            hint: 'Look at the server log: a file may be refused.',
          })
        }
      }
    } finally {
      await client.end()
    }
    await this.#probe(cluster)
    await acceptWrites(this.#target.stateDir)
  }

  async #probe(cluster: Cluster): Promise<void> {
    try {
      await (await cluster.connect('postgres')).end()
    } catch (cause) {
      const paths = await undoWrites(this.#target.stateDir)
      await signalReload(cluster)
      throw new Fail('change-undone', `after the reload no new connection was let in: ${messageOf(cause)}`, {
        hint: `Put back as it was: ${paths.join(', ')}. Correct the host file.`,
        cause,
      })
    }
  }

  async #restart(): Promise<void> {
    const cluster = await this.#require()
    this.#cluster = undefined
    await this.#endSessions()
    try {
      await cluster.restart()
    } catch (cause) {
      const paths = await undoWrites(this.#target.stateDir)
      if (paths.length === 0 || interrupted.aborted) throw cause
      if (!(await cluster.isRunning())) await cluster.start()
      throw new Fail(
        'change-undone',
        `${cluster.label} does not start with the new settings; it runs again with the old ones`,
        {
          hint: `${(cause as Fail).hint ?? messageOf(cause)}\nPut back as it was: ${paths.join(', ')}.`,
          cause,
        },
      )
    }
    await acceptWrites(this.#target.stateDir)
  }

  async #session(database: string): Promise<Client> {
    const known = this.#sessions.get(database)
    if (known) return known
    const client = await (await this.#require()).connect(database)
    // pg_catalog comes first all the same; public is where CREATE EXTENSION puts what names no schema.
    await client.query(
      `set search_path = public; set lock_timeout = '30s'; set client_min_messages = warning`,
    )
    this.#sessions.set(database, client)
    return client
  }

  async #endSessions(except?: string): Promise<void> {
    const ending = [...this.#sessions].filter(([database]) => database !== except)
    for (const [database] of ending) this.#sessions.delete(database)
    await Promise.allSettled(ending.map(([, client]) => client.end()))
  }

  async #require(): Promise<Cluster> {
    this.#cluster ??= await this.#target.open()
    if (this.#cluster) return this.#cluster
    throw new Fail('cluster-mismatch', 'there is no cluster to work on', {
      hint: 'Run: howdah provision apply',
    })
  }
}

// Each by itself and in a savepoint: a role that is no superuser may set only some of them, and the
// server logs a whole query string before it runs any part of it, so these must be earlier round trips.
const SILENCE = [
  ['log_statement', 'none'],
  ['log_min_duration_statement', '-1'],
  ['log_min_duration_sample', '-1'],
  ['log_transaction_sample_rate', '0'],
  ['log_min_error_statement', 'panic'],
  ['track_activities', 'off'],
  ['pg_stat_statements.track_utility', 'off'],
  ['debug_print_parse', 'off'],
  ['debug_print_rewritten', 'off'],
  ['debug_print_plan', 'off'],
  ['auto_explain.log_min_duration', '-1'],
  ['pgaudit.log', 'none'],
] as const

async function silence(client: Client): Promise<void> {
  for (const [name, value] of SILENCE) {
    await client.query('savepoint silence')
    const text = `set local ${name.split('.').map(ident).join('.')} = ${literal(value)}`
    await client.query(text).catch(() => client.query('rollback to savepoint silence'))
    await client.query('release savepoint silence')
  }
}
