import { mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { Samples } from '../../../scripts/backup/archive/samples.ts'
import { Shipper } from '../../../scripts/backup/archive/ship.ts'
import { Spool } from '../../../scripts/backup/archive/spool.ts'
import { nextSegment, parseLsn, segmentStart } from '../../../scripts/backup/wal/segment.ts'
import { openWalStore, type WalStore } from '../../../scripts/backup/wal/wal-store.ts'
import { dirStore } from '../../../scripts/store/dir.ts'
import { startServer, type TestServer } from '../../support/server.ts'

const SIZE = 1024 * 1024
const PAGE = 8192

let server: TestServer
let systemIdentifier: string
/** A segment that is being written, and where its WAL ends. */
let name: string
let content: Buffer
let end: bigint
/** Where its last transaction begins. */
let last: bigint

beforeAll(async () => {
  server = await startServer({ initdb: ['--wal-segsize=1'] })
  await server.query('postgres', 'select pg_switch_wal()')
  await server.query('postgres', 'create table t as select generate_series(1, 4000) as n; checkpoint')
  const [before] = await server.query<{ lsn: string }>(
    'postgres',
    'select pg_current_wal_flush_lsn()::text as lsn',
  )
  last = parseLsn(before!.lsn)!
  await server.query('postgres', `select pg_logical_emit_message(true, 'test', repeat('x', 300))`)
  const [row] = await server.query<{ id: string; lsn: string; name: string }>(
    'postgres',
    `select system_identifier::text as id, lsn::text, pg_walfile_name(lsn) as name
     from pg_control_system(), pg_current_wal_flush_lsn() lsn`,
  )
  systemIdentifier = row!.id
  name = row!.name
  end = parseLsn(row!.lsn)!
  content = await readFile(join(server.cluster.dataDir, 'pg_wal', name))
})

afterAll(() => server[Symbol.asyncDispose]())

/** A spool with the beginning of that segment, as pg_receivewal makes it: with room for all of it. */
async function spoolOf(bytes: number): Promise<{ spool: Spool; wal: WalStore }> {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-ship-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  const spool = new Spool(join(dir, 'spool'), { mode: 0o700 })
  await spool.make()
  await writeFile(spool.partialPath(name), begun(bytes))
  const wal = openWalStore({ store: dirStore(join(dir, 'store')), prefix: 'test/main/wal/7/', level: 1 })
  return { spool, wal }
}

const begun = (bytes: number) => Buffer.concat([content.subarray(0, bytes), Buffer.alloc(SIZE - bytes)])
const used = () => Number(end - segmentStart(name, SIZE))

/** A service that finds its server gone. */
const lostRound = (spool: Spool, wal: WalStore) =>
  shipperOf(spool, wal).round({ received: undefined, isLost: true })

const shipperOf = (spool: Spool, wal: WalStore) =>
  new Shipper({
    spool,
    wal,
    expected: { systemIdentifier, segmentSize: SIZE, major: server.major },
    samples: new Samples(),
    partialEvery: 0,
    begin: async () => ({
      position: await wal.readPosition(),
      newest: segmentStart(name, SIZE) / BigInt(SIZE) - 1n,
    }),
    onGap: () => {},
  })

const stored = async (wal: WalStore) => Buffer.concat(await Array.fromAsync(wal.getPartial(name)))

/** What an earlier run has stored. */
async function storeUpTo(wal: WalStore, folder: string, lsn: bigint, text: string): Promise<void> {
  const path = join(folder, '..', 'earlier')
  await writeFile(path, content)
  await wal.putPartial(name, path, Number(lsn - segmentStart(name, SIZE)))
  await wal.writePosition({
    format: 1,
    systemIdentifier,
    timeline: 1,
    lsn: text,
    time: '2026-11-22T10:00:00.000Z',
    segmentSize: SIZE,
  })
}
const text = (lsn: bigint) => `0/${lsn.toString(16).toUpperCase()}`

test.each([
  ['some pages of it', () => used() - (used() % PAGE) - PAGE],
  ['all but the last transaction', () => Number(last - segmentStart(name, SIZE))],
  ['nothing but zeros', () => 0],
])(
  'server lost, the spool begun anew has less of the segment than is stored (%s): what is stored stays',
  async (_, bytes) => {
    const { spool, wal } = await spoolOf(bytes())
    await storeUpTo(wal, spool.folder, end, text(end))
    const before = await stored(wal)
    await lostRound(spool, wal)
    expect((await stored(wal)).equals(before)).toBe(true)
    expect(await wal.readPosition()).toMatchObject({ lsn: text(end) })
    expect(await readdir(spool.folder)).toEqual([`${name}.partial`])
  },
)

test.each([
  ['less than is stored by another server', () => Number(last - segmentStart(name, SIZE)), 'stored'],
  ['what nobody has stored', () => used(), 'free'],
] as const)('beginning of a timeline that was left, of which the spool has %s', async (_, bytes, place) => {
  const { spool, wal } = await spoolOf(bytes())
  if (place === 'stored') await storeUpTo(wal, spool.folder, end, text(end))
  await writeFile(spool.partialPath(name.replace(/^.{8}/, '00000002')), Buffer.alloc(SIZE))
  await shipperOf(spool, wal).round({ received: undefined })
  const found = await stored(wal)
  const wanted = content.subarray(0, used())
  expect(found.subarray(0, used()).equals(wanted)).toBe(true)
  expect((await spool.read()).partials).toEqual([name.replace(/^.{8}/, '00000002')])
})

test('a segment that becomes whole while the names in the spool are read: nothing is said of it before the next round', async () => {
  const { spool, wal } = await spoolOf(used())
  await writeFile(spool.partialPath(nextSegment(name, SIZE)), Buffer.alloc(SIZE))
  const read = spool.read.bind(spool)
  spool.read = async () => {
    const found = await read()
    spool.read = read
    await rename(spool.partialPath(name), spool.path(name))
    return found
  }
  const shipper = shipperOf(spool, wal)
  await shipper.round({ received: undefined })
  expect(await wal.has(name)).toBeUndefined()
  await shipper.round({ received: undefined })
  expect(await wal.has(name)).toBe('whole')
})

test('server lost, the spool has as much as is stored or more: all of it is stored', async () => {
  const { spool, wal } = await spoolOf(used())
  await storeUpTo(wal, spool.folder, end, text(end))
  await lostRound(spool, wal)
  expect((await stored(wal)).equals(begun(used()))).toBe(true)
  const early = segmentStart(name, SIZE) + BigInt(2 * PAGE)
  const second = await spoolOf(used())
  await storeUpTo(second.wal, second.spool.folder, early, text(early))
  await lostRound(second.spool, second.wal)
  expect((await stored(second.wal)).equals(begun(used()))).toBe(true)
})
