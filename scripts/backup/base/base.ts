import { randomBytes } from 'node:crypto'
import type { Client, Connection } from 'pg'
import type { Cluster } from '../../cluster/cluster.ts'
import { literal } from '../../cluster/sql.ts'
import { Fail, messageOf } from '../../core/fail.ts'
import { interrupted } from '../../core/interrupt.ts'
import { log } from '../../core/log.ts'
import type { BackupSpec } from '../../host/schema.ts'
import type { Box } from '../box.ts'
import { randomLetters } from '../label.ts'
import type { ManifestFile, Physical } from '../manifest.ts'
import { ReplicationCommand } from './command.ts'
import type { Parent } from './parent.ts'
import { type BaseStream, beginBaseBackup, type StreamTablespace } from './stream.ts'
import type { PhysicalSurvey } from './survey.ts'

/** The first major whose BASE_BACKUP sends one stream of typed messages. */
export const OLDEST_MAJOR = 15

/** What to back up, and how. */
export interface BaseScope {
  readonly cluster: Cluster
  readonly spec: BackupSpec
  readonly survey: PhysicalSurvey
  readonly label: string
  /** Of an incremental backup: what it is on top of. */
  readonly parent?: Parent | undefined
  /** Told how many bytes of the cluster the server has read, of how many. */
  readonly onProgress?: ((bytes: number, ofBytes: number) => void) | undefined
  /** Passes the server's manifest on, and keeps a copy of it. */
  readonly keep?: ((content: AsyncIterable<Buffer>) => AsyncIterable<Buffer>) | undefined
}

/** What was taken. */
export interface Taken {
  readonly physical: Physical
  /** That of its start; after a promotion the control file may still say another one. */
  readonly timeline: number
}

/**
 * Streams the data directory and all tablespaces, with the WAL that makes them consistent, straight
 * into the store.
 * @throws {Fail} `backup-failed`
 */
export async function baseInto(box: Box, scope: BaseScope): Promise<Taken> {
  const { cluster } = scope
  await using held = new AsyncDisposableStack()
  const connect = async () => {
    const client = await cluster.connect('postgres', { replication: true })
    held.defer(() => cut(client))
    return client
  }
  const [streaming, holding] = [await connect(), await connect()]
  // What ends the take ends the stream.
  const stop = () => cut(streaming)
  for (const signal of [box.signal, interrupted]) {
    signal.addEventListener('abort', stop)
    held.defer(() => signal.removeEventListener('abort', stop))
  }
  try {
    await reserveWal(holding)
    if (scope.parent) await uploadManifest(streaming, scope.parent)
    return await receive(box, scope, streaming)
  } catch (error) {
    interrupted.throwIfAborted()
    throw asFail(error, scope)
  }
}

/** A polite end would wait for the server, which waits until somebody reads what it has to send. */
function cut(client: Client): void {
  ;(client as Client & { readonly connection: Connection }).connection.stream.destroy()
}

async function receive(box: Box, scope: BaseScope, client: Client): Promise<Taken> {
  let total = 0
  const onProgress = (bytes: number) => scope.onProgress?.(bytes, total)
  const stream = await begin(client, scope, onProgress)
  total = stream.tablespaces.reduce((sum, { size }) => sum + size, 0)
  const files = new Map<string, ManifestFile>()
  for await (const { name, isCompressed, content } of stream.files) {
    const kept = scope.keep && name === 'backup_manifest' ? scope.keep(content) : content
    files.set(name, await box.add(name, kept, isCompressed))
  }
  if (stream.hasBadChecksums()) {
    log(
      'warning',
      `backup: pages of ${scope.cluster.label} have wrong checksums: its log says which. Keep an older backup until that is understood`,
    )
  }
  return { physical: physicalOf(scope, stream, files), timeline: stream.start.timeline }
}

/** Begins with the compression of the server; one that was built without zstd leaves it to us. */
async function begin(
  client: Client,
  scope: BaseScope,
  onProgress: (bytes: number) => void,
): Promise<BaseStream> {
  try {
    return await beginBaseBackup(client, commandOf(scope, true), onProgress)
  } catch (error) {
    if (!/zstd|worker count/i.test(messageOf(error))) throw error
    log('notice', 'backup: this server cannot compress with zstd, so this host does it')
    return beginBaseBackup(client, commandOf(scope, false), onProgress)
  }
}

