import type { Client } from 'pg'
import { DATA_CORRUPTED, type Expectation, ReplicationCommand } from './command.ts'

/** Where a backup begins, or ends. */
export interface BackupPoint {
  /** `0/3000028` */
  readonly lsn: string
  readonly timeline: number
}

/** A tablespace of the stream; the data directory itself has no oid. */
export interface StreamTablespace {
  readonly oid: string | null
  readonly location: string
  /** Bytes, as the server estimates them. */
  readonly size: number
}

/** One file of a backup: a tar of the data directory or of a tablespace, or the server's manifest. */
export interface StreamFile {
  /** `base.tar`, `16400.tar`, `backup_manifest`; without the ending of compression. */
  readonly name: string
  /** Whether it is zstd. */
  readonly isCompressed: boolean
  /** To be read to its end before the next file. Each piece must be used up when the next one is asked for. */
  readonly content: AsyncIterable<Buffer>
}

/** A backup as the server sends it. */
export interface BaseStream {
  readonly start: BackupPoint
  readonly tablespaces: readonly StreamTablespace[]
  /** One after the other; each must be read before the next is asked for. */
  readonly files: AsyncIterable<StreamFile>
  /** Where it ended; to be asked when all files are read. */
  stop(): BackupPoint
  /** Whether the server found pages whose checksums are wrong; it sends everything all the same. */
  hasBadChecksums(): boolean
}

/**
 * Runs BASE_BACKUP on a replication connection.
 *
 * Since PostgreSQL 15 it gives two result sets (start; tablespaces), one COPY of typed messages, and a
 * result set of the stop. Source: the manual's "Streaming Replication Protocol", BASE_BACKUP.
 *
 * @param command the whole of it
 * @param onProgress told how many bytes of the cluster the server has read
 * @throws what the server refuses
 */
export async function beginBaseBackup(
  client: Client,
  command: string,
  onProgress?: (bytes: number) => void,
): Promise<BaseStream> {
  const running = new ReplicationCommand(command)
  client.query(running)
  const head: { start?: BackupPoint; tablespaces?: StreamTablespace[] } = {}
  await running.until((event) => {
    if (event.type === 'row' && event.set === 0) head.start = pointOf(event.fields)
    if (event.type === 'row' && event.set === 1) (head.tablespaces ??= []).push(tablespaceOf(event.fields))
    return event.type === 'row' && event.fields.length === 3 && event.fields[0] === null
  })
  let stop: BackupPoint | undefined
  let isBad = false
  const next = async (): Promise<Expectation | undefined> => {
    try {
      return await running.next()
    } catch (error) {
      // The stop has been told: everything is here, and the server says that it is not well.
      if ((error as { code?: string }).code !== DATA_CORRUPTED || stop === undefined) throw error
      isBad = true
      return undefined
    }
  }
  return {
    start: head.start!,
    tablespaces: head.tablespaces!,
    files: filesOf(
      { next, giveBack: (chunk) => running.giveBack(chunk) },
      { onProgress: onProgress ?? (() => {}), onStop: (point) => (stop = point) },
    ),
    stop: () => stop!,
    hasBadChecksums: () => isBad,
  }
}

interface Listeners {
  readonly onProgress: (bytes: number) => void
  readonly onStop: (point: BackupPoint) => void
}

type Source = Pick<ReplicationCommand, 'next' | 'giveBack'>

/** Takes the one stream apart. */
async function* filesOf(source: Source, { onProgress, onStop }: Listeners): AsyncGenerator<StreamFile, void> {
  let begun: Omit<StreamFile, 'content'> | undefined // of the file that follows
  const look = (event: Expectation): void => {
    if (event.type === 'row') onStop(pointOf(event.fields))
    if (event.type !== 'message') return
    switch (event.code) {
      case 0x6e: // n: new archive
        begun = archiveOf(event.body)
        return
      case 0x6d: // m: the manifest begins
        begun = { name: 'backup_manifest', isCompressed: false }
        return
      case 0x70: // p: progress
        onProgress(Number(event.body.readBigInt64BE(0)))
        return
      default:
        return
    }
  }
  async function* content(): AsyncGenerator<Buffer, void> {
    for (let event = await source.next(); event !== undefined; event = await source.next()) {
      if (event.type === 'data') {
        yield event.chunk
        source.giveBack(event.chunk)
      } else look(event)
      if (begun !== undefined) return
    }
  }
  // What comes before the first archive.
  for (let event = await source.next(); event !== undefined && begun === undefined;) {
    look(event)
    if (begun === undefined) event = await source.next()
  }
  while (begun !== undefined) {
    const file: Omit<StreamFile, 'content'> = begun
    begun = undefined
    yield { ...file, content: content() }
  }
}

/** Its name and, after a NUL, the location of the tablespace. */
function archiveOf(body: Buffer): Omit<StreamFile, 'content'> {
  const name = body.toString('utf8', 0, body.indexOf(0))
  return { name: name.replace(/\.zst$/, ''), isCompressed: name.endsWith('.zst') }
}

function pointOf([lsn, timeline]: readonly (string | null)[]): BackupPoint {
  return { lsn: lsn!, timeline: Number(timeline) }
}

/** Its size is in kB; the last one is the data directory. */
function tablespaceOf([oid, location, size]: readonly (string | null)[]): StreamTablespace {
  return { oid: oid ?? null, location: location ?? '', size: Number(size ?? 0) * 1024 }
}
