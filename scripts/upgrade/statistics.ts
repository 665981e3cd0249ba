import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { withSession } from '../cluster/session.ts'
import { run } from '../core/exec.ts'
import { messageOf } from '../core/fail.ts'
import { interrupted } from '../core/interrupt.ts'

/**
 * Gives each table of one database that has no statistics a few, from a small sample: a new cluster opens with plans
 * that are not wild, and nobody waits for more. Columns that ask for more than the default wait for
 * {@link completeStatistics}, since they would make the sample of their table as large as they want it.
 */
export async function sketchStatistics(cluster: Cluster, database: string): Promise<void> {
  await withSession({ cluster, database, setup: SETUP }, async (client) => {
    const { rows } = await client.query<{ text: string }>(WITHOUT)
    for (let at = 0; at < rows.length; at += TOGETHER) {
      const texts = rows.slice(at, at + TOGETHER).map(({ text }) => text)
      await client.query(texts.join('; '))
    }
  })
}

const SETUP = `set search_path to pg_catalog; set statement_timeout to 0; set client_min_messages to error;
  set default_statistics_target to 1; set vacuum_cost_delay to 0`

/** One transaction each: the locks of more would not fit into the table of locks. */
const TOGETHER = 50

// The default target is -1 up to 16, and null from 17 on.
const WITHOUT = `
  select format('analyze %s (%s)', c.oid::regclass, string_agg(quote_ident(a.attname), ', ')) as text
  from pg_class c join pg_attribute a on a.attrelid = c.oid
  where c.relkind in ('r', 'm') and c.oid >= 16384 and c.relpersistence <> 't' and pg_relation_size(c.oid) > 0
    and a.attnum > 0 and not a.attisdropped and coalesce(a.attstattarget, -1) = -1
    and not exists (select from pg_statistic s where s.starelid = c.oid)
  group by c.oid order by c.oid`

/**
 * Makes statistics of everything, as autovacuum would in the end. From 18 on pg_upgrade brings those of the old cluster
 * over, and only what is missing is made. What keeps them from being made, such as an index whose function fails, keeps
 * nothing else waiting.
 * @param jobs sessions at once
 * @returns what people should know of it
 */
export async function completeStatistics(cluster: Cluster, jobs: number): Promise<string[]> {
  const missing = cluster.major >= 18 ? ['--missing-stats-only'] : []
  const { argv, env } = cluster.clientArguments('postgres')
  const place = argv.filter((word, at) => word !== '--dbname' && argv[at - 1] !== '--dbname')
  const options = ['--all', '--analyze-only', '--quiet', '--no-password', '--jobs', String(jobs), ...missing]
  try {
    await run([join(cluster.bindir, 'vacuumdb'), ...place, ...options], {
      as: cluster.osUser,
      env,
      timeoutSeconds: 86_400,
    })
    return []
  } catch (error) {
    interrupted.throwIfAborted()
    return [
      `not all statistics could be made: ${messageOf(error)}. Make them by: vacuumdb --all --analyze-only`,
    ]
  }
}
