import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { z } from 'zod'
import { Fail } from '../core/fail.ts'
import { type Access, makeFolder, readTextIfAny, writeFileAtomic } from '../core/file.ts'
import type { Store } from '../store/store.ts'
import { assertNotLost, rememberStore } from './known.ts'
import type { Layout } from './layout.ts'

const FORMAT = 1

const ownerSchema = z.object({
  format: z.literal(FORMAT),
  systemIdentifier: z.string(),
  /** Random, made once for each state folder. */
  hostId: z.string(),
  /** For people: the name of the machine. */
  machine: z.string(),
  timeline: z.int(),
})

/** Whose backups a part of a store holds. */
export type Owner = z.output<typeof ownerSchema>

/** The id of this host: made at its first need, kept in the state folder. */
export async function hostId(stateDir: string, access: Access): Promise<string> {
  const path = join(stateDir, 'host.json')
  const known = await readTextIfAny(path)
  if (known !== undefined) return (JSON.parse(known) as { id: string }).id
  const id = randomUUID()
  await makeFolder(stateDir, access)
  await writeFileAtomic(path, `${JSON.stringify({ format: FORMAT, id })}\n`, { ...access, mode: 0o644 })
  return id
}

/** What {@link claimOwnership} compares. */
export interface Claim {
  readonly systemIdentifier: string
  readonly timeline: number
  readonly hostId: string
  /** The state folder of this host, and who may look into it. */
  readonly state: { readonly folder: string; readonly access: Access }
  /** `--take-over`: the name of the machine that owned it so far. */
  readonly takeOver: string | undefined
}

/**
 * Makes sure that this part of the store is for this cluster on this host, so that a clone or a
 * second cluster of the same name never mixes its backups with others; and that it is not the empty place
 * of a store that this host has used before.
 * @throws {Fail} `cluster-mismatch`, `store-missing`
 */
export async function claimOwnership(store: Store, layout: Layout, claim: Claim): Promise<void> {
  const known = { stateDir: claim.state.folder, store, layout }
  await assertNotLost(known)
  await own(store, layout, claim)
  await rememberStore(known, claim.state.access)
}

async function own(store: Store, layout: Layout, claim: Claim): Promise<void> {
  const wanted: Owner = {
    format: FORMAT,
    systemIdentifier: claim.systemIdentifier,
    hostId: claim.hostId,
    machine: hostname(),
    timeline: claim.timeline,
  }
  const body = Buffer.from(`${JSON.stringify(wanted, undefined, 2)}\n`)
  if (await store.create(layout.owner, body)) return
  const owner = parseOwner(await text(await store.get(layout.owner)), layout)
  const isOurs = owner.systemIdentifier === wanted.systemIdentifier && owner.hostId === wanted.hostId
  if (!isOurs && claim.takeOver !== owner.machine) throw foreign(layout, owner, wanted)
  if (isOurs && owner.timeline === wanted.timeline) return
  await put(store, layout, body)
}

async function put(store: Store, layout: Layout, body: Buffer): Promise<void> {
  await store.put(
    layout.owner,
    (async function* () {
      yield body
    })(),
  )
}

/** Lets a part of a store go from one cluster of this host to another one. Of anybody else it stays as it is. */
export async function handOver(
  store: Store,
  layout: Layout,
  { from, to, hostId }: { readonly from: string; readonly to: string; readonly hostId: string },
): Promise<void> {
  const owner = await readOwner(store, layout)
  if (owner === undefined || owner.systemIdentifier !== from || owner.hostId !== hostId) return
  const next: Owner = { ...owner, systemIdentifier: to, timeline: 1 }
  await put(store, layout, Buffer.from(`${JSON.stringify(next, undefined, 2)}\n`))
}

/**
 * Whose backups this part of a store holds, or undefined while it holds none.
 * @throws {Fail} `backup-damaged` when it does not say
 */
export async function readOwner(store: Store, layout: Layout): Promise<Owner | undefined> {
  try {
    return parseOwner(await text(await store.get(layout.owner)), layout)
  } catch (error) {
    if (error instanceof Fail && error.code === 'store-missing') return undefined
    throw error
  }
}

function parseOwner(content: string, layout: Layout): Owner {
  try {
    return ownerSchema.parse(JSON.parse(content))
  } catch (cause) {
    throw new Fail('backup-damaged', `"${layout.owner}" does not say whose backups these are`, {
      hint: 'Look at it. A newer version of Howdah may have written it.',
      cause,
    })
  }
}

function foreign(layout: Layout, owner: Owner, wanted: Owner): Fail {
  const what =
    owner.systemIdentifier === wanted.systemIdentifier
      ? `this cluster on another host, machine "${owner.machine}"`
      : `another cluster, with system identifier ${owner.systemIdentifier}, of machine "${owner.machine}"`
  return new Fail(
    'cluster-mismatch',
    `the store holds backups of ${what}, under the name "${layout.cluster}"`,
    {
      hint: `If that one is gone for good, add: --take-over ${owner.machine}. Else give this host or cluster another name.`,
    },
  )
}
