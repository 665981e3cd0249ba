import { expect, test } from 'vitest'
import { parseManifest, renderManifest, totalsOf } from '../../scripts/backup/manifest.ts'
import { sampleDatabase, sampleManifest } from './sample.ts'

const place = { label: '20261122T020000Z-dump-k3v9qa', cluster: 'test/main' }
const parse = (text: string) => () => parseManifest(text, place)

test('manifest: rendered, then parsed: the same', () => {
  const manifest = sampleManifest()
  expect(parseManifest(renderManifest(manifest).toString(), place)).toEqual(manifest)
})

test('manifest with keys that this version does not know: read without them', () => {
  const text = JSON.stringify({ ...sampleManifest(), startLsn: '0/1' })
  expect(parseManifest(text, place)).toEqual(sampleManifest())
})

test.each([
  ['empty', '', 'is not JSON'],
  ['cut in half', renderManifest(sampleManifest()).subarray(0, 300).toString(), 'is not JSON'],
  ['no object', '17', 'is wrong at its top'],
  [
    'without a hash',
    JSON.stringify({ ...sampleManifest(), files: [{ name: 'x', size: 1 }] }),
    'is wrong at files.0.sha256',
  ],
  [
    'a hash that is none',
    JSON.stringify({ ...sampleManifest(), files: [{ name: 'x', size: 1, sha256: 'x' }] }),
    'is wrong at files.0.sha256',
  ],
  [
    'a negative size',
    JSON.stringify({ ...sampleManifest(), files: [{ name: 'x', size: -1, sha256: 'a'.repeat(64) }] }),
    'is wrong at files.0.size',
  ],
  [
    'a file outside of its folder',
    JSON.stringify({ ...sampleManifest(), files: [{ name: '../x', size: 1, sha256: 'a'.repeat(64) }] }),
    'is wrong at files.0.name: this is no key',
  ],
  [
    'another label',
    JSON.stringify(sampleManifest({ label: '20261122T020000Z-dump-aaaaaa' })),
    'is that of 20261122T020000Z-dump-aaaaaa',
  ],
  [
    'another cluster',
    JSON.stringify(sampleManifest({ cluster: 'other/main' })),
    'is of the cluster "other/main"',
  ],
  [
    'a database without its file',
    JSON.stringify(sampleManifest({ databases: [sampleDatabase({ file: 'gone.dump.zst' })] })),
    'names no file "gone.dump.zst", which database "app" needs',
  ],
  [
    'a newer format',
    JSON.stringify({ ...sampleManifest(), format: 2 }),
    'has format 2, this version knows 1',
  ],
  ['format 0', JSON.stringify({ ...sampleManifest(), format: 0 }), 'is wrong at format'],
])('manifest: %s: backup-damaged, and it says why', (_name, text, why) => {
  expect(parse(text)).toThrow(
    expect.objectContaining({ code: 'backup-damaged', message: expect.stringContaining(why) }),
  )
})

test('totals: files stored as they are count on both sides', () => {
  expect(totalsOf(sampleManifest().files)).toEqual({ size: 102_000, plainSize: 2_002_000 })
})
