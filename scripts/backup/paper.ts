import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { formatSize } from '../core/quantity.ts'
import type { BackupKind } from './label.ts'
import { type Manifest, type ManifestFile, totalsOf } from './manifest.ts'

/** The script that every backup brings along; it is the same for all of a kind. */
export function readRestoreScript(kind: BackupKind): Promise<string> {
  return readFile(join(import.meta.dirname, kind === 'dump' ? 'restore.sh' : 'base/restore.sh'), 'utf8')
}

/** What `sha256sum --check` reads: it covers every file but itself. Pure. */
export function checksumsText(files: readonly ManifestFile[]): string {
  return files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join('')
}

/**
 * How to restore a dump by hand, for whoever finds its folder. Pure.
 * @param locations of the tablespaces that the databases need, by name
 */
export function restorePaper(
  manifest: Omit<Manifest, 'ended' | 'files'>,
  files: readonly ManifestFile[],
  locations: ReadonlyMap<string, string>,
): string {
  const { size, plainSize } = totalsOf(files)
  const folders = [...locations].filter(([, location]) => location !== '')
  const { encrypted } = manifest
  const ending = encrypted ? '.zst.age' : '.zst'
  const identity = encrypted ? ' --identity KEY.txt' : ''
  return `# Backup ${manifest.label}

A dump of ${count(manifest.databases.length, 'database')} of PostgreSQL ${manifest.postgres.version}, cluster
\`${manifest.cluster}\` (system identifier ${manifest.systemIdentifier}), begun ${manifest.begun},
taken by Howdah ${manifest.howdah} for its job \`${manifest.job}\`. ${formatSize(size)} in these files,
${formatSize(plainSize)} unpacked.

| file | database | on disk | owner | encoding | tablespace | extensions |
|---|---|---|---|---|---|---|
${manifest.databases.map(databaseRow).join('\n')}

## With Howdah

    howdah restore database NAME --backup ${manifest.label}${identity} -c HOST.toml

## Without Howdah

Needed: PostgreSQL ${manifest.postgres.major} or newer, \`zstd\`, \`sha256sum\`${encrypted ? ', `age`, and a file with the private key of one of the\nrecipients of this backup, here `KEY.txt`' : ''}. On a new cluster, as its superuser:

${folders.length === 0 ? '' : folderSteps(folders)}    sh restore.sh${identity}

One database only, where its roles are: \`sh restore.sh${identity} --no-globals NAME.dump${ending}\`. One by hand:

    sha256sum --check SHA256SUMS
    ${encrypted ? 'age --decrypt --identity KEY.txt NAME.dump.zst.age | zstd -dc' : 'zstd -dc NAME.dump.zst'} | pg_restore --exit-on-error --create --dbname=postgres

\`globals.sql${ending}\` has roles and tablespaces${manifest.hasPasswords ? ', with the verifiers of passwords: keep it closed' : ', without passwords'}. \`etc/\` has the
configuration files, \`host.toml${ending}\` the host file that this backup was made under.
`
}

function databaseRow(database: Manifest['databases'][number]): string {
  const extensions = database.extensions.map(({ name, version }) => `${name} ${version}`).join(', ')
  const cells = [
    database.file,
    database.name,
    formatSize(database.size),
    database.owner,
    `${database.encoding}, ${database.collate}`,
    database.tablespace,
    extensions,
  ]
  return `| ${cells.map((cell) => cell.replaceAll(/[|\\\n]/g, String.raw`\$&`)).join(' | ')} |`
}

function folderSteps(folders: readonly (readonly [string, string])[]): string {
  return folders
    .map(
      ([name, location]) =>
        `    install -d -o postgres -g postgres -m 700 ${shellWord(location)} # tablespace ${name}\n`,
    )
    .join('')
}

function shellWord(text: string): string {
  return /^[\w/.-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
