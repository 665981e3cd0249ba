import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { z } from 'zod'
import { Fail } from '../../core/fail.ts'
import type { Store } from '../../store/store.ts'
import { type Codec, decode, encode, encodeFile } from './codec.ts'
import { isHistoryName, isSegmentName, timelineName } from './segment.ts'

/** What a store has of the WAL of one system: names as the server gives them. */
export interface WalListing {
  /** Whole segments, those whose body and hash are both there; in order of their names. */
  readonly segments: readonly string[]
  /** Segments of which a beginning is stored, and no whole one. */
  readonly partials: readonly string[]
  /** `00000002.history` */
  readonly histories: readonly string[]
  /** Bytes of all that is stored. */
  readonly size: number
}

/** How far a store is. */
export interface WalPosition {
  readonly format: 1
  readonly systemIdentifier: string
  readonly timeline: number
  /** All WAL before it is in the store, in segments and at most one partial; `0/3000028`. */
  readonly lsn: string
  /** The server's time when its WAL ended there, ISO. */
  readonly time: string
  /** Bytes. */
  readonly segmentSize: number
}

/** WAL that never came into the store: a backup that begins after it is needed. */
export interface WalGap {
  readonly format: 1
  readonly timeline: number
  /** The first position that is missing. */
  readonly from: string
  /** The first one that is there again. */
  readonly to: string
  /** When it was seen, ISO. */
  readonly found: string
}

/** The WAL of one system in a store. A whole file there is never replaced by another one. */
export interface WalStore {
  /**
   * Stores a finished segment or a history. Storing the same one again is no error.
   * @param path of the plain file
   * @throws {Fail} `wal-differs` when the store has another file of that name; it stays
   */
  put(name: string, path: string): Promise<void>
  /**
   * Stores the beginning of a segment, in place of a shorter one.
   * @param bytes of the file, from its start; default: all
   */
  putPartial(segment: string, path: string, bytes?: number): Promise<void>
  /** Deletes what is stored of the beginning of a segment. */
  deletePartial(segment: string): Promise<void>
  /** What is there, of one timeline or of all. */
  list(timeline?: number): Promise<WalListing>
  /**
   * The plain bytes of a whole file; its hash is proven before the last of them.
   * @throws {Fail} `store-missing`, `backup-damaged`, `wrong-key`
   */
  get(name: string): AsyncIterable<Buffer>
  /**
   * Reads all stored bytes of a whole file, and its hash, without looking into them: what is encrypted can
   * be read so by anybody.
   * @returns how many bytes of the body there are
   * @throws {Fail} `store-missing`, `backup-damaged`
   */
  readStored(name: string): Promise<number>
  /** The plain bytes of a beginning, filled up with zeros to a whole segment by nobody. */
  getPartial(segment: string): AsyncIterable<Buffer>
  /** Undefined while nothing was shipped. */
  readPosition(): Promise<WalPosition | undefined>
  writePosition(position: WalPosition): Promise<void>
  /** How much of a segment is there. */
  has(segment: string): Promise<'whole' | 'partial' | undefined>
  /** The newest gap; undefined when there never was one. */
  readGap(): Promise<WalGap | undefined>
  writeGap(gap: WalGap): Promise<void>
  /** Deletes whole segments and what belongs to them; missing ones are no error. */
  delete(names: readonly string[]): Promise<void>
}

/** What {@link openWalStore} needs. */
export interface WalStoreOptions extends Codec {
  readonly store: Store
  /** `layout.wal(systemIdentifier)`, with its final slash. */
  readonly prefix: string
}

const positionSchema = z.object({
  format: z.literal(1),
  systemIdentifier: z.string(),
  timeline: z.int().positive(),
  lsn: z.string().regex(/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/),
  time: z.iso.datetime({ offset: true }),
  segmentSize: z.int().positive(),
})

