import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { isMissing } from '../core/file.ts'
import { keyPart } from '../store/key.ts'

/** A configuration file of a cluster. */
export interface ConfigurationFile {
  /** Below `etc/`: `conf.d/90-howdah.conf`. */
  readonly name: string
  readonly content: Buffer
}

// Of a data directory; Debian's folder of configuration holds nothing else.
const OWN = /^(postgresql(\.auto)?\.conf|pg_hba\.conf|pg_ident\.conf|conf\.d\/.*)$/

/**
 * The configuration files of a cluster, which no dump has; none of a remote one.
 * @throws {Fail} `file-unreadable`
 */
export async function configurationFiles(cluster: Cluster): Promise<ConfigurationFile[]> {
  if (cluster.configDir === '') return []
  const paths = new Map<string, string>()
  for (const name of await filesIn(cluster.configDir, cluster.kind === 'debian')) {
    if (cluster.kind === 'debian' || OWN.test(name)) paths.set(name, join(cluster.configDir, name))
  }
  // ALTER SYSTEM writes into the data directory, wherever the other files are.
  paths.set('postgresql.auto.conf', join(cluster.dataDir, 'postgresql.auto.conf'))
  const files: ConfigurationFile[] = []
  for (const [name, path] of [...paths].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const content = await contentOf(path)
    if (content) files.push({ name: name.split('/').map(keyPart).join('/'), content })
  }
  return files
}

async function filesIn(folder: string, isDeep: boolean): Promise<string[]> {
  const list = (path: string) =>
    readdir(join(folder, path), { withFileTypes: true }).catch((cause: unknown) => {
      if (isMissing(cause)) return []
      throw new Fail('file-unreadable', `cannot list "${join(folder, path)}": ${messageOf(cause)}`, { cause })
    })
  const found: string[] = []
  const folders = ['']
  for (let path = folders.pop(); path !== undefined; path = folders.pop()) {
    for (const entry of await list(path)) {
      const name = join(path, entry.name)
      if (entry.isDirectory() && (isDeep || name === 'conf.d')) folders.push(name)
      if (entry.isFile()) found.push(name)
    }
  }
  return found
}

async function contentOf(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path)
  } catch (cause) {
    if (isMissing(cause)) return undefined
    throw new Fail('file-unreadable', `cannot read "${path}": ${messageOf(cause)}`, {
      hint: 'Run this as root, or as the owner of the cluster.',
      cause,
    })
  }
}
