import { formatSize } from '../../core/quantity.ts'
import { type Manifest, type ManifestFile, totalsOf } from '../manifest.ts'

/**
 * How to restore a base backup by hand, for whoever finds its folder. Pure.
 * @param chain what an incremental one needs besides itself, oldest first
 */
export function restoreBasePaper(
  manifest: Omit<Manifest, 'ended' | 'files'>,
  files: readonly ManifestFile[],
  chain: readonly string[],
): string {
  const { physical, label, postgres, encrypted } = manifest
  const { parent, startLsn, stopLsn, dataSize, tablespaces, databases } = physical!
  const { size } = totalsOf(files)
  const tools = [
    'PostgreSQL ' + postgres.major,
    ...(encrypted ? ['`age` and its private key'] : []),
    '`zstd`',
    '`tar`',
    '`sha256sum`',
  ]
  const identity = encrypted ? ' --identity KEY.txt' : ''
  return `# Backup ${label}

${parent === null ? 'The whole cluster' : `What changed in the cluster since backup ${parent}, which is needed too`}: \`${manifest.cluster}\` (system identifier
${manifest.systemIdentifier}, timeline ${manifest.timeline}), PostgreSQL ${postgres.version}, begun ${manifest.begun},
taken by Howdah ${manifest.howdah} for its job \`${manifest.job}\`. ${formatSize(size)} in these files,
${formatSize(dataSize)} on disk. WAL from ${startLsn} to ${stopLsn} is inside: it restores to the moment
at which it was taken, without an archive. Databases: ${databases.map(({ name }) => `\`${name}\``).join(', ')}.
${tablespaces.length === 0 ? '' : `\n${tablespaceTable(tablespaces)}\n`}
## With Howdah

    howdah restore cluster --backup ${label} -c HOST.toml --plan

Any moment after this backup, too: \`--at TIME\`.

## Without Howdah

Needed: ${tools.join(', ')}. As the user that the server runs as:
${parent === null ? byHand(identity, postgres.major) : chainByHand(chain, identity, postgres.major)}
\`etc/\` has the configuration files (Debian keeps them in /etc/postgresql), \`host.toml\` the host file that this
backup was made under. What \`base.tar\` has is listed, with hashes, in \`backup_manifest\`.
`
}

function byHand(identity: string, major: number): string {
  return `
    sh restore.sh --target /new/data${identity}
    ${start(major)}

${TABLESPACES} By hand: \`zstd -dc base.tar.zst | tar -xp -C /new/data\`,
each \`OID.tar.zst\` into the folder that \`tablespace_map\` names for it, and never delete \`backup_label\`.
`
}

function chainByHand(chain: readonly string[], identity: string, major: number): string {
  return `
    sh restore.sh --target /new/data --bindir ${bindir(major)}${identity}
    ${start(major)}

The folders of these backups must be beside this one, as they are in the store:
${chain.map((label) => `\`${label}\``).join(', ')}. ${TABLESPACES}
By hand: each of them, and this one, is unpacked into a folder of its own, with its \`backup_manifest\` in it and links
in its \`pg_tblspc\`; \`pg_combinebackup -o /new/data\` gets all of them, oldest first. Never delete \`backup_label\`.
`
}

const TABLESPACES = `Tablespaces go where they were unless \`--tablespace OLD=NEW\` says otherwise: beside the cluster that still has
them there, it must. While \`archive_mode\` is off, nothing gets into the archive of the cluster that this was.`

const bindir = (major: number) => `/usr/lib/postgresql/${major}/bin`
const start = (major: number) => `${bindir(major)}/pg_ctl -D /new/data -o '-c archive_mode=off' start`

function tablespaceTable(tablespaces: NonNullable<Manifest['physical']>['tablespaces']): string {
  const rows = tablespaces.map(
    ({ oid, name, location, size, file }) =>
      `| ${[file, oid, name, location, formatSize(size)].map((cell) => cell.replaceAll(/[|\\\n]/g, String.raw`\$&`)).join(' | ')} |`,
  )
  return ['| file | oid | tablespace | location | on disk |', '|---|---|---|---|---|', ...rows].join('\n')
}