const gapSchema = z.object({
  format: z.literal(1),
  timeline: z.int().positive(),
  from: positionSchema.shape.lsn,
  to: positionSchema.shape.lsn,
  found: positionSchema.shape.time,
})

const ENDINGS = ['.zst', '.zst.age'] as const

/**
 * The WAL of one system in a store:
 *
 *     <timeline>/<segment>.zst[.age]          the body
 *     <timeline>/<segment>.sha256             of the plain bytes, as sha256sum writes it
 *     <timeline>/<segment>.partial.zst[.age]  its beginning, while it is being written
 *     <timeline>/<timeline>.history.zst[.age], .history.sha256
 *     position.json, gap.json
 */
export function openWalStore(options: WalStoreOptions): WalStore {
  const { store } = options
  const encrypts = (options.recipients?.length ?? 0) > 0
  const ending = encrypts ? '.zst.age' : '.zst'
  // What is stored may be older than the wish to encrypt it, or newer.
  const endings = encrypts || options.identity !== undefined ? ENDINGS.toReversed() : ENDINGS
  const place: Place = {
    key: (name) => `${options.prefix}${checkName(name).slice(0, 8)}/${name}`,
    bodies: (stem) => endings.map((each) => stem + each),
    store,
    codec: options,
  }
  return {
    put: (name, path) => putWhole(place, name, path, ending),
    async putPartial(segment, path, bytes) {
      const key = `${place.key(segment)}.partial${ending}`
      await store.put(key, encodeFile(path, options, bytes))
    },
    deletePartial: (segment) => store.delete(place.bodies(`${place.key(segment)}.partial`)),
    list: (timeline) => list(store, options.prefix, timeline),
    get: (name) => getWhole(place, name),
    readStored: (name) => readStored(place, place.key(name)),
    getPartial: (segment) => getBody(place, `${place.key(segment)}.partial`),
    has: (segment) => has(store, place.key(segment)),
    readPosition: () => readDocument(store, `${options.prefix}position.json`, positionSchema),
    writePosition: (position) => writeDocument(store, `${options.prefix}position.json`, position),
    readGap: () => readDocument(store, `${options.prefix}gap.json`, gapSchema),
    writeGap: (gap) => writeDocument(store, `${options.prefix}gap.json`, gap),
    delete: (names) =>
      store.delete(
        names.flatMap((name) => {
          const stem = place.key(name)
          // The hash goes last: while it is there, no other segment can take the name.
          return [...place.bodies(stem), ...place.bodies(`${stem}.partial`), `${stem}.sha256`]
        }),
      ),
  }
}

interface Place {
  readonly store: Store
  readonly codec: Codec
  /** The key of a file of WAL, without its ending. */
  key(name: string): string
  /** The keys that a body may have, the likelier one first. */
  bodies(stem: string): string[]
}

async function putWhole(place: Place, name: string, path: string, ending: string): Promise<void> {
  const { store, codec } = place
  const stem = place.key(name)
  const file = await encode(path, codec)
  const { sha256 } = file
  // One step decides whose content the name has, also between two machines.
  const isFree = await store.create(`${stem}.sha256`, Buffer.from(`${sha256}  ${name}\n`))
  if (!isFree) {
    const known = await readHash(store, stem)
    if (known !== sha256) {
      throw new Fail('wal-differs', `the store has another "${name}": SHA-256 ${known}, not ${sha256}`, {
        hint: 'Another server, or a restored one, may have written it. What is stored stays. Give this host or cluster another name.',
      })
    }
    if (await hasBody(store, stem)) return
  }
  await store.put(stem + ending, file.body()) // commit point: the file is whole
}

async function hasBody(store: Store, stem: string): Promise<boolean> {
  for await (const { key } of store.list(`${stem}.zst`))
    if (ENDINGS.some((ending) => key === stem + ending)) return true
  return false
}

async function readHash(store: Store, stem: string): Promise<string> {
  const content = await text(await store.get(`${stem}.sha256`))
  const hash = /^[0-9a-f]{64}\b/.exec(content)?.[0]
  if (hash === undefined) throw new Fail('backup-damaged', `stored file "${stem}.sha256" holds no hash`)
  return hash
}

