import { readFile, writeFile } from 'node:fs/promises'
import { machine } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Manifest } from '../../../scripts/backup/manifest.ts'
import { buildFindings, compareBuilds } from '../../../scripts/backup/recover/build-facts.ts'
import { bindirs } from '../../support/majors.ts'
import { type RecoverSource, recoverSource } from '../../support/recover.ts'

const MEGABYTE = 1024 ** 2
const HERE = { block_size: '8192', wal_block_size: '8192', max_identifier_length: '63' }
const FACTS = { blockSize: 8192, walSegmentSize: 16 * MEGABYTE }

describe('programs and the files of a backup', () => {
  test.each([
    ['built alike', { ...FACTS, build: { ...HERE, machine: 'x86_64' } }],
    ['of an older backup, which says little', FACTS],
    ['something that this version does not know', { ...FACTS, build: { new_size: '1' } }],
    ['the smallest segments', { ...FACTS, walSegmentSize: MEGABYTE }],
    ['the largest segments', { ...FACTS, walSegmentSize: 1024 * MEGABYTE }],
  ])('%s: nothing to say', (_, facts) => {
    expect(compareBuilds(facts, HERE, 'x86_64')).toEqual([])
  })

  test.each([
    ['other blocks', { ...FACTS, blockSize: 32_768 }, 'blocks of 32768, the programs of this host have 8192'],
    ['other WAL blocks', { ...FACTS, build: { wal_block_size: '16384' } }, 'WAL blocks of 16384'],
    ['longer names', { ...FACTS, build: { max_identifier_length: '127' } }, 'names as long as 127'],
    ['segments of no power of two', { ...FACTS, walSegmentSize: 3 * MEGABYTE }, 'of 3145728 bytes'],
    ['segments that are too small', { ...FACTS, walSegmentSize: MEGABYTE / 2 }, 'which no server has'],
    ['another byte order', { ...FACTS, build: { machine: 's390x' } }, 'of kind s390x, this one is x86_64'],
    ['another word size', { ...FACTS, build: { machine: 'i686' } }, 'of kind i686'],
  ])('%s: impossible', (_, facts, text) => {
    expect(compareBuilds(facts, HERE, 'x86_64')).toEqual([
      { level: 'impossible', text: expect.stringContaining(text), hint: expect.any(String) },
    ])
  })

  test.each([
    ['powerpc64le', 'ppc64le'],
    ['arm', 'armv7l'],
    ['i586', 'i686'],
  ])('the machine that a compiler calls %s and a kernel %s: is one and the same', (theirs, host) => {
    expect(compareBuilds({ ...FACTS, build: { machine: theirs } }, HERE, host)).toEqual([])
  })

  test('another machine that is alike: a warning', () => {
    const found = compareBuilds({ ...FACTS, build: { machine: 'aarch64' } }, HERE, 'x86_64')
    expect(found).toEqual([{ level: 'warning', text: expect.stringContaining('pg_amcheck') }])
  })
})

test('the programs of each major that is here: say how they were built', async () => {
  for (const { bindir } of await bindirs()) {
    const facts = {
      blockSize: 1,
      walSegmentSize: MEGABYTE,
      build: { max_index_keys: '1', segment_size: '1' },
    }
    const texts = (await buildFindings(facts, bindir)).map(({ text }) => text)
    expect(texts.toSorted()).toEqual([
      expect.stringMatching(/^the backup has blocks of 1, the programs of this host have \d+ /),
      expect.stringMatching(/^the backup has files of as many blocks as 1, .* have \d+ /),
      expect.stringMatching(/^the backup has index columns up to 1, .* have \d+ /),
    ])
  }
})

describe('a backup of a server that was built otherwise', () => {
  let source: RecoverSource
  let manifest: Manifest
  beforeAll(async () => {
    source = await recoverSource()
    manifest = await source.take()
    await source.ship()
  })
  afterAll(() => source[Symbol.asyncDispose]())

  const to = () => join(source.server.dir, 'copy')

  test('its manifest says how', () => {
    const { build } = manifest.physical!
    expect(build).toMatchObject({ block_size: '8192', max_identifier_length: '63', machine: machine() })
    expect(Object.keys(build!)).toHaveLength(7)
  })

  test('restored as it is: nothing to say', async () => {
    const { code, stdout } = await source.restore('cluster', '--plan', '--to', to(), '--json')
    expect({ code, result: JSON.parse(stdout) }).toMatchObject({
      code: 0,
      result: { result: { findings: [] } },
    })
  })

  test('other blocks: its plan says so and ends with 1, a run is refused before anything is copied', async () => {
    const path = join(source.store, 'test/main/catalog', `${manifest.label}.json`)
    await writeFile(path, (await readFile(path, 'utf8')).replace('"blockSize": 8192', '"blockSize": 16384'))
    const planned = await source.restore('cluster', '--plan', '--to', to())
    expect(planned).toMatchObject({ code: 1, stdout: expect.stringContaining('blocks of 16384') })
    const { code, stderr } = await source.restore('cluster', '--to', to())
    expect({ code, stderr }).toEqual({ code: 42, stderr: expect.stringContaining('blocks of 16384') })
  })
})