/** The command of a backup. Pure. */
export function commandOf(
  { spec, label, parent }: Pick<BaseScope, 'spec' | 'label' | 'parent'>,
  isCompressed: boolean,
): string {
  const options = [
    `LABEL ${literal(`howdah ${label}`)}`,
    'PROGRESS true',
    `CHECKPOINT ${literal(spec.checkpoint)}`,
    'WAL true', // so that each backup restores alone
    'WAIT true',
    'TABLESPACE_MAP true',
    `MANIFEST 'yes'`,
    `MANIFEST_CHECKSUMS 'SHA256'`, // CRC32C would show accidents, but no hand
    ...(isCompressed
      ? [`COMPRESSION 'zstd'`, `COMPRESSION_DETAIL 'level=${spec.compression_level},workers=2'`]
      : []),
    ...(parent ? ['INCREMENTAL true'] : []),
  ]
  return `BASE_BACKUP (${options.join(', ')})`
}

/** Holds the WAL from now on until this connection ends: a checkpoint would recycle what the backup needs. */
async function reserveWal(client: Client): Promise<void> {
  const name = `howdah_${randomLetters(randomBytes(6))}`
  await client.query(`CREATE_REPLICATION_SLOT ${name} TEMPORARY PHYSICAL RESERVE_WAL`)
}

async function uploadManifest(client: Client, parent: Parent): Promise<void> {
  const command = new ReplicationCommand('UPLOAD_MANIFEST')
  client.query(command)
  await command.until(({ type }) => type === 'copy-in')
  await command.send(parent.manifest())
  while (await command.next());
}

function physicalOf(
  { survey, parent }: BaseScope,
  stream: BaseStream,
  files: ReadonlyMap<string, ManifestFile>,
): Physical {
  const fileOf = (name: string) => {
    const file = files.get(name)
    if (file) return file.name
    throw new Fail('backup-failed', `the server sent no file "${name}"`, { hint: 'Take it again.' })
  }
  const { start, tablespaces } = stream
  const stop = stream.stop()
  if (stop.timeline !== start.timeline) {
    throw new Fail(
      'backup-failed',
      `the server was promoted meanwhile: it began on timeline ${start.timeline} and ended on ${stop.timeline}`,
      { hint: 'Take it again.' },
    )
  }
  const own = tablespaces.filter(
    (space): space is StreamTablespace & { readonly oid: string } => space.oid !== null,
  )
  return {
    startLsn: start.lsn,
    stopLsn: stop.lsn,
    walSegmentSize: survey.walSegmentSize,
    blockSize: survey.blockSize,
    dataChecksums: survey.dataChecksums,
    build: survey.build,
    hasBadChecksums: stream.hasBadChecksums(),
    isFromStandby: survey.isFromStandby,
    parent: parent?.label ?? null,
    file: fileOf('base.tar'),
    backupManifest: fileOf('backup_manifest'),
    tablespaces: own.map(({ oid, location, size }) => ({
      oid,
      name: survey.tablespaces.find((known) => known.oid === oid)?.name ?? oid,
      location,
      size,
      file: fileOf(`${oid}.tar`),
    })),
    dataSize: tablespaces.reduce((sum, { size }) => sum + size, 0),
    databases: [...survey.databases],
    settings: survey.settings,
  }
}

const HINTS: readonly (readonly [RegExp, string])[] = [
  [/wal_level|WAL level/i, 'Set wal_level = "replica" under [settings], and apply: howdah provision apply'],
  [
    /max_wal_senders|replication slots are in use/i,
    'It needs two of max_wal_senders, and one of max_replication_slots.',
  ],
  [/pg_hba\.conf/i, 'Let the superuser in for replication: a line "local replication postgres peer".'],
  [/summar/i, 'Set summarize_wal = "on" under [settings]; the first one after that is a base.'],
]

function asFail(error: unknown, { cluster }: BaseScope): unknown {
  if (error instanceof Fail) return error
  const text = messageOf(error)
  const { hint } = error as { hint?: string }
  return new Fail('backup-failed', `${cluster.label} broke off the backup: ${text}`, {
    hint:
      HINTS.find(([pattern]) => pattern.test(text))?.[1] ?? hint ?? 'Look at its log. Nothing of it is kept.',
    cause: error,
  })
}
