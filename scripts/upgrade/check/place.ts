import { readdir, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Client } from 'pg'
import type { Cluster } from '../../cluster/cluster.ts'
import { Fail } from '../../core/fail.ts'
import { exists } from '../../core/file.ts'
import { formatSize } from '../../core/quantity.ts'
import type { Postgres } from '../../host/schema.ts'
import { assertFree, dataDirOf } from '../make.ts'
import { chooseMethod } from '../space.ts'
import type { Method } from '../state.ts'
import type { Finding } from './finding.ts'

/** A tablespace and where it is; of those that initdb makes the place is empty. */
interface Tablespace {
  readonly name: string
  readonly location: string
  readonly bytes: number
}

// As JSON, in which sizes are numbers.
const TABLESPACES = `
  select json_agg(json_build_object('name', format('%I', spcname), 'location', pg_tablespace_location(oid),
    'bytes', pg_tablespace_size(oid)) order by spcname) as spaces from pg_tablespace`

/** Whether the new cluster has a place, and space in each of its places for the method. */
export async function placeFindings(
  client: Client,
  old: Cluster,
  spec: Postgres,
  asked: Method | 'auto',
): Promise<Finding[]> {
  const { rows: found } = await client.query<{ spaces: Tablespace[] }>(TABLESPACES)
  const rows = found[0]!.spaces
  const bytes = rows.reduce((sum, { location, bytes }) => sum + (location === '' ? bytes : 0), 0)
  const findings = await refusals('target-not-empty', () => assertFree(spec))
  let method: Method = 'copy'
  findings.push(
    ...(await refusals('method', async () => {
      method = await chooseMethod(old, spec, { asked, bytes })
    })),
  )
  for (const each of rows) findings.push(...(await tablespaceFindings(each, old, spec.major!)))
  return [...findings, ...(await spaceFindings(rows, spec, method))]
}

/** What would stop the upgrade before anything is changed, as a finding. */
async function refusals(code: string, act: () => Promise<void>): Promise<Finding[]> {
  try {
    await act()
    return []
  } catch (error) {
    if (!(error instanceof Fail)) throw error
    const { message, hint = 'Look at it, and run the check again.' } = error
    return [{ severity: 'error', code, database: '', message, hint }]
  }
}

async function tablespaceFindings(
  { name, location }: Tablespace,
  old: Cluster,
  major: number,
): Promise<Finding[]> {
  const say = (code: string, message: string, hint: string): Finding[] => [
    { severity: 'error', code, database: '', message: `tablespace ${name}: ${message}`, hint },
  ]
  if (location === '') return []
  if (!location.startsWith('/') || `${location}/`.startsWith(`${old.dataDir}/`)) {
    return say(
      'tablespace-inside',
      `it is inside the old cluster, in "${location}", and would go with it when that is dropped`,
      `Make one elsewhere and move all there: alter table all in tablespace ${name} set tablespace OTHER`,
    )
  }
  const entries = await readdir(location).catch(() => undefined)
  if (entries === undefined) {
    return say(
      'tablespace-missing',
      `its folder "${location}" cannot be read`,
      `Mount what belongs there: ls -la ${location}`,
    )
  }
  // A folder for each major and catalog version (src/include/common/relpath.h).
  const left = entries.find((entry) => entry.startsWith(`PG_${major}_`))
  if (left === undefined) return []
  return say(
    'tablespace-held',
    `another cluster of ${major} is, or was, in "${join(location, left)}"`,
    'If no cluster of that major uses it any more (pg_lsclusters), remove that folder.',
  )
}

/** The catalogs of some databases, WAL and what pg_upgrade writes on its way. */
const ALWAYS = 200 * 1024 ** 2

/** What goes to the same file system counts together. */
async function spaceFindings(
  tablespaces: readonly Tablespace[],
  spec: Postgres,
  method: Method,
): Promise<Finding[]> {
  const mounts = new Map<number, { place: string; bytes: number }>()
  const isCopied = method === 'copy' || method === 'dump'
  for (const { location, bytes } of tablespaces) {
    const place = await existing(location === '' ? dirname(dataDirOf(spec)) : location)
    const { dev } = await stat(place)
    const mount = mounts.get(dev) ?? { place, bytes: location === '' ? ALWAYS : 0 }
    mounts.set(dev, { ...mount, bytes: mount.bytes + (isCopied ? Math.round(bytes * 1.05) : 0) })
  }
  const findings: Finding[] = []
  for (const { place, bytes } of mounts.values()) {
    const { bavail, bsize } = await statfs(place)
    if (bavail * bsize >= bytes) continue
    findings.push({
      severity: 'error',
      code: 'no-space',
      database: '',
      message: `the method ${method} needs ${formatSize(bytes)} on the file system of "${place}", and ${formatSize(bavail * bsize)} are free`,
      hint: 'Make space there; or let both share their files, without a way back once the new one runs: --method link',
    })
  }
  return findings
}

async function existing(folder: string): Promise<string> {
  return (await exists(folder)) || folder === '/' ? folder : existing(dirname(folder))
}
