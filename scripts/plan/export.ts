import { hostname } from 'node:os'
import { parse, stringify } from 'smol-toml'
import { openCluster } from '../cluster/open.ts'
import { Fail } from '../core/fail.ts'
import { readText } from '../core/file.ts'
import { log } from '../core/log.ts'
import { parseHost } from '../host/host.ts'
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
        hint: 'Start it first.',
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
    const version = await readText(`${source.dataDir}/PG_VERSION`)
    return withPort({
      ...base,
      postgres: { kind: 'private', major: Number.parseInt(version, 10), data_dir: source.dataDir },
    })
  }
  if (source.url !== undefined) return { ...base, postgres: { kind: 'remote', url: source.url } }
  const { format, host, postgres } = parse(await readText(source.file))
  parseHost(stringify({ format, host, postgres }), { path: source.file, overrides: source.overrides })
  return { format, host, postgres }
}

/** The port that the cluster really uses: a wrong one would be a finding for ever. */
async function withPort(document: Document): Promise<Document> {
  const cluster = await openCluster(parseHost(stringify(document), { path: 'export' }))
  if (!cluster || cluster.port === 5432) return document
  return merge(document, { postgres: { port: cluster.port } })
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
