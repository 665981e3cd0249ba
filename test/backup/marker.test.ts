import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { beginMarker } from '../../scripts/backup/marker.ts'
import { dirStore } from '../../scripts/store/dir.ts'

test('mark of a take in progress: renewed while it goes on, gone afterwards', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-marker-'))
  const read = async () =>
    JSON.parse(await readFile(join(folder, 'running/x.json'), 'utf8')) as Record<string, string>
  try {
    {
      await using _marker = await beginMarker(
        dirStore(folder),
        'running/x.json',
        { label: 'x', job: 'nightly' },
        0.02,
      )
      const first = await read()
      expect(first).toMatchObject({ format: 1, label: 'x', job: 'nightly', pid: process.pid })
      await expect.poll(async () => (await read())['renewed']! > first['renewed']!).toBe(true)
      expect((await read())['begun']).toBe(first['begun'])
    }
    await expect(read()).rejects.toMatchObject({ code: 'ENOENT' })
  } finally {
    await rm(folder, { recursive: true })
  }
})