async function* getWhole(place: Place, name: string): AsyncGenerator<Buffer, void> {
  const stem = place.key(name)
  yield* getBody(place, stem, await readHash(place.store, stem))
}

async function* getBody(place: Place, stem: string, sha256?: string): AsyncGenerator<Buffer, void> {
  const { key, stored } = await openBody(place, stem)
  yield* decode(stored, key, place.codec, sha256)
}

async function openBody(place: Place, stem: string): Promise<{ key: string; stored: Readable }> {
  const { store } = place
  const [likely, other] = place.bodies(stem) as [string, string]
  try {
    return { key: likely, stored: await store.get(likely) }
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'store-missing') throw error
    return { key: other, stored: await store.get(other) }
  }
}

async function readStored(place: Place, stem: string): Promise<number> {
  await readHash(place.store, stem)
  const { stored } = await openBody(place, stem)
  let bytes = 0
  for await (const chunk of stored as AsyncIterable<Buffer>) bytes += chunk.length
  return bytes
}

async function list(store: Store, prefix: string, timeline: number | undefined): Promise<WalListing> {
  const bodies = new Set<string>()
  const hashes: string[] = []
  const partials = new Set<string>()
  let size = 0
  const within = timeline === undefined ? prefix : `${prefix}${timelineName(timeline)}/`
  for await (const entry of store.list(within)) {
    size += entry.size
    const [, name, rest] = STORED.exec(entry.key.slice(prefix.length)) ?? []
    if (name === undefined) continue
    if (rest === '.sha256') hashes.push(name)
    else if (rest!.startsWith('.partial')) partials.add(name)
    else bodies.add(name)
  }
  const whole = hashes.filter((name) => bodies.has(name)).sort()
  const wholes = new Set(whole)
  return {
    segments: whole.filter(isSegmentName),
    partials: [...partials].filter((name) => isSegmentName(name) && !wholes.has(name)).sort(),
    histories: whole.filter(isHistoryName),
    size,
  }
}

/** `00000001/000000010000000000000003.partial.zst.age`: its name, and what follows it. */
const STORED =
  /^[0-9A-F]{8}\/([0-9A-F]{24}|[0-9A-F]{8}\.history)(\.sha256|\.zst(?:\.age)?|\.partial\.zst(?:\.age)?)$/

async function has(store: Store, stem: string): Promise<'whole' | 'partial' | undefined> {
  const found = new Set<string>()
  for await (const { key } of store.list(`${stem}.`)) found.add(key.slice(stem.length).replace(/\.age$/, ''))
  if (found.has('.zst') && found.has('.sha256')) return 'whole'
  return found.has('.partial.zst') ? 'partial' : undefined
}

async function readDocument<T>(store: Store, key: string, schema: z.ZodType<T>): Promise<T | undefined> {
  let content: string
  try {
    content = await text(await store.get(key))
  } catch (error) {
    if (error instanceof Fail && error.code === 'store-missing') return undefined
    throw error
  }
  try {
    return schema.parse(JSON.parse(content))
  } catch (cause) {
    throw new Fail('backup-damaged', `stored file "${key}" is not what the archive service writes`, {
      hint: 'Look at it. A newer version of Howdah may have written it.',
      cause,
    })
  }
}

async function writeDocument(store: Store, key: string, document: object): Promise<void> {
  await store.put(key, once(`${JSON.stringify(document, undefined, 2)}\n`))
}

/** A name becomes a part of a key: nothing but the server's own names may. */
function checkName(name: string): string {
  if (isSegmentName(name) || isHistoryName(name)) return name
  throw new Fail('bug', `${JSON.stringify(name)} is no name of a WAL file`)
}

async function* once(content: string): AsyncGenerator<Buffer, void> {
  yield Buffer.from(content)
}
