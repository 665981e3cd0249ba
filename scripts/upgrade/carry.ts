import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import type { Cluster } from '../cluster/cluster.ts'
import { userId } from '../cluster/connect.ts'
import { WAITING } from '../cluster/restricted.ts'
import { withSession } from '../cluster/session.ts'
import { Fail } from '../core/fail.ts'
import { readText, writeFileAtomic } from '../core/file.ts'
import { type ConfLine, renderConf } from '../host/conf.ts'
import type { Host } from '../host/schema.ts'

const SETUP = 'set search_path to pg_catalog; set statement_timeout to 0'

/** Of the old cluster: what its files say beyond what the host file will say again. */
export interface Custom {
  /** The last word on each setting, as the server took it. */
  readonly settings: readonly ConfLine[]
  readonly hba: string
  readonly ident: string
  /** Rules as the server reads them, for comparison. */
  readonly rules: readonly string[]
}

/** What became of the settings of the old cluster. */
export interface Carried {
  readonly settings: readonly ConfLine[]
  /** Settings that the new major does not have, with what is to be known of each. */
  readonly dropped: readonly string[]
}

/** Reads what people, and other programs than Howdah, have set in a running cluster. */
export async function customOf(cluster: Cluster, host: Host): Promise<Custom> {
  return withSession({ cluster, database: 'postgres', setup: SETUP }, async (client) => {
    const { rows } = await client.query<ConfLine & { file: string }>(SETTINGS)
    const isRendered = host.settings !== undefined || host.postgres.tune !== undefined
    const own = join(cluster.configDir, 'conf.d/90-howdah.conf')
    const { rows: files } = await client.query<{ hba: string; ident: string }>(
      `select current_setting('hba_file') as hba, current_setting('ident_file') as ident`,
    )
    const { rows: rules } = await client.query<{ rule: string }>(RULES)
    return {
      settings: rows
        .filter(
          ({ file, name, value }) => !(isRendered && file === own) && !isOfPlace({ name, value }, cluster),
        )
        .map(({ name, value }) => ({ name, value })),
      hba: await readText(files[0]!.hba),
      ident: await readText(files[0]!.ident),
      rules: rules.map(({ rule }) => rule),
    }
  })
}

// The last of several lines counts; those that are not applied are of earlier ones, or wrong.
const SETTINGS = `
  select lower(name) as name, coalesce(setting, '') as value, sourcefile as file from pg_file_settings where applied order by seqno`

const RULES = `
  select concat_ws(' ', type, database::text, user_name::text, address, netmask, auth_method, options::text) as rule
  from pg_hba_file_rules order by line_number`

/** What says where a cluster is, which the new one has its own of. */
function isOfPlace({ name, value }: ConfLine, { kind, major }: Cluster): boolean {
  if (['data_directory', 'hba_file', 'ident_file', 'external_pid_file'].includes(name)) return true
  if (kind !== 'debian') return false
  return name === 'port' || (name === 'cluster_name' && value.startsWith(`${major}/`))
}

/** Renamed from one major to another; the server of the new one does not know the old name. */
const RENAMED: Readonly<Record<string, string>> = {
  force_parallel_mode: 'debug_parallel_query', // 16
}

/**
 * Which settings go over to the new cluster. Pure.
 * @param known names of all settings of the new server
 * @param there what its own files say already
 */
export function carry(
  { settings }: Pick<Custom, 'settings'>,
  known: ReadonlySet<string>,
  there: ReadonlyMap<string, string>,
): Carried {
  const carried: ConfLine[] = []
  const dropped: string[] = []
  for (const { name, value } of settings) {
    const now = RENAMED[name] ?? name
    // A name with a dot is an extension's, which may not be loaded yet.
    const isKnown = known.has(now) || name.includes('.')
    if (!isKnown) dropped.push(`setting ${name} = ${value} is gone: the new major has none of that name`)
    else if (there.get(now) !== value) carried.push({ name: now, value })
  }
  return { settings: carried, dropped }
}

const FILE = 'conf.d/50-carried.conf'
const HEADER = 'Written by howdah: what the cluster of the major before had set in its files.'

/**
 * Gives a new cluster, which runs behind closed doors, the files of the old one.
 * @returns what became of the settings
 */
export async function writeCustom(cluster: Cluster, custom: Custom): Promise<Carried> {
  const carried = await withSession({ cluster, database: 'postgres', setup: SETUP }, async (client) => {
    const { rows: known } = await client.query<{ name: string }>(
      'select lower(name) as name from pg_settings',
    )
    const { rows: there } = await client.query<ConfLine>(SETTINGS)
    return carry(
      custom,
      new Set(known.map(({ name }) => name)),
      new Map(there.map(({ name, value }) => [name, value])),
    )
  })
  await write(cluster, FILE, renderConf(HEADER, carried.settings))
  await write(cluster, 'pg_hba.conf', custom.hba)
  await write(cluster, 'pg_ident.conf', custom.ident)
  return carried
}

async function write({ configDir, osUser }: Cluster, name: string, text: string): Promise<void> {
  const owner = process.getuid?.() === 0 ? userId(osUser) : undefined
  const folder = await stat(configDir)
  // Debian's are for everybody to read but those that say who may come in.
  const mode = (folder.mode & 0o077) === 0 || name.startsWith('pg_') ? 0o640 : 0o644
  await writeFileAtomic(join(configDir, name), text, { mode, ...owner })
}

/**
 * That the new server takes what its files say, and that its rules are those of the old one.
 * @throws {Fail} `plan-impossible` with each line that it refuses
 */
export async function assertTaken(cluster: Cluster, custom: Custom, isHbaRendered: boolean): Promise<void> {
  const problems = await withSession({ cluster, database: 'postgres', setup: SETUP }, async (client) => {
    const { rows } = await client.query<{ problem: string }>(PROBLEMS, [WAITING])
    const { rows: rules } = await client.query<{ rule: string }>(RULES)
    const found = rows.map(({ problem }) => problem)
    if (isHbaRendered || JSON.stringify(rules.map(({ rule }) => rule)) === JSON.stringify(custom.rules))
      return found
    return [
      ...found,
      'its pg_hba.conf, taken over from the old cluster, has other rules than that: files that it includes are not where they were',
    ]
  })
  if (problems.length === 0) return
  throw new Fail('plan-impossible', `the new cluster does not take its files:\n${problems.join('\n')}`, {
    hint: 'Correct the setting or the rule in the old cluster or in the host file, then run it again.',
  })
}

const PROBLEMS = `
  select format('%s, line %s: %s = %s: %s', sourcefile, sourceline, name, setting, error) as problem
  from pg_file_settings where error is not null and coalesce(name, '') <> all ($1)
  union all
  select format('pg_hba.conf, line %s: %s', line_number, error) from pg_hba_file_rules where error is not null`
