import { stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { parse, stringify } from 'smol-toml'
import { userName } from '../cluster/connect.ts'
import { openCluster } from '../cluster/open.ts'
import { privateBindir, privateSocketDir } from '../cluster/private.ts'
import { Fail } from '../core/fail.ts'
import { readText, readTextIfAny } from '../core/file.ts'
import { log } from '../core/log.ts'
import { parseHost } from '../host/host.ts'
import type { Host } from '../host/schema.ts'
import { KINDS } from './kinds.ts'
import { observeHost } from './observe.ts'
import { planKinds } from './planner.ts'
import { showChange } from './show.ts'

/** Which cluster to describe: by a host file, or by where it is. */
export interface ExportSource {
  readonly file: string
  readonly overrides: readonly string[]
  /** `15/main` */
  readonly cluster?: string
  readonly dataDir?: string
  readonly url?: string
}

function startHint({ postgres }: Host): string {
  if (postgres.kind === 'debian')
    return `See pg_lsclusters, and start it: pg_ctlcluster ${postgres.major} ${postgres.cluster} start`
  return `Start it: ${privateBindir(postgres)}/pg_ctl -D ${postgres.data_dir} start, as the owner of that folder.`
}

type Document = Record<string, unknown>

/**
 * Writes a host file for a cluster that exists, such that a plan against it is empty. What could not
 * be said in a host file is warned about. Reads only.
 * @returns TOML text
 * @throws {Fail} `usage`, `cluster-mismatch`, `server-unreachable`, and what a connection throws
 */
export async function exportHost(source: ExportSource): Promise<string> {
  let document = await beginning(source)
  for (const kind of KINDS) {
    const host = parseHost(stringify(document), { path: 'export' })
    await using observe = await observeHost(host, await openCluster(host))
    if (!observe.isRunning) {
      throw new Fail('server-unreachable', 'there is no running cluster to describe', {
        hint: startHint(host),
      })
    }
    if (!kind.exported) continue
    const actual = await kind.actual({ ...observe, isExport: true })
    document = merge(document, kind.exported(actual, { host, facts: observe.facts }))
  }
  const text = `#:schema ./host.schema.json\n${stringify(document)}`
  await warnOfDifferences(text)
  return text
}

async function beginning(source: ExportSource): Promise<Document> {
  const base = { format: 1, host: { name: hostname().replace(/[^A-Za-z0-9_.-]/g, '-') || 'host' } }
  if (source.cluster !== undefined) {
    const [major, cluster] = source.cluster.split('/')
    if (!/^\d+$/.test(major!) || !cluster) {
      throw new Fail('usage', `"${source.cluster}" is no cluster`, {
        hint: 'Write it as 15/main; pg_lsclusters shows them.',
      })
    }
    return withPort({ ...base, postgres: { kind: 'debian', major: Number(major), cluster } })
  }
  if (source.dataDir !== undefined) {
    return withPort({ ...base, postgres: await privatePostgres(resolve(source.dataDir)) })
  }
  if (source.url !== undefined) return { ...base, postgres: { kind: 'remote', url: source.url } }
  const { format, host, postgres } = parse(await readText(source.file))
  parseHost(stringify({ format, host, postgres }), { path: source.file, overrides: source.overrides })
  return { format, host, postgres }
}

/** initdb names the superuser after the OS user that runs it, and by peer no other one is let in. */
async function privatePostgres(dataDir: string): Promise<Document> {
  const version = await readTextIfAny(join(dataDir, 'PG_VERSION'))
  if (version === undefined) {
    throw new Fail('cluster-mismatch', `there is no cluster in "${dataDir}": it has no PG_VERSION`, {
      hint: 'Name its data directory, the one that "show data_directory" tells.',
    })
  }
  const postgres: Document = { kind: 'private', major: Number.parseInt(version, 10), data_dir: dataDir }
  const owner = userName((await stat(dataDir)).uid)
  return owner === 'postgres' ? postgres : { ...postgres, superuser: owner }
}

/** Where the cluster really listens: a wrong port would be a finding for ever, a wrong folder never answers. */
async function withPort(document: Document): Promise<Document> {
  const host = parseHost(stringify(document), { path: 'export' })
  const cluster = await openCluster(host)
  if (!cluster) return document
  const isElsewhere = cluster.kind === 'private' && cluster.socketDir !== privateSocketDir(host.postgres)
  return merge(document, {
    postgres: {
      ...(cluster.port !== 5432 && { port: cluster.port }),
      ...(isElsewhere && { socket_dir: cluster.socketDir }),
    },
  })
}

function merge(into: Document, from: Document): Document {
  const merged: Document = { ...into }
  for (const [key, value] of Object.entries(from)) {
    const old = merged[key]
    merged[key] = isTable(old) && isTable(value) ? merge(old, value) : value
  }
  return merged
}

function isTable(value: unknown): value is Document {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.getPrototypeOf(value) !== Date.prototype
  )
}

async function warnOfDifferences(text: string): Promise<void> {
  const host = parseHost(text, { path: 'export' })
  await using observe = await observeHost(host, await openCluster(host))
  const { changes } = await planKinds(KINDS, observe)
  for (const change of changes) log('warning', `not said by this file: ${showChange(change)}`)
}
