import { hostname } from 'node:os'
import type { Client } from 'pg'
import type { Cluster } from '../cluster/cluster.ts'
import { ident } from '../cluster/sql.ts'
import { Fail } from '../core/fail.ts'
import { didYouMean } from '../core/nearest.ts'
import type { Host } from '../host/schema.ts'
import { DEVICE_CHARACTERS, isLonger } from './line.ts'
import { parseFileName } from './name.ts'
import type { Reading } from './rows.ts'
import type { Ignore } from './walk.ts'

/** One `[reingest.NAME]`, with all that it leaves to defaults. */
export interface Job {
  readonly name: string
  readonly cluster: Cluster
  readonly database: string
  /** Who writes the rows; undefined: who connects. */
  readonly role: string | undefined
  /** Whose files are read. */
  readonly hostname: string
  /** Where its files are. */
  readonly dataDirs: readonly string[]
  readonly ignore: Ignore
  readonly decoders: Readonly<Record<string, readonly string[]>>
  readonly zone: string
  readonly jobs: number
  /** How many files one run reads. */
  readonly limit: number
}

/** Endings of names of files that can be read; of the last one by a decoder only. */
const ENDINGS = ['.ndjson', '.ndjson.gz', '.ndjson.zst', '.csv', '.csv.gz', '.csv.zst', '.bintel'] as const

/**
 * The job of a name, or the only one.
 * @throws {Fail} `usage` when there is none
 */
export function jobOf(host: Host, cluster: Cluster, wanted: string | undefined): Job {
  const names = Object.keys(host.reingest)
  const name = wanted ?? (names.length === 1 ? names[0]! : undefined)
  const spec = name !== undefined && Object.hasOwn(host.reingest, name) ? host.reingest[name] : undefined
  if (name === undefined || spec === undefined) {
    const what =
      name === undefined
        ? 'which [reingest.NAME]?'
        : `there is no [reingest.${name}] in the host file${didYouMean(name, names)}`
    throw new Fail('usage', what, {
      hint:
        names.length === 0
          ? 'Add one: [reingest.telem] database = "xtelem"'
          : `There is: ${names.join(', ')}`,
    })
  }
  const { owner, migrations } = host.databases[spec.database]!
  return {
    name,
    cluster,
    database: spec.database,
    role: spec.role ?? migrations?.role ?? owner,
    hostname: spec.hostname ?? hostname(),
    dataDirs: spec.data_dirs,
    ignore: { files: spec.ignore_files.map(wholeName), folders: spec.ignore_folders.map(wholeName) },
    decoders: spec.decoders,
    zone: spec.timezone,
    jobs: spec.jobs,
    limit: spec.limit === 0 ? Infinity : spec.limit,
  }
}

function wholeName(pattern: string): RegExp {
  return new RegExp(`^(?:${pattern})$`, 'v')
}

/** Endings of the files of a job. */
export function endingsOf({ decoders }: Pick<Job, 'decoders'>): string[] {
  return [...new Set([...ENDINGS, ...Object.keys(decoders)])]
}

/** How a file is read, by its name. */
export interface Recipe extends Reading {
  readonly ending: string
  /** When its first record was made. */
  readonly time: string
  readonly decoder: readonly string[] | undefined
}

/**
 * How a file of a job is read.
 * @throws {Fail} `file-unreadable`
 */
export function recipeOf({ decoders, zone }: Job, path: string): Recipe {
  const name = parseFileName(path)
  if (name === undefined) throw new Fail('file-unreadable', 'its name holds no time')
  const { device, ending, time } = name
  if (isLonger(device, DEVICE_CHARACTERS))
    throw new Fail('file-unreadable', `its device has more than ${DEVICE_CHARACTERS} characters`)
  const decoder = Object.hasOwn(decoders, ending) ? decoders[ending] : undefined
  if (decoder === undefined && ending === '.bintel') {
    throw new Fail('file-unreadable', 'there is no decoder for ".bintel"', {
      hint: 'Add to [reingest.NAME.decoders]: ".bintel" = ["/opt/MagAOX/bin/logdump", "--ext=.bintel", "-J", "-F"]',
    })
  }
  const format = decoder === undefined && ending.startsWith('.csv') ? 'csv' : 'ndjson'
  // Programs in C++ write UTC, whatever the zone of the machine.
  return { device, ending, time, decoder, format, zone: decoder ? 'UTC' : zone }
}

const SETUP = `set timezone = 'UTC'; set datestyle = 'ISO'; set client_encoding = 'UTF8'; set statement_timeout = 0;
  set idle_in_transaction_session_timeout = 0; set lock_timeout = '5min'; set standard_conforming_strings = on`

/** A session of a job, as its role. The caller ends it. @throws what a connection throws */
export async function connectJob({ cluster, database, role, name }: Job): Promise<Client> {
  const client = await cluster.connect(database, { applicationName: `howdah reingest: ${name}` })
  try {
    await client.query(role === undefined ? SETUP : `${SETUP}; set role ${ident(role)}`)
    await assertTables(client, database)
    return client
  } catch (error) {
    await client.end().catch(() => {})
    throw error
  }
}

async function assertTables(client: Client, database: string): Promise<void> {
  const { rows } = await client.query<{ there: boolean }>(
    `select to_regclass('file_ingests') is not null and to_regclass('telem') is not null as there`,
  )
  if (rows[0]!.there) return
  throw new Fail('cluster-mismatch', `database "${database}" lacks the tables of the profile xtelem`, {
    hint: 'Make them with: howdah migrate up',
  })
}
